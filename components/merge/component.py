"""KFP component merge; see phasor.phases.merge."""

from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Metrics, Model, Output

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def merge(
    role: str, settings: str, tasks: Input[Dataset], warmup: Input[Model], specialists: Input[list[Model]],
    model: Output[Model], trace: Output[HTML], metrics: Output[Metrics],
) -> None:  # fmt: skip
    """Combine the specialists by a searched merge of their task vectors."""
    from phasor.kfp_adapter import run_phase

    inputs = {"tasks": tasks, "warmup": warmup, "specialists": specialists}
    run_phase("merge", settings, role=role, inputs=inputs, outputs={"model": model}, metrics=metrics, shown={"trace": trace})
