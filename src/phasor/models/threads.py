"""Whole passes side by side on a CPU, each with one thread, instead of torch's threads inside each operation.

Small models spend more time on waiting for the other threads of a matrix product than on the product: two passes side
by side take half as long as both one after the other. And sums come out alike for any number of threads.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from phasor.settings import settings

# Fewer tokens at once cost time in Python, more of them fall out of the processor's caches. A reranker of three layers with hidden size
# 112 and two threads: 2,860 pairs/s at 1,024, 3,650 at 2,048, 3,950 from 4,096 to 8,192, 3,800 at 12,288; an embedder of one layer:
# 8,300 passages/s at 2,048, 10,800 at 4,096; MiniLM: 75 and 73. Training takes as long with 2,048 as with 4,096.
_CPU_TOKENS = 4096
# Passes come in multiples of this, unless they would get so small that starting them costs more than computing them.
_PASSES, _LEAST_TOKENS, _LEAST_SHARE = 4, 256, 1024

_set_aside = 0


def even_tokens(tokens: int, max_tokens: int) -> int:
    """Tokens per pass on a CPU, so that the last ones are not left to one thread; the same for any number of threads."""
    most = min(max_tokens, _CPU_TOKENS)
    passes = math.ceil(tokens / most / _PASSES) * _PASSES
    return min(most, max(math.ceil(tokens / passes), _LEAST_TOKENS))


def are_shared(max_tokens: int) -> bool:
    """Whether steps of training with so many tokens in memory at once are split into passes side by side."""
    return max_tokens >= _PASSES * _LEAST_SHARE


def passes_of(tokens: int, max_tokens: int) -> int:
    """Passes that a step of training with so many tokens makes; the same for any number of threads.

    A multiple of four, or of two where they would get too small. Every pass writes gradients of all weights, whatever its size: four
    layers of 256 train at 0.94 of the speed in shares of 512 tokens, at 0.68 in shares of 256, and at 1.08 in shares of 2,048.
    """
    fewest = math.ceil(tokens / min(max_tokens, _CPU_TOKENS))
    for together, least in ((_PASSES, _LEAST_SHARE), (_PASSES // 2, _LEAST_SHARE // 2)):
        passes = math.ceil(fewest / together) * together
        if tokens >= passes * least:
            return passes
    return fewest


@contextlib.contextmanager
def side_by_side(tasks: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """A `map`, in order, that works on as many tasks at once as there are threads for it, each of them with one.

    Modes of torch (gradients, inference, autocast) belong to a thread: a task enters those that it needs.
    """
    threads = min(tasks, _available()) if tasks > 1 else 1
    if threads < 2:
        yield map
        return
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        torch.set_num_threads(1)
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


@contextlib.contextmanager
def steady() -> Iterator[None]:
    """Operations outside `side_by_side`, such as an optimiser's, take one thread too, so that their sums come out alike as well."""
    global _set_aside
    threads, before = torch.get_num_threads(), _set_aside
    try:
        _set_aside = _available()
        torch.set_num_threads(1)
        yield
    finally:
        _set_aside = before
        torch.set_num_threads(threads)


def _available() -> int:
    """Threads for passes: what `steady` has set aside, else what the environment says, else torch's."""
    return _set_aside or settings().passes or torch.get_num_threads()
