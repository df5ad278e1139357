"""KFP component gather: every task's corpus and examples side by side; see phasor.kfp_adapter.run_gather."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Output

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def gather(data: Input[list[Dataset]], mined: Input[list[Dataset]], tasks: Output[Dataset]) -> None:
    """Bring all branches into one folder, because KFP cannot hand the results of one loop to the tasks of another."""
    from phasor.kfp_adapter import run_gather

    run_gather([*data, *mined], tasks)
