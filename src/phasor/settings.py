"""The only reader of environment variables: endpoints, credentials, process ranks; never a hyper-parameter."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """What the surroundings decide.

    Attributes:
        openai_api_key: sent as bearer token to generation and embedding endpoints (`OPENAI_API_KEY`).
        rank, world_size, local_rank: set by `torchrun`; 0, 1, 0 without it.
        log_level: `PHASOR_LOG_LEVEL`, a name of the logging module.
        code_rev: `PHASOR_CODE_REV`, the revision an image was built from; empty means ask Git.
    """

    openai_api_key: str
    rank: int
    world_size: int
    local_rank: int
    log_level: str
    code_rev: str


def settings() -> Settings:
    """Read the environment now, so that a test or a launcher can change it beforehand."""
    env = os.environ
    return Settings(
        openai_api_key=env.get("OPENAI_API_KEY", ""),
        rank=int(env.get("RANK", "0")),
        world_size=int(env.get("WORLD_SIZE", "1")),
        local_rank=int(env.get("LOCAL_RANK", "0")),
        log_level=env.get("PHASOR_LOG_LEVEL", "WARNING").upper(),
        code_rev=env.get("PHASOR_CODE_REV", ""),
    )
