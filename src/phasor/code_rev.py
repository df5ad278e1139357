"""Which code an output depends on: the modules that its phase can import, found without importing any."""

import ast
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from phasor.artifacts import digest_json, sha256_file
from phasor.phases import PHASES

_ROOT = Path(__file__).parent
_PACKAGE = _ROOT.name
_PHASES = f"{_PACKAGE}.phases"
_ALWAYS = f"{_PACKAGE}.runner"
_POD = f"{_PACKAGE}.kfp_adapter"
_DATA = (".jinja", ".jsonl", ".txt", ".yaml")
"""As `package-data` in pyproject.toml."""


@cache
def code_digest(phase: str | None = None) -> str:
    """Digest of the source files that decide what a phase writes; None: of every phase, and of what pods need around them.

    Serving code is no part of it, and recipes are no code, so that a change there makes nothing stale.
    """
    starts = [_POD, *(f"{_PHASES}.{known.name}" for known in PHASES)] if phase is None else [f"{_PHASES}.{phase}"]
    files = sorted(_files(reachable([_ALWAYS, *starts])))
    return digest_json({path.relative_to(_ROOT).as_posix(): sha256_file(path) for path in files})[:16]


def reachable(starts: Iterable[str]) -> frozenset[str]:
    """Every module of the package that these modules import, directly or not, at the top or within a function."""
    found: set[str] = set()
    waiting = _known(starts)
    while waiting:
        found |= waiting
        waiting = _known(word for name in waiting for word in _mentioned(name)) - found
    return frozenset(found)


def _known(words: Iterable[str]) -> set[str]:
    """The modules among these dotted words, and the packages around them, which are imported with them."""
    parts = [word.split(".") for word in words]
    return {".".join(words[:end]) for words in parts for end in range(1, len(words) + 1)} & _modules().keys()


@cache
def _modules() -> dict[str, Path]:
    names = {path: (_PACKAGE, *path.relative_to(_ROOT).with_suffix("").parts) for path in _ROOT.rglob("*.py")}
    return {".".join(parts).removesuffix(".__init__"): path for path, parts in names.items()}


@cache
def _mentioned(name: str) -> frozenset[str]:
    """What a module imports; of `from module import name`, the name may be a module or not."""
    mentioned: set[str] = set()
    for node in ast.walk(ast.parse(_modules()[name].read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=aliases):
                mentioned |= {alias.name for alias in aliases}
            case ast.ImportFrom(module=str(module), level=0, names=aliases):
                mentioned |= {f"{module}.{alias.name}" for alias in aliases}
            case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.JoinedStr(values=[ast.Constant(value=str(prefix)), *_])]):
                # Chosen when it runs, from one package: any of its modules. Which phase runs is what the caller asks about.
                mentioned |= {known for known in _modules() if known.startswith(prefix) and not prefix.startswith(_PHASES)}
    return frozenset(mentioned)


def _files(modules: Iterable[str]) -> set[Path]:
    """The modules' files, and the data that the package ships in the rooms where they lie: prompts, templates, word lists.

    Whatever else lies in a checkout is in no image built from it, where this digest must be the same.
    """
    paths = {_modules()[name] for name in modules}
    rooms = {path.relative_to(_ROOT).parts[0] for path in paths if path.parent != _ROOT}
    data = (path for room in rooms for path in (_ROOT / room).rglob("*") if path.suffix in _DATA and path.is_file())
    return paths | set(data)
