"""Source `beir`: a folder with corpus.jsonl, queries.jsonl and qrels/*.tsv.

The set's own division into train, dev and test is not used: this project splits by document (see `data.splits`). Graded
judgements become binary: everything above zero is relevant, alike in training and in the scores. How many judgements lost a
grade above 1 is counted; scores on such a set are no graded nDCG and cannot be compared with published ones.
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
    what = f"collect {context.task}"
    folder = context.root / source.path
    check = RowCheck(context.collect.on_bad_row)
    passages = read_passages(folder / "corpus.jsonl", check, "_id", what)
    queries = _queries(folder / "queries.jsonl", check, what)
    tables = sorted((folder / "qrels").glob("*.tsv"))
    if not tables:
        raise DataError(f"{folder / 'qrels'} holds no .tsv file. A BEIR folder keeps its judgements in qrels/train.tsv, qrels/test.tsv, …")
    positives: defaultdict[str, dict[str, None]] = defaultdict(dict)
    ids = {passage.id for passage in passages}
    for table in tables:
        for line, cells in tsv_rows(table, check, what):
            if line == 1 and cells[: len(_HEADER)] == _HEADER:
                continue
            try:
                query, passage, grade = _judged(cells, queries, ids)
            except RowError as problem:
                check.bad(f"{table}, line {line}", *problem.args)
            else:
                if grade > 0:
                    positives[query][passage] = None
                if grade > 1:
                    check.dropped["grade above 1 of a judgement, read as relevant"] += 1
    examples = [context.example(query, queries[query], list(found), "beir") for query, found in positives.items()]
    return Collected(passages, examples, check.dropped)


def _queries(path: Path, check: RowCheck, what: str) -> dict[str, str]:
    queries: dict[str, str] = {}
    for line, row in json_rows(path, check, what):
        try:
            query_id = string_field(row, "_id", required=True)
            if query_id in queries:
                raise RowError(f"_id {query_id!r} occurs more than once", "repeated id")
            queries[query_id] = string_field(row, "text", required=True)
        except RowError as problem:
            check.bad(f"{path}, line {line}", *problem.args)
    return queries


def _judged(cells: list[str], queries: dict[str, str], passages: set[str]) -> tuple[str, str, float]:
    """Query, passage and grade of a judgement."""
    if len(cells) != len(_HEADER):
        raise RowError(f"expected the cells {', '.join(_HEADER)}, got {len(cells)} cells", "wrong number of cells")
    query, passage, grade = cells
    if query not in queries:
        raise RowError(f"query-id {query!r} is not in queries.jsonl", "unknown query")
    if passage not in passages:
        raise RowError(f"corpus-id {passage!r} is not in corpus.jsonl", "unknown passage")
    try:
        return query, passage, float(grade)
    except ValueError:
        raise RowError(f"score {grade!r} is not a number", "score is no number") from None
