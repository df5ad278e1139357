"""Environment variables: read when asked, wrong ones are named."""

import os
import subprocess
import sysconfig
from pathlib import Path

import pytest

from phasor.errors import PhasorError
from phasor.settings import PodSettings, Settings, pod_settings, prefer_own_commands, settings, store_settings, threads_for

NAMES = ("OPENAI_API_KEY", "PHASOR_API_KEY", "QDRANT_API_KEY", "RANK", "WORLD_SIZE", "LOCAL_RANK", "PHASOR_PASSES", "PHASOR_LOG_LEVEL")


def test_without_variables_one_process_runs_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    keys = {"openai_api_key": "", "api_key": "", "qdrant_api_key": ""}
    assert settings() == Settings(**keys, rank=0, world_size=1, local_rank=0, passes=0, log_level="WARNING")


def test_variables_are_read_at_the_time_of_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(NAMES, ("key", "own", "other", "3", "8", "1", "5", "info"), strict=True):
        monkeypatch.setenv(name, value)
    keys = {"openai_api_key": "key", "api_key": "own", "qdrant_api_key": "other"}
    assert settings() == Settings(**keys, rank=3, world_size=8, local_rank=1, passes=5, log_level="INFO")


@pytest.mark.parametrize(("name", "value"), [("RANK", "first"), ("WORLD_SIZE", "-1"), ("LOCAL_RANK", ""), ("PHASOR_LOG_LEVEL", "loud")])
def test_a_wrong_variable_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(PhasorError, match=rf"(?i){name}={value} "):
        settings()


@pytest.mark.parametrize("name", NAMES[:3])
def test_a_key_is_read_without_its_line_break_and_never_repeated(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, " secret\n")
    assert "secret" in (settings().openai_api_key, settings().api_key, settings().qdrant_api_key)
    for wrong in ("sec\nret", "sec\rret", "sécret"):
        monkeypatch.setenv(name, wrong)
        with pytest.raises(PhasorError, match=f"{name} holds a character that no key has") as caught:
            settings()
        assert "ret" not in str(caught.value).removesuffix("See how its secret was made.")


def test_children_find_the_commands_of_this_python_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/elsewhere")
    prefer_own_commands()
    prefer_own_commands()
    found = subprocess.run(["/usr/bin/env"], capture_output=True, text=True, check=True).stdout.splitlines()
    assert f"PATH={sysconfig.get_path('scripts')}:/elsewhere" in found


def test_processes_share_the_cores_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads_for(2) == "3"
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert threads_for(3) == "2"
    assert threads_for(9) == "1"



STORE = ("PHASOR_S3_SECRET", "PHASOR_S3_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


def test_credentials_of_the_store_come_from_the_environment_or_a_mounted_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in STORE:
        monkeypatch.delenv(name, raising=False)
    assert (store_settings().endpoint, store_settings().access_key) == ("", "")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "word")
    assert (store_settings().access_key, store_settings().secret_key) == ("me", "word")
    (tmp_path / "accesskey").write_text("mounted\n")
    monkeypatch.setenv("PHASOR_S3_SECRET", str(tmp_path))
    with pytest.raises(PhasorError, match="holds no readable secretkey"):
        store_settings()
    (tmp_path / "secretkey").write_text("mounted-word")
    assert (store_settings().access_key, store_settings().secret_key) == ("mounted", "mounted-word")


def test_a_pod_is_told_its_processes_and_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PHASOR_PROCESSES", "PHASOR_CHECKPOINT_STEPS"):
        monkeypatch.delenv(name, raising=False)
    assert pod_settings() == PodSettings(processes=1, checkpoint_steps=0)
    monkeypatch.setenv("PHASOR_PROCESSES", "4")
    assert pod_settings().processes == 4
