"""KFP component enhance; see phasor.phases.enhance."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Model, Output

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def enhance(
    role: str, settings: str, tasks: Input[Dataset], merged: Input[Model], model: Output[Model], metrics: Output[Metrics]
) -> None:
    """Train the merged model on the warm-up data once more."""
    from phasor.kfp_adapter import run_phase

    inputs = {"tasks": tasks, "merged": merged}
    run_phase("enhance", settings, role=role, inputs=inputs, outputs={"model": model}, metrics=metrics)
