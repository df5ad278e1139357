"""KFP component package; see phasor.phases.package."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def package(
    settings: str, tasks: Input[Dataset],
    embed_enhanced: Input[Model], rerank_enhanced: Input[Model], embed_evaluation: Input[Artifact], rerank_evaluation: Input[Artifact],
    collect_metrics: Input[list[Metrics]], synthesize_metrics: Input[list[Metrics]],
    filter_metrics: Input[list[Metrics]], mine_metrics: Input[list[Metrics]],
    embed_warmup_metrics: Input[Metrics], embed_train_metrics: Input[list[Metrics]], embed_merge_metrics: Input[Metrics],
    embed_enhance_metrics: Input[Metrics], embed_evaluate_metrics: Input[Metrics],
    rerank_warmup_metrics: Input[Metrics], rerank_train_metrics: Input[list[Metrics]], rerank_merge_metrics: Input[Metrics],
    rerank_enhance_metrics: Input[Metrics], rerank_evaluate_metrics: Input[Metrics],
    bundle: Output[Model], report: Output[Artifact], page: Output[HTML], metrics: Output[Metrics],
) -> None:  # fmt: skip
    """Write the bundle, its model card and the report page."""
    from phasor.kfp_adapter import run_phase

    reports = [*collect_metrics, *synthesize_metrics, *filter_metrics, *mine_metrics, *embed_train_metrics, *rerank_train_metrics]
    reports += [embed_warmup_metrics, embed_merge_metrics, embed_enhance_metrics, embed_evaluate_metrics]
    reports += [rerank_warmup_metrics, rerank_merge_metrics, rerank_enhance_metrics, rerank_evaluate_metrics]
    inputs = {"tasks": tasks, "enhanced": [embed_enhanced, rerank_enhanced], "evaluation": [embed_evaluation, rerank_evaluation]}
    inputs["reports"] = reports
    outputs = {"bundle": bundle, "report": report}
    run_phase("package", settings, inputs=inputs, outputs=outputs, metrics=metrics, shown={"report/report.html": page})
