"""KFP component filter; see phasor.phases.filter."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Output

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def filter(
    settings: str, data: Input[Dataset], synthetic: Input[Dataset], filtered: Output[Dataset], metrics: Output[Metrics]
) -> None:
    """Keep synthetic pairs that are well-formed, answerable and new."""
    from phasor.kfp_adapter import run_phase

    inputs = {"data": data, "synthetic": synthetic}
    run_phase("filter", settings, inputs=inputs, outputs={"filtered": filtered}, metrics=metrics)
