"""KFP component warmup; see phasor.phases.warmup."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Model, Output

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def warmup(
    role: str, settings: str, tasks: Input[Dataset], model: Output[Model], metrics: Output[Metrics],
    embedder: Input[Model] = None,
) -> None:  # fmt: skip
    """Train one model on equal shares of every task. A reranker may grow from the embedder.

    It may be left out; KFP's executor fails on an input that is declared as a union.
    """
    from phasor.kfp_adapter import run_phase

    inputs = {"tasks": tasks, "embedder": embedder}
    run_phase("warmup", settings, role=role, inputs=inputs, outputs={"model": model}, metrics=metrics)
