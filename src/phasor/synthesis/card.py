"""The data card: what the synthetic queries of a task are like, and what the filter did to them. Paper Table 8 and beyond."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phasor.data.near_duplicates import words
from phasor.synthesis.filtering import Judged, mean_distance
from phasor.synthesis.requirements import DIFFICULTIES, LENGTHS, length_of, num_words
from phasor.synthesis.rows import SyntheticRow

_DIGITS = 4
_PROPERTIES = ("type", "difficulty", "length", "language")


def data_card(rows: Sequence[SyntheticRow], judged: Judged, tokens: Sequence[int] | None) -> dict[str, Any]:
    """Everything that is worth knowing before training on the kept rows; plain JSON values.

    Args:
        rows: the raw rows.
        judged: what the filter says about them.
        tokens: of the query of every row; None if the filter's teacher has no tokenizer, and then nothing is said of them.
    """
    kept = [row for row, reason in zip(rows, judged.reasons, strict=True) if not reason]
    words_of = {row.id: num_words(row.query) for row in kept}
    tokens_of = {row.id: number for row, number in zip(rows, tokens, strict=True)} if tokens is not None else None
    searched = [reason for reason, rank in zip(judged.reasons, judged.ranks, strict=True) if rank]
    kept_vectors = judged.vectors[[i for i, reason in enumerate(searched) if not reason]]
    return {
        "raw": len(rows),
        "kept": len(kept),
        "retention": _fraction(len(kept), len(rows)),
        "reasons": dict(sorted(Counter(reason for reason in judged.reasons if reason).items())),
        "generators": dict(sorted(Counter(row.generator for row in rows).items())),
        "counts": {name: _counts(kept, name) for name in _PROPERTIES},
        "retention_by": {name: _retention(rows, kept, name) for name in _PROPERTIES},
        "length_compliance": _by_type(kept, lambda group: _fraction(sum(map(_has_length, group)), len(group))),
        "words": _spreads(kept, words_of),
        "tokens": _spreads(kept, tokens_of) if tokens_of is not None else None,
        "personas": len({row.persona for row in kept}),
        "diversity": {
            "distinct_1": _distinct(kept, 1),
            "distinct_2": _distinct(kept, 2),
            "embedding_distance": round(mean_distance(kept_vectors), _DIGITS),
        },
        "difficulty_check": difficulty_check(rows, judged),
    }


def difficulty_check(rows: Sequence[SyntheticRow], judged: Judged) -> dict[str, Any]:
    """Whether a harder label means a worse rank of the own passage, over all rows that were searched, kept or not.

    Returns:
        Mean rank per label; Spearman's rho between label and rank with its two-sided p (None where undefined); the verdict is
        true if rho is positive and p below 0.05. Ranks are censored at `worst_rank`.
    """
    pairs = [(DIFFICULTIES.index(row.difficulty), rank) for row, rank in zip(rows, judged.ranks, strict=True) if rank]
    by_label = {name: [rank for label, rank in pairs if label == i] for i, name in enumerate(DIFFICULTIES)}
    check: dict[str, Any] = {
        "mean_rank": {name: round(float(np.mean(ranks)), 2) for name, ranks in by_label.items() if ranks},
        "rows": {name: len(ranks) for name, ranks in by_label.items()},
        "worst_rank": judged.worst_rank,
        "spearman": None, "p_value": None, "harder_is_worse": None,
    }  # fmt: skip
    if len({label for label, _ in pairs}) > 1 and len({rank for _, rank in pairs}) > 1 and len(pairs) > 2:
        rho, p_value = spearman(*zip(*pairs, strict=True))
        check |= {"spearman": round(rho, _DIGITS), "p_value": float(f"{p_value:.3g}"), "harder_is_worse": rho > 0 and p_value < 0.05}
    return check


def spearman(first: Sequence[int], second: Sequence[int]) -> tuple[float, float]:
    """Spearman's rank correlation and its two-sided p by the t distribution, as in scipy.stats, whose import costs a second.

    Source: Zwillinger and Kokoska 2000, "CRC Standard Probability and Statistics Tables and Formulae", section 14.7.
    """
    from scipy.special import stdtr

    rho = float(np.corrcoef(_mid_ranks(first), _mid_ranks(second))[0, 1])
    freedom = len(first) - 2
    t = rho * np.sqrt(freedom / max((1 - rho) * (1 + rho), np.finfo(float).tiny))
    return rho, float(2 * stdtr(freedom, -abs(t)))


def _mid_ranks(values: Sequence[int]) -> NDArray[np.float64]:
    """Rank of every value; equal values share the mean of their ranks."""
    _, place, times = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(times) - (times - 1) / 2)[place]
    return ranks


def _counts(rows: Sequence[SyntheticRow], name: str) -> dict[str, int]:
    return dict(sorted(Counter(_value(row, name) for row in rows).items()))


def _retention(rows: Sequence[SyntheticRow], kept: Sequence[SyntheticRow], name: str) -> dict[str, float]:
    left = Counter(_value(row, name) for row in kept)
    return {value: _fraction(left[value], number) for value, number in _counts(rows, name).items()}


def _value(row: SyntheticRow, name: str) -> str:
    """Length options have a meaning within a type only."""
    return f"{row.type} {row.length}" if name == "length" else str(getattr(row, name))


def _by_type(rows: Sequence[SyntheticRow], measure: Any) -> dict[str, Any]:
    groups: Mapping[str, list[SyntheticRow]] = {name: [row for row in rows if row.type == name] for name in LENGTHS}
    return {name: measure(group) for name, group in groups.items() if group}


def _has_length(row: SyntheticRow) -> bool:
    return length_of(row.type, row.length).holds(len(words(row.query)))


def _spreads(rows: Sequence[SyntheticRow], sizes: Mapping[str, int]) -> dict[str, dict[str, float]]:
    return {"all": _spread(rows, sizes)} | _by_type(rows, lambda group: _spread(group, sizes))


def _spread(rows: Sequence[SyntheticRow], sizes_of: Mapping[str, int]) -> dict[str, float]:
    sizes = [sizes_of[row.id] for row in rows]
    if not sizes:
        return {}
    p5, p50, p95 = (float(value) for value in np.percentile(sizes, [5, 50, 95]))
    return {"mean": round(float(np.mean(sizes)), 2), "p5": p5, "p50": p50, "p95": p95}


def _distinct(rows: Sequence[SyntheticRow], size: int) -> float:
    """Distinct word n-grams over all n-grams (Li et al. 2016, arXiv:1510.03055)."""
    grams = [tuple(tokens[i : i + size]) for tokens in (words(row.query) for row in rows) for i in range(len(tokens) - size + 1)]
    return _fraction(len(set(grams)), len(grams))


def _fraction(part: int, whole: int) -> float:
    return round(part / whole, _DIGITS) if whole else 0.0
