"""Examples as token ids: every text is tokenised once, before the first step, and batches are cut from that.

Shapes: Q queries, P passages of a batch, M most known positives and K most hard negatives of a query, N pairs.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from phasor.artifacts import digest_json
from phasor.config.training import InfoNCEConfig, YesNoConfig
from phasor.data.records import Example, Passage, read_corpus, read_examples
from phasor.data.templates import render_passage
from phasor.errors import DataError
from phasor.models.embedder import Embedder
from phasor.models.network import Network
from phasor.models.reranker import Reranker
from phasor.models.tokens import Ids, Ragged
from phasor.training.sampling import Indices, Step, choose, step_generator

LossConfig = InfoNCEConfig | YesNoConfig


@dataclass(frozen=True)
class TaskData:
    """One task's examples and the passages they name.

    Attributes:
        examples: what is learned from.
        passages: by id.
        in_batch_negatives: whether other queries' passages are negatives.
    """

    examples: Sequence[Example]
    passages: Mapping[str, Passage]
    in_batch_negatives: bool = True


def read_task(examples: Path, corpus: Path, in_batch_negatives: bool, limit: int | None = None, seed: int = 0) -> TaskData:
    """Read a task's example table and its corpus; keep at most `limit` examples, chosen by seeded shuffle.

    Raises:
        DataError: there is no example.
    """
    rows = read_examples(examples)
    if not rows:
        raise DataError(f"{examples} holds no examples, so there is nothing to train on. Add sources to the task or loosen its filter.")
    return TaskData(choose(rows, limit, seed, rows[0].task), {p.id: p for p in read_corpus(corpus)}, in_batch_negatives)


@dataclass(frozen=True)
class EmbedBatch:
    """One rank's share of a step of the embedder.

    Attributes:
        task: name of the task.
        sequences: Q queries, then P distinct passages.
        num_examples: queries of the whole step, over all ranks.
        passage: [P] id of each passage.
        target: [Q] id of each query's positive.
        own: [Q, K] ids of its hard negatives, filled up with -1.
        positives: [Q, M] ids of all passages known to be relevant, filled up with -1.
        in_batch: whether the other passages are negatives.
    """

    task: str
    sequences: Sequence[Ids]
    num_examples: int
    passage: Indices
    target: Indices
    own: Indices
    positives: Indices
    in_batch: bool


@dataclass(frozen=True)
class RerankBatch:
    """One rank's share of a step of the reranker.

    Attributes:
        task: name of the task.
        sequences: N pairs.
        num_examples: queries of the whole step, over all ranks.
        num_pairs: pairs of the whole step, over all ranks.
        relevant: [N] 1 where yes is right.
    """

    task: str
    sequences: Sequence[Ids]
    num_examples: int
    num_pairs: int
    relevant: Indices


Batch = EmbedBatch | RerankBatch
N = TypeVar("N", bound=Network)


@dataclass(frozen=True)
class _Row:
    """An example by numbers: passages are rows of the token table."""

    task: int
    positives: Indices
    negatives: Indices
    known: Indices


class TrainingSet(ABC, Generic[N]):
    """Tokenised examples of one or more tasks.

    Attributes:
        tasks: names, in the order of their indices.
        task: [E] task index of each example.
        lengths: [E] tokens of each example's longest input.
    """

    def __init__(self, network: N, tasks: Mapping[str, TaskData], seed: int) -> None:
        self.tasks = list(tasks)
        self._seed = seed
        self._in_batch = [data.in_batch_negatives for data in tasks.values()]
        index = _PassageIndex()
        self._rows = [row for number, data in enumerate(tasks.values()) for row in _rows(number, data, index)]
        examples = [example for data in tasks.values() for example in data.examples]
        self._queries = self._tokenize_queries(network, [e.query for e in examples], [e.instruction for e in examples])
        self._passages = network.document_tokens(index.texts)
        self._owners = np.array(index.tasks, np.int64)
        self.task = np.array([row.task for row in self._rows], np.int64)
        self.lengths = np.array([self._length(i) for i in range(len(self._rows))], np.int64)

    def __len__(self) -> int:
        return len(self._rows)

    def digest(self) -> str:
        """One digest for all that batches are cut from: every token, and which passages belong to which example."""
        rows = [[row.task, row.positives.tolist(), row.negatives.tolist(), row.known.tolist()] for row in self._rows]
        tokens = [hashlib.sha256(a.tobytes()).hexdigest() for t in (self._queries, self._passages) for a in (t.values, t.offsets)]
        return digest_json([self.tasks, self._in_batch, rows, tokens])

    @abstractmethod
    def batch(self, step: Step, rank: int = 0, world_size: int = 1) -> Batch:
        """One rank's share of a step. Which positive and negatives are used depends on seed and step only."""

    @abstractmethod
    def _tokenize_queries(self, network: N, queries: list[str], instructions: list[str]) -> Ragged: ...

    @abstractmethod
    def _length(self, example: int) -> int: ...

    def _longest_passage(self, example: int) -> int:
        row = self._rows[example]
        return int(self._passages.lengths_of(np.concatenate([row.positives, row.negatives])).max())

    def _draw(self, step: Step, num_hard: int, num_random: int = 0) -> list[tuple[int, Indices]]:
        """For each example of a step a positive and its negatives, hard ones first."""
        rng = step_generator(self._seed, step)
        pool = np.flatnonzero(self._owners == step.task) if num_random else np.empty(0, np.int64)
        drawn = []
        for example in step.examples:
            row = self._rows[example]
            positive = int(row.positives[rng.integers(len(row.positives))])
            hard = row.negatives
            if len(hard) > num_hard:
                hard = hard[np.sort(rng.permutation(len(hard))[:num_hard])]
            extra = rng.choice(pool, num_random) if num_random else pool
            drawn.append((positive, np.concatenate([hard, extra[~np.isin(extra, row.known)]])))
        return drawn


class EmbedSet(TrainingSet[Embedder]):
    """Training data of the embedder."""

    def __init__(self, embedder: Embedder, tasks: Mapping[str, TaskData], loss: InfoNCEConfig, seed: int) -> None:
        self._loss = loss
        super().__init__(embedder, tasks, seed)

    def _tokenize_queries(self, network: Embedder, queries: list[str], instructions: list[str]) -> Ragged:
        return network.query_tokens(queries, instructions)

    def _length(self, example: int) -> int:
        return max(len(self._queries[example]), self._longest_passage(example))

    def batch(self, step: Step, rank: int = 0, world_size: int = 1) -> EmbedBatch:
        examples = step.examples[rank::world_size]
        drawn = self._draw(step, self._loss.num_hard_negatives)[rank::world_size]
        target = np.array([positive for positive, _ in drawn], np.int64)
        own = _rectangle([negatives for _, negatives in drawn])
        passage = np.unique(np.concatenate([target, own[own >= 0]]))
        sequences = [self._queries[i] for i in examples] + [self._passages[i] for i in passage]
        positives = _rectangle([self._rows[i].known for i in examples])
        return EmbedBatch(self.tasks[step.task], sequences, len(step.examples), passage, target, own, positives, self._in_batch[step.task])


class RerankSet(TrainingSet[Reranker]):
    """Training data of the reranker."""

    def __init__(self, reranker: Reranker, tasks: Mapping[str, TaskData], loss: YesNoConfig, seed: int) -> None:
        self._loss = loss
        self._pair = reranker.pair
        self._tail = len(reranker.tail)
        self._limit = reranker.config.max_pair_tokens
        super().__init__(reranker, tasks, seed)

    def _tokenize_queries(self, network: Reranker, queries: list[str], instructions: list[str]) -> Ragged:
        return network.head_tokens(queries, instructions)

    def _length(self, example: int) -> int:
        return min(self._limit, len(self._queries[example]) + self._longest_passage(example) + self._tail)

    def batch(self, step: Step, rank: int = 0, world_size: int = 1) -> RerankBatch:
        drawn = self._draw(step, self._loss.num_hard_negatives, self._loss.num_random_negatives)
        sequences, relevant = [], []
        for example, (positive, negatives) in list(zip(step.examples, drawn, strict=True))[rank::world_size]:
            sequences += [self._pair(self._queries[example], self._passages[p]) for p in (positive, *negatives)]
            relevant += [1] + [0] * len(negatives)
        num_pairs = sum(1 + len(negatives) for _, negatives in drawn)
        return RerankBatch(self.tasks[step.task], sequences, len(step.examples), num_pairs, np.array(relevant, np.int64))


def make_set(network: Network, tasks: Mapping[str, TaskData], loss: LossConfig, seed: int) -> EmbedSet | RerankSet:
    """Tokenise the examples of all tasks for a network.

    Raises:
        DataError: an example names a passage that its corpus does not hold.
    """
    if isinstance(loss, InfoNCEConfig):
        assert isinstance(network, Embedder), "InfoNCE trains embedders"
        return EmbedSet(network, tasks, loss, seed)
    assert isinstance(network, Reranker), "yes/no trains rerankers"
    return RerankSet(network, tasks, loss, seed)


def heldout_batches(
    network: Network, tasks: Mapping[str, TaskData], loss: LossConfig, batch_size: int, seed: int
) -> dict[str, list[Batch]]:
    """Every example of every task once, in batches of `batch_size`, for a search that optimises on its own."""
    data = make_set(network, tasks, loss, seed)
    batches: dict[str, list[Batch]] = {}
    for number, name in enumerate(data.tasks):
        examples = np.flatnonzero(data.task == number)
        steps = [Step(i, number, examples[i : i + batch_size], 0) for i in range(0, len(examples), batch_size)]
        batches[name] = [data.batch(step) for step in steps]
    return batches


class _PassageIndex:
    """Numbers the passages that examples name; the same text of a task gets one number."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.tasks: list[int] = []
        self._numbers: dict[tuple[int, str], int] = {}

    def number(self, task: int, passage: Passage) -> int:
        """Number of a passage, new at its first use."""
        text = render_passage(passage)
        if (found := self._numbers.get((task, text))) is None:
            found = self._numbers[task, text] = len(self.texts)
            self.texts.append(text)
            self.tasks.append(task)
        return found

    def find(self, task: int, passage: Passage) -> int | None:
        """Number of a passage that has one."""
        return self._numbers.get((task, render_passage(passage)))


def _rows(task: int, data: TaskData, index: _PassageIndex) -> list[_Row]:
    """Examples by numbers. The same question asked twice shares what is known to answer it."""
    numbered = []
    known: dict[tuple[str, str], set[int]] = {}
    for example in data.examples:
        missing = next((p for p in (*example.positives, *example.negatives, *example.known) if p not in data.passages), None)
        if missing is not None:
            raise DataError(
                f"task {example.task!r}: example {example.id!r} names passage {missing!r}, which its corpus does not hold. "
                "Run collect and mine again."
            )
        positives, negatives = ([index.number(task, data.passages[p]) for p in ids] for ids in (example.positives, example.negatives))
        known.setdefault((example.instruction, example.query), set()).update(positives)
        numbered.append((example, positives, negatives))
    rows = []
    for example, positives, negatives in numbered:
        relevant = known[example.instruction, example.query]
        # Those that no example of the task names stand in no batch, and get no number.
        relevant.update(n for p in example.known if (n := index.find(task, data.passages[p])) is not None)
        kept = [n for n in dict.fromkeys(negatives) if n not in relevant]
        rows.append(_Row(task, np.array(positives, np.int64), np.array(kept, np.int64), np.array(sorted(relevant), np.int64)))
    return rows


def _rectangle(rows: Sequence[npt.NDArray[np.int64]]) -> Indices:
    """[rows, longest] filled up with -1."""
    result = np.full((len(rows), max((len(row) for row in rows), default=0)), -1, np.int64)
    for target, row in zip(result, rows, strict=True):
        target[: len(row)] = row
    return result
