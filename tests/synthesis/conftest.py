"""A failing server, and small corpora."""

from collections.abc import Callable, Iterator

import pytest
from tests.faulty_server import FaultyServer

from phasor.data.records import Passage


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer().running() as running:
        yield running


TOPICS = ("gzip archives", "thread pools", "date parsing", "matrix inversion", "password hashing", "socket timeouts", "log rotation")


def make_passages(number: int) -> list[Passage]:
    """Distinct passages of three sentences on seven topics."""
    return [
        Passage(
            f"p{i}",
            f"The module number{i} handles {topic} for large services. "
            f"If the argument limit{i} is negative, a ValueError is raised at once. "
            f"Calling close{i} releases every buffer that belongs to {topic}, even after an error.",
            title=f"package.module{i}",
            source=f"package.module{i}",
        )
        for i, topic in ((i, TOPICS[i % len(TOPICS)]) for i in range(number))
    ]


@pytest.fixture
def passages() -> Callable[[int], list[Passage]]:
    return make_passages
