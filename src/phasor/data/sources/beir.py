"""Source `beir`: a folder with corpus.jsonl, queries.jsonl and qrels/*.tsv.

The set's own division into train, dev and test is not used: this project splits by document (see `data.splits`).
"""

from collections import defaultdict
from pathlib import Path

from phasor.config.tasks import BeirSource
from phasor.data.sources import Collected, Context
from phasor.data.sources.jsonl import read_passages
from phasor.data.sources.rows import RowCheck, RowError, json_rows, string_field, tsv_rows
from phasor.errors import DataError

_HEADER = ["query-id", "corpus-id", "score"]


def read(source: BeirSource, context: Context) -> Collected:
    """Every passage, and every query that has a judgement above zero."""
    folder = context.root / source.path
    check = RowCheck(context.collect.on_bad_row)
    passages = read_passages(folder / "corpus.jsonl", check, id_field="_id")
    queries = _queries(folder / "queries.jsonl", check)
    tables = sorted((folder / "qrels").glob("*.tsv"))
    if not tables:
        raise DataError(f"{folder / 'qrels'} holds no .tsv file. A BEIR folder keeps its judgements in qrels/train.tsv, qrels/test.tsv, …")
    positives: defaultdict[str, dict[str, None]] = defaultdict(dict)
    ids = {passage.id for passage in passages}
    for table in tables:
        for line, cells in tsv_rows(table, check):
            if line == 1 and cells[: len(_HEADER)] == _HEADER:
                continue
            try:
                query, passage = _positive(cells, queries, ids)
            except RowError as problem:
                check.bad(f"{table}, line {line}", *problem.args)
            else:
                if passage:
                    positives[query][passage] = None
    examples = [context.example(query, queries[query], list(found), "beir") for query, found in positives.items()]
    return Collected(passages, examples, check.dropped)


def _queries(path: Path, check: RowCheck) -> dict[str, str]:
    queries: dict[str, str] = {}
    for line, row in json_rows(path, check):
        try:
            query_id = string_field(row, "_id", required=True)
            if query_id in queries:
                raise RowError(f"_id {query_id!r} occurs more than once", "repeated id")
            queries[query_id] = string_field(row, "text", required=True)
        except RowError as problem:
            check.bad(f"{path}, line {line}", *problem.args)
    return queries


def _positive(cells: list[str], queries: dict[str, str], passages: set[str]) -> tuple[str, str]:
    """Query and passage of a judgement; the passage is empty if it is judged not relevant."""
    if len(cells) != len(_HEADER):
        raise RowError(f"expected the cells {', '.join(_HEADER)}, got {len(cells)} cells", "wrong number of cells")
    query, passage, grade = cells
    if query not in queries:
        raise RowError(f"query-id {query!r} is not in queries.jsonl", "unknown query")
    if passage not in passages:
        raise RowError(f"corpus-id {passage!r} is not in corpus.jsonl", "unknown passage")
    try:
        return query, passage if float(grade) > 0 else ""
    except ValueError:
        raise RowError(f"score {grade!r} is not a number", "score is no number") from None
