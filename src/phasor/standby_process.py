"""The process of `phasor.standby`: imports everything once and forks a child for each command.

A module of its own, which nobody imports: it knows every command, and what can be imported counts as code of the phases.
"""

import contextlib
import gc
import importlib
import json
import multiprocessing
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from threadpoolctl import threadpool_limits

from phasor.cli import main
from phasor.phases import PHASES
from phasor.settings import adopt_environment, environment
from phasor.standby import SIZE

# Besides the phases: what they import late, or what these libraries themselves do. Not mteb: with it comes polars, which starts threads.
_LATE = (
    "datasets", "deepspeed", "faiss", "peft", "phasor.merging.comparison", "phasor.models.grown", "phasor.models.loading",
    "phasor.reporting.page", "phasor.training.phase", "sentence_transformers", "transformers.models.qwen2.modeling_qwen2",
)
_TASKS = Path("/proc/self/task")


def serve(address: str) -> None:
    """Import everything, then fork for every command until standard input closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal; who started us decides
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children that wait for the commands
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
    head, streams, _, _ = socket.recv_fds(connection, SIZE.size, 3)
    (size,) = SIZE.unpack(head)
    request = connection.recv(size, socket.MSG_WAITALL)
    if len(request) < size:
        return  # whoever asked is gone
    worker = multiprocessing.get_context("fork").Process(target=_work, args=(json.loads(request), streams))
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
    raise SystemExit(main(request["arguments"]))


def _use_threads() -> None:
    """As many threads as the environment says; libraries have read that of the process that stood by."""
    if threads := int(environment().get("OMP_NUM_THREADS", "0")):
        threadpool_limits(threads)
        torch.set_num_threads(threads)


if __name__ == "__main__":
    serve(sys.argv[1])
