"""KFP component mine; see phasor.phases.mine."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Output

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def mine(
    settings: str, data: Input[Dataset], filtered: Input[Dataset], mined: Output[Dataset], metrics: Output[Metrics]
) -> None:
    """Find hard negatives for every pair."""
    from phasor.kfp_adapter import run_phase

    inputs = {"data": data, "filtered": filtered}
    run_phase("mine", settings, inputs=inputs, outputs={"mined": mined}, metrics=metrics)
