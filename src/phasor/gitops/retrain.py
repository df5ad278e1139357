"""One run for one request: found again by its name, started if there is none, started again if it failed."""

import time
from collections.abc import Callable

from phasor.errors import ArtifactError, PhasorError
from phasor.evaluation.gate import in_words
from phasor.gitops.request import Request
from phasor.pipeline.result import Result, read_result
from phasor.pipeline.submit import DONE, Run, RunFailed, Server, delete, follow, run_url, runs_named, submit

SETTLE_S = 2.0
"""After a start: KFP tells times in whole seconds, so whoever starts a run in the same second must see both before it decides."""
ENDED = 3
"""Exit code when nothing is started any more, so that a Job does not try again what cannot succeed."""
Say = Callable[[str], None]


class NoTryLeft(RunFailed):
    """The request's runs failed too often, somebody canceled one, or the one that succeeded left nothing."""

    exit_code = ENDED


def retrain(server: Server, request: Request, tries: int, watch: bool, say: Say) -> str | None:
    """See that the request's run exists. Asking again for the same data, recipe, code and image starts nothing.

    Args:
        server: KFP.
        request: what is asked for.
        tries: most runs for it, failed ones counted.
        watch: follow the run to its end, and try again if it fails.
        say: told what happens.

    Returns:
        The id of the run that succeeded, or None if one is under way.

    Raises:
        NoTryLeft: all tries failed, or somebody canceled the run.
        EndpointError: the server does not answer or refuses.
    """
    while True:
        found = runs_named(server, request.run_name)
        if done := _succeeded(found):
            say(f"{request.run_name} is done: same data, recipe, code and images. Nothing to do. {run_url(server, done.run_id)}")
            return done.run_id
        if under_way := _under_way(found):
            run_id = under_way.run_id
            say(f"{request.run_name} is under way: {run_url(server, run_id)}")
        else:
            _may_start(server, request, found, tries)
            run_id = submit(server, request.pipeline, request.parameters(), request.told.server.experiment, request.run_name)
            run_id = _first(server, request, run_id)
            say(f"{request.run_name} started: {run_url(server, run_id)}")
        if not watch:
            return None
        try:
            follow(server, run_id, say)
            return run_id
        except RunFailed as error:
            say(str(error))


def _first(server: Server, request: Request, own: str) -> str:
    """The run that stays of those which several callers started at once: KFP lets every name be used again."""
    time.sleep(SETTLE_S)
    first = _under_way(runs_named(server, request.run_name))
    if first is None or first.run_id == own:
        return own
    delete(server, own)
    return first.run_id


def _may_start(server: Server, request: Request, found: list[Run], tries: int) -> None:
    if found and found[0].state == "CANCELED":
        raise NoTryLeft(
            f"{request.run_name} was canceled and is not started again. Delete the canceled run to let it start: "
            f"{run_url(server, found[0].run_id)}"
        )
    if len(found) >= tries:
        raise NoTryLeft(
            f"{request.run_name} failed {len(found)} times, which is the most for one request. Mend data, recipe or code and render "
            f"again, or raise --tries. The last run is at {run_url(server, found[0].run_id)}"
        )


def finished(server: Server, request: Request) -> str:
    """The id of the run that succeeded.

    Raises:
        PhasorError: there is none yet.
        EndpointError: the server does not answer or refuses.
    """
    found = runs_named(server, request.run_name)
    if done := _succeeded(found):
        return done.run_id
    state = f"its last run is {found[0].state}: {run_url(server, found[0].run_id)}" if found else "it has no run"
    raise PhasorError(f"{request.run_name} has not succeeded, {state}. `phasor retrain --watch` starts it if need be, and waits.")


def _under_way(found: list[Run]) -> Run | None:
    """The first of those that have not ended: the one that stays."""
    return min((run for run in found if run.state not in DONE), key=lambda run: (run.created_at, run.run_id), default=None)


def _succeeded(found: list[Run]) -> Run | None:
    return next((run for run in found if run.state == "SUCCEEDED"), None)


def outcome(request: Request, run_id: str) -> Result:
    """What a run came to.

    Raises:
        PhasorError: the request names no place for results.
        NoTryLeft: the run left none, or of another version; it is not run again.
        StorageError: the store does not answer.
    """
    if not request.told.results:
        raise PhasorError("the request names no place for results. Render it with a profile that has a `storage`.")
    try:
        return read_result(request.told.results, run_id)
    except ArtifactError as error:
        raise NoTryLeft(str(error)) from None


def describe(result: Result) -> list[str]:
    """A line for the gate of each role, for each check that was missed, and for the bundle."""
    lines = [f"gate of {role}: {in_words(verdict)}" for role, verdict in result.gates.items()]
    lines += [f"missed: {text}" for text in result.missed]
    return [*lines, f"bundle {result.bundle} sha256 {result.sha256}"]
