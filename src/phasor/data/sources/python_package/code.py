"""View `code`: the first sentence of a docstring finds the function's source."""

from phasor.config.tasks import PythonPackageSource
from phasor.data.sources import Collected, Context
from phasor.data.sources.python_package.builder import Builder
from phasor.data.sources.python_package.docstrings import is_question, split_docstring, without
from phasor.data.sources.python_package.scan import objects

_MIN_LINES = 4
_MAX_LINES = 50


def read(source: PythonPackageSource, context: Context) -> Collected:
    """Functions of 4 to 50 lines, without docstring; the query is the docstring's first sentence."""
    builder = Builder(context)
    for item in objects(source.packages, context.seed):
        if item.kind == "function" and _MIN_LINES <= item.num_code_lines() <= _MAX_LINES:
            summary = split_docstring(item.docstring).summary
            if is_question(summary):
                builder.add(item.name, title=item.parent, text=without(item.code(), summary), query=summary, language="python")
            else:
                builder.found.dropped["summary is no query"] += 1
        if len(builder) >= source.max_passages:
            break
    return builder.finish("docstring")
