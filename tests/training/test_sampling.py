"""The plan of steps: decided by seed, lengths and settings alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phasor.config.training import BatchBucket, EmbedTraining, TrainingConfig
from phasor.training.sampling import Step, choose, plan_steps, step_generator

BUCKETS = (BatchBucket(max_tokens=10, batch_size=4, mini_batch_size=2), BatchBucket(max_tokens=50, batch_size=3, mini_batch_size=1))


def config(**options: object) -> TrainingConfig:
    return EmbedTraining.model_validate({"buckets": BUCKETS} | options)


def world(tasks: list[int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    task = np.repeat(np.arange(len(tasks)), tasks)
    return task, np.random.default_rng(seed).integers(1, 60, len(task))


def flat(steps: list[Step]) -> list[list[int]]:
    return [step.examples.tolist() for step in steps]


@settings(max_examples=50, deadline=None)
@given(tasks=st.lists(st.integers(1, 25), min_size=1, max_size=4), seed=st.integers(0, 1000), ranks=st.integers(1, 3))
def test_an_epoch_takes_every_example_once_in_steps_of_one_task_and_one_bucket(tasks: list[int], seed: int, ranks: int) -> None:
    task, lengths = world(tasks, seed)
    steps = plan_steps(task, lengths, config(), seed, ranks)
    seen = [i for step in steps for i in step.examples.tolist()]
    assert len(seen) == len(set(seen))
    if ranks == 1:
        assert sorted(seen) == list(range(len(task)))
    for number, step in enumerate(steps):
        assert step.number == number
        assert set(task[step.examples]) == {step.task}
        assert ranks <= len(step.examples) <= 4
        short = step.mini_batch_tokens == BUCKETS[0].mini_batch_tokens
        assert short or step.mini_batch_tokens == BUCKETS[1].mini_batch_tokens
        if short:
            assert lengths[step.examples].max() <= 10
            assert len(step.examples) == 4


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_plan_depends_on_the_seed_and_on_nothing_else(seed: int) -> None:
    task, lengths = world([20, 20], 0)
    plan = flat(plan_steps(task, lengths, config(epochs=2.0), seed))
    assert plan == flat(plan_steps(task, lengths, config(epochs=2.0, learning_rate=0.5), seed))
    assert plan != flat(plan_steps(task, lengths, config(epochs=2.0), seed + 1))


def test_every_epoch_has_its_own_order() -> None:
    task, lengths = world([30], 0)
    plan = flat(plan_steps(task, lengths, config(epochs=2.0), 0))
    half = len(plan) // 2
    assert plan[:half] != plan[half:]
    assert sorted(sum(plan[:half], [])) == sorted(sum(plan[half:], []))


@pytest.mark.parametrize(("epochs", "expected"), [(0.5, 5), (0.01, 1), (1.0, 10), (1.5, 15), (3.0, 30)])
def test_part_of_an_epoch_is_its_first_steps(epochs: float, expected: int) -> None:
    task, lengths = np.zeros(40, np.int64), np.ones(40, np.int64)
    plan = flat(plan_steps(task, lengths, config(epochs=epochs), 0))
    assert len(plan) == expected
    assert plan == flat(plan_steps(task, lengths, config(epochs=3.0), 0))[:expected]


def test_tasks_are_mixed() -> None:
    task, lengths = np.repeat([0, 1], 40), np.ones(80, np.int64)
    order = [step.task for step in plan_steps(task, lengths, config(), 0)]
    assert order != sorted(order)
    assert order.count(0) == order.count(1) == 10


@settings(max_examples=30, deadline=None)
@given(number=st.integers(0, 60), small=st.integers(1, 40), more=st.integers(0, 30), seed=st.integers(0, 100))
def test_a_smaller_limit_chooses_a_subset(number: int, small: int, more: int, seed: int) -> None:
    items = [f"item {i}" for i in range(number)]
    few, many = choose(items, small, seed, "code"), choose(items, small + more, seed, "code")
    assert many[: len(few)] == few
    assert len(few) == min(small, number)
    assert sorted(choose(items, None, seed, "code")) == sorted(items)


def test_equal_shares_of_different_tasks_are_drawn_independently() -> None:
    items = list(range(100))
    assert choose(items, 10, 0, "code") != choose(items, 10, 0, "basic")
    assert choose(items, 10, 0, "code") != choose(items, 10, 1, "code")
    assert choose(items, 10, 0, "code") == choose(items, 10, 0, "code")


def test_random_numbers_of_a_step_depend_on_seed_step_and_use() -> None:
    def draw(seed: int, number: int, name: str) -> float:
        return float(step_generator(seed, Step(number, 0, np.arange(3), 1), name).random())

    assert draw(0, 3, "a") == draw(0, 3, "a")
    assert len({draw(0, 3, "a"), draw(1, 3, "a"), draw(0, 4, "a"), draw(0, 3, "b")}) == 4
