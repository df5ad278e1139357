"""How much memory this process may still take: an index that does not fit is refused, before the system kills us for it."""

from pathlib import Path

import psutil

_GROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)
"""Limit and use of the container, in versions 2 and 1 of control groups."""


def available_bytes() -> int:
    """What is free on the machine, or left of the container's limit if that is less."""
    free = [int(psutil.virtual_memory().available)]
    for limit, used in _GROUPS:
        try:
            most, now = limit.read_text(encoding="ascii").strip(), used.read_text(encoding="ascii").strip()
        except OSError:
            continue
        if most.isdecimal():  # otherwise "max"
            free.append(int(most) - int(now))
    return min(free)
