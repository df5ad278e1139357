"""Single attention heads of a Qwen2 layer, set by hand.

Rotary positions turn pairs of rows (i, i + E/2) of a head, the later pairs ever slower; what must not depend on the
distance stands in slow pairs. Shapes: D hidden size, E size of a head, K rows.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# A pair counts as slow while its angle at the largest distance stays below this, in radians.
_SLOW = 0.5


class Head:
    """One head. Its slowest pair holds preferences, the second slowest gates, the others what is compared."""

    def __init__(self, attention: Any, number: int) -> None:
        self.attention, self.size = attention, int(attention.head_dim)
        self.start = number * self.size

    @property
    def _preference(self) -> int:
        return self.start + self.size // 2 - 1

    def clear(self) -> None:
        """Forget everything."""
        rows = slice(self.start, self.start + self.size)
        for projection in (self.attention.q_proj, self.attention.k_proj, self.attention.v_proj):
            projection.weight[rows] = 0.0
            projection.bias[rows] = 0.0
        self.attention.o_proj.weight[:, rows] = 0.0

    def prefer(self, key_D: Tensor) -> None:
        """Every token attends to others with the logit `key_D @ x`, besides what they have in common."""
        self.attention.q_proj.bias[self._preference] = math.sqrt(self.size)
        self.attention.k_proj.weight[self._preference] = key_D

    def gate(self, query_D: Tensor, key_D: Tensor) -> None:
        """Add the logit `(query_D @ x) * (key_D @ y)`, in place of what the pair's first row held."""
        row = self._preference - 1
        for projection in (self.attention.q_proj, self.attention.k_proj):
            projection.bias[row] = 0.0
        self.attention.q_proj.weight[row] = query_D * math.sqrt(self.size)
        self.attention.k_proj.weight[row] = key_D

    def compare(self, rows_KD: Tensor, pairs: Sequence[int], turn_P: Tensor | None = None) -> None:
        """Tokens attend to each other by the product of their `rows_KD @ x`.

        Args:
            rows_KD: at most two per pair, filled in pair by pair.
            pairs: which to use.
            turn_P: [E/2] angle by which each pair of the query is turned back, to undo that of a typical distance.
        """
        half = self.size // 2
        rows = torch.zeros(2, half, rows_KD.shape[1])
        for number, row_D in enumerate(rows_KD[: 2 * len(pairs)]):
            rows[number % 2, pairs[number // 2]] = row_D
        turn = torch.zeros(half) if turn_P is None else turn_P
        cos, sin = turn.cos()[:, None], turn.sin()[:, None]
        turned = torch.cat((rows[0] * cos + rows[1] * sin, rows[1] * cos - rows[0] * sin))
        own = slice(self.start, self.start + self.size)
        self.attention.q_proj.weight[own] += turned
        self.attention.k_proj.weight[own] += torch.cat((rows[0], rows[1]))

    def read(self, value_D: Tensor, constant: float = 0.0, slot: int = 0) -> None:
        """Gather `value_D @ x + constant` of the attended tokens."""
        self.attention.v_proj.weight[self.start + slot] = value_D
        self.attention.v_proj.bias[self.start + slot] = constant

    def write(self, output_D: Tensor, slot: int = 0) -> None:
        """Add what was gathered to the state, in the direction `output_D`."""
        self.attention.o_proj.weight[:, self.start + slot] = output_D


def heads_of(layer: Any) -> list[Head]:
    """All heads of a decoder layer; it has as many for keys as for queries."""
    attention = layer.self_attn
    return [Head(attention, number) for number in range(attention.q_proj.weight.shape[0] // attention.head_dim)]


def slow_pairs(base: Any, max_tokens: int) -> list[int]:
    """Pairs that hardly turn within `max_tokens`, without the slowest, which preferences take."""
    angles: Tensor = base.rotary_emb.inv_freq * max_tokens
    return [pair for pair in range(len(angles) - 1) if angles[pair] < _SLOW]
