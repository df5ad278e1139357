"""Environment variables: read when asked, wrong ones are named."""

import os
import subprocess
import sysconfig

import pytest

from phasor.errors import PhasorError
from phasor.settings import Settings, prefer_own_commands, settings, share_cores

NAMES = ("OPENAI_API_KEY", "RANK", "WORLD_SIZE", "LOCAL_RANK", "PHASOR_LOG_LEVEL")


def test_without_variables_one_process_runs_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    assert settings() == Settings(openai_api_key="", rank=0, world_size=1, local_rank=0, log_level="WARNING")


def test_variables_are_read_at_the_time_of_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(NAMES, ("key", "3", "8", "1", "info"), strict=True):
        monkeypatch.setenv(name, value)
    assert settings() == Settings(openai_api_key="key", rank=3, world_size=8, local_rank=1, log_level="INFO")


@pytest.mark.parametrize(("name", "value"), [("RANK", "first"), ("WORLD_SIZE", "-1"), ("LOCAL_RANK", ""), ("PHASOR_LOG_LEVEL", "loud")])
def test_a_wrong_variable_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(PhasorError, match=rf"(?i){name}={value} "):
        settings()


def test_children_find_the_commands_of_this_python_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/elsewhere")
    prefer_own_commands()
    prefer_own_commands()
    found = subprocess.run(["/usr/bin/env"], capture_output=True, text=True, check=True).stdout.splitlines()
    assert f"PATH={sysconfig.get_path('scripts')}:/elsewhere" in found


def test_processes_share_the_cores_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    share_cores(2)
    assert os.environ["OMP_NUM_THREADS"] == "3"
    monkeypatch.delenv("OMP_NUM_THREADS")
    share_cores(3)
    assert os.environ["OMP_NUM_THREADS"] == "2"
