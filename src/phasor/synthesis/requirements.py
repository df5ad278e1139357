"""What a synthetic query is asked to be: type, difficulty, length and language, in equal shares. Paper A.3, Table 7."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from phasor.data.near_duplicates import words


@dataclass(frozen=True)
class Length:
    """A range of words, both ends included.

    Attributes:
        label: as it stands in the prompt and in the tables.
        most: None if there is no upper end.
    """

    label: str
    least: int
    most: int | None

    def holds(self, num_words: int, tolerance: float = 0.0) -> bool:
        """Whether a number of words is in the range, both ends relaxed by a factor of 1 + tolerance."""
        return num_words * (1 + tolerance) >= self.least and (self.most is None or num_words <= self.most * (1 + tolerance))


LENGTHS: Mapping[str, tuple[Length, ...]] = {
    "keywords": (Length("<5", 1, 4), Length("<7", 1, 6), Length("7-13", 7, 13)),
    "factual": (Length("5-20", 5, 20), Length("13-27", 13, 27), Length(">20 and <50", 21, 49)),
    "summary": (Length("13-21", 13, 21), Length("20-50", 20, 50), Length(">80 and <100", 81, 99)),
    "yes_no": (Length("5-20", 5, 20), Length("13-27", 13, 27), Length(">20 and <50", 21, 49)),
    "background": (Length("5-20", 5, 20), Length("25-80", 25, 80), Length(">80", 81, None)),
}
"""Length options of every type. Paper Table 7."""

TYPES = tuple(LENGTHS)
DIFFICULTIES = ("high_school", "university", "phd")
_NUM_LENGTHS = 3


@dataclass(frozen=True)
class Requirement:
    """What one query shall be. `length` is the label of one of the type's options."""

    type: str
    difficulty: str
    length: str
    language: str


@dataclass(frozen=True)
class Written:
    """What came of one passage.

    Attributes:
        error: `invalid_json`, `invalid_fields`, `truncated` or `no_answer`; empty if there is a query.
    """

    persona: str
    requirement: Requirement
    query: str
    error: str


def length_of(type_: str, label: str) -> Length:
    """The length option of a type by its label."""
    return next(length for length in LENGTHS[type_] if length.label == label)


def num_words(text: str) -> int:
    """Words as lengths are counted in: a Chinese, Japanese or Korean character is one."""
    return len(words(text))


def balanced(number: int, languages: Sequence[str], seed: int) -> list[Requirement]:
    """Requirements of which any prefix has every type, difficulty, length option and language in equal shares.

    The counts of two values of one property differ by at most one, and every combination recurs with the same period.
    """
    rng = Random(seed)
    types, difficulties, codes = (rng.sample(names, len(names)) for names in (TYPES, DIFFICULTIES, tuple(languages)))
    lengths = rng.sample(range(_NUM_LENGTHS), _NUM_LENGTHS)
    # 5 types and 3 difficulties have no common divisor, so i mod 5 and i mod 3 meet in all 15 ways; length and language
    # advance once more after each full period of what stands before them.
    pairs = len(types) * len(difficulties)
    triples = pairs * _NUM_LENGTHS
    rows = []
    for i in range(number):
        type_ = types[i % len(types)]
        length = LENGTHS[type_][lengths[(i // pairs + i % pairs) % _NUM_LENGTHS]]
        language = codes[(i // triples + i % triples) % len(codes)]
        rows.append(Requirement(type_, difficulties[i % len(difficulties)], length.label, language))
    return rows


def settle(choices: Sequence[tuple[str, str] | None], languages: Sequence[str], seed: int) -> list[Requirement]:
    """Requirements with the quotas of `balanced`, each as near as they allow to what a model chose for its passage.

    Args:
        choices: (type, difficulty) per passage, None where the model gave no usable answer.
        languages, seed: as in `balanced`.

    Returns:
        One requirement per choice: first come, first served for type and difficulty; then for the type; then what is left.
    """
    free: defaultdict[tuple[str, str], list[Requirement]] = defaultdict(list)
    for requirement in reversed(balanced(len(choices), languages, seed)):
        free[requirement.type, requirement.difficulty].append(requirement)
    settled: dict[int, Requirement] = {}
    for match in (2, 1, 0):
        for i, choice in enumerate(choices):
            if i not in settled and (cell := _free_cell(free, choice, match)):
                settled[i] = free[cell].pop()
    return [settled[i] for i in range(len(choices))]


def _free_cell(free: Mapping[tuple[str, str], list[Requirement]], choice: tuple[str, str] | None, match: int) -> tuple[str, str] | None:
    """The fullest cell that agrees with the choice in its first `match` parts."""
    if choice is None and match:
        return None
    fitting = [cell for cell, rest in free.items() if rest and (choice is None or cell[:match] == choice[:match])]
    return max(fitting, key=lambda cell: len(free[cell]), default=None)
