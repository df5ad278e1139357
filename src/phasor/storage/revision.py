"""The data revision of a project: what its `.dvc` files say, beside what lies in the folder, in the remote and in the last run."""

import json
import subprocess
from pathlib import Path
from typing import Any

from phasor.dvc_adapter import own_files, read_yaml, recorded_stages, run_dvc
from phasor.errors import DataError, StorageError
from phasor.phases import jobs
from phasor.recipe import Recipe
from phasor.storage.dvc import folder_digest, object_name

_SUFFIX = ".dvc"
_UNUSED = "no run here has used it"


def recipe_files(recipe: Recipe) -> list[str]:
    """Every file or folder of the user that a recipe reads, relative to it."""
    return list(dict.fromkeys(path for phase, job in jobs(recipe) for path in own_files(phase, job)))


SHARED = "shared"
"""What is of no single task."""


def data_by_task(recipe: Recipe, root: Path) -> dict[str, dict[str, str]]:
    """Task, or `shared`, to what `data_rev` says of the files that it reads. Raises as `data_rev`."""
    found: dict[str, dict[str, str]] = {}
    for phase, job in jobs(recipe):
        for path in own_files(phase, job):
            name, digest = _tracked(path, root)
            found.setdefault(job.task or SHARED, {})[name] = digest
    return found


def data_rev(recipe: Recipe, root: Path) -> dict[str, str]:
    """Tracked path to digest, of all that the recipe reads.

    Raises:
        DataError: a file is not under DVC.
    """
    return dict(_tracked(path, root) for path in recipe_files(recipe))


def _tracked(path: str, root: Path) -> tuple[str, str]:
    """The tracked file or folder that holds a path, and its digest."""
    for candidate in (Path(path), *Path(path).parents):
        note = root / f"{candidate}{_SUFFIX}"
        if not note.is_file():
            continue
        outs = read_yaml(note, f"Write it anew with `dvc add {candidate}`.").get("outs", [])
        if len(outs) == 1 and "md5" in outs[0]:
            return candidate.as_posix(), str(outs[0]["md5"])
        raise DataError(f"{note} names no single md5. Write it anew with `dvc add {candidate}`.")
    raise DataError(f"{path} is not under DVC. Track it with `dvc add {path}`, then `dvc push`.")


def status(recipe: Recipe, root: Path) -> str:
    """One line per tracked path: what differs between the folder, its `.dvc` file, the remote and the last run."""
    revision = data_rev(recipe, root)
    if not revision:
        return "The recipe reads no files of yours.\n"
    last = _beside_last_run(recipe, root)
    changed, missing = _changed(root, revision), _not_pushed(root, revision)
    lines = []
    for path, digest in revision.items():
        notes = [
            "differs from its .dvc file: run `dvc add` and `dvc push`" if path in changed else "",
            "not all of it is in the remote: run `dvc push`" if path in missing else "",
            last[path],
        ]
        lines.append(f"{path}  {digest}  {'; '.join(filter(None, notes)) or 'the same everywhere'}\n")
    return "".join(lines)


def _beside_last_run(recipe: Recipe, root: Path) -> dict[str, str]:
    """Tracked path to how it differs from what the last run read of it; empty: not at all.

    A recipe may name what lies deep in a tracked folder, and then that is what a stage reads.
    """
    lock, notes = _last_run(root), dict[str, str]()
    for path in recipe_files(recipe):
        holder, digest = _tracked(path, root)
        notes.setdefault(holder, _UNUSED)
        if path not in lock:
            continue
        now = digest if Path(path) == Path(holder) else _digest_below(root, digest, Path(path).relative_to(holder))
        if now is None:
            notes[holder] = "its listing is not here, so nobody knows what the last run used: run `dvc pull`"
        elif now != lock[path]:
            notes[holder] = "the last run here used other data"
        elif notes[holder] == _UNUSED:
            notes[holder] = ""
    return notes


def _digest_below(root: Path, digest: str, inner: Path) -> str | None:
    """DVC's digest of a file or folder in a tracked folder; None if the listing of that is not in the cache."""
    cache = Path(run_dvc(["cache", "dir"], root, check=True, capture_output=True).stdout.strip())
    try:
        rows = {row["relpath"]: row["md5"] for row in json.loads((cache / object_name(digest)).read_text(encoding="utf-8"))}
    except FileNotFoundError:
        return None
    start = f"{inner.as_posix()}/"
    below = [{"md5": md5, "relpath": path.removeprefix(start)} for path, md5 in sorted(rows.items()) if path.startswith(start)]
    return rows.get(inner.as_posix()) or folder_digest(below)


def _last_run(root: Path) -> dict[str, str]:
    """Path to digest of what the stages read last."""
    return {dep["path"]: dep["md5"] for stage in recorded_stages(root).values() for dep in stage.get("deps", []) if "md5" in dep}


def _changed(root: Path, revision: dict[str, str]) -> set[str]:
    """Tracked paths that are not what their `.dvc` file says."""
    told = _ask(root, ["status", "--json"], revision)
    return {path for path in revision if f"{path}{_SUFFIX}" in told}


def _not_pushed(root: Path, revision: dict[str, str]) -> set[str]:
    """Tracked paths of which the remote lacks something."""
    told = _ask(root, ["status", "--cloud", "--json"], revision)
    lacking = [name for name, state in told.items() if state in ("new", "missing")]
    return {path for path in revision if any(name == path or name.startswith(f"{path}/") for name in lacking)}


def _ask(root: Path, arguments: list[str], revision: dict[str, str]) -> dict[str, Any]:
    try:
        result = run_dvc([*arguments, *(f"{path}{_SUFFIX}" for path in revision)], root, check=True, capture_output=True)
    except subprocess.CalledProcessError as error:
        raise StorageError(f"`dvc {' '.join(arguments)}` failed: {error.stderr.strip().splitlines()[0]}") from None
    return json.loads(result.stdout or "{}") or {}
