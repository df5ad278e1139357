"""Progress of long work on standard error: rate and time left, one bar at a time, quiet when nobody looks."""

import sys
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import NoReturn, TypeVar

from tqdm import tqdm

from phasor.settings import settings

T = TypeVar("T")


def _bar(total: int | None, what: str, unit: str) -> "tqdm[NoReturn]":
    interval = 0.2 if sys.stderr.isatty() else 5.0
    return tqdm(
        total=total, desc=what, unit=unit, mininterval=interval, dynamic_ncols=True, leave=False, unit_scale=unit == "B",
        disable=settings().rank != 0, file=sys.stderr,
    )


def track(items: Iterable[T], what: str, total: int | None = None, unit: str = "it") -> Iterator[T]:
    """Yield the items while a bar named `what` follows them."""
    size = total if total is not None else (len(items) if isinstance(items, Sized) else None)
    with _bar(size, what, unit) as bar:
        for item in items:
            yield item
            bar.update()


@contextmanager
def progress(total: int | None, what: str, unit: str = "it") -> Iterator["tqdm[NoReturn]"]:
    """A bar to be advanced by hand with `.update(n)` and annotated with `.set_postfix(loss=...)`."""
    with _bar(total, what, unit) as bar:
        yield bar
