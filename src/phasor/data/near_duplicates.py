"""Near-duplicate texts: exact Jaccard similarity of word 5-shingles, with a prefix filter in front.

Two sets of similarity t share at least one of the rarest n - ceil(t * n) + 1 shingles of each, so only texts that do
are compared; nothing is missed. Words are lower-cased runs of letters and digits; a Chinese, Japanese or Korean
character is a word of its own. A text of fewer than five words is one shingle, so short texts are duplicates only
when their words are equal.

Source: shingles: Broder 1997, "On the resemblance and containment of documents"; prefix filter: Chaudhuri et al. 2006,
"A primitive operator for similarity joins in data cleaning", and Bayardo et al. 2007, "Scaling up all pairs similarity search".
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import count

import numpy as np
from numpy.typing import NDArray

from phasor.data.characters import CJK

SHINGLE_WORDS = 5
_ROUNDING = 1e-9  # 0.1 * 30 is above 3
_WORD = re.compile(rf"[{CJK}]|[^\W{CJK}]+")
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
    index = _Index(texts, jaccard)
    found: dict[int, int] = {}
    for i in range(len(texts)):
        twin = index.nearest(i)
        if twin is None:
            index.add(i)
        else:
            found[i] = twin
    return found


def duplicates_of(texts: Sequence[str], references: Sequence[str], jaccard: float) -> dict[int, int]:
    """Texts that repeat one of the references.

    Returns:
        Index of every such text, mapped to the index of the reference it is most similar to.
    """
    index = _Index([*references, *texts], jaccard)
    for i in range(len(references)):
        index.add(i)
    twins = ((i, index.nearest(len(references) + i)) for i in range(len(texts)))
    return {i: twin for i, twin in twins if twin is not None}


def words(text: str) -> list[str]:
    """The lower-cased words of a text, as this module counts them."""
    return (_ASCII_WORD if text.isascii() else _WORD).findall(text.lower())


class _Index:
    """Some texts of a list, searchable by similarity to any text of the list."""

    def __init__(self, texts: Sequence[str], jaccard: float) -> None:
        self._jaccard = jaccard
        self._shingles = _shingle(texts)
        self._prefixes = _prefixes(self._shingles, jaccard)
        self._added: defaultdict[int, list[int]] = defaultdict(list)
        self._distinct: set[bytes] = set()

    def add(self, text: int) -> None:
        """Make a text findable; one that is equal to an earlier one would never be the first found."""
        content = self._shingles[text].tobytes()
        if content not in self._distinct:
            self._distinct.add(content)
            for shingle in self._prefixes.get(text, ()):
                self._added[shingle].append(text)

    def nearest(self, text: int) -> int | None:
        """The added text that is most similar to this one, at or above the threshold; the first of equals."""
        candidates = {other for shingle in self._prefixes.get(text, ()) for other in self._added.get(shingle, ())}
        scored = [(_similarity(self._shingles[text], self._shingles[other]), -other) for other in candidates]
        best, other = max(scored, default=(0.0, 0))
        return -other if scored and best >= self._jaccard else None


def _prefixes(shingles: Sequence[Shingles], jaccard: float) -> dict[int, list[int]]:
    """The numbers of the rarest shingles of every text, as many as must be looked at; those of a single text left out."""
    if not shingles:
        return {}
    sizes = np.array([len(s) for s in shingles])
    owner = np.repeat(np.arange(len(sizes)), sizes)
    _, number, uses = np.unique(np.concatenate(shingles), return_inverse=True, return_counts=True)
    order = np.lexsort((number, uses[number], owner))
    place = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    needed = sizes - np.ceil(jaccard * sizes - _ROUNDING) + 1
    number = number[order]
    chosen = (place < needed[owner]) & (uses[number] > 1)
    found: defaultdict[int, list[int]] = defaultdict(list)
    for text, shingle in zip(owner[chosen].tolist(), number[chosen].tolist(), strict=True):
        found[text].append(shingle)
    return found


def _similarity(a: Shingles, b: Shingles) -> float:
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)


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
