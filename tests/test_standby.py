"""Commands done by a process that stands by are those of `phasor` itself: output, exit code, folder, environment, signals."""

import errno
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from phasor.standby import launch, standby

from .conftest import MakeProject
from .waiting import until

SECONDS = 120
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has it")


def start(arguments: list[str], folder: Path, address: str, **variables: str) -> subprocess.Popen[str]:
    """A `phasor` command whose own imports are told on its standard error."""
    command = [sys.executable, "-X", "importtime", "-m", "phasor", *arguments]
    environment = os.environ | {"PHASOR_STANDBY": address} | variables
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, output and messages of a command that did nothing itself."""
    output, messages = process.communicate(timeout=SECONDS)
    assert "phasor.standby" in messages and "phasor.cli" not in messages, "it did the work itself"
    return process.returncode, output, "".join(line for line in messages.splitlines(keepends=True) if not line.startswith("import time"))


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with standby():
        found = os.environ["PHASOR_STANDBY"]
        # The first command finds nobody: it does its work itself and has the process started.
        command = [sys.executable, "-m", "phasor", "collect", "--help"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=SECONDS)
        assert done.stdout.strip()
        until(Path(found).exists, "the process", SECONDS)
        yield found
    assert os.environ["PHASOR_STANDBY"] == "" and not Path(found).exists()


@pytest.mark.parametrize("device", ["nvidia0", "kfd"])
def test_beside_a_gpu_commands_do_the_work_themselves(device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PHASOR_STANDBY", raising=False)
    (tmp_path / device).touch()
    monkeypatch.setattr("phasor.standby._DEVICES", tmp_path)
    with standby():
        assert not os.environ.get("PHASOR_STANDBY")


def test_without_a_command_nothing_is_started() -> None:
    with standby():
        folder = Path(os.environ["PHASOR_STANDBY"]).parent
        children = subprocess.run(["pgrep", "-f", str(folder)], capture_output=True, text=True).stdout
    assert children == "" and not folder.exists()


def test_only_light_commands_do_not_wait_for_the_process(tmp_path: Path) -> None:
    with standby():
        address = os.environ["PHASOR_STANDBY"]
        light, heavy = (start([phase, "--task", "basic"], tmp_path, address) for phase in ("collect", "filter"))
        code, _, messages = finish(heavy)
        assert code == 2 and "params.yaml" in messages
        _, messages = light.communicate(timeout=SECONDS)
        assert "phasor.cli" in messages


def test_who_waits_for_a_process_that_dies_goes_on_alone(tmp_path: Path) -> None:
    with standby():
        waiting = start(["filter", "--task", "basic"], tmp_path, os.environ["PHASOR_STANDBY"])
        until(lambda: processes_of(os.environ["PHASOR_STANDBY"]), "the process", SECONDS)
        os.kill(processes_of(os.environ["PHASOR_STANDBY"])[0], signal.SIGKILL)
        _, messages = waiting.communicate(timeout=SECONDS)
        assert waiting.returncode == 2 and "phasor.cli" in messages


def processes_of(address: str) -> list[int]:
    found = subprocess.run(["pgrep", "-f", f"phasor.standby_process {address}"], capture_output=True, text=True).stdout
    return [int(number) for number in found.split()]


def test_a_phase_writes_what_it_writes_by_itself(make_project: MakeProject, address: str) -> None:
    _, path = make_project(tasks=("basic",), roles=("embed",))
    code, output, messages = finish(start(["collect", "--task", "basic"], path.parent, address))
    assert (code, output) == (0, "") and "collect basic" in messages
    report = (path.parent / "work" / "basic" / "collect" / "manifest.json").read_bytes()
    subprocess.run([sys.executable, "-m", "phasor", "collect", "--task", "basic"], cwd=path.parent, check=True)
    assert (path.parent / "work" / "basic" / "collect" / "manifest.json").read_bytes() == report


def test_a_mistake_has_its_message_and_exit_code(tmp_path: Path, address: str) -> None:
    code, output, messages = finish(start(["collect", "--task", "basic"], tmp_path, address))
    assert (code, output) == (2, "") and messages.startswith("phasor collect: ") and "params.yaml" in messages
    code, _, messages = finish(start(["no-such-phase"], tmp_path, address))
    assert code == 2 and "no-such-phase" in messages
    code, _, messages = finish(start(["collect", "--task", "basic"], tmp_path, address, PHASOR_LOG_LEVEL="loud"))
    assert code == 2 and "PHASOR_LOG_LEVEL=LOUD" in messages


@dataclass
class Stuck:
    """A command under way that reads a pipe to which nothing is written."""

    asked: subprocess.Popen[str]
    folder: Path
    pipe: int

    def is_over(self) -> bool:
        """Whether nobody reads the pipe any more."""
        poll = select.poll()
        poll.register(self.pipe, 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))

    def worker(self) -> int:
        """The process that reads it."""
        return next(int(at.name) for at in Path("/proc").glob("[0-9]*") if named_in(at, "phasor", self.folder))


def named_in(process: Path, name: str, folder: Path) -> bool:
    try:
        return (process / "comm").read_text().strip() == name and (process / "cwd").readlink() == folder
    except OSError:
        return False


def opened(pipe: Path) -> int | None:
    try:
        return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        assert error.errno == errno.ENXIO, "nobody reads it yet"
        return None


@pytest.fixture
def stuck(make_project: MakeProject, address: str) -> Iterator[Stuck]:
    _, path = make_project(tasks=("basic",), roles=("embed",))
    pipe = path.parent / "basic.jsonl"
    pipe.unlink()
    os.mkfifo(pipe)
    asked = start(["collect", "--task", "basic"], path.parent, address)
    writer = until(lambda: opened(pipe), "a reader", SECONDS)
    yield Stuck(asked, path.parent, writer)
    os.close(writer)
    asked.kill()
    asked.communicate()


@pytest.mark.parametrize(("number", "expected", "says"), [(signal.SIGTERM, 143, ""), (signal.SIGINT, 130, "interrupted; run it again")])
def test_a_signal_reaches_the_command(stuck: Stuck, number: signal.Signals, expected: int, says: str) -> None:
    assert not stuck.is_over()
    stuck.asked.send_signal(number)
    code, _, messages = finish(stuck.asked)
    assert code == expected and says in messages and "Traceback" not in messages
    until(stuck.is_over, "the end of the command", SECONDS)


def test_who_asked_is_killed_and_so_is_the_command(stuck: Stuck) -> None:
    assert not stuck.is_over()
    stuck.asked.kill()
    until(stuck.is_over, "the end of the command", SECONDS)


def test_a_command_that_is_killed_is_told_by_its_code(stuck: Stuck) -> None:
    os.kill(stuck.worker(), signal.SIGKILL)
    assert finish(stuck.asked)[0] == 128 + signal.SIGKILL
    assert stuck.is_over()


def test_it_does_not_stand_by_longer_than_who_wants_it(tmp_path: Path, address: str) -> None:
    other = str(tmp_path / "s")
    process = launch(other)
    assert process.stdin is not None
    until(Path(other).exists, "the process", SECONDS)
    process.stdin.close()
    assert process.wait(SECONDS) == 0
    # Whoever comes now does the work itself.
    alone = start(["--version"], tmp_path, other)
    output, messages = alone.communicate(timeout=SECONDS)
    assert alone.returncode == 0 and output.strip() and "phasor.cli" in messages


def test_libraries_use_as_many_threads_as_the_command_was_given() -> None:
    program = (
        "import faiss, torch; from threadpoolctl import threadpool_info; from phasor import standby_process as room\n"
        "assert torch.get_num_threads() == faiss.omp_get_max_threads() == 1\n"
        "room.adopt_environment(room.environment() | {'OMP_NUM_THREADS': '3'}); room._use_threads()\n"
        "print(torch.get_num_threads(), faiss.omp_get_max_threads(), {pool['num_threads'] for pool in threadpool_info()})"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=SECONDS)
    assert done.stdout.split(" ", 2) == ["3", "3", "{3}\n"]
