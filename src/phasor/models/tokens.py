"""Token sequences in bulk: tokenise once, cut, group by length, pad only what shares a forward pass.

Shapes: N sequences, L tokens of the longest of them.
"""

import bisect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from phasor.errors import ModelError

END_OF_TEXT = "<|endoftext|>"
_CHUNK = 8192
# Long texts are cut before they are tokenised, generously; the few that were cut too short are tokenised again.
_CHARS_PER_TOKEN = 8
_WORD_END = re.compile(r"(?<=[^\W_])\s")

Ids = npt.NDArray[np.int32]
Order = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Affixes:
    """Token ids put around every sequence after it was cut."""

    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """How many tokens they take."""
        return len(self.prefix) + len(self.suffix)


@dataclass(frozen=True)
class Ragged:
    """Many token sequences in one array.

    Attributes:
        values: all ids, one sequence after the other.
        offsets: [N + 1], where each sequence starts; the last entry is the end.
    """

    values: Ids
    offsets: Order

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Ids:
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def __iter__(self) -> Iterator[Ids]:
        return (self[index] for index in range(len(self)))

    @property
    def lengths(self) -> Order:
        """[N] tokens per sequence."""
        return np.diff(self.offsets)

    def lengths_of(self, indices: Order) -> Order:
        """[K] tokens of some sequences."""
        return self.offsets[indices + 1] - self.offsets[indices]

    @classmethod
    def of(cls, sequences: Sequence[Ids]) -> "Ragged":
        """Put sequences together."""
        lengths = np.fromiter((len(s) for s in sequences), np.int64, len(sequences))
        values = np.concatenate(sequences) if sequences else np.empty(0, np.int32)
        return cls(values.astype(np.int32, copy=False), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


@dataclass(frozen=True)
class TokenBatch:
    """Sequences that share a forward pass, padded on the right.

    Attributes:
        ids: [N, L] int64.
        lengths: [N] int64, at least 1.
        continues: [N] int64, number of the shared prefix that each sequence goes on from, where there are some.
    """

    ids: Tensor
    lengths: Tensor
    continues: Tensor | None = None

    @property
    def mask(self) -> Tensor:
        """[N, L] int64: 1 at tokens, 0 at padding."""
        return (torch.arange(self.ids.shape[1], device=self.ids.device) < self.lengths[:, None]).long()

    @property
    def last(self) -> tuple[Tensor, Tensor]:
        """Index of every sequence's last token."""
        return torch.arange(len(self.lengths), device=self.ids.device), self.lengths - 1


@dataclass(frozen=True)
class Shared:
    """Which of many sequences begin alike.

    Attributes:
        group: [N] number of the group that each sequence belongs to.
        lengths: [N] tokens with which all sequences of its group begin.
    """

    group: Order
    lengths: Order


def tokenize(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], max_tokens: int | None = None, affixes: Affixes | None = None
) -> Ragged:
    """Token ids of every text, cut to `max_tokens` including the affixes.

    The tokenizer's own state (truncation, padding) is neither used nor changed, so that what is saved stays clean.
    """
    around = affixes or Affixes()
    room = None if max_tokens is None else max_tokens - around.size
    prefix, suffix = np.array(around.prefix, np.int32), np.array(around.suffix, np.int32)
    backend: Any = tokenizer.backend_tokenizer
    sequences: list[Ids] = []
    for start in range(0, len(texts), _CHUNK):
        sequences += [np.concatenate([prefix, ids[:room], suffix]) for ids in _ids(backend, list(texts[start : start + _CHUNK]), room)]
    return Ragged.of(sequences)


def _ids(backend: Any, texts: list[str], room: int | None) -> list[Ids]:
    """Token ids of texts, complete up to `room` tokens."""
    cut = texts if room is None else [_beginning(text, room * _CHARS_PER_TOKEN) for text in texts]
    ids = [np.array(e.ids, np.int32) for e in backend.encode_batch_fast(cut, add_special_tokens=False)]
    short = [i for i in range(len(texts)) if len(cut[i]) < len(texts[i]) and room is not None and len(ids[i]) < room]
    for i, encoding in zip(short, backend.encode_batch_fast([texts[i] for i in short], add_special_tokens=False), strict=True):
        ids[i] = np.array(encoding.ids, np.int32)
    return ids


def _beginning(text: str, chars: int) -> str:
    """At least the first characters of a text, up to the end of a word, where every pre-tokenizer ends a token.

    White space alone is no such place: some join it with signs before it, or with more of it.
    """
    if len(text) <= chars:
        return text
    end = _WORD_END.search(text, chars)
    return text[: end.start()] if end else text


def end_of_text_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """The token whose hidden state is the embedding: `<|endoftext|>` where it exists, else the tokenizer's EOS.

    Raises:
        ModelError: there is neither.
    """
    found = tokenizer.get_vocab().get(END_OF_TEXT, tokenizer.eos_token_id)
    if found is None:
        raise ModelError(
            f"the tokenizer has neither {END_OF_TEXT} nor an EOS token, which last-token pooling needs. Set model.<role>.pooling to mean."
        )
    return int(found)


def special_affixes(tokenizer: PreTrainedTokenizerFast) -> Affixes:
    """What the tokenizer itself puts around one text, for example [CLS] and [SEP]."""
    backend: Any = tokenizer.backend_tokenizer
    # A word that no tokenizer drops; `a` is none.
    bare, full = (backend.encode("yes", add_special_tokens=flag).ids for flag in (False, True))
    start = next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)
    return Affixes(tuple(full[:start]), tuple(full[start + len(bare) :]))


def single_token(tokenizer: PreTrainedTokenizerFast, word: str) -> int:
    """Id of a word that must be one token. Raises ModelError if it is not."""
    found = tokenizer.get_vocab().get(word)
    if found is None:
        raise ModelError(
            f"{word!r} is not a single token of this tokenizer, so it cannot be a reranker's answer. "
            "Choose another backbone for model.rerank."
        )
    return int(found)


def plan_batches(lengths: Order, max_tokens: int) -> list[Order]:
    """Group sequences of similar length so that count times longest stays within `max_tokens`; longest group first.

    Longest first makes a lack of memory show at once. A single sequence above the limit is a group of its own.
    """
    order = np.argsort(-lengths, kind="stable")
    groups, start = [], 0
    while start < len(order):
        size = max(1, max_tokens // max(1, int(lengths[order[start]])))
        groups.append(order[start : start + size])
        start += size
    return groups


def plan_evenly(lengths: Order, number: int, max_tokens: int) -> list[Order]:
    """As `plan_batches`, but in that number of groups, or more if they do not fit, and the largest as small as can be."""
    limits = range(min(max_tokens, -(-int(lengths.sum()) // number)), max_tokens)
    enough = bisect.bisect_left(limits, True, key=lambda limit: len(plan_batches(lengths, limit)) <= number)
    return plan_batches(lengths, limits.start + enough)


def pad(sequences: Sequence[Ids], pad_id: int, device: torch.device | str = "cpu") -> TokenBatch:
    """Put sequences into one batch on a device."""
    lengths = np.fromiter((len(s) for s in sequences), np.int64, len(sequences))
    ids = np.full((len(sequences), int(lengths.max())), pad_id, np.int64)
    ids[np.arange(ids.shape[1]) < lengths[:, None]] = np.concatenate(sequences)
    return TokenBatch(torch.from_numpy(ids).to(device, non_blocking=True), torch.from_numpy(lengths).to(device, non_blocking=True))
