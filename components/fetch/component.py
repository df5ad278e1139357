"""KFP component fetch: the run's form becomes one slice of the recipe per phase; see phasor.pipeline.plan."""

from typing import NamedTuple

from kfp import dsl
from kfp.dsl import Markdown, Output

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def fetch(
    recipe: str, overrides: list, data_rev: dict, code_rev: str, roles: list, run_note: str, card: Output[Markdown]
) -> NamedTuple(
    "Plan",
    [
        ("Output", list),
        ("warmup_embed", str), ("merge_embed", str), ("enhance_embed", str), ("evaluate_embed", str),
        ("warmup_rerank", str), ("merge_rerank", str), ("enhance_rerank", str), ("evaluate_rerank", str),
        ("package", str),
    ],
):  # fmt: skip
    """Check the form, find every file of the data revision whole in the remote, and hand each phase its settings.

    `Output` has one entry per task, with the settings of each phase that runs for it. KFP's local runner loops over results of
    that name only, and gives nothing else that a task returned to the tasks inside a loop.
    """
    from phasor.kfp_adapter import run_fetch

    return run_fetch(recipe, overrides, data_rev, code_rev, roles, run_note, card)
