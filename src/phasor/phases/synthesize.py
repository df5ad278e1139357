"""Synthesize: one query for each of a task's training passages, by persona, type, difficulty, length and language."""

import logging
from collections import Counter
from collections.abc import Sequence

from phasor.artifacts import Report
from phasor.config.data import ExtractiveGenerator
from phasor.data.hashing import position
from phasor.data.records import Passage, read_corpus, read_examples
from phasor.data.splits import trainable
from phasor.data.teachers import load_teacher
from phasor.data.templates import render_passage
from phasor.phases import Job, Paths
from phasor.synthesis import extractive
from phasor.synthesis.personas import load_personas, match_personas
from phasor.synthesis.requirements import Written, balanced
from phasor.synthesis.rows import SyntheticRow, write_rows

log = logging.getLogger(__name__)


def run(job: Job, inputs: Paths, outputs: Paths) -> Report:
    """Choose passages, match personas, write queries; `raw.parquet` has one row per passage in corpus order."""
    assert job.task is not None
    config, seed, data = job.recipe.synthesize, job.recipe.seed, inputs.one("data")
    corpus = read_corpus(data / "corpus.parquet")
    protected = [example for split in ("dev", "heldout", "test") for example in read_examples(data / f"{split}.parquet")]
    passages = _choose(trainable(corpus, protected, seed, job.recipe.collect), config.passages_of(job.task), seed)
    personas = load_personas(job.root / config.personas if config.personas else None)
    written: Sequence[Written] = []
    counts: Counter[str] = Counter()
    if passages:
        texts = [render_passage(p) for p in passages]
        teacher = load_teacher(config.teacher, [render_passage(p) for p in corpus], seed)
        candidates = match_personas(teacher, texts, personas, config.personas_per_passage, seed)
        if isinstance(config.generator, ExtractiveGenerator):
            written = _extract(passages, candidates, corpus, seed)
        else:
            from phasor.synthesis import chat

            written, counts = chat.write_queries(config.generator, texts, candidates, config.languages, seed, job.kept)
    generator = config.generator.kind if isinstance(config.generator, ExtractiveGenerator) else f"openai:{config.generator.model}"
    instruction = job.recipe.tasks[job.task].instruction
    rows = [_row(p, w, instruction, generator) for p, w in zip(passages, written, strict=True)]
    write_rows(rows, outputs.one("synthetic") / "raw.parquet")
    return _report(rows, counts, len(corpus))


def _choose(passages: Sequence[Passage], number: int, seed: int) -> list[Passage]:
    """Passages by seeded hash of their id, in corpus order."""
    chosen = {p.id for p in sorted(passages, key=lambda p: position(p.id, seed, "synthesize"))[:number]}
    return [p for p in passages if p.id in chosen]


def _extract(passages: Sequence[Passage], candidates: Sequence[Sequence[str]], corpus: Sequence[Passage], seed: int) -> list[Written]:
    # The hash, not the rank, picks among the candidates: the nearest persona is the same one for too many passages.
    personas = [names[int(position(p.id, seed, "persona") * len(names))] for p, names in zip(passages, candidates, strict=True)]
    requirements = balanced(len(passages), ("en",), seed)
    results = extractive.write_queries(passages, requirements, personas, corpus, seed)
    return [
        Written(persona, requirement, query, "" if query else "nothing_to_extract")
        for persona, (requirement, query) in zip(personas, results, strict=True)
    ]


def _row(passage: Passage, written: Written, instruction: str, generator: str) -> SyntheticRow:
    requirement = written.requirement
    return SyntheticRow(
        id=f"synthetic:{passage.id}",
        passage_id=passage.id,
        persona=written.persona,
        type=requirement.type,
        difficulty=requirement.difficulty,
        length=requirement.length,
        language=requirement.language,
        query=written.query,
        instruction=instruction,
        generator=generator,
        error=written.error,
    )


def _report(rows: Sequence[SyntheticRow], counts: Counter[str], num_passages: int) -> Report:
    report = Report(counts={"passages": num_passages, "rows": len(rows), "without_query": sum(bool(row.error) for row in rows)})
    report.counts |= {f"type_{name}": number for name, number in sorted(Counter(row.type for row in rows).items())}
    report.counts |= {f"endpoint_{name}": number for name, number in sorted(counts.items()) if name != "tokens"}
    report.cost.examples = len(rows)
    report.cost.tokens = counts["tokens"]
    if rows and report.counts["without_query"] == len(rows):
        log.warning("synthesize: none of %d answers could be used; look at the column `error` of raw.parquet", len(rows))
    return report
