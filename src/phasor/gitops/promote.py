"""After a green gate: the run's bundle as a change of the serving values, on a branch that a person or a rule merges."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from phasor.artifacts import MANIFEST
from phasor.errors import ArtifactError, GateFailed, PhasorError
from phasor.evaluation.gate import in_words
from phasor.gitops.repository import Repository
from phasor.gitops.request import Request
from phasor.gitops.retrain import describe
from phasor.gitops.values import put
from phasor.pipeline.result import Result
from phasor.settings import store_settings
from phasor.storage.store import DamagedError, Place, Store

_TRAILER = "Phasor-Run"


def promote(request: Request, result: Result, values: Path, track: str | None) -> str:
    """Propose a run's bundle for serving.

    Args:
        request: what was asked for.
        result: what its run came to.
        values: of the serving chart, in the deployment repository.
        track: of the chart; None: the active one.

    Returns:
        What was done, in words.

    Raises:
        GateFailed: a gate is red; nothing changes.
        ArtifactError: the bundle is no longer in the store.
        PhasorError: the values cannot take it, the work tree is behind its upstream, or Git refuses.
    """
    if not result.passed:
        red = "; ".join(f"{role}: {in_words(verdict)}" for role, verdict in result.gates.items() if not verdict.passed)
        raise GateFailed(f"{request.run_name} is not promoted, the gate is red. {red}. Nothing was changed.")
    repository = Repository.around(values)
    name = repository.name(values)
    repository.catch_up()
    before = repository.content("HEAD", name)
    if before is None:
        raise PhasorError(f"{name} is not committed in {repository.root}. Commit the serving values first.")
    chosen, after = put_bundle(before, name, track, result.bundle, result.sha256)
    mark, branch = f"{_TRAILER}: {request.short_key} {chosen}", f"promote/{chosen}-{request.short_key}"
    if after == before:
        return f"{request.run_name} is what track {chosen} serves already. Nothing to do."
    if earlier := repository.commit_with(mark):
        return (
            f"{request.run_name} was promoted in {earlier} and is served no longer: rolled back, or followed by another. "
            "It is not proposed again; revert the commit that took it out to serve it."
        )
    if there := repository.branch(branch):
        if repository.content(there, name) == after:
            return f"{request.run_name} is proposed already, on branch {there}. Nothing to do."
        raise PhasorError(f"branch {there} exists and differs from what would be proposed now. Delete it, and promote again.")
    _check_bundle(result)
    commit = repository.propose(branch, {name: after}, _message(request, result, chosen, mark))
    return f"{request.run_name} is proposed for track {chosen}: commit {commit[:12]} on branch {branch}. Push it, and merge it to serve it."


def put_bundle(text: str, name: str, track: str | None, location: str, sha256: str) -> tuple[str, str]:
    """The serving values with another bundle on a track; every other line stays as it is.

    Returns:
        The track, and the new text.

    Raises:
        PhasorError: the values are no YAML of the chart, or the track holds what belongs to another bundle.
    """
    try:
        tree = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise PhasorError(f"{name} is not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise PhasorError(f"{name} is no mapping. Name the values of the serving chart.")
    tracks = _mapping(tree, "tracks", name)
    chosen = track or tree.get("active") or _only(tracks, name)
    if not isinstance(chosen, str):
        raise PhasorError(f"{name}: {chosen!r} is no name of a track. Write it in quotes.")
    entry = _mapping(tracks, chosen, f"{name}: tracks")
    bundle, index = (_mapping(entry, part, f"{name}: tracks.{chosen}") for part in ("bundle", "index"))
    if (bundle.get("location"), bundle.get("sha256")) == (location, sha256):
        return chosen, text
    if bundle.get("existingClaim"):
        raise PhasorError(f"{name}: tracks.{chosen} serves from the claim {bundle['existingClaim']}. Name another track with --track.")
    if index.get("location") or index.get("existingClaim"):
        raise PhasorError(
            f"{name}: the index of track {chosen} was made by the model that it serves now, and another model refuses it. Name another "
            "track with --track, build an index for it, then switch `active`."
        )
    place, wanted = ("tracks", chosen, "bundle"), {"location": location, "sha256": sha256}
    try:
        for key, value in wanted.items():
            text = put(text, (*place, key), value)
        after = yaml.safe_load(text)
    except yaml.YAMLError:
        raise PhasorError(
            f"{name}: tracks.{chosen}.bundle is written in a way that cannot be changed in its place. Write it in lines of its own."
        ) from None
    if after != {**tree, "tracks": {**tracks, chosen: {**entry, "bundle": {**bundle, **wanted}}}}:
        raise PhasorError(f"{name}: what stands for tracks.{chosen} stands for more, by an anchor (&) or a merge (<<). Write it out.")
    return chosen, text


def _mapping(tree: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    """What stands at a key of the values; nothing is an empty mapping."""
    found = tree.get(key) or {}
    if not isinstance(found, dict):
        raise PhasorError(f"{where}: {key} is no mapping. Write it as in the values of the serving chart.")
    return found


def _only(tracks: Mapping[str, Any], name: str) -> str:
    if len(tracks) == 1:
        return next(iter(tracks))
    raise PhasorError(f"{name} names no active track and {len(tracks)} tracks. Name one with --track.")


def _check_bundle(result: Result) -> None:
    try:
        Store(store_settings()).read(Place.parse(result.bundle), MANIFEST, result.sha256, "sha256")
    except FileNotFoundError:
        raise ArtifactError(
            f"{result.bundle}/{MANIFEST} is not there any more. Keep what runs made out of the bucket's lifecycle rules, and run it again."
        ) from None
    except DamagedError as error:
        raise ArtifactError(f"{error} It is not what the run made. Run it again.") from None


def _message(request: Request, result: Result, track: str, mark: str) -> str:
    facts = [*describe(result), f"run {result.run}", f"code {result.code_rev}"]
    return f"promote: {request.run_name} on track {track}\n\n" + "\n".join(facts) + f"\n\n{mark}\n"
