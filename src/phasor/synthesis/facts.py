"""What can be said about a passage without understanding it: telling words, complete sentences, what a name promises."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from phasor.data.records import Passage
from phasor.data.teachers import split_identifier, terms
from phasor.data.templates import render_passage

_WORD = re.compile(r"[^\W\d_]\w*(?:['-]\w+)*|\d+")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(`])|;\s+|(?<=[。！？])|\n\s*\n|\n(?=\s*[-*+] )")
_LABEL = re.compile(r"^[-*+\s]*(?:\w+\([^)]*\)\s*)?(?:Parameters: )?(?:\w+: +)?(?:\([a-z]+\) ?)?(?:Note(?: that)?:? )?")
_NOT_A_SENTENCE = re.compile(
    r"[{}<>|=\\]|>>>|\.\.\.|\bhttps?:|\w\(\w*\)\(|::|\w: (?:int|str|bool|float|array|list|dict|callable|object|None|optional)\b"
    r"|\bsee also\b|\bsection\b"
    r"|^(?:see|refer|read more|for (?:a list|more)|pragma|noqa|type:|default:|copyright|licen[sc]e|todo|xxx|fixme)\b",
    re.IGNORECASE,
)
_COMMENT = re.compile(r"(?:^[ \t]*#+[^\n]*\n?)+", re.MULTILINE)
_COMMENT_MARK = re.compile(r"^[ \t]*#+[ \t]?", re.MULTILINE)
_STRING = re.compile(r"[\"']([^\"'\n%{}\\]{20,})[\"']")
_DEFINITION = re.compile(r"^\s*(?:async )?(?:def|function|func|fn|class|interface|struct)\s+(\w+)\s*(?:\(([^)]*)\))?", re.MULTILINE)
_PARAMETER = re.compile(r"(?:^|,)\s*\*{0,2}([A-Za-z_]\w*)")
_DUNDER = re.compile(r"^_*(init|call|new|main|repr|str|enter|exit|iter|next|len|eq|hash)_*$")
_CODE_STOP_WORDS = frozenset({"self", "cls", "def", "return", "returns", "none", "true", "false", "args", "kwargs", "str", "int"})
WEAK_END = frozenset({
    "a", "an", "and", "any", "as", "at", "be", "but", "by", "for", "from", "if", "in", "into", "is", "it", "its", "not", "of", "on", "or",
    "that", "the", "then", "this", "to", "what", "when", "which", "will", "with", "you", "your",
})
"""Words that no sentence ends with."""

_MIN_CLAUSE_WORDS, _MAX_CLAUSE_WORDS = 4, 40
_NOT_A_LETTER = re.compile(r"[^\w ]|[\d_]")
_MAX_OTHERS = 0.25  # more digits and punctuation than this are a table or a formula


@dataclass(frozen=True)
class Facts:
    """A passage taken apart.

    Attributes:
        action: what the name that the passage documents or defines promises, for example `read lines` or `use a line reader`;
            may be empty.
        keywords: surface words, most telling first, none twice.
        clauses: complete sentences without their full stop, most telling first.
        lead: the same sentences in the order of the text.
        is_code: source text rather than prose.
        num_words: words of the passage.
    """

    action: str
    keywords: tuple[str, ...]
    clauses: tuple[str, ...]
    lead: tuple[str, ...]
    is_code: bool
    num_words: int


class Analyst:
    """Knows how rare every term is in a corpus."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._stop_words = _lines("stop_words.txt") | _CODE_STOP_WORDS
        self._frequency = Counter(term for p in passages for term in set(terms(render_passage(p))))
        self._num_passages = len(passages)
        self._rarities: dict[str, float] = {}

    def facts(self, passage: Passage) -> Facts:
        """Take one passage apart."""
        is_code = len(passage.language) > 2
        num_words = len(passage.text.split())
        definition = _DEFINITION.search(passage.text) if is_code else None
        name = definition.group(1) if definition else passage.title.rpartition(" ")[2].rpartition(".")[2]
        if _DUNDER.match(name):
            name = passage.title.rpartition(".")[2]
        action = _action(name)
        lead = tuple(self._clauses(passage.text, is_code))
        return Facts(
            action=action,
            keywords=tuple(self._keywords(passage, definition.group(2) if definition else None)),
            clauses=tuple(sorted(lead, key=self._weight, reverse=True)),
            lead=lead,
            is_code=is_code,
            num_words=num_words,
        )

    def _keywords(self, passage: Passage, parameters: str | None) -> list[str]:
        """Words by tf-idf; parameters of a function count twice."""
        text = " ".join([passage.text, *_PARAMETER.findall(parameters or "")])
        counts = Counter(word.lower() for identifier in _WORD.findall(text) for word in split_identifier(identifier))
        scores = {
            word: (1 + math.log(count)) * self._rarity(word)
            for word, count in counts.items()
            if len(word) > 2 and not word.isdigit() and word not in self._stop_words
        }
        return sorted(scores, key=lambda word: (-scores[word], word))

    def _clauses(self, text: str, is_code: bool) -> list[str]:
        """Sentences of prose; of code those in its comments and messages."""
        if is_code:
            comments = [_COMMENT_MARK.sub("", block) for block in _COMMENT.findall(text)]
            pieces = [*(piece for comment in comments for piece in _SENTENCE_END.split(comment)), *_STRING.findall(text)]
        else:
            pieces = _SENTENCE_END.split(text)
        cleaned = (_LABEL.sub("", " ".join(piece.split())).rstrip(".:,;。 ") for piece in pieces)
        return [piece for piece in dict.fromkeys(cleaned) if _is_sentence(piece)]

    def _weight(self, clause: str) -> float:
        found = [word for word in terms(clause) if word not in self._stop_words]
        return sum(map(self._rarity, found)) / math.sqrt(len(found) + 1)

    def _rarity(self, word: str) -> float:
        if word not in self._rarities:
            term = terms(word)
            self._rarities[word] = math.log((1 + self._num_passages) / (1 + self._frequency[term[0] if term else word])) + 1
        return self._rarities[word]


@cache
def _lines(name: str) -> frozenset[str]:
    return frozenset(resources.files("phasor.synthesis").joinpath(name).read_text(encoding="utf-8").split())


def _action(name: str) -> str:
    parts = [part.lower() for part in split_identifier(name)]
    if not parts or parts[0] in _lines("verbs.txt"):
        return " ".join(parts)
    return f"use {' '.join(parts)}"


def _is_sentence(text: str) -> bool:
    tokens = text.split()
    if not _MIN_CLAUSE_WORDS <= len(tokens) <= _MAX_CLAUSE_WORDS or tokens[-1].lower() in WEAK_END:
        return False
    if (text[0].islower() and tokens[0] in WEAK_END) or _NOT_A_SENTENCE.search(text):
        return False
    return len(_NOT_A_LETTER.findall(text)) <= _MAX_OTHERS * len(text)
