"""A process that has everything imported and forks a child for each command, which then starts in milliseconds instead of seconds.

`phasor repro` keeps one while it works. The `phasor` commands that DVC starts for the stages find it by their environment, hand
over arguments, folder, environment and standard streams, pass signals on and take the exit code back. The first of them has it
started; they wait for it, because all that import the same at once take longer, and where there is none any more they do the work
themselves. Only on Linux, where forking after these imports is safe, and without a GPU: a library that only asks whether there is one
can leave its driver in a state that no child can use.
"""

import contextlib
import json
import logging
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from phasor.settings import environment, standby_address, use_standby

# No threads to lose in a fork: none for OpenMP, none for the allocator that Arrow brings along.
_ALONE = {"OMP_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
SIZE = struct.Struct("!I")
"""How long a request is stands before it."""
_PASSED_ON = (signal.SIGTERM, signal.SIGINT)
_LOOKED_EVERY = 0.02
"""Seconds between looks whether it is there."""
_LIGHT = {"collect"}
"""Commands that import little and so do not wait."""
_DEVICES = Path("/dev")
_GPUS = ("nvidia[0-9]*", "kfd", "dxg")
"""Device files of NVIDIA, AMD, and either under Windows."""
log = logging.getLogger(__name__)


@contextlib.contextmanager
def standby() -> Iterator[None]:
    """Keep such a process for the commands started inside the block, from the first of them on."""
    if sys.platform != "linux" or any(found for name in _GPUS for found in _DEVICES.glob(name)):
        yield
        return
    with tempfile.TemporaryDirectory(prefix="phasor-") as folder, socket.socket(socket.AF_UNIX) as bell:
        address = str(Path(folder) / "standby")
        bell.bind(_bell(address))
        bell.listen()
        over = threading.Event()
        starting = threading.Thread(target=_start_when_rung, args=(bell, address, over), daemon=True)
        starting.start()
        use_standby(address)
        try:
            yield
        finally:
            use_standby("")
            over.set()
            with contextlib.suppress(OSError):
                bell.shutdown(socket.SHUT_RDWR)
            starting.join()


def _bell(address: str) -> str:
    return f"{address}.bell"


def _start_when_rung(bell: socket.socket, address: str, over: threading.Event) -> None:
    try:
        first, _ = bell.accept()
    except OSError:
        return  # nobody needed it
    process = launch(address)
    with first, bell:  # those that wait for the process notice the end of this block
        while not over.wait(_LOOKED_EVERY) and not Path(address).exists() and process.poll() is None:
            pass
    over.wait()
    process.kill()  # it may still be importing; commands under way do not need it
    process.communicate()


def launch(address: str) -> subprocess.Popen[bytes]:
    """Start the process itself. It lives as long as its standard input is open: at most as long as this process."""
    command = [sys.executable, "-m", "phasor.standby_process", address]
    return subprocess.Popen(command, stdin=subprocess.PIPE, env=environment() | _ALONE)


def delegate(arguments: Sequence[str]) -> int | None:
    """Have a command done by the process that stands by. Returns its exit code, or None if there is no such process."""
    address = standby_address()
    if not address:
        return None
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            _connect(connection, address, wait=not _LIGHT.intersection(arguments[:1]))
        except OSError:
            return None
        request = json.dumps({"arguments": list(arguments), "folder": str(Path.cwd()), "environment": environment()}).encode()
        socket.send_fds(connection, [SIZE.pack(len(request))], [0, 1, 2])
        connection.sendall(request)
        for number in _PASSED_ON:
            signal.signal(number, lambda caught, _: connection.sendall(bytes([caught])))
        if code := connection.recv(1):
            return code[0]
    log.error("phasor %s: the process that did it was killed. Run it again.", " ".join(arguments[:1]))
    return 1


def _connect(connection: socket.socket, address: str, wait: bool) -> None:
    """Raises OSError if nobody is there, or not yet and `wait` is not set; asks for the process in any case."""
    try:
        connection.connect(address)
    except OSError:
        with socket.socket(socket.AF_UNIX) as bell, contextlib.suppress(OSError):
            bell.connect(_bell(address))
            if wait:
                bell.recv(1)  # nothing comes, but the end when the process is there, or gone
        connection.connect(address)
