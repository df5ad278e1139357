"""KFP component publish: where the run's bundle lies and what the gate says, for who promotes it; see phasor.pipeline.result."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Model

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def publish(run: str, bundle: Input[Model], report: Input[Artifact]) -> None:
    """Check the bundle as it came back from the store, and write the run's result there."""
    from phasor.kfp_adapter import run_publish

    run_publish(run, bundle, report)
