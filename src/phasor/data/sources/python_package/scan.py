"""Modules, classes and functions of installed packages, read from their source files without importing them."""

import ast
import gc
import importlib.machinery
import inspect
import os
import sysconfig
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from phasor.data.hashing import position
from phasor.errors import DataError
from phasor.progress import track

_SKIPPED_FOLDERS = {
    "__pycache__", "_tests", "_vendor", "encodings", "ensurepip", "externals", "idlelib", "lib2to3", "pydoc_data", "site-packages",
    "test", "testing", "tests", "turtledemo", "vendor",
}
# Parsing is what collecting costs: files with fewer docstrings per character than this give little for it.
_MIN_DOCSTRING_DENSITY = 2e-4

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
DocumentedNode = ast.Module | ast.ClassDef | FunctionNode


@dataclass(frozen=True)
class PythonObject:
    """One documented object of a source file.

    Attributes:
        name: dotted name from the package down, as found in the file.
        module: the part of the name that is the module's.
        docstring: cleaned of its indentation, not empty.
        node: where it is in `lines`.
        lines: the whole file.
    """

    name: str
    module: str
    package: str
    kind: Literal["module", "class", "function"]
    docstring: str
    node: DocumentedNode
    lines: Sequence[str]

    @property
    def is_public(self) -> bool:
        """Whether neither the object nor a class that holds it is marked as private."""
        return not any(part.startswith("_") for part in self.name.removeprefix(self.module).split("."))

    @property
    def parent(self) -> str:
        """Dotted name of the module or class that holds the object."""
        return self.name.rpartition(".")[0]

    def code(self) -> str:
        """Source text of a function or class without its decorators and its docstring."""
        assert not isinstance(self.node, ast.Module)
        docstring = self.node.body[0]
        assert docstring.end_lineno is not None and self.node.end_lineno is not None
        head = self.lines[self.node.lineno - 1 : docstring.lineno - 1]
        tail = self.lines[docstring.end_lineno : self.node.end_lineno]
        return textwrap.dedent("".join([*head, *tail])).rstrip()

    def num_code_lines(self) -> int:
        """Lines of `code()`, blank ones included, without building it."""
        assert not isinstance(self.node, ast.Module)
        docstring = self.node.body[0]
        return (self.node.end_lineno or 0) - self.node.lineno - ((docstring.end_lineno or 0) - docstring.lineno)


def objects(packages: Sequence[str], seed: int) -> Iterator[PythonObject]:
    """Documented objects, file by file, the files of all packages mixed in an order given by the seed.

    A caller may stop early: what it has seen by then is a fair sample of all packages.
    """
    files = [entry for package in packages for entry in _source_files(package)]
    files.sort(key=lambda entry: position(entry[1], seed, "file"))
    for package, module, path in track(files, "read packages", unit="file"):
        yield from _objects_of(package, module, path)


def package_folder(package: str) -> Path:
    """Where a package is installed, found without importing it. Raises DataError if it is not."""
    parent, _, name = package.rpartition(".")
    spec = importlib.machinery.PathFinder.find_spec(name, [str(package_folder(parent))] if parent else None)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            f"package {package!r} is not installed in this Python, or is a single module. "
            "Install it (`pip install phasor[demo]` has those of the quickstart recipe) or remove it from the source's packages."
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _source_files(package: str) -> Iterator[tuple[str, str, Path]]:
    folder = Path(sysconfig.get_path("stdlib")) if package == "stdlib" else package_folder(package)
    prefix = () if package == "stdlib" else (package,)
    for current, folders, files in os.walk(folder):
        folders[:] = sorted(set(folders) - _SKIPPED_FOLDERS)
        parts = (*prefix, *Path(current).relative_to(folder).parts)
        for file in sorted(files):
            if file.endswith(".py") and (parts or file != "__init__.py"):
                module = parts if file == "__init__.py" else (*parts, file.removesuffix(".py"))
                yield package, ".".join(module), Path(current, file)


def _objects_of(package: str, module: str, path: Path) -> Iterator[PythonObject]:
    try:
        text = path.read_text(encoding="utf-8")
        if text.count('"""') < 2 * _MIN_DOCSTRING_DENSITY * len(text):
            return
        tree = _parse(text)
    except (UnicodeDecodeError, SyntaxError):
        return  # packages ship templates and Python 2 files; they hold nothing for us
    lines = text.splitlines(keepends=True)
    yield from _walk(tree, module, module, package, lines)


def _parse(text: str) -> ast.Module:
    # A tree is 100,000 objects that nothing collects: looking through them takes a quarter of the time of building them.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return ast.parse(text)
    finally:
        if collecting:
            gc.enable()


def _walk(node: DocumentedNode, name: str, module: str, package: str, lines: Sequence[str]) -> Iterator[PythonObject]:
    docstring = ast.get_docstring(node, clean=False)
    if docstring and docstring.strip():
        kind: Literal["module", "class", "function"] = (
            "module" if isinstance(node, ast.Module) else "class" if isinstance(node, ast.ClassDef) else "function"
        )
        yield PythonObject(name, module, package, kind, inspect.cleandoc(docstring), node, lines)
    if not isinstance(node, FunctionNode):
        for child in node.body:
            if isinstance(child, ast.ClassDef | FunctionNode):
                yield from _walk(child, f"{name}.{child.name}", module, package, lines)
