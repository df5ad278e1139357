"""KFP component collect; see phasor.phases.collect."""

from kfp import dsl
from kfp.dsl import Dataset, Metrics, Output

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def collect(settings: str, data: Output[Dataset], metrics: Output[Metrics]) -> None:
    """Read a task's sources into a corpus and split examples."""
    from phasor.kfp_adapter import run_phase

    run_phase("collect", settings, inputs={}, outputs={"data": data}, metrics=metrics)
