"""Held-out queries for a task that has none: headings and first sentences, taken out of their passages."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from phasor.data.chunking import first_sentence
from phasor.data.hashing import position
from phasor.data.near_duplicates import words
from phasor.data.records import Example, Passage
from phasor.data.sources import Collected, Context

_MIN_HEADING_WORDS = 3
_SENTENCE_WORDS = range(4, 41)
_MIN_REST_WORDS = 8


def with_heldout_queries(found: Collected, splits: Mapping[str, str], sizes: Mapping[str, int | None], context: Context) -> Collected:
    """Add queries to a task without any, in documents outside train, and remove their words from the passages.

    A heading of three words or more that no other passage has is the query, else the passage's first sentence. The
    training queries come from synthesis.

    Args:
        splits: document key to split.
        sizes: most queries per split.
    """
    titles = Counter(passage.title for passage in found.passages)
    wanted = Counter({split: size or 0 for split, size in sizes.items() if split != "train"})
    changed: dict[str, Passage] = {}
    examples: list[Example] = []
    for passage in sorted(found.passages, key=lambda p: position(p.id, context.seed, "heading")):
        split = splits[passage.source]
        if wanted[split] and (taken := _take_query(passage, titles)):
            query, provenance, changed[passage.id] = taken
            examples.append(context.example(f"held-out:{passage.id}", query, [passage.id], provenance))
            wanted[split] -= 1
    return Collected([changed.get(p.id, p) for p in found.passages], examples, found.dropped)


def _take_query(passage: Passage, titles: Mapping[str, int]) -> tuple[str, str, Passage] | None:
    """Query, provenance and the passage without it; None if neither heading nor sentence can be spared."""
    title = passage.title.strip()
    if len(words(title)) >= _MIN_HEADING_WORDS and titles[passage.title] == 1 and _enough(passage.text):
        text = passage.text.replace(title, "").strip()
        return (title, "heading", replace(passage, title="", text=text)) if _enough(text) else None
    sentence, rest = first_sentence(passage.text)
    if len(words(sentence)) in _SENTENCE_WORDS and _enough(rest) and sentence not in rest:
        return sentence, "first sentence", replace(passage, text=rest)
    return None


def _enough(text: str) -> bool:
    return len(words(text)) >= _MIN_REST_WORDS
