"""Package: the bundle of both models, ready for any runtime, and the report page of the run."""

import logging
from typing import TYPE_CHECKING

from phasor.artifacts import Report, write_json
from phasor.data.records import SPLITS, read_corpus, read_examples
from phasor.phases import Job, Paths
from phasor.progress import progress
from phasor.recipe import dump_recipe

if TYPE_CHECKING:
    from phasor.packaging.golden import Golden
    from phasor.reporting import RunReport

log = logging.getLogger(__name__)


def run(job: Job, inputs: Paths, outputs: Paths) -> Report:
    """Write the report, export every role, and prove with another library that the export means the same."""
    # Late: torch and sentence-transformers take seconds to import, and a missing input should be told at once.
    from phasor.packaging.card import TaskFacts, render_card
    from phasor.packaging.export import export_models
    from phasor.packaging.golden import GOLDEN, choose_probes, make_golden
    from phasor.packaging.parity import check_parity
    from phasor.reporting import write_report

    bundle, data = outputs.one("bundle"), inputs.parts("data")
    with progress(len(data) + 4, job.name, "step") as bar:
        run_report = write_report(job, inputs, outputs.one("report"))
        bar.update()
        facts, probed = {}, {}
        for task, folder in data.items():
            splits = {split: read_examples(folder / f"{split}.parquet") for split in SPLITS}
            corpus = read_corpus(folder / "corpus.parquet")
            facts[task] = TaskFacts(folder, corpus, {split: len(examples) for split, examples in splits.items()})
            probed[task] = (corpus, splits["dev"])
            bar.update()
        probes = choose_probes(probed, job.recipe.package.num_golden, job.recipe.seed)
        models = export_models(job.recipe, inputs.parts("enhanced"), bundle)
        bar.update()
        golden = make_golden(probes, *models)
        write_json(golden, bundle / GOLDEN)
        bar.update()
        differences = check_parity(bundle, golden)
        bar.update()
    tables = {role: (folder / "table.md").read_text(encoding="utf-8") for role, folder in inputs.parts("evaluation").items()}
    (bundle / "README.md").write_text(render_card(job.recipe, run_report, golden, facts, tables, bundle), encoding="utf-8")
    (bundle / "recipe.yaml").write_text(dump_recipe(job.recipe), encoding="utf-8")
    warn_if_untrained(run_report)
    return Report(metrics=differences | _ordered(golden), counts={"golden_queries": len(golden.queries), "golden_pairs": len(golden.pairs)})


def _ordered(golden: "Golden") -> dict[str, float]:
    """Share of golden queries whose relevant passage scores above the irrelevant one."""
    relevant = [pair.score for pair in golden.pairs if pair.relevant]
    irrelevant = [pair.score for pair in golden.pairs if not pair.relevant]
    if not irrelevant:
        return {}
    return {"golden_ordered": sum(good > bad for good, bad in zip(relevant, irrelevant, strict=True)) / len(relevant)}


def warn_if_untrained(report: "RunReport") -> None:
    """Log a warning for every role whose final model scores as if nothing had been learned."""
    for role, scores in report.roles.items():
        before, after = scores.model("initial"), scores.model("enhanced")
        if before and after and all(before.value(task) == after.value(task) for task in scores.tasks):
            log.warning("package.unchanged role=%s: the final model scores exactly as the untrained one on every task", role)
