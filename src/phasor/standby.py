"""A process that has everything imported and forks a child for each command, which then starts in milliseconds instead of seconds.

`phasor repro` keeps one while it works. The `phasor` commands that DVC starts for the stages find it by their environment, hand
over arguments, folder, environment and standard streams, pass signals on and take the exit code back; where there is none yet, or
none any more, they do the work themselves. Only on Linux, where forking after these imports is safe.
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
log = logging.getLogger(__name__)


@contextlib.contextmanager
def standby() -> Iterator[None]:
    """Keep such a process for the commands started inside the block, from the first of them on."""
    if sys.platform != "linux":
        yield
        return
    with tempfile.TemporaryDirectory(prefix="phasor-") as folder, socket.socket(socket.AF_UNIX) as bell:
        address = str(Path(folder) / "standby")
        bell.bind(_bell(address))
        bell.listen()
        started: list[subprocess.Popen[bytes]] = []
        waiting = threading.Thread(target=_start_when_rung, args=(bell, address, started), daemon=True)
        waiting.start()
        use_standby(address)
        try:
            yield
        finally:
            use_standby("")
            bell.shutdown(socket.SHUT_RDWR)
            waiting.join()
            for process in started:
                process.kill()  # it may still be importing; commands under way do not need it
                process.communicate()


def _bell(address: str) -> str:
    return f"{address}.bell"


def _start_when_rung(bell: socket.socket, address: str, started: list[subprocess.Popen[bytes]]) -> None:
    try:
        bell.accept()[0].close()
    except OSError:
        return  # nobody needed it
    started.append(launch(address))


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
            connection.connect(address)
        except OSError:
            with contextlib.suppress(OSError):
                connection.connect(_bell(address))  # for those that come later
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
