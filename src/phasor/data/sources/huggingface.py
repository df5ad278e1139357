"""Source `huggingface`: a data set of the hub, or a local copy of one, with a query and its positives in each row."""

import hashlib
import random
from dataclasses import replace
from typing import Any

from phasor.config.tasks import HuggingFaceSource
from phasor.data.records import Example, Passage
from phasor.data.sources import Collected, Context
from phasor.data.sources.rows import RowCheck, RowError, passages_field, string_field
from phasor.errors import DataError
from phasor.progress import track


def read(source: HuggingFaceSource, context: Context) -> Collected:
    """Examples of every row; equal texts are one passage, and every text is a document of its own.

    A document's key is its text alone, so that a text which two data sets share falls into the same split of every task.
    """
    rows = _load(source, context)
    columns = [name for name in (source.query, source.instruction, source.positive, source.negative) if name]
    if missing := [name for name in columns if name not in rows.column_names]:
        columns_there = ", ".join(rows.column_names)
        raise DataError(f"data set {source.name}: no column {missing[0]!r}; it has {columns_there}. Name the columns in the source.")
    everything = range(len(rows))
    size = min(source.max_rows or len(rows), len(rows))
    chosen = sorted(random.Random(context.seed).sample(everything, size)) if size < len(rows) else everything
    check = RowCheck(context.collect.on_bad_row)
    passages: dict[str, Passage] = {}
    examples = []
    for number in track(chosen, f"collect {context.task}: {source.name}", unit="row"):
        try:
            examples.append(_example(rows[number], number, source, context, passages))
        except RowError as problem:
            check.bad(f"data set {source.name}, row {number}", *problem.args)
    return Collected(list(passages.values()), examples, check.dropped)


def _load(source: HuggingFaceSource, context: Context) -> Any:
    import datasets

    local = context.root / source.name
    try:
        if (local / "state.json").exists():
            return datasets.load_from_disk(str(local))
        if (local / "dataset_dict.json").exists():
            return datasets.load_from_disk(str(local))[source.split]
        name = str(local) if local.is_dir() else source.name
        return datasets.load_dataset(name, source.subset, split=source.split, revision=source.revision)
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"data set {source.name} (subset {source.subset}, split {source.split}) cannot be loaded: {error}. "
            "Check the name and the split, or without a network name a folder that holds a copy."
        ) from None


def _example(row: dict[str, Any], number: int, source: HuggingFaceSource, context: Context, passages: dict[str, Passage]) -> Example:
    query = string_field(row, source.query, required=True)
    positives = passages_field(row, source.positive, required=True)
    negatives = passages_field(row, source.negative) if source.negative else []
    ids = [_passage_id(title, text, passages) for title, text in (*positives, *negatives)]
    example = context.example(f"row-{number}", query, list(dict.fromkeys(ids[: len(positives)])), "huggingface")
    own = string_field(row, source.instruction) if source.instruction else ""
    return replace(example, instruction=own or example.instruction, negatives=list(dict.fromkeys(ids[len(positives) :])))


def _passage_id(title: str, text: str, passages: dict[str, Passage]) -> str:
    passage_id = _digest(f"{title}\n{text}" if title else text)
    if passage_id not in passages:
        # Sets differ in titles and white space where the text is the same.
        passages[passage_id] = Passage(passage_id, text, title, source=f"text:{_digest(' '.join(text.split()))}")
    return passage_id


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
