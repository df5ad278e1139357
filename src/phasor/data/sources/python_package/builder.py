"""Turn (object, query) pairs into passages and examples: what all views share."""

from collections import Counter
from dataclasses import dataclass, field

from phasor.data.records import Passage
from phasor.data.sources import Collected, Context


@dataclass
class Builder:
    """Collects one passage and one query per object.

    Attributes:
        context: of the task.
        found: what has been collected; complete after `finish`.
    """

    context: Context
    found: Collected = field(default_factory=Collected)
    _names: set[str] = field(default_factory=set)
    _queries: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.found.passages)

    def add(self, name: str, *, title: str, text: str, query: str = "", language: str = "en", part: str = "") -> None:
        """Add a passage of the object `name`, and its query if there is one. A repeated name is dropped."""
        passage_id = f"{name}#{part}" if part else name
        if passage_id in self._names:
            self.found.dropped["name defined again"] += 1
            return
        self._names.add(passage_id)
        self.found.passages.append(Passage(passage_id, text, title, source=name, language=language))
        if query:
            self._queries[passage_id] = query

    def finish(self, provenance: str) -> Collected:
        """Make examples of the queries that mean one passage only: a query that several share cannot be answered."""
        uses = Counter(query.casefold() for query in self._queries.values())
        for passage_id, query in self._queries.items():
            if uses[query.casefold()] == 1:
                self.found.examples.append(self.context.example(passage_id, query, [passage_id], provenance))
            else:
                self.found.dropped["query shared by several passages"] += 1
        return self.found
