"""Mine: hard negatives for collected and synthetic training pairs, and for the dev and held-out examples."""

from phasor.artifacts import Report
from phasor.data.mining import Miner
from phasor.data.records import read_corpus, read_examples, write_examples
from phasor.data.teachers import load_teacher
from phasor.data.templates import render_passage
from phasor.errors import DataError
from phasor.phases import Job, Paths


def run(job: Job, inputs: Paths, outputs: Paths) -> Report:
    """Read the pairs, mine in the task's corpus, write one example table per split."""
    config, data = job.recipe.mine, inputs.one("data")
    corpus = read_corpus(data / "corpus.parquet")
    synthetic = read_examples(inputs.one("filtered") / "kept.parquet")
    splits = {split: read_examples(data / f"{split}.parquet") for split in ("train", "dev", "heldout")}
    splits["train"] += synthetic
    if not splits["train"]:
        raise DataError(
            f"mine: task {job.task!r} has no training pair, neither collected nor synthetic. "
            "Add queries to its sources or raise synthesize.passages_per_task."
        )
    teacher = load_teacher(config.teacher, [render_passage(p) for p in corpus], job.recipe.seed)
    miner = Miner(corpus, teacher, config, job.recipe.seed)
    labels = [example for examples in splits.values() for example in examples]
    report = Report(counts={"passages": len(corpus), "synthetic": len(synthetic)})
    for split, examples in splits.items():
        mined = miner.mine(examples, labels)
        write_examples(mined.examples, outputs.one("mined") / f"{split}.parquet")
        report.counts |= {f"{split}_{name}": count for name, count in mined.counts.items()} | {split: len(examples)}
    report.cost.examples, report.cost.tokens = len(labels), teacher.tokens
    return report
