"""Readers of the source kinds: one module per kind, each with `read(source, context) -> Collected`.

A reader gives passages and, where the source has them, examples; splitting and cleaning come afterwards.
"""

import importlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from phasor.config.data import CollectConfig
from phasor.config.tasks import Source
from phasor.data.records import Example, Passage


@dataclass(frozen=True)
class Context:
    """What a reader knows besides its own settings.

    Attributes:
        task: name of the task that is collected.
        instruction: put on examples that bring none.
        seed: decides every choice among rows.
        root: folder against which relative paths are resolved.
        collect: limits and the rule for bad rows.
    """

    task: str
    instruction: str
    seed: int
    root: Path
    collect: CollectConfig

    def example(self, example_id: str, query: str, positives: list[str], provenance: str) -> Example:
        """An example of this task with the task's own instruction."""
        return Example(example_id, query, self.instruction, positives, task=self.task, provenance=provenance)


@dataclass
class Collected:
    """What was read.

    Attributes:
        dropped: rows left out, by reason.
    """

    passages: list[Passage] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)

    def extend(self, other: "Collected", prefix: str = "") -> None:
        """Append everything another source gave, with `prefix` before its ids."""
        self.passages += [replace(p, id=prefix + p.id) for p in other.passages] if prefix else other.passages
        self.examples += [_prefixed(e, prefix) for e in other.examples] if prefix else other.examples
        self.dropped += other.dropped


def _prefixed(example: Example, prefix: str) -> Example:
    return replace(
        example,
        id=prefix + example.id,
        positives=[prefix + positive for positive in example.positives],
        negatives=[prefix + negative for negative in example.negatives],
        pair_id=prefix + example.pair_id if example.pair_id else "",
    )


def read_source(source: Source, context: Context) -> Collected:
    """Read one source with the module of its kind, imported late because some parsers are heavy."""
    read: Callable[[Source, Context], Collected] = importlib.import_module(f"phasor.data.sources.{source.kind}").read
    return read(source, context)
