"""How much memory this process may still take: an index that does not fit is refused, before the system kills us for it."""

from pathlib import Path

import psutil

_GROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", ""),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
)
"""Limit and use of the container, and how its statistics name what the group and those below it hold, in versions 2 and 1."""
_FILE_PAGES = ("inactive_file", "active_file")


def available_bytes() -> int:
    """What is free on the machine, or left of the container's limit if that is less.

    Pages of files count as used for the group, but they give way to whoever asks, so they are free here.
    """
    free = [int(psutil.virtual_memory().available)]
    for folder, limit, used, prefix in _GROUPS:
        try:
            most, now, lines = ((folder / name).read_text(encoding="ascii").strip() for name in (limit, used, "memory.stat"))
        except OSError:
            continue
        if most.isdecimal():  # otherwise "max"
            held = {name: int(count) for name, count in (line.split() for line in lines.splitlines())}
            free.append(int(most) - int(now) + sum(held.get(prefix + name, 0) for name in _FILE_PAGES))
    return min(free)
