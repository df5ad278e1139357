"""Files cut into passages: at headings, then paragraphs, then words."""

import re
from collections.abc import Iterator

_HEADING = re.compile(r"^#{1,6}[ \t]+(?P<title>.+?)[ \t#]*$")
_FENCE = re.compile(r"^\s*(```|~~~)")
# A stop ends a sentence before a space and something that can start one; a Chinese or Japanese one always does.
_SENTENCE_END = re.compile(r"(?<=[^.\s][.!?])(?<!\be\.g\.)(?<!\bi\.e\.)(?<!\betc\.)(?:\s+(?=[^\Wa-z]|[\"'(`*:])|\s*$)|(?<=[。！？])")


def first_sentence(text: str) -> tuple[str, str]:
    """A text's first sentence and the rest of it, white space between words made single."""
    flat = " ".join(text.split())
    end = _SENTENCE_END.search(flat)
    return (flat[: end.start()], flat[end.end() :]) if end else (flat, "")


def heading_sections(text: str) -> Iterator[tuple[str, str]]:
    """(heading, text below it) of every non-empty section of a Markdown text; the heading may be empty."""
    title, lines, fenced = "", [], False
    for line in text.splitlines():
        fenced ^= bool(_FENCE.match(line))
        heading = None if fenced else _HEADING.match(line)
        if heading is None:
            lines.append(line)
            continue
        if body := "\n".join(lines).strip():
            yield title, body
        title, lines = heading["title"].strip(), []
    if body := "\n".join(lines).strip():
        yield title, body


def chunk(text: str, max_chars: int) -> list[str]:
    """Pieces of at most `max_chars` characters, as few cuts inside paragraphs as possible; joined they hold every word."""
    pieces: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        paragraph = paragraph.strip()
        if not paragraph:
            continue
        if pieces and len(pieces[-1]) + 2 + len(paragraph) <= max_chars:
            pieces[-1] += "\n\n" + paragraph
        else:
            pieces += _split_paragraph(paragraph, max_chars)
    return pieces


def _split_paragraph(paragraph: str, max_chars: int) -> list[str]:
    if len(paragraph) <= max_chars:
        return [paragraph]
    pieces = [""]
    for word in paragraph.split():
        # Longer than a passage: text without spaces, such as Chinese, or a blob.
        for part in (word[i : i + max_chars] for i in range(0, len(word), max_chars)):
            if pieces[-1] and len(pieces[-1]) + 1 + len(part) > max_chars:
                pieces.append("")
            pieces[-1] = f"{pieces[-1]} {part}".strip()
    return pieces
