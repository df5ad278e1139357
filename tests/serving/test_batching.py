"""The scheduler alone, with a network that is only arithmetic: what goes together, what goes first, what is bounded."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.waiting import until

from phasor.models.tokens import Ids, Ragged, Shared
from phasor.serving.batching import Ran, Scheduler
from phasor.serving.engine import EngineError, OverloadedError


def job(*lengths: int, start: int = 1) -> Ragged:
    return Ragged.of([np.full(length, start + i, np.int32) for i, length in enumerate(lengths)])


class Network:
    """Answers (first token, length) for every sequence, and can be held."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.free = threading.Event()
        self.entered = threading.Event()
        self.free.set()

    def __call__(self, sequences: Sequence[Ids], shared: Shared) -> np.ndarray:
        self.entered.set()
        self.free.wait(10)
        self.batches.append([int(sequence[0]) for sequence in sequences])
        return np.array([[sequence[0], len(sequence)] for sequence in sequences], np.float32)


@contextmanager
def scheduler(network: Network, budget: int = 100, queue: int = 10_000) -> Iterator[tuple[Scheduler, list[Ran]]]:
    ran: list[Ran] = []
    made = Scheduler({"embed": network, "rerank": network}, budget, queue, ran.append)
    try:
        yield made, ran
    finally:
        network.free.set()
        made.close()


@given(st.lists(st.lists(st.integers(1, 120), min_size=1, max_size=20), min_size=1, max_size=8))
def test_everybody_gets_their_own_rows_in_order_and_no_batch_is_too_big(lengths: list[list[int]]) -> None:
    network = Network()

    async def run(made: Scheduler) -> None:
        jobs = [job(*part, start=100 * number + 1) for number, part in enumerate(lengths)]
        found = await asyncio.gather(*(made.submit("embed", part, "bulk" if i % 2 else "query") for i, part in enumerate(jobs)))
        for part, rows in zip(jobs, found, strict=True):
            assert rows.tolist() == [[part[i][0], len(part[i])] for i in range(len(part))]

    with scheduler(network) as (made, ran):
        asyncio.run(run(made))
        assert all(one.padded <= 100 or one.sequences == 1 for one in ran)
        assert sum(one.tokens for one in ran) == sum(map(sum, lengths))
        assert made.waiting_tokens("query") == made.waiting_tokens("bulk") == 0


def held(network: Network, budget: int, submit: "list[tuple[str, Ragged, str]]") -> list[list[int]]:
    """Batches in order, after a first one is held until everything else was submitted."""
    network.free.clear()

    async def run(made: Scheduler) -> None:
        first = asyncio.create_task(made.submit("embed", job(1, start=1000), "query"))
        await asyncio.to_thread(network.entered.wait, 10)
        rest = [asyncio.create_task(made.submit(role, part, lane)) for role, part, lane in submit]  # type: ignore[arg-type]
        await asyncio.sleep(0.05)
        network.free.set()
        await asyncio.gather(first, *rest)

    with scheduler(network, budget) as (made, _):
        asyncio.run(run(made))
    return network.batches[1:]


def test_requests_share_a_batch() -> None:
    assert sorted(held(Network(), 100, [("embed", job(5, start=i), "bulk") for i in range(1, 6)])[0]) == [1, 2, 3, 4, 5]


def test_queries_overtake_a_bulk_job() -> None:
    batches = held(Network(), 10, [("embed", job(*[10] * 5, start=1), "bulk"), ("embed", job(3, start=50), "query")])
    assert batches[0] == [50] and len(batches) == 6


def test_a_bulk_job_is_not_starved_by_queries() -> None:
    queries: list[tuple[str, Ragged, str]] = [("embed", job(10, start=50 + i), "query") for i in range(30)]
    batches = held(Network(), 10, [("embed", job(10, start=1), "bulk"), *queries])
    assert batches.index([1]) == 8


def test_a_short_request_need_not_wait_for_a_long_one_of_its_lane() -> None:
    batches = held(Network(), 10, [("rerank", job(*[10] * 500, start=1), "query"), ("embed", job(2, start=900), "query")])
    assert batches[0] == [900]


def test_sequences_of_like_length_go_together() -> None:
    batches = held(Network(), 100, [("embed", job(50, 50, 2, 2, start=1), "bulk"), ("embed", job(2, 50, start=11), "bulk")])
    long = {1, 2, 12}
    assert all(set(batch) <= long or not set(batch) & long for batch in batches) and sum(map(len, batches)) == 6


def test_roles_never_share_a_batch() -> None:
    jobs = [(role, job(2, start=i), "query") for i, role in enumerate(("embed", "rerank", "embed"), start=1)]
    batches = held(Network(), 100, jobs)
    assert sorted(map(sorted, batches)) == [[1, 3], [2]]


def test_a_full_queue_turns_away_and_says_when_to_come_back() -> None:
    network = Network()
    network.free.clear()

    async def run(made: Scheduler) -> None:
        under_way = asyncio.create_task(made.submit("embed", job(10), "bulk"))
        await asyncio.to_thread(network.entered.wait, 10)
        waiting = asyncio.create_task(made.submit("embed", job(90), "bulk"))
        await asyncio.sleep(0.05)
        with pytest.raises(OverloadedError) as caught:
            await made.submit("embed", job(11), "query")
        assert caught.value.retry_after_s >= 1 and made.waiting_tokens("bulk") == 90
        waiting.cancel()  # a caller that leaves makes room
        await asyncio.sleep(0.05)
        assert made.waiting_tokens("bulk") == 0
        again = asyncio.create_task(made.submit("embed", job(11), "query"))
        network.free.set()
        assert (await again).shape == (1, 2) and (await under_way).shape == (1, 2)

    with scheduler(network, queue=100) as (made, _):
        asyncio.run(run(made))
    assert len(network.batches) == 2


@pytest.mark.parametrize("fault", [RuntimeError("out of memory"), MemoryError("out of memory"), None], ids=["torch", "python", "nan"])
def test_a_failing_model_fails_its_batch_and_not_the_thread(fault: Exception | None) -> None:
    def network(sequences: Sequence[Ids], shared: Shared) -> np.ndarray:
        if sequences[0][0] == 13:
            if fault:
                raise fault
            return np.full((len(sequences), 2), np.nan, np.float32)
        return np.ones((len(sequences), 2), np.float32)

    made = Scheduler({"embed": network}, 100, 1000)
    with pytest.raises(EngineError, match="out of memory" if fault else "no number"):
        asyncio.run(made.submit("embed", job(3, start=13), "query"))
    assert asyncio.run(made.submit("embed", job(3), "query")).shape == (1, 2) and made.alive()
    made.close()
    assert not made.alive()
    with pytest.raises(EngineError, match="closed"):
        asyncio.run(made.submit("embed", job(3), "query"))


class Failing:
    """Fails at every sequence that starts with 13."""

    def __init__(self, fault: Exception) -> None:
        self.calls, self._fault = 0, fault

    def __call__(self, sequences: Sequence[Ids], shared: Shared) -> np.ndarray:
        self.calls += 1
        if sequences[0][0] == 13:
            raise self._fault
        return np.ones((len(sequences), 2), np.float32)


def failures(made: Scheduler, number: int) -> None:
    """So many requests that fail, one after the other."""
    for _ in range(number):
        with pytest.raises(EngineError, match="failed on"):
            asyncio.run(made.submit("embed", job(3, start=13), "query"))


def test_an_engine_that_only_fails_is_given_up_so_that_something_restarts_it() -> None:
    made = Scheduler({"embed": Failing(RuntimeError("broken"))}, 100, 1000)
    failures(made, 4)
    assert asyncio.run(made.submit("embed", job(3), "query")).shape == (1, 2)  # it was those requests' fault
    failures(made, 4)
    assert made.alive()
    failures(made, 1)
    until(lambda: not made.alive(), "the engine given up", 10, every=0.01)
    with pytest.raises(EngineError, match="closed"):  # at once, instead of waiting for nobody
        asyncio.run(made.submit("embed", job(3), "query"))
    made.close()


def test_what_waits_when_an_engine_is_given_up_fails_too() -> None:
    async def run() -> None:
        jobs = [made.submit("embed", job(60, start=13 if i < 5 else 1), "query") for i in range(8)]
        outcomes = await asyncio.gather(*jobs, return_exceptions=True)
        assert all(isinstance(outcome, EngineError) for outcome in outcomes)

    made = Scheduler({"embed": Failing(RuntimeError("broken"))}, 100, 1000)
    asyncio.run(run())
    assert not made.alive()
    made.close()


def test_a_request_of_many_batches_fails_once() -> None:
    network = Failing(RuntimeError("broken"))
    made = Scheduler({"embed": network}, 100, 10_000)
    with pytest.raises(EngineError, match="failed on"):
        asyncio.run(made.submit("embed", Ragged.of([np.full(90, 13, np.int32)] * 20), "bulk"))
    assert asyncio.run(made.submit("embed", job(3), "query")).shape == (1, 2)
    assert network.calls == 2 and made.alive() and made.waiting_tokens("bulk") == 0
    made.close()


def test_an_engine_without_its_gpu_is_given_up_at_once() -> None:
    made = Scheduler({"embed": Failing(torch.AcceleratorError("an illegal memory access was encountered", 700))}, 100, 1000)
    failures(made, 1)
    until(lambda: not made.alive(), "the engine given up", 10, every=0.01)
    made.close()


def test_the_network_is_told_what_the_sequences_of_a_request_share() -> None:
    seen: list[Shared] = []

    def network(sequences: Sequence[Ids], shared: Shared) -> np.ndarray:
        seen.append(shared)
        return np.zeros((len(sequences), 1), np.float32)

    async def run(made: Scheduler) -> None:
        first = asyncio.create_task(made.submit("rerank", job(50), "query"))
        await asyncio.sleep(0.05)
        await asyncio.gather(first, made.submit("rerank", job(40, 40), "query", 36), made.submit("rerank", job(13), "query", 4))

    made = Scheduler({"rerank": network}, 50, 1000)
    try:
        asyncio.run(run(made))
    finally:
        made.close()
    assert seen[0].lengths.tolist() == [0]
    assert sorted(length for part in seen[1:] for length in part.lengths.tolist()) == [4, 36, 36]
    both = next(part for part in seen if (part.lengths == 36).sum() == 2)  # 40 tokens of which 36 are shared take the room of 13
    assert len(set(both.group[both.lengths == 36].tolist())) == 1
