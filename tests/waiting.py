"""Waiting for what comes in its own time: a process, a server, a cluster."""

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx


def until(
    condition: Callable[[], Any], what: str, seconds: float = 180, every: float = 0.2, process: "subprocess.Popen[Any] | None" = None
) -> Any:
    """Wait for a true value, and return it.

    Args:
        condition: asked again and again.
        what: is waited for, as the failure says it.
        seconds: at most.
        every: seconds between two questions.
        process: without which nothing will come any more.
    """
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert process is None or process.poll() is None, f"the process ended, so there will not be: {what}"
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(every)
    return value


def await_health(url: str, process: "subprocess.Popen[Any]", log: Path, seconds: float) -> None:
    """Wait until a server answers with success at a URL; its log is shown if it does not."""

    def healthy() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(url).is_success
        return False

    with showing(log):
        until(healthy, f"success at {url}", seconds, every=0.3, process=process)


@contextlib.contextmanager
def showing(log: Path) -> Iterator[None]:
    """Add the end of a log to a failure inside the block."""
    try:
        yield
    except AssertionError as failure:
        failure.add_note(log.read_text()[-3000:])
        raise
