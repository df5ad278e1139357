"""Token sequences of many requests, computed together: one thread, two lanes, bounded memory.

A forward pass takes sequences of similar length, from as many requests as fit its token budget. Sequences of the
query lane go first. Within a lane a request's turn comes in proportion to its size, so that a short one need not wait
for a long one that came a moment earlier, and no request waits for ever.

Shapes: N sequences.
"""

import asyncio
import bisect
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from phasor.config.base import Role
from phasor.errors import first_line
from phasor.models.network import SHARED_PER_TOKEN, Vectors
from phasor.models.tokens import Ids, Ragged, Shared
from phasor.serving.engine import EngineError, Lane, OverloadedError

log = logging.getLogger(__name__)

LANES: tuple[Lane, ...] = ("query", "bulk")
_WINDOW = 2  # batches' worth of tokens among which sequences of similar length are sought
_QUERY_TURNS = 8  # batches of queries in a row, after which one of the bulk lane gets its turn
_FAILURES = 5  # batches in a row, each of other requests, after which the fault is not theirs
_SECONDS_PER_TOKEN = 1e-4  # of a slow machine; a request's due time grows with its size by this

Apply = Callable[[Sequence[Ids], Shared], Vectors]


@dataclass
class Ran:
    """One forward pass, for the metrics.

    Attributes:
        waited_s: of the sequence that waited longest.
        tokens: without padding; of what a request's sequences share, the room it takes.
        padded: the same with padding.
    """

    role: Role
    lane: Lane
    sequences: int
    tokens: int
    padded: int
    waited_s: float
    seconds: float


@dataclass(eq=False)
class _Job:
    role: Role
    sequences: Ragged
    shared: int
    arrived: float
    loop: asyncio.AbstractEventLoop
    done: "asyncio.Future[Vectors]"
    pending: list[int]
    """Sequences that are not under way yet, the longest first."""
    unfinished: int
    rows: Vectors | None = None

    def room(self, index: int) -> int:
        """Tokens that a sequence counts for in a batch, where what it shares with others is there once."""
        return int(self.sequences.offsets[index + 1] - self.sequences.offsets[index]) - self.shared + self.shared // SHARED_PER_TOKEN

    @property
    def due(self) -> float:
        return self.arrived + len(self.sequences.values) * _SECONDS_PER_TOKEN

    def keep(self, indices: Sequence[int], rows: Vectors) -> None:
        if self.rows is None:
            self.rows = np.empty((len(self.sequences), *rows.shape[1:]), np.float32)
        self.rows[list(indices)] = rows
        self.unfinished -= len(indices)
        if not self.unfinished:
            self.settle(self.rows)

    def settle(self, outcome: Vectors | EngineError) -> None:
        self.loop.call_soon_threadsafe(self._settle, outcome)

    def _settle(self, outcome: Vectors | EngineError) -> None:
        if self.done.done():
            return
        if isinstance(outcome, EngineError):
            self.done.set_exception(outcome)
        else:
            self.done.set_result(outcome)


@dataclass
class _Batch:
    role: Role
    lane: Lane
    parts: list[tuple[_Job, list[int]]] = field(default_factory=list)


class Scheduler:
    """Runs what requests submit.

    Args:
        networks: role to what computes a batch; called from the scheduler's own thread only.
        batch_tokens: tokens, padding included, of one batch; a longer sequence runs alone.
        max_queue_tokens: tokens that may wait in both lanes together.
        observe: told about every batch.
    """

    def __init__(
        self, networks: Mapping[Role, Apply], batch_tokens: int, max_queue_tokens: int, observe: Callable[[Ran], None] = lambda ran: None
    ) -> None:
        self._networks = networks
        self._batch_tokens = batch_tokens
        self._max_queue_tokens = max_queue_tokens
        self._observe = observe
        self._lanes: dict[Lane, list[_Job]] = {lane: [] for lane in LANES}
        self._waiting: dict[Lane, int] = dict.fromkeys(LANES, 0)
        self._turns = 0
        self._failures = 0
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="phasor-engine", daemon=True)
        self._thread.start()

    def waiting_tokens(self, lane: Lane) -> int:
        """Tokens that wait in a lane."""
        return self._waiting[lane]

    def alive(self) -> bool:
        """Whether the thread takes more: not after it was closed, nor once only a restart helps."""
        return not self._closed

    async def submit(self, role: Role, sequences: Ragged, lane: Lane, shared: int = 0) -> Vectors:
        """[N, ...] rows of sequences. A caller that stops waiting takes back what is not under way.

        Args:
            role: which network computes them.
            sequences: tokens.
            lane: whether somebody waits.
            shared: tokens with which all of them begin.

        Raises:
            OverloadedError: the lanes are full.
            EngineError: the model failed, or gave something that is no number.
        """
        loop = asyncio.get_running_loop()
        order = np.argsort(-sequences.lengths, kind="stable").tolist()
        job = _Job(role, sequences, shared, time.monotonic(), loop, loop.create_future(), order, len(order))
        with self._changed:
            if self._closed:
                raise EngineError("the engine was closed")
            if sum(self._waiting.values()) + len(sequences.values) > self._max_queue_tokens:
                raise OverloadedError(max(1.0, sum(self._waiting.values()) * _SECONDS_PER_TOKEN))
            bisect.insort(self._lanes[lane], job, key=lambda other: other.due)
            self._waiting[lane] += len(sequences.values)
            self._changed.notify()
        try:
            return await job.done
        finally:
            self._withdraw(job, lane)

    def close(self) -> None:
        """Stop after the batch under way; what waits fails."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _withdraw(self, job: _Job, lane: Lane) -> None:
        with self._changed:
            if job in self._lanes[lane]:
                self._lanes[lane].remove(job)
                self._waiting[lane] -= int(job.sequences.lengths[job.pending].sum())

    def _work(self) -> None:
        try:
            while (batch := self._await_batch()) is not None:
                self._run(batch)
                if self._failures >= _FAILURES:
                    log.critical("serve.engine: gives up after failure upon failure; only a restart can help")
                    return
        finally:
            with self._changed:
                self._closed = True
                waiting = [job for lane in LANES for job in self._lanes[lane]]
            for job in waiting:
                job.settle(EngineError("the engine was closed"))

    def _await_batch(self) -> _Batch | None:
        """The next one; None when it is time to stop."""
        with self._changed:
            while not self._closed and not any(self._lanes.values()):
                self._changed.wait()
            return None if self._closed else self._take(self._next_lane())

    def _next_lane(self) -> Lane:
        both = all(self._lanes.values())
        self._turns = self._turns + 1 if both else 0
        if self._lanes["query"] and self._turns <= _QUERY_TURNS:
            return "query"
        self._turns = 0
        return "bulk"

    def _take(self, lane: Lane) -> _Batch:
        """Move the next batch out of a lane: the first job's longest sequence and those nearest to it in length."""
        jobs = self._lanes[lane]
        role = jobs[0].role
        window: list[tuple[int, _Job, int]] = []
        tokens, target = 0, jobs[0].room(jobs[0].pending[0])
        for job, index in ((other, index) for other in jobs if other.role == role for index in other.pending):
            length = job.room(index)
            window.append((length, job, index))
            tokens += length
            if tokens > _WINDOW * self._batch_tokens:
                break
        window.sort(key=lambda item: abs(item[0] - target))
        chosen: dict[int, tuple[_Job, list[int]]] = {}
        longest, count = 0, 0
        for length, job, index in window:
            if count and (count + 1) * max(longest, length) > self._batch_tokens:
                break
            longest, count = max(longest, length), count + 1
            chosen.setdefault(id(job), (job, []))[1].append(index)
        for job, indices in chosen.values():
            taken = set(indices)
            job.pending = [index for index in job.pending if index not in taken]
            self._waiting[lane] -= int(job.sequences.lengths[indices].sum())
        self._lanes[lane] = [job for job in jobs if job.pending]
        return _Batch(role, lane, list(chosen.values()))

    def _run(self, batch: _Batch) -> None:
        started = time.monotonic()
        sequences = [job.sequences[index] for job, indices in batch.parts for index in indices]
        sizes = [len(indices) for _, indices in batch.parts]
        shared = Shared(np.repeat(np.arange(len(sizes)), sizes), np.repeat([job.shared for job, _ in batch.parts], sizes))
        try:
            rows = self._networks[batch.role](sequences, shared)
        except (RuntimeError, MemoryError, LookupError, ValueError, TypeError) as error:  # torch's own are all RuntimeErrors
            log.exception("serve.batch role=%s sequences=%d", batch.role, len(sequences))
            self._fail(batch, f"the {batch.role} model failed on {len(sequences)} sequences: {first_line(error)}")
            if isinstance(error, torch.AcceleratorError):  # the process has lost its GPU for good
                self._failures = _FAILURES
            return
        if not np.isfinite(rows).all():
            self._fail(batch, f"the {batch.role} model gave something that is no number")
            return
        self._failures = 0
        rooms = [job.room(index) for job, indices in batch.parts for index in indices]
        waited = started - min(job.arrived for job, _ in batch.parts)
        self._observe(
            Ran(batch.role, batch.lane, len(rooms), sum(rooms), max(rooms) * len(rooms), waited, time.monotonic() - started)
        )
        start = 0
        for job, indices in batch.parts:
            job.keep(indices, rows[start : start + len(indices)])
            start += len(indices)

    def _fail(self, batch: _Batch, message: str) -> None:
        self._failures += 1
        for job, _ in batch.parts:
            job.settle(EngineError(message))
            self._withdraw(job, batch.lane)  # at once, or the rest of it would be the next batch, and fail too
