"""Near-duplicate texts: MinHash LSH proposes pairs, exact Jaccard similarity of word 5-shingles decides.

Words are lower-cased runs of letters and digits; a Chinese, Japanese or Korean character is a word of its own. A
text of fewer than five words is one shingle, so short texts are duplicates only when their words are equal.
Source: Broder 1997, "On the resemblance and containment of documents"; banding as in datasketch.
"""

import operator
import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import count

import numpy as np
from datasketch import MinHash, MinHashLSH
from numpy.typing import NDArray

SHINGLE_WORDS = 5
_NUM_PERM = 64
_RECALL = 0.99  # of pairs exactly at the threshold; more similar pairs are found more surely
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")
_ASCII_WORD = re.compile(r"\w+", re.ASCII)  # the same on ASCII, twice as fast
_ODD = np.random.default_rng(1997).integers(0, 2**63, SHINGLE_WORDS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)

Shingles = NDArray[np.uint64]


def duplicates_within(texts: Sequence[str], jaccard: float) -> dict[int, int]:
    """Texts that repeat an earlier one.

    Args:
        texts: in order of preference; of several near-duplicates the first is the one to keep.
        jaccard: similarity in (0, 1] from which two texts are near-duplicates.

    Returns:
        Index of every text to drop, mapped to the index of the kept text it is most similar to.
    """
    index = _Index(jaccard)
    found: dict[int, int] = {}
    for i, (shingles, minhash) in enumerate(_sketch(texts)):
        twin = index.nearest(shingles, minhash)
        if twin is None:
            index.add(i, shingles, minhash)
        else:
            found[i] = twin
    return found


def duplicates_of(texts: Sequence[str], references: Sequence[str], jaccard: float) -> dict[int, int]:
    """Texts that repeat one of the references.

    Returns:
        Index of every such text, mapped to the index of the reference it is most similar to.
    """
    sketches = _sketch([*references, *texts])
    index = _Index(jaccard)
    for i, (shingles, minhash) in enumerate(sketches[: len(references)]):
        index.add(i, shingles, minhash)
    twins = ((i, index.nearest(*sketch)) for i, sketch in enumerate(sketches[len(references) :]))
    return {i: twin for i, twin in twins if twin is not None}


def words(text: str) -> list[str]:
    """The lower-cased words of a text, as this module counts them."""
    return (_ASCII_WORD if text.isascii() else _WORD).findall(text.lower())


class _Index:
    """Texts added so far, searchable by similarity."""

    def __init__(self, jaccard: float) -> None:
        self._jaccard = jaccard
        self._lsh = MinHashLSH(num_perm=_NUM_PERM, params=_bands(jaccard))
        self._shingles: dict[int, Shingles] = {}

    def add(self, key: int, shingles: Shingles, minhash: MinHash) -> None:
        self._lsh.insert(key, minhash)
        self._shingles[key] = shingles

    def nearest(self, shingles: Shingles, minhash: MinHash) -> int | None:
        """Key of the most similar text at or above the threshold; the first added of equals."""
        scored = [(_similarity(shingles, self._shingles[key]), -key) for key in self._lsh.query(minhash)]
        best, key = max(scored, default=(0.0, 0))
        return -key if scored and best >= self._jaccard else None


def _bands(jaccard: float) -> tuple[int, int]:
    """The most selective (bands, rows) that finds a pair at the threshold with probability `_RECALL`."""
    rows = [r for r in range(1, _NUM_PERM // 2 + 1) if 1 - (1 - jaccard**r) ** (_NUM_PERM // r) >= _RECALL]
    r = max(rows, default=1)
    return _NUM_PERM // r, r


def _similarity(a: Shingles, b: Shingles) -> float:
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)


def _sketch(texts: Sequence[str]) -> list[tuple[Shingles, MinHash]]:
    shingled = _shingle(texts)
    minhashes = MinHash.bulk((s.tolist() for s in shingled), num_perm=_NUM_PERM, hashfunc=operator.index, scheme="affine64")
    return list(zip(shingled, minhashes, strict=True))


def _shingle(texts: Sequence[str]) -> list[Shingles]:
    """Distinct 64-bit shingle hashes of every text; hashing word numbers, all texts at once, keeps it in numpy."""
    numbers: defaultdict[str, int] = defaultdict(count(1).__next__)
    ids: list[int] = []
    ends = []
    for text in texts:
        # A text without any word (only punctuation) stands for itself.
        tokens = words(text) or [text]
        ids.extend(map(numbers.__getitem__, tokens))
        ids.extend([0] * (SHINGLE_WORDS - len(tokens)))
        ends.append(len(ids))
    if not ends:
        return []
    mixed = _mix(np.array(ids, dtype=np.uint64))
    num_windows = len(ids) - SHINGLE_WORDS + 1
    hashes = np.zeros(num_windows, dtype=np.uint64)
    for offset, factor in enumerate(_ODD):
        hashes += mixed[offset : offset + num_windows] * factor
    hashes = _mix(hashes)
    return [np.unique(hashes[start : end - SHINGLE_WORDS + 1]) for start, end in zip([0, *ends], ends, strict=False)]


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread bits: the finalizer of MurmurHash3, a bijection on 64 bits."""
    for constant in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        values = (values ^ (values >> np.uint64(33))) * np.uint64(constant)
    return values ^ (values >> np.uint64(33))
