"""BM25 at its honest best: what every learned score stands beside.

The scoring is bm25s' (Lucene variant). Ours is the analysis, which a team that searches code would set up as well:
identifiers are split and kept whole, stop words are removed, words are stemmed; and the choice of k1, b and
whether the instruction is part of the query, made per task on dev queries.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import bm25s
import numpy as np
import Stemmer
from bm25s.stopwords import STOPWORDS_EN
from numpy.typing import NDArray

from phasor.data.characters import CJK
from phasor.data.records import Example, Passage
from phasor.data.teachers import split_identifier
from phasor.data.templates import render_passage
from phasor.evaluation.metrics import ndcg_at_10, qrels_of

K1_GRID = (0.6, 0.9, 1.2, 1.6, 2.0)
B_GRID = (0.2, 0.4, 0.6, 0.8, 1.0)

_WORD = re.compile(rf"[{CJK}]|[^\W_{CJK}]+(?:[._]+[^\W_{CJK}]+)*")  # a dotted or snake_case name is one word
_JOINT = re.compile("[._]+")
_STOP_WORDS = frozenset(STOPWORDS_EN)


class Setting(NamedTuple):
    """What is tuned.

    Attributes:
        k1: saturation of term frequency.
        b: strength of length normalisation.
        with_instruction: the instruction is put before the query.
    """

    k1: float = 1.2
    b: float = 0.8
    with_instruction: bool = False


@dataclass
class Analyzer:
    """Text to terms. Remembers every distinct word it has seen, so one instance should serve a whole corpus."""

    _stemmer: "Stemmer.Stemmer" = field(default_factory=lambda: Stemmer.Stemmer("english"))
    _terms: dict[str, list[str]] = field(default_factory=dict)

    def __call__(self, text: str) -> list[str]:
        """Terms of a text: for `read_gzipFile` these are read_gzipfile, read, gzip, file, each stemmed."""
        terms: list[str] = []
        for word in _WORD.findall(text):
            known = self._terms.get(word)
            if known is None:
                known = self._terms[word] = self._analyze(word)
            terms.extend(known)
        return terms

    def _analyze(self, word: str) -> list[str]:
        parts = [part.lower() for name in _JOINT.split(word) for part in split_identifier(name)]
        whole = word.lower()
        candidates = [whole] if parts == [whole] else [whole, *parts]
        stemmed: list[str] = self._stemmer.stemWords([term for term in candidates if term not in _STOP_WORDS])
        return stemmed


class Bm25:
    """A corpus that can be searched.

    Args:
        passages: the corpus.
        setting: k1, b and the use of the instruction.
        analyzer: reuse one between instances over the same texts.
    """

    def __init__(self, passages: Sequence[Passage], setting: Setting = Setting(), analyzer: Analyzer | None = None) -> None:  # noqa: B008
        self.ids = [passage.id for passage in passages]
        self.setting = setting
        self._analyzer = analyzer or Analyzer()
        self._index = _index([self._analyzer(render_passage(p)) for p in passages], setting)

    def search(self, queries: Sequence[str], instructions: Sequence[str], top_k: int) -> list[dict[str, float]]:
        """Best passages per query with a positive score: id to score, best first."""
        terms = _query_terms(self._analyzer, queries, instructions, self.setting.with_instruction)
        return _retrieve(self._index, self.ids, terms, top_k)


def tune(passages: Sequence[Passage], dev: Sequence[Example], analyzer: Analyzer | None = None) -> tuple[Setting, float]:
    """Choose the setting with the best mean nDCG@10 on dev queries.

    k1 and b are searched in turn over their grids until neither changes; each is tried with and without instruction.

    Returns:
        The setting and its dev nDCG@10.
    """
    analyzer = analyzer or Analyzer()
    queries, instructions = [e.query for e in dev], [e.instruction for e in dev]
    variants = {flag: _query_terms(analyzer, queries, instructions, flag) for flag in (False, True)}
    # Terms outside the queries change scores only through document length, so one shared term stands for all of them.
    vocabulary = {term: i for i, term in enumerate(sorted({t for terms in variants.values() for query in terms for t in query}))}
    other = vocabulary[""] = len(vocabulary)
    corpus = ([[vocabulary.get(t, other) for t in analyzer(render_passage(p))] for p in passages], vocabulary)
    ids, qrels = [p.id for p in passages], qrels_of(dev)
    seen: dict[tuple[float, float], tuple[float, bool]] = {}

    def score(k1: float, b: float) -> tuple[float, bool]:
        if (k1, b) not in seen:
            index = _index(corpus, Setting(k1, b))
            runs = {flag: dict(zip(qrels, _retrieve(index, ids, terms, 10), strict=True)) for flag, terms in variants.items()}
            seen[k1, b] = max((float(ndcg_at_10(qrels, run).mean()), not flag) for flag, run in runs.items())
        return seen[k1, b]

    best = (1.2, 0.8)
    while True:
        k1 = max(K1_GRID, key=lambda value: score(value, best[1]))
        b = max(B_GRID, key=lambda value: score(k1, value))
        if (k1, b) == best:
            break
        best = (k1, b)
    value, without = seen[best]
    return Setting(*best, with_instruction=not without), value


def _index(corpus: object, setting: Setting) -> "bm25s.BM25":
    index = bm25s.BM25(k1=setting.k1, b=setting.b, method="lucene", backend="numpy", csc_backend="scipy")
    index.index(corpus, show_progress=False)
    return index


def _query_terms(analyzer: Analyzer, queries: Sequence[str], instructions: Sequence[str], with_instruction: bool) -> list[list[str]]:
    if with_instruction:
        return [analyzer(f"{instruction} {query}") for query, instruction in zip(queries, instructions, strict=True)]
    return [analyzer(query) for query in queries]


def _retrieve(index: "bm25s.BM25", ids: Sequence[str], queries: Sequence[list[str]], top_k: int) -> list[dict[str, float]]:
    found = index.retrieve(queries, k=min(top_k, len(ids)), show_progress=False, n_threads=0, backend_selection="numpy")
    return [_positive(ids, rows, scores) for rows, scores in zip(found.documents, found.scores, strict=True)]


def _positive(ids: Sequence[str], rows: NDArray[np.int64], scores: NDArray[np.float32]) -> dict[str, float]:
    return {ids[row]: float(score) for row, score in zip(rows, scores, strict=True) if score > 0}
