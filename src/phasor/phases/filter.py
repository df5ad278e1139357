"""Filter: keep the synthetic pairs of a task that are well-formed, answerable, new and unseen in evaluation."""

import logging

from phasor.artifacts import Report, write_json
from phasor.data.records import Example, read_corpus, read_examples, write_examples
from phasor.data.teachers import load_teacher
from phasor.data.templates import render_passage
from phasor.phases import Job, Paths
from phasor.synthesis.card import data_card
from phasor.synthesis.filtering import Context, judge
from phasor.synthesis.rows import read_rows, write_dropped

log = logging.getLogger(__name__)


def run(job: Job, inputs: Paths, outputs: Paths) -> Report:
    """Judge every raw row; write `kept.parquet`, `dropped.parquet` with reasons, and the data card."""
    assert job.task is not None
    config, data, folder = job.recipe.filter, inputs.one("data"), outputs.one("filtered")
    rows = read_rows(inputs.one("synthetic") / "raw.parquet")
    splits = {split: read_examples(data / f"{split}.parquet") for split in ("train", "dev", "heldout", "test")}
    evaluated = [example for split in ("dev", "heldout", "test") for example in splits[split]]
    corpus = read_corpus(data / "corpus.parquet")
    texts = [render_passage(p) for p in corpus]
    teacher = load_teacher(config.teacher, texts, job.recipe.seed) if rows and corpus else None
    judged = judge(rows, Context(corpus, splits["train"], evaluated), teacher, config)
    pairs = list(zip(rows, judged.reasons, strict=True))
    kept = [
        Example(row.id, row.query, row.instruction, [row.passage_id], task=job.task, provenance=f"synthetic:{row.type}")
        for row, reason in pairs
        if not reason
    ]
    write_examples(kept, folder / "kept.parquet")
    write_dropped([(row, reason) for row, reason in pairs if reason], folder / "dropped.parquet")
    card = data_card(rows, judged, teacher.token_lengths([row.query for row in rows]) if teacher else None)
    write_json(card, folder / "card.json")
    if rows and not kept:
        log.warning("filter: 0 of %d rows kept (%s); look at dropped.parquet or raise consistency_top_k", len(rows), card["reasons"])
    counts = {"raw": len(rows), "kept": len(kept)} | {f"dropped: {reason}": number for reason, number in card["reasons"].items()}
    report = Report(counts=counts, metrics={"retention": card["retention"]}, details={"card": card})
    report.cost.examples, report.cost.tokens = len(rows), teacher.tokens if teacher else 0
    return report
