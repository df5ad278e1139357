"""A small task, collected, and the data phases run on it one by one."""

from pathlib import Path
from typing import Any

from phasor.artifacts import Report
from phasor.data.records import Example, Passage, write_corpus, write_examples
from phasor.phases import Job, phase
from phasor.recipe import Recipe

TOPICS = ("gzip archives", "thread pools", "date parsing", "matrix inversion", "password hashing", "socket timeouts", "log rotation")
LSA = {"kind": "lsa", "dims": 64}


def passage(i: int) -> Passage:
    topic = TOPICS[i % len(TOPICS)]
    text = (
        f"The module number{i} handles {topic} for large services. If the argument limit{i} is negative, a ValueError is raised at once. "
        f"Calling close{i} releases every buffer{i} that belongs to {topic}, even after an error. "
        f"Returns the handle{i} of the pool that was opened by the first caller of this module."
    )
    return Passage(f"p{i}", text, title=f"package.module{i}", source=f"package.module{i}")


class World:
    """One task with 90 documents in a work folder: 80 for training, and dev, heldout and test queries for the rest."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.root = root
        source = {"kind": "jsonl", "corpus": "unused.jsonl"}
        self.settings: dict[str, Any] = {"tasks": {"t": {"instruction": "find the module that does it", "sources": [source]}}} | settings
        self.corpus = [passage(i) for i in range(90)]
        self.collected = root / "t/collect"
        write_corpus(self.corpus, self.collected / "corpus.parquet")
        self.write("train", [self.example(i) for i in range(0, 80, 8)])
        for split, numbers in (("dev", range(80, 83)), ("heldout", range(83, 86)), ("test", range(86, 90))):
            self.write(split, [self.example(i) for i in numbers])

    @staticmethod
    def example(i: int) -> Example:
        return Example(f"e{i}", f"where is buffer{i} released when close{i} is called", "find it", [f"p{i}"], task="t", provenance="hand")

    def write(self, split: str, examples: list[Example]) -> None:
        write_examples(examples, self.collected / f"{split}.parquet")

    def run(self, name: str, **settings: Any) -> Report:
        """Run one data phase as the runner does, without its manifest."""
        recipe = Recipe.model_validate(self.settings | settings)
        job = Job(recipe, name, task="t", root=self.root, scratch=self.root / "scratch")
        inputs, outputs = (phase(name).paths(kind, recipe, self.root, None, "t") for kind in ("inputs", "outputs"))
        for path in outputs.flat().values():
            path.mkdir(parents=True, exist_ok=True)
        return phase(name).load()(job, inputs, outputs)

    def bytes_of(self, folder: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted((self.root / "t" / folder).iterdir())}
