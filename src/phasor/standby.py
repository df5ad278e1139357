"""A process that has everything imported and forks a child for each command, which then starts in milliseconds instead of seconds.

`phasor repro` keeps one while it works. The `phasor` commands that DVC starts for the stages find it by their environment, hand
over arguments, folder, environment and standard streams, pass signals on and take the exit code back; where there is none yet, or
none any more, they do the work themselves. Only on Linux, where forking after these imports is safe.
"""

import contextlib
import gc
import importlib
import json
import logging
import multiprocessing
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from phasor.settings import adopt_environment, environment, standby_address, use_standby

# Besides the phases: what they import late, or what these libraries themselves do. Not mteb: with it comes polars, which starts threads.
_LATE = (
    "datasets", "deepspeed", "faiss", "peft", "phasor.cli", "phasor.merging.comparison", "phasor.models.grown",
    "phasor.models.loading", "phasor.reporting.page", "phasor.training.phase", "sentence_transformers", "threadpoolctl",
    "transformers.models.qwen2.modeling_qwen2",
)
# No threads to lose in a fork: none for OpenMP, none for the allocator that Arrow brings along.
_ALONE = {"OMP_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
_SIZE = struct.Struct("!I")
_PASSED_ON = (signal.SIGTERM, signal.SIGINT)
log = logging.getLogger(__name__)
_TASKS = Path("/proc/self/task")


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
    command = [sys.executable, "-m", "phasor.standby", address]
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
        socket.send_fds(connection, [_SIZE.pack(len(request))], [0, 1, 2])
        for number in _PASSED_ON:
            signal.signal(number, lambda caught, _: connection.sendall(bytes([caught])))
        connection.sendall(request)
        if code := connection.recv(1):
            return code[0]
    log.error("phasor %s: the process that did it was killed. Run it again.", " ".join(arguments[:1]))
    return 1


def serve(address: str) -> None:
    """Import everything, then fork for every command until standard input closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal; who started us decides
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children that wait for the commands
    from phasor.phases import PHASES

    for name in (*_LATE, *(f"phasor.phases.{phase.name}" for phase in PHASES)):
        importlib.import_module(name)
    if len(list(_TASKS.iterdir())) > 1:
        return  # a library has started a thread, which a child would lack
    gc.freeze()  # a collection in a child would copy all that it looks at
    with socket.socket(socket.AF_UNIX) as listener:
        aside = f"{address}.new"
        listener.bind(aside)
        listener.listen()
        Path(aside).rename(address)  # seen only when it answers
        while 0 not in select.select([listener.fileno(), 0], [], [])[0]:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _keep(connection)
                os._exit(0)
            connection.close()


def _keep(connection: socket.socket) -> None:
    """Fork once more for the command itself, and wait for it."""
    os.setsid()  # a Ctrl-C reaches the command through whoever asked for it, once
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, streams, _, _ = socket.recv_fds(connection, _SIZE.size, 3)
    request = json.loads(_receive(connection, *_SIZE.unpack(size)))
    worker = multiprocessing.get_context("fork").Process(target=_work, args=(request, streams))
    worker.start()
    assert worker.pid
    for stream in streams:
        os.close(stream)
    while worker.sentinel not in select.select([connection.fileno(), worker.sentinel], [], [])[0]:
        # Whoever asked and is gone was killed, and so would the command have been in its place.
        for number in connection.recv(64) or bytes([signal.SIGKILL]):
            os.kill(worker.pid, number)
    worker.join()
    code = worker.exitcode or 0
    with contextlib.suppress(OSError):
        connection.sendall(bytes([code if code >= 0 else 128 - code]))


def _receive(connection: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        part = connection.recv(size - len(found))
        if not part:
            os._exit(1)
        found += part
    return found


def _work(request: dict[str, Any], streams: Sequence[int]) -> NoReturn:
    """Become the command."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["folder"])
    adopt_environment(request["environment"])
    sys.argv[1:] = request["arguments"]
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text("phasor", encoding="ascii")
    _use_threads()
    from phasor.cli import main

    raise SystemExit(main(request["arguments"]))


def _use_threads() -> None:
    """As many threads as the environment says; libraries have read that of the process that stood by."""
    import torch
    from threadpoolctl import threadpool_limits

    if threads := int(environment().get("OMP_NUM_THREADS", "0")):
        threadpool_limits(threads)
        torch.set_num_threads(threads)


if __name__ == "__main__":
    serve(sys.argv[1])
