"""Docstrings as text: the sentence that summarises, and the rest without markup."""

import re
from dataclasses import dataclass

from phasor.data.chunking import first_sentence

_ROLE = re.compile(r":[a-z:+-]+:`~?([^`<>]*?)(?:\s*<[^>]*>)?`")
_LITERAL = re.compile(r"``(.+?)``|`([^`]+)`_{0,2}")
_DIRECTIVE = re.compile(r"^\s*\.\. [a-z:-]+::.*$", re.MULTILINE)
_UNDERLINE = re.compile(r"^[ \t]*([=\-~*^#`\"])\1{2,}[ \t]*$", re.MULTILINE)
_PARAMETER = re.compile(r"^:(param|arg|type|returns?|rtype|raises)\b", re.MULTILINE)
_SECTION = re.compile(r"^(?P<title>[A-Z][A-Za-z ]{2,30})\n-{3,}[ \t]*$", re.MULTILINE)


@dataclass(frozen=True)
class Docstring:
    """A docstring in two parts, both as plain text on one line.

    Attributes:
        summary: the first sentence, without its full stop.
        rest: everything after it.
    """

    summary: str
    rest: str


def split_docstring(docstring: str) -> Docstring:
    """Separate the first sentence of a cleaned docstring from what follows."""
    paragraph, _, tail = docstring.strip().partition("\n\n")
    if marker := _PARAMETER.search(paragraph):
        paragraph, tail = paragraph[: marker.start()], paragraph[marker.start() :] + "\n" + tail
    if underlined := re.match(r"(.+)\n([=\-~*])\2{3,}\n?", paragraph):
        tail = paragraph[underlined.end() :] + "\n\n" + tail
        paragraph = underlined.group(1)
    summary, remainder = first_sentence(plain_text(paragraph))
    return Docstring(summary.rstrip(".:; "), f"{remainder} {plain_text(tail)}".strip())


def sections(docstring: str) -> dict[str, str]:
    """Parts of a numpydoc docstring by title (`Parameters`, `Returns`, `Examples`, …), raw; the head under an empty title."""
    pieces = _SECTION.split(docstring)
    return {"": pieces[0], **dict(zip(pieces[1::2], pieces[2::2], strict=True))}


def plain_text(text: str) -> str:
    """Text without reStructuredText markup, underlines and line breaks."""
    text = _DIRECTIVE.sub(" ", text)
    text = _UNDERLINE.sub(":", text)
    text = _ROLE.sub(lambda match: match.group(1).lstrip("!"), text)
    text = _LITERAL.sub(lambda match: match.group(1) or match.group(2), text)
    text = " ".join(text.split())
    return re.sub(r"(?<=\w) :(?= |$)", ":", text)


def is_question(summary: str) -> bool:
    """Whether a summary can stand as a query: a sentence in words, not a template, a signature or a stub."""
    words = re.findall(r"[A-Za-z]{2,}", summary)
    return 4 <= len(words) <= 40 and len(summary) <= 300 and not _NOT_PROSE.search(summary) and summary.isascii()


_NOT_PROSE = re.compile(
    r"[{}|\\]|%\(|>>>|->|__|^\W|\w\(.*\)|^(see|deprecated|alias|note|todo|internal|auto.?generated)\b|is deprecated"
    r"|copyright|license|all rights|noqa|^\d",
    re.IGNORECASE,
)


def cut(text: str, max_chars: int) -> str:
    """The text up to a word boundary before `max_chars`."""
    return text if len(text) <= max_chars else text[: max_chars + 1].rpartition(" ")[0] or text[:max_chars]


def without(text: str, sentence: str) -> str:
    """The text with every verbatim occurrence of a sentence removed, whatever its case and line breaks."""
    words = sentence.split()
    if " ".join(words).casefold() not in " ".join(text.split()).casefold():
        return text
    return re.sub(r"\s+".join(map(re.escape, words)) + r"\.?", "", text, flags=re.IGNORECASE).strip()
