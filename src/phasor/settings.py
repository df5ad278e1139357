"""The only reader of environment variables: endpoints, credentials, process ranks; never a hyper-parameter."""

import logging
import os
import sysconfig
from dataclasses import dataclass

from phasor.errors import PhasorError


@dataclass(frozen=True)
class Settings:
    """What the surroundings decide.

    Attributes:
        openai_api_key: sent as bearer token to generation and embedding endpoints (`OPENAI_API_KEY`).
        rank, world_size, local_rank: set by `torchrun`; 0, 1, 0 without it.
        log_level: `PHASOR_LOG_LEVEL`, a name of the logging module.
    """

    openai_api_key: str
    rank: int
    world_size: int
    local_rank: int
    log_level: str


def settings() -> Settings:
    """Read the environment now, so that a test or a launcher can change it beforehand.

    Raises:
        PhasorError: a variable does not hold what it must.
    """
    log_level = os.environ.get("PHASOR_LOG_LEVEL", "WARNING").upper()
    if log_level not in logging.getLevelNamesMapping():
        raise PhasorError(f"PHASOR_LOG_LEVEL={log_level} is no log level. Use DEBUG, INFO, WARNING or ERROR.")
    return Settings(
        openai_api_key=os.environ.get("OPENAI_API_KEY", ""),
        rank=_number("RANK", 0),
        world_size=_number("WORLD_SIZE", 1),
        local_rank=_number("LOCAL_RANK", 0),
        log_level=log_level,
    )


def prefer_own_commands() -> None:
    """Let this process and its children find the commands installed beside this Python first."""
    own, rest = sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)
    if rest.split(os.pathsep)[0] != own:
        os.environ["PATH"] = os.pathsep.join((own, rest))


def share_cores(workers: int) -> None:
    """Let each of several processes started from here use its share of the cores; a set OMP_NUM_THREADS stays.

    Threads of two processes that wait for the same core cost several times what they save.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))


def _number(name: str, default: int) -> int:
    value = os.environ.get(name, str(default))
    if not value.isdecimal():
        raise PhasorError(f"{name}={value} is no process number. `torchrun` sets it; unset it to run alone.")
    return int(value)
