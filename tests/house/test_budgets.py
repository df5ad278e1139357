"""The house rules, checked on every file: sizes, docstrings, annotations, forbidden calls, dead settings, tools."""

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

import phasor.config.training
from phasor.recipe import Recipe

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "phasor"
FOLDERS = ("src", "tests", "benchmarks", "components", "pipelines")
SOURCES = sorted(PACKAGE.rglob("*.py"))
PYTHON = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in PYTHON}
Function = ast.FunctionDef | ast.AsyncFunctionDef
MAX_FILE, MAX_FUNCTION = 400, 60


def place(path: Path, node: ast.AST | None = None) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


def nodes(path: Path, *kinds: type[ast.AST]) -> Iterator[ast.AST]:
    return (node for node in ast.walk(TREES[path]) if isinstance(node, kinds))


def functions(path: Path) -> Iterator[Function]:
    return (node for node in ast.walk(TREES[path]) if isinstance(node, Function))


def public(tree: ast.Module | ast.ClassDef) -> Iterator[Function | ast.ClassDef]:
    """Public classes and functions of a module, and the public methods of such classes."""
    for node in tree.body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node)


def spelled(node: ast.AST) -> str:
    """Dotted name of a call's function or of an attribute, as written."""
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ast.unparse(node)


def tracked() -> list[Path]:
    result = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=False, capture_output=True, text=True
    )
    if result.returncode:
        pytest.skip("this is no Git repository")
    return [path for name in result.stdout.splitlines() if (path := ROOT / name).is_file()]


def test_files_and_functions_are_short() -> None:
    long = [f"{place(path)}: {lines} lines" for path in PYTHON if (lines := len(path.read_text().splitlines())) > MAX_FILE]
    for path in PYTHON:
        for node in functions(path):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION:
                long.append(f"{place(path, node)}: {node.name} has {lines} lines")
    assert not long, "\n".join(long)


def test_the_typical_function_is_a_dozen_lines() -> None:
    sizes = sorted((node.end_lineno or 0) - node.lineno + 1 for path in SOURCES for node in functions(path))
    assert sizes[len(sizes) // 2] <= 12


def test_public_code_has_docstrings() -> None:
    bare = [place(path) for path in SOURCES if TREES[path].body and ast.get_docstring(TREES[path]) is None]
    documented = {node.name for path in SOURCES for node in public(TREES[path]) if ast.get_docstring(node)}
    for path in SOURCES:
        derived = {id(child) for kind in nodes(path, ast.ClassDef) if isinstance(kind, ast.ClassDef) and kind.bases for child in kind.body}
        for node in public(TREES[path]):
            inherited = id(node) in derived and node.name in documented  # an override may rely on what it overrides
            if ast.get_docstring(node) is None and not inherited:
                bare.append(f"{place(path, node)}: {node.name}")
    assert not bare, "\n".join(bare)


def test_annotations_are_complete() -> None:
    missing = []
    for path in PYTHON:
        methods = {id(child) for node in nodes(path, ast.ClassDef) if isinstance(node, ast.ClassDef) for child in node.body}
        for node in functions(path):
            every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, *filter(None, (node.args.vararg, node.args.kwarg))]
            static = any(spelled(decorator) == "staticmethod" for decorator in node.decorator_list)
            wanted = every[1:] if id(node) in methods and not static else every
            missing += [f"{place(path, node)}: {node.name}({argument.arg})" for argument in wanted if argument.annotation is None]
            if node.returns is None:
                missing.append(f"{place(path, node)}: {node.name} -> ?")
    assert not missing, "\n".join(missing)


FORBIDDEN = {
    r"print": "progress and results go through logging, phasor.progress or the command line",
    r"(pickle|joblib|marshal|shelve|dill)\..*": "nothing is pickled",
    r"torch\.load": "nothing is pickled",
    r"eval|exec": "no code from data",
    r"yaml\.load|yaml\.unsafe_load|yaml\.full_load": "safe_load",
}
ALLOWED = {("print", "cli.py")}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_forbidden_calls_are_absent(path: Path) -> None:
    for node in nodes(path, ast.Call):
        name = spelled(node)
        for pattern, why in FORBIDDEN.items():
            assert not re.fullmatch(pattern, name) or (name, path.name) in ALLOWED, f"{place(path, node)}: {name}: {why}"
        assert isinstance(node, ast.Call)
        for keyword in node.keywords:
            loose = keyword.arg in ("allow_pickle", "trust_remote_code") and not (
                isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            )
            assert not loose, f"{place(path, node)}: {keyword.arg}"
    for node in nodes(path, ast.Import, ast.ImportFrom):
        assert isinstance(node, ast.Import | ast.ImportFrom)
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [name.name for name in node.names]
        assert not {"pickle", "joblib", "dill", "shelve", "marshal"} & {module.split(".")[0] for module in modules}, place(path, node)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_the_environment_and_blind_excepts_have_one_place(path: Path) -> None:
    if path.name != "settings.py":
        touched = [place(path, node) for node in nodes(path, ast.Attribute) if spelled(node) in ("os.environ", "os.getenv")]
        assert not touched, f"{touched}: only settings.py reads the environment"
    for node in nodes(path, ast.ExceptHandler):
        assert isinstance(node, ast.ExceptHandler)
        blind = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
        assert not blind or path.name == "cli.py", f"{place(path, node)}: name the errors that can come"


def test_no_file_names_this_machine_or_a_registry_host() -> None:
    here = "/" + "work/"
    hosts = (
        "files.python" + "hosted.org",
        "pypi" + ".org/simple",
        "artifact" + "ory",
        "index" + "-url =",
        "/" + "root/",
        "/" + "home/",
        here + "main",
        here + "shared",
    )
    found = []
    for path in tracked():
        if path.is_symlink() or path.suffix in (".png", ".parquet", ".safetensors"):
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        found += [f"{place(path)}: {host}" for host in hosts if host in text]
    assert not found, "\n".join(found)


def config_fields() -> Iterator[tuple[str, str]]:
    """(class, field) of every setting that the recipe can hold."""
    seen: set[type[BaseModel]] = set()
    waiting: list[object] = [Recipe]
    while waiting:
        kind = waiting.pop()
        waiting += get_args(kind)
        if isinstance(kind, type) and issubclass(kind, BaseModel) and kind not in seen:
            seen.add(kind)
            for name, field in kind.model_fields.items():
                yield kind.__name__, name
                waiting.append(field.annotation)


def test_every_setting_is_read_somewhere() -> None:
    """A knob that nothing turns is worse than none. `kind` and `method` only choose a class."""
    declared = {path for path in SOURCES if path.parent.name == "config"}
    read = {node.attr for path in SOURCES if path not in declared for node in ast.walk(TREES[path]) if isinstance(node, ast.Attribute)}
    read |= {node.attr for path in declared for node in nodes(path, ast.Attribute) if isinstance(node, ast.Attribute)}
    read |= {
        name for path in SOURCES for node in nodes(path, ast.MatchClass) if isinstance(node, ast.MatchClass) for name in node.kwd_attrs
    }
    dead = {f"{owner}.{name}" for owner, name in config_fields() if name not in read and name not in ("kind", "method")}
    assert not dead, sorted(dead)


def test_defaults_of_settings_are_written_once() -> None:
    """A function that takes a setting by its name gets it from the recipe: the same default does not stand there again."""
    defaults: dict[str, set[str]] = {}
    fields = (node for path in SOURCES if path.parent.name == "config" for node in nodes(path, ast.AnnAssign))
    for node in fields:
        match node:
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Call(args=[ast.Constant(value=int() | float() as value), *_])):
                defaults.setdefault(name, set()).add(repr(value))
    again = []
    for path in SOURCES:
        if path.parent.name == "config":
            continue
        for node in functions(path):
            pairs = [*zip(reversed([*node.args.posonlyargs, *node.args.args]), reversed(node.args.defaults), strict=False)]
            pairs += [(a, d) for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if d is not None]
            again += [
                f"{place(path, node)}: {node.name}({argument.arg}={ast.unparse(default)})"
                for argument, default in pairs
                if argument.arg in defaults
                and isinstance(default, ast.Constant)
                and isinstance(default.value, int | float)
                and argument.arg not in ("batch_size", "top_k")  # conveniences of a class used alone; phases pass them
                and ast.unparse(default) in defaults[argument.arg]
                and default.value not in (0, 1)
            ]
    assert not again, "\n".join(again)


def test_every_setting_block_forbids_unknown_keys_and_change() -> None:
    kinds = {kind for kind in vars(phasor.config.training).values() if isinstance(kind, type) and issubclass(kind, BaseModel)}
    assert kinds and all(kind.model_config.get("extra") == "forbid" and kind.model_config.get("frozen") for kind in kinds)


def test_test_files_have_names_of_their_own_per_folder_and_mirror_the_source() -> None:
    names = Counter(path.relative_to(ROOT) for path in PYTHON)
    assert max(names.values()) == 1
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name not in ("__pycache__", "recipes")}
    tested = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and any(path.glob("test_*.py"))}
    assert folders - {"config"} <= tested | {"config"}, sorted(folders - tested)


@pytest.mark.slow
@pytest.mark.timeout(900)  # mypy without its cache reads all of torch
@pytest.mark.parametrize("command", [["ruff", "check", "-q", *FOLDERS], ["mypy"]], ids=lambda command: command[0])
def test_tools_find_nothing(command: list[str]) -> None:
    result = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
