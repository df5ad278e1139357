"""Whether one synthetic query is well-formed. The first reason that applies is the one that is kept."""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

from phasor.config.data import FilterConfig
from phasor.data.near_duplicates import SHINGLE_WORDS, words
from phasor.data.records import Passage
from phasor.synthesis.prompts import MARK
from phasor.synthesis.requirements import LENGTHS, length_of
from phasor.synthesis.rows import SyntheticRow

_ECHO = re.compile(
    rf"{re.escape(MARK)}|^\W*(?:query|answer|character|passage|requirements?|candidates?)\s*:|\b(?:the|this) (?:given )?passage\b"
    r"|\bjson object\b"
    r"|\bas an ai\b|\b(?:language|ai) model,|\bi (?:cannot|can't|am unable to) (?:help|assist|comply)|[{\[]\s*\"|<\|?\w+\|>|```",
    re.IGNORECASE,
)
# What attacks on a generator look like, in a passage or in what it wrote because of one.
_INJECTION = re.compile(
    r"\b(?:ignore|disregard|forget|override|bypass)\b.{0,40}\b(?:instructions?|prompts?|rules|guidelines|directives)\b"
    r"|\b(?:system|developer|hidden) prompt\b|\byou are now\b.{0,60}\b(?:assistant|mode|model|bot)\b|\bnew instructions?\s*:"
    r"|\b(?:respond|reply|answer|output|print|write|say) (?:only|exactly|nothing but|just)\b.{0,20}[\"'`:]|\bjailbreak|\bdo anything now\b"
    r"|<\|?(?:system|assistant|im_start|im_end|endoftext)\|?>|\[/?INST\]",
    re.IGNORECASE | re.DOTALL,
)
_URL = re.compile(r"\b(?:https?|ftp|file)://|\bwww\.\w|\b[\w.+-]+@[\w-]+\.[a-z]{2,}\b", re.IGNORECASE)
_SECRET = re.compile(
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\b(?:sk|pk|rk)[-_](?:live|test|proj|ant)?[-_]?[A-Za-z0-9]{16,}|\bgh[pousr]_[A-Za-z0-9]{20,}|\bxox[abprs]-[\w-]{10,}"
    r"|-----BEGIN |\beyJ[\w-]{10,}\.[\w-]{10,}|\b(?:password|passwd|secret|token|api[_ ]?key)\s*[=:]\s*\S{6,}|\b[0-9a-fA-F]{32,}\b",
    re.IGNORECASE,
)
_SCRIPTS: Mapping[str, frozenset[str]] = {
    "ar": frozenset({"ARABIC"}), "bn": frozenset({"BENGALI"}), "fa": frozenset({"ARABIC"}), "he": frozenset({"HEBREW"}),
    "hi": frozenset({"DEVANAGARI"}), "ja": frozenset({"HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "CJK"}), "ko": frozenset({"HANGUL"}),
    "ru": frozenset({"CYRILLIC"}), "te": frozenset({"TELUGU"}), "th": frozenset({"THAI"}), "uk": frozenset({"CYRILLIC"}),
    "zh": frozenset({"CJK"}),
}  # fmt: skip
_LATIN = frozenset({"LATIN"})
# Names and code stay in Latin letters in any language, and one Chinese character says as much as a few letters.
_MIN_SCRIPT_SHARE = 0.3


def format_error(row: SyntheticRow, passage: Passage, config: FilterConfig) -> str:
    """Why a row is not well-formed; "" if it is."""
    query = row.query
    if row.error:
        return row.error
    if not words(query):
        return "empty"
    if _INJECTION.search(passage.text) or _INJECTION.search(passage.title):
        return "passage_gives_orders"
    if _ECHO.search(query) or _INJECTION.search(query) or _repeats(row):
        return "echo"
    if _SECRET.search(query):
        return "secret"
    if _URL.search(query):
        return "address"
    if error := _length_error(row, config.length_tolerance):
        return error
    if not written_in(query, row.language):
        return "wrong_language"
    return "copy" if copied_fraction(query, passage.text) >= config.max_copied_fraction else ""


def written_in(text: str, language: str) -> bool:
    """Whether enough letters of a text belong to the script of a language (ISO 639-1)."""
    counts = Counter(_script(character) for character in text if character.isalpha())
    expected = _SCRIPTS.get(language, _LATIN)
    share = sum(counts[script] for script in expected) / max(1, counts.total())
    return share >= (_MIN_SCRIPT_SHARE if language in _SCRIPTS else 1 - _MIN_SCRIPT_SHARE)


@lru_cache(4096)
def _script(letter: str) -> str:
    return unicodedata.name(letter, "?").split()[0]


def copied_fraction(query: str, passage: str) -> float:
    """Fraction of the passage's word 5-grams that the query repeats; of a shorter passage, of its words."""
    source, copy = words(passage), words(query)
    size = min(SHINGLE_WORDS, len(source))
    if not size:
        return 0.0
    grams = {tuple(source[i : i + size]) for i in range(len(source) - size + 1)}
    return len(grams & {tuple(copy[i : i + size]) for i in range(len(copy) - size + 1)}) / len(grams)


def _length_error(row: SyntheticRow, tolerance: float) -> str:
    if row.type not in LENGTHS:
        return "unknown_type"
    length, size = length_of(row.type, row.length), len(words(row.query))
    if length.holds(size, tolerance):
        return ""
    return "too_short" if size < length.least else "too_long"


def _repeats(row: SyntheticRow) -> bool:
    """Whether the query gives its own instruction back, or one phrase again and again."""
    tokens = words(row.query)
    instruction = words(row.instruction)
    if len(instruction) >= SHINGLE_WORDS and " ".join(instruction) in " ".join(tokens):
        return True
    return len(tokens) >= 12 and len(set(tokens)) < len(tokens) / 3
