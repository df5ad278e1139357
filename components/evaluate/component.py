"""KFP component evaluate; see phasor.phases.evaluate."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Markdown, Metrics, Model, Output

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def evaluate(
    role: str, settings: str, tasks: Input[Dataset], warmup: Input[Model], specialists: Input[list[Model]], merged: Input[Model],
    enhanced: Input[Model], evaluation: Output[Artifact], table: Output[Markdown], page: Output[HTML], metrics: Output[Metrics],
    first_stage: Input[Artifact] = None,
) -> None:  # fmt: skip
    """Score every model of the role on the test sets. The reranker reorders what the embedder found.

    That may be left out; KFP's executor fails on an input that is declared as a union.
    """
    from phasor.kfp_adapter import run_phase

    inputs = {"tasks": tasks, "warmup": warmup, "specialists": specialists, "merged": merged, "enhanced": enhanced}
    inputs["first_stage"] = first_stage
    shown = {"evaluation/table.md": table, "evaluation/report.html": page}
    run_phase("evaluate", settings, role=role, inputs=inputs, outputs={"evaluation": evaluation}, metrics=metrics, shown=shown)
