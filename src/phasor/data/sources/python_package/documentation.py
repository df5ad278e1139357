"""View `documentation`: a first sentence or heading finds the rest of its documentation."""

import importlib
import re
from collections.abc import Iterator

from phasor.config.tasks import PythonPackageSource
from phasor.data.sources import Collected, Context
from phasor.data.sources.python_package.builder import Builder
from phasor.data.sources.python_package.docstrings import cut, is_question, plain_text, split_docstring, without
from phasor.data.sources.python_package.scan import objects

_MIN_WORDS = 10
_MAX_CHARS = 600
_HEADING = re.compile(r"^(?P<title>\S[^\n]*)\n(?P<line>[*=\-])(?P=line){3,}$", re.MULTILINE)


def read(source: PythonPackageSource, context: Context) -> Collected:
    """Language topics, then module, class and function documentation, in an order given by the seed."""
    builder = Builder(context)
    if "stdlib" in source.packages:
        for topic, part, title, text in _topic_parts():
            summary, rest = split_docstring(text).summary, split_docstring(text).rest
            usable = is_question(summary) and len(rest.split()) >= _MIN_WORDS
            body = without(rest, summary) if usable else plain_text(text)
            if len(body.split()) >= _MIN_WORDS:
                builder.add(f"topics.{topic}", part=part, title=title, text=cut(body, _MAX_CHARS), query=summary if usable else "")
    for item in objects(source.packages, context.seed):
        if not item.is_public:
            continue
        parts = split_docstring(item.docstring)
        text = cut(without(parts.rest, parts.summary), _MAX_CHARS)
        if len(text.split()) < _MIN_WORDS:
            builder.found.dropped["nothing but a summary"] += 1
        elif not is_question(parts.summary):
            builder.found.dropped["summary is no query"] += 1
        else:
            builder.add(item.name, title=item.name, text=text, query=parts.summary)
        if len(builder) >= source.max_passages:
            break
    return builder.finish("docstring")


def _topic_parts() -> Iterator[tuple[str, str, str, str]]:
    """(topic, part number, heading, text) of every section of the language reference that `help()` shows."""
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    for topic, text in sorted(topics.items()):
        pieces = _HEADING.split(text)
        for number, start in enumerate(range(1, len(pieces), 3)):
            yield topic, str(number), plain_text(pieces[start]), pieces[start + 2]
