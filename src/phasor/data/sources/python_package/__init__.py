"""Text of installed Python packages: the four views that the quickstart recipe learns from.

Source files are parsed, never imported. Every passage's `source` is the dotted name of its object, the same in all
views, so that an object's documentation, code and operation fall into the same split of every task.
"""

import importlib

from phasor.config.tasks import PythonPackageSource
from phasor.data.sources import Collected, Context


def read(source: PythonPackageSource, context: Context) -> Collected:
    """Passages and examples of one view."""
    view = importlib.import_module(f"phasor.data.sources.python_package.{source.view}")
    collected: Collected = view.read(source, context)
    return collected
