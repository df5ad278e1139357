"""Collect: the sources of one task become one corpus and four sets of examples, split by document."""

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from phasor.artifacts import Report
from phasor.config.tasks import Source, TaskConfig, brings_queries
from phasor.data.headings import with_heldout_queries
from phasor.data.near_duplicates import duplicates_of
from phasor.data.records import SPLITS, Example, Passage, write_corpus, write_examples
from phasor.data.sources import Collected, Context, read_source
from phasor.data.splits import assign, document_splits, split_of
from phasor.errors import DataError
from phasor.phases import Job, Paths

log = logging.getLogger(__name__)

_UNUSED_SHARE = 0.1  # of the labelled queries; the default shares and sizes leave that many unused from some 7,000 queries on


def run(job: Job, inputs: Paths, outputs: Paths) -> Report:
    """Read the sources of the job's task, clean, split and write `corpus`, `train`, `dev`, `heldout` and `test`.

    Raises:
        DataError: a source cannot be read, or leaves a split without a query.
    """
    assert job.task is not None
    task, collect, seed = job.recipe.tasks[job.task], job.recipe.collect, job.recipe.seed
    context = Context(job.task, task.instruction, seed, job.root, collect)
    found = drop_duplicates(drop_short(_read(task, context), collect.min_passage_chars))
    sources = {passage.id: passage.source for passage in found.passages}
    labelled = any(map(brings_queries, task.sources))
    documents = {sources[example.positives[0]] for example in found.examples} if labelled else set(sources.values())
    splits_of = document_splits(documents, seed, collect)
    if not labelled:
        found = with_heldout_queries(found, splits_of, _sizes(task), context)
    splits, left_out = assign(found.examples, sources, splits_of, _sizes(task), seed)
    if labelled:
        _warn_of_unused(left_out, len(found.examples), job.task)
    splits["train"], near = drop_near_test(splits["train"], splits["test"], found.passages, collect.near_duplicate_jaccard)
    _check_filled(splits, labelled, documents, job.task)
    folder = outputs.one("data")
    counts = {"passages": write_corpus(found.passages, folder / "corpus.parquet"), "documents": len(set(sources.values()))}
    counts |= {split: write_examples(splits[split], folder / f"{split}.parquet") for split in SPLITS}
    counts["documents moved to fill a split"] = sum(split != split_of(name, seed, collect) for name, split in splits_of.items())
    counts |= {f"dropped: {reason}": number for reason, number in sorted((found.dropped + left_out + near).items())}
    log.info("collect.done task=%s passages=%d train=%d test=%d", job.task, counts["passages"], counts["train"], counts["test"])
    return Report(counts=counts)


def _read(task: TaskConfig, context: Context) -> Collected:
    found = Collected()
    for number, source in enumerate(task.sources):
        read = read_source(source, context)
        _check_labels(source, read, context)
        # Two sources may use the same ids.
        found.extend(read, prefix=f"{number}:" if len(task.sources) > 1 else "")
    return found


def _check_labels(source: Source, read: Collected, context: Context) -> None:
    """Headings stand in for queries only where a task has none, not where its own cannot be used."""
    if brings_queries(source) and not read.examples and (read.passages or read.dropped):
        reasons = ", ".join(f"{reason} ({number})" for reason, number in read.dropped.most_common(3)) or "it holds none"
        named = {key: value for key, value in source.model_dump().items() if key in ("path", "examples", "name", "view")}
        where = ", ".join(f"{key} {value}" for key, value in named.items())
        raise DataError(
            f"collect {context.task}: the source of kind {source.kind} ({where}) has queries, but none can be used: {reasons}. "
            "Mend them. A folder, or a jsonl source without `examples`, gets its held-out queries from headings."
        )


def _warn_of_unused(left_out: Mapping[str, int], number: int, task: str) -> None:
    """Queries of held-out documents beyond a split's size cannot go back to train: another task may test on the same documents."""
    unused = sum(left_out.get(f"{split}: more than asked for", 0) for split in SPLITS if split != "train")
    if unused > _UNUSED_SHARE * number:
        log.warning(
            "collect %s: %d of %d labelled queries are used for nothing: their documents are held out, but test, dev and heldout ask for "
            "fewer. Lower collect.test_share, dev_share and heldout_share, or raise the task's num_test, num_dev and num_heldout.",
            task, unused, number,
        )  # fmt: skip


def _check_filled(splits: Mapping[str, Sequence[Example]], labelled: bool, documents: Collection[str], task: str) -> None:
    """A task without labelled queries gets its training queries from synthesis, and may have none here."""
    empty = [split for split in SPLITS if not splits[split] and (labelled or split != "train")]
    if empty:
        sizes = ", ".join(f"{split} {len(splits[split])}" for split in SPLITS)
        what = "documents with queries" if labelled else "documents to take queries from"
        raise DataError(
            f"collect {task}: {len(documents)} {what} give too few queries: {sizes}. Queries are split by document, so a task needs at "
            "least 4 of them, and 100 to measure anything. Add documents, or for a few large files set `document: section` on the source."
        )


def drop_short(found: Collected, min_chars: int) -> Collected:
    """Without passages shorter than `min_chars` and without the examples that have no other positive."""
    kept = [passage for passage in found.passages if len(passage.text.strip()) >= min_chars]
    dropped = Counter({"passage too short": len(found.passages) - len(kept)})
    ids = {passage.id: passage.id for passage in kept}
    examples = _repoint(found.examples, ids)
    dropped["query without a passage"] = len(found.examples) - len(examples)
    return Collected(kept, examples, found.dropped + dropped)


def drop_duplicates(found: Collected) -> Collected:
    """Without passages and examples that repeat an earlier one; examples point at the one that is kept."""
    first: dict[tuple[str, str], str] = {}
    ids = {p.id: first.setdefault((p.title, " ".join(p.text.split())), p.id) for p in found.passages}
    kept = [passage for passage in found.passages if ids[passage.id] == passage.id]
    examples = {(e.query.casefold(), e.instruction, e.pair_id, *sorted(e.positives)): e for e in reversed(_repoint(found.examples, ids))}
    dropped = Counter({"passage repeats another": len(found.passages) - len(kept)})
    dropped["query repeats another"] = len(found.examples) - len(examples)
    return Collected(kept, list(reversed(examples.values())), found.dropped + dropped)


def drop_near_test(
    train: Sequence[Example], test: Sequence[Example], passages: Sequence[Passage], jaccard: float
) -> tuple[list[Example], Counter[str]]:
    """Training examples whose query and positives are not near-duplicates of a test query or its positives."""
    queries = set(duplicates_of([e.query for e in train], [e.query for e in test], jaccard))
    text = {passage.id: passage.text for passage in passages}
    train_ids = sorted({positive for example in train for positive in example.positives})
    test_ids = sorted({positive for example in test for positive in example.positives})
    near = {train_ids[i] for i in duplicates_of([text[i] for i in train_ids], [text[i] for i in test_ids], jaccard)}
    unlike = [e for i, e in enumerate(train) if i not in queries]
    kept = [e for e in unlike if near.isdisjoint(e.positives)]
    return kept, Counter({"train query near a test query": len(queries), "train passage near a test passage": len(unlike) - len(kept)})


def _repoint(examples: Sequence[Example], ids: Mapping[str, str]) -> list[Example]:
    """Examples with passages renamed by `ids`, without those that are not in it."""

    def known(names: Sequence[str]) -> list[str]:
        return list(dict.fromkeys(ids[name] for name in names if name in ids))

    moved = (replace(example, positives=known(example.positives), negatives=known(example.negatives)) for example in examples)
    return [example for example in moved if example.positives]


def _sizes(task: TaskConfig) -> dict[str, int | None]:
    return {"train": task.num_train, "dev": task.num_dev, "heldout": task.num_heldout, "test": task.num_test}
