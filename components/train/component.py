"""KFP component train; see phasor.phases.train."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Model, Output

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train(
    role: str, settings: str, tasks: Input[Dataset], warmup: Input[Model], specialist: Output[Model], metrics: Output[Metrics]
) -> None:
    """Train one task's specialist from the warm-up model."""
    from phasor.kfp_adapter import run_phase

    inputs = {"tasks": tasks, "warmup": warmup}
    run_phase("train", settings, role=role, inputs=inputs, outputs={"specialist": specialist}, metrics=metrics)
