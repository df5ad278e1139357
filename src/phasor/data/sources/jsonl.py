"""Source `jsonl`: passages in one JSON lines file and, optionally, queries in another."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from phasor.config.tasks import JsonlSource
from phasor.data.records import Example, Passage
from phasor.data.sources import Collected, Context
from phasor.data.sources.rows import RowCheck, RowError, json_rows, list_field, string_field, title_and_text


def read(source: JsonlSource, context: Context) -> Collected:
    """Passages with `id` and `text`; queries with `query` and `positives`, which name passages by id or by whole text."""
    check = RowCheck(context.collect.on_bad_row)
    corpus = context.root / source.corpus
    passages = read_passages(corpus, check, "id", f"collect {context.task}")
    examples = list(_examples(context.root / source.examples, passages, check, context)) if source.examples else []
    return Collected(passages, examples, check.dropped)


def read_passages(path: Path, check: RowCheck, id_field: str, what: str) -> list[Passage]:
    """Every usable passage of a file, in order. The document key of one without `source` is its file and id."""
    passages: dict[str, Passage] = {}
    for line, row in json_rows(path, check, what):
        try:
            passage = passage_of(row, path, id_field)
            if passage.id in passages:
                raise RowError(f"id {passage.id!r} occurs more than once", "repeated id")
        except RowError as problem:
            check.bad(f"{path}, line {line}", *problem.args)
        else:
            passages[passage.id] = passage
    return list(passages.values())


def passage_of(row: Mapping[str, Any], path: Path, id_field: str) -> Passage:
    """A passage from one object of `path`. Raises RowError if it cannot be one."""
    fields = dict(row)
    title, text = title_and_text(fields)
    passage_id = string_field(fields, id_field, required=True)
    source = string_field(fields, "source") or f"{path.name}#{passage_id}"
    return Passage(passage_id, text, title, source, string_field(fields, "language") or "en")


def _examples(path: Path, passages: Iterable[Passage], check: RowCheck, context: Context) -> Iterable[Example]:
    by_name = {passage.text: passage.id for passage in passages} | {passage.id: passage.id for passage in passages}
    seen: set[str] = set()
    for line, row in json_rows(path, check, f"collect {context.task}"):
        try:
            example = _example(row, by_name, context, fallback_id=f"{path.stem}-{line}")
            if example.id in seen:
                raise RowError(f"id {example.id!r} occurs more than once", "repeated id")
        except RowError as problem:
            check.bad(f"{path}, line {line}", *problem.args)
        else:
            seen.add(example.id)
            yield example


def _example(row: dict[str, Any], by_name: Mapping[str, str], context: Context, fallback_id: str) -> Example:
    positives, negatives = list_field(row, "positives", required=True), list_field(row, "negatives")
    for name in (*positives, *negatives):
        if name not in by_name:
            shown = name if len(name) <= 60 else name[:57] + "..."
            raise RowError(f"{shown!r} is neither the id nor the whole text of a passage", "unknown passage")
    example = context.example(
        string_field(row, "id") or fallback_id,
        string_field(row, "query", required=True),
        list(dict.fromkeys(by_name[name] for name in positives)),
        "jsonl",
    )
    return replace(
        example,
        instruction=string_field(row, "instruction") or context.instruction,
        negatives=list(dict.fromkeys(by_name[name] for name in negatives)),
        pair_id=string_field(row, "pair_id"),
    )
