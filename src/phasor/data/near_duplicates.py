"""Near-duplicate texts: exact Jaccard similarity of word 5-shingles, with a prefix filter in front.

Two sets of similarity t share at least one of the rarest n - ceil(t * n) + 1 shingles of each, so only texts that do
are compared; nothing is missed. Memory is a few hundred bytes a text, beside the texts themselves. Words are
lower-cased runs of letters and digits; a Chinese, Japanese or Korean character is a word of its own. A text of fewer
than five words is one shingle, so short texts are duplicates only when their words are equal.

Source: shingles: Broder 1997, "On the resemblance and containment of documents"; prefix filter: Chaudhuri et al. 2006,
"A primitive operator for similarity joins in data cleaning", and Bayardo et al. 2007, "Scaling up all pairs similarity search".
"""

import re
from array import array
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from phasor.data.characters import CJK

SHINGLE_WORDS = 5
_BLOCK = 1 << 11  # texts whose shingles are made at once
_KEPT = 1 << 16  # texts whose shingles stay in memory: some 2 KiB each
_MAX_CELLS = (1 << 30) - 1  # of a byte each
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
            index.findable[i] = True
        else:
            found[i] = twin
    return found


def duplicates_of(texts: Sequence[str], references: Sequence[str], jaccard: float) -> dict[int, int]:
    """Texts that repeat one of the references.

    Returns:
        Index of every such text, mapped to the index of the reference it is most similar to.
    """
    index = _Index([*references, *texts], jaccard)
    # One that is equal to an earlier one would never be the first found.
    index.findable[np.unique(index.contents[: len(references)], return_index=True)[1]] = True
    twins = ((i, index.nearest(len(references) + i)) for i in range(len(texts)))
    return {i: twin for i, twin in twins if twin is not None}


def words(text: str) -> list[str]:
    """The lower-cased words of a text, as this module counts them."""
    return (_ASCII_WORD if text.isascii() else _WORD).findall(text.lower())


class _Index:
    """Some texts of a list, searchable by similarity to any text of the list.

    What is kept of a text is the part of its prefix that another text's prefix shares; its shingles are made again when two
    texts have to be compared.

    Attributes:
        contents: [N] equal for texts of equal shingles.
        findable: [N] the texts among which is searched; none at first.
    """

    # Shapes: N texts, S shingles of a block, E entries (a text and one shingle of its prefix), G shingles of all entries.

    def __init__(self, texts: Sequence[str], jaccard: float) -> None:
        self._jaccard = jaccard
        self._shingles = _Shingles(texts)
        self.findable = np.zeros(len(texts), np.bool_)
        # Each shingle counts in one cell; one that shares its cell looks more frequent than it is, and nothing else.
        cells = min(max(sum(map(len, texts)) // 2, 1), _MAX_CELLS)
        uses = np.zeros(1 << cells.bit_length(), np.uint8)
        for block in self._shingles.blocks():
            used, times = np.unique(_cell(np.concatenate(block), uses), return_counts=True)
            uses[used] = np.minimum(uses[used] + times, np.iinfo(np.uint8).max)
        contents, sizes, hashes = [], [], []
        for block in self._shingles.blocks():
            starts = np.cumsum([0, *map(len, block[:-1])])
            contents.append(np.add.reduceat(_mix(np.concatenate(block)), starts))
            owner_E, hash_E = _prefixes(block, uses, jaccard)
            sizes.append(np.bincount(owner_E, minlength=len(block)))
            hashes.append(hash_E)
        self.contents = np.concatenate([np.zeros(0, np.uint64), *contents])
        self._link(np.concatenate([np.zeros(0, np.int64), *sizes]), np.concatenate([np.zeros(0, np.uint64), *hashes]))

    def _link(self, sizes_N: NDArray[np.int64], hash_E: Shingles) -> None:
        """From every text to its entries' groups, and from every group to its texts."""
        owner_E = np.repeat(np.arange(len(sizes_N), dtype=np.int32), sizes_N)
        _, group_E, times_G = np.unique(hash_E, return_inverse=True, return_counts=True)
        shared_E = times_G[group_E] > 1
        owner_E, group_E = owner_E[shared_E], group_E[shared_E].astype(np.int32)
        self._groups = group_E
        self._first_entry = np.searchsorted(owner_E, np.arange(len(sizes_N) + 1))
        self._members = owner_E[np.argsort(group_E, kind="stable")]
        self._first_member = np.concatenate([[0], np.cumsum(np.bincount(group_E, minlength=len(times_G)))])

    def nearest(self, text: int) -> int | None:
        """The findable text that is most similar to this one, at or above the threshold; the first of equals."""
        groups = self._groups[self._first_entry[text] : self._first_entry[text + 1]]
        if not len(groups):
            return None
        members = np.unique(np.concatenate([self._members[self._first_member[g] : self._first_member[g + 1]] for g in groups]))
        own = self._shingles[text]
        scored = [(_similarity(own, self._shingles[other]), -other) for other in members[self.findable[members]].tolist()]
        best, other = max(scored, default=(0.0, 0))
        return -other if scored and best >= self._jaccard else None


class _Shingles:
    """The shingles of texts, made when they are asked for: together they are larger than the texts."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts
        self._kept: dict[int, Shingles] = {}

    def __getitem__(self, text: int) -> Shingles:
        if (found := self._kept.get(text)) is None:
            if len(self._kept) >= _KEPT:
                self._kept.clear()
            found = self._kept[text] = _shingle([self._texts[text]])[0]
        return found

    def blocks(self) -> Iterator[list[Shingles]]:
        """Those of all texts, block by block. Few enough are kept."""
        for start in range(0, len(self._texts), _BLOCK):
            if start in self._kept:
                yield [self._kept[i] for i in range(start, min(start + _BLOCK, len(self._texts)))]
                continue
            block = _shingle(self._texts[start : start + _BLOCK])
            if len(self._texts) <= _KEPT:
                self._kept |= dict(enumerate(block, start))
            yield block


def _cell(hashes: Shingles, uses: NDArray[np.uint8]) -> NDArray[np.uint64]:
    return hashes & np.uint64(len(uses) - 1)


def _prefixes(block: Sequence[Shingles], uses: NDArray[np.uint8], jaccard: float) -> tuple[NDArray[np.int64], Shingles]:
    """The rarest shingles of every text of a block, as many as must be looked at; those of a single text left out.

    Returns:
        The texts' numbers within the block, ascending, and the shingles, one entry each.
    """
    sizes = np.array([len(s) for s in block])
    owner_S = np.repeat(np.arange(len(sizes)), sizes)
    hash_S = np.concatenate(block)
    uses_S = uses[_cell(hash_S, uses)]
    order = np.lexsort((hash_S, uses_S, owner_S))
    place = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    needed = sizes - np.ceil(jaccard * sizes - _ROUNDING) + 1
    chosen = order[(place < needed[owner_S]) & (uses_S[order] > 1)]
    return owner_S[chosen], hash_S[chosen]


def _similarity(a: Shingles, b: Shingles) -> float:
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)


def _shingle(texts: Sequence[str]) -> list[Shingles]:
    """Distinct 64-bit shingle hashes of every text; hashing the words' own hashes, all texts at once, keeps it in numpy.

    Python salts these, so equal words have equal hashes within one process only.
    """
    ids = array("q")
    ends = []
    for text in texts:
        # A text without any word (only punctuation) stands for itself.
        tokens = words(text) or [text]
        ids.extend(map(hash, tokens))
        ids.extend([0] * (SHINGLE_WORDS - len(tokens)))
        ends.append(len(ids))
    if not ends:
        return []
    mixed = _mix(np.frombuffer(ids, dtype=np.uint64))
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
