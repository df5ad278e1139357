"""KFP component synthesize; see phasor.phases.synthesize."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Output

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def synthesize(settings: str, data: Input[Dataset], synthetic: Output[Dataset], metrics: Output[Metrics]) -> None:
    """Write queries from passages, by persona."""
    from phasor.kfp_adapter import run_phase

    run_phase("synthesize", settings, inputs={"data": data}, outputs={"synthetic": synthetic}, metrics=metrics)
