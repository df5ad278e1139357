"""The only reader of environment variables: endpoints, credentials, process ranks; never a hyper-parameter."""

import logging
import os
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from phasor.errors import PhasorError


@dataclass(frozen=True)
class Settings:
    """What the surroundings decide.

    Attributes:
        openai_api_key: sent as bearer token to generation and embedding endpoints (`OPENAI_API_KEY`).
        api_key: of a server of ours that is checked (`PHASOR_API_KEY`).
        qdrant_api_key: for a Qdrant server (`QDRANT_API_KEY`).
        rank, world_size, local_rank: set by `torchrun`; 0, 1, 0 without it.
        passes: of a model side by side on a CPU (`PHASOR_PASSES`); 0: as many as torch has threads.
        log_level: `PHASOR_LOG_LEVEL`, a name of the logging module.
    """

    openai_api_key: str
    api_key: str
    qdrant_api_key: str
    rank: int
    world_size: int
    local_rank: int
    passes: int
    log_level: str


@dataclass(frozen=True)
class PodSettings:
    """What a platform profile decides for the pod of a component.

    Attributes:
        processes: how many processes train together in a pod (`PHASOR_PROCESSES`, one per GPU).
        checkpoint_steps: steps between checkpoints where the recipe names none (`PHASOR_CHECKPOINT_STEPS`); 0: none.
    """

    processes: int
    checkpoint_steps: int


@dataclass(frozen=True)
class StoreSettings:
    """Where the object store is and who we are there.

    Attributes:
        endpoint: `PHASOR_S3_ENDPOINT`, for example http://minio:9000; empty: there is none.
        region: `PHASOR_S3_REGION`.
        ca_file: `PHASOR_S3_CA`, certificates to trust instead of the system's.
        access_key, secret_key, session_token: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`, or files
            called accesskey and secretkey in the folder `PHASOR_S3_SECRET`, a mounted secret.
        remote: `PHASOR_DVC_REMOTE`, the DVC remote with the data, s3://BUCKET/PREFIX.
        checkpoints: `PHASOR_CHECKPOINTS`, s3://BUCKET/PREFIX for what an interrupted task has done; empty: nowhere.
        results: `PHASOR_RESULTS`, s3://BUCKET/PREFIX for what runs came to; empty: nowhere.
    """

    endpoint: str
    region: str
    ca_file: str
    access_key: str
    secret_key: str
    session_token: str
    remote: str
    checkpoints: str
    results: str


def settings() -> Settings:
    """Read the environment now, so that a test or a launcher can change it beforehand.

    Raises:
        PhasorError: a variable does not hold what it must.
    """
    log_level = os.environ.get("PHASOR_LOG_LEVEL", "WARNING").upper()
    if log_level not in logging.getLevelNamesMapping():
        raise PhasorError(f"PHASOR_LOG_LEVEL={log_level} is no log level. Use DEBUG, INFO, WARNING or ERROR.")
    return Settings(
        openai_api_key=_key("OPENAI_API_KEY"),
        api_key=_key("PHASOR_API_KEY"),
        qdrant_api_key=_key("QDRANT_API_KEY"),
        rank=_number("RANK", 0),
        world_size=_number("WORLD_SIZE", 1),
        local_rank=_number("LOCAL_RANK", 0),
        passes=_number("PHASOR_PASSES", 0),
        log_level=log_level,
    )


def pod_settings() -> PodSettings:
    """Read what the profile put into the environment of this pod; without one, a single process and no checkpoints."""
    return PodSettings(processes=_number("PHASOR_PROCESSES", 1), checkpoint_steps=_number("PHASOR_CHECKPOINT_STEPS", 0))


def store_settings() -> StoreSettings:
    """Read what the environment says of the object store.

    Raises:
        PhasorError: the mounted secret lacks a file.
    """
    folder = os.environ.get("PHASOR_S3_SECRET", "")
    keys = {"AWS_ACCESS_KEY_ID": "accesskey", "AWS_SECRET_ACCESS_KEY": "secretkey"}
    access_key, secret_key = (_secret(folder, name) if folder else os.environ.get(key, "") for key, name in keys.items())
    return StoreSettings(
        endpoint=os.environ.get("PHASOR_S3_ENDPOINT", ""),
        region=os.environ.get("PHASOR_S3_REGION", "us-east-1"),
        ca_file=os.environ.get("PHASOR_S3_CA", ""),
        access_key=access_key,
        secret_key=secret_key,
        session_token="" if folder else os.environ.get("AWS_SESSION_TOKEN", ""),
        remote=os.environ.get("PHASOR_DVC_REMOTE", ""),
        checkpoints=os.environ.get("PHASOR_CHECKPOINTS", ""),
        results=os.environ.get("PHASOR_RESULTS", ""),
    )


def _secret(folder: str, name: str) -> str:
    try:
        return (Path(folder) / name).read_text(encoding="utf-8").strip()
    except OSError as error:
        reason = f"PHASOR_S3_SECRET={folder} holds no readable {name}: {error.strerror}."
        raise PhasorError(f"{reason} Make the profile's secret in this namespace, with that key, or name another.") from None


def prefer_own_commands() -> None:
    """Let this process and its children find the commands installed beside this Python first."""
    own, rest = sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)
    if rest.split(os.pathsep)[0] != own:
        os.environ["PATH"] = os.pathsep.join((own, rest))


def threads_for(workers: int) -> str:
    """OMP_NUM_THREADS for each of several processes started from here: its share of the cores, unless it is set already.

    Threads of two processes that wait for the same core cost several times what they save.
    """
    return os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // workers))


def use_threads(threads: str, passes: str) -> None:
    """Let children of this process compute with that many threads, and run so many passes of a model side by side.

    The latter never wait for each other, so every process may have as many as there are cores.
    """
    os.environ |= {"OMP_NUM_THREADS": threads, "PHASOR_PASSES": passes}


def bound_products(sizes: int) -> None:
    """Let this process keep compiled code for so many sizes of matrix products, unless the environment says otherwise."""
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):  # oneDNN's own, and PyTorch's in front of it
        os.environ.setdefault(name, str(sizes))


def environment() -> dict[str, str]:
    """All variables, for a process that is to see what this one sees."""
    return dict(os.environ)


def adopt_environment(variables: dict[str, str]) -> None:
    """See what another process sees."""
    os.environ.clear()
    os.environ.update(variables)


def standby_address() -> str:
    """Socket of the process that does our commands (`PHASOR_STANDBY`); empty: none."""
    return os.environ.get("PHASOR_STANDBY", "")


def use_standby(address: str) -> None:
    """Let children of this process find the one that stands by; empty: let them do without."""
    os.environ["PHASOR_STANDBY"] = address


def _key(name: str) -> str:
    """A key for a header, without the line break at the end of many a secret.

    What no header takes is refused here, without its text: httpx's complaint would repeat the key.
    """
    key = os.environ.get(name, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise PhasorError(f"{name} holds a character that no key has, such as a line break. See how its secret was made.")
    return key


def _number(name: str, default: int) -> int:
    value = os.environ.get(name, str(default))
    if not value.isdecimal():
        raise PhasorError(f"{name}={value} is no whole number. Set it to one, or unset it for {default}.")
    return int(value)
