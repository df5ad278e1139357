"""One process, or one per GPU of the pod: the same job either way."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from phasor.artifacts import Report, read_record, write_json
from phasor.errors import PhasorError, TrainingError
from phasor.logs import configure_logging
from phasor.phases import Job, Paths
from phasor.recipe import dump_recipe, parse_recipe
from phasor.runner import execute_paths
from phasor.settings import pod_settings

TRAINING = ("warmup", "train", "enhance")
"""Phases that share their work among processes."""


@contextmanager
def told(name: str) -> Iterator[None]:
    """A user's mistake ends the process with one line and the command line's exit code, not with a traceback."""
    try:
        configure_logging()
        yield
    except PhasorError as error:
        sys.stderr.write(f"phasor {name}: {error}\n")
        raise SystemExit(2) from None


def launch(job: Job, inputs: Paths, outputs: Paths, report_path: Path) -> Report:
    """Run a job here, or under torchrun with as many processes as the profile gives the pod.

    Raises:
        PhasorError: of the phase.
        TrainingError: a process ended otherwise; its output stands above.
    """
    processes = pod_settings().processes
    if processes == 1 or job.phase not in TRAINING:
        return execute_paths(job, inputs, outputs, report_path)
    order = job.root / ".order.json"
    write_json(_order(job, inputs, outputs, report_path), order)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    with subprocess.Popen([*torchrun, "-m", "phasor.pipeline.launch", str(order)]) as child:
        previous = signal.signal(signal.SIGTERM, lambda number, _: child.send_signal(number))
        try:
            code = child.wait()
        finally:
            signal.signal(signal.SIGTERM, previous)
    if code:
        raise TrainingError(f"{job.name}: one of {processes} processes ended with {code}; its lines stand above. Run it again to go on.")
    return read_record(Report, report_path)


def _order(job: Job, inputs: Paths, outputs: Paths, report_path: Path) -> dict[str, Any]:
    scope = {"recipe": dump_recipe(job.recipe), "phase": job.phase, "role": job.role, "task": job.task}
    places = {"root": str(job.root), "scratch": str(job.scratch), "report_path": str(report_path)}
    return {"job": scope, "places": places, "inputs": _plain(inputs), "outputs": _plain(outputs)}


def _plain(paths: Paths) -> dict[str, Any]:
    return {
        name: {part: str(path) for part, path in entry.items()} if isinstance(entry, dict) else str(entry)
        for name, entry in paths.entries.items()
    }


def _paths(plain: dict[str, Any]) -> Paths:
    return Paths({
        name: {part: Path(path) for part, path in entry.items()} if isinstance(entry, dict) else Path(entry)
        for name, entry in plain.items()
    })


def work(order: Path) -> Report:
    """One process of several: read the order, run the job."""
    told = json.loads(order.read_text(encoding="utf-8"))
    scope, places = told["job"], told["places"]
    job = Job(parse_recipe(scope.pop("recipe")), **scope, root=Path(places["root"]), scratch=Path(places["scratch"]))
    return execute_paths(job, _paths(told["inputs"]), _paths(told["outputs"]), Path(places["report_path"]))


if __name__ == "__main__":
    with told("training"):
        work(Path(sys.argv[1]))
