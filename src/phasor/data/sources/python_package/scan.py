"""Modules, classes and functions of installed packages, read from their source files without importing them."""

import ast
import importlib.machinery
import inspect
import re
import sysconfig
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from phasor.data.hashing import position
from phasor.errors import DataError

_SKIPPED_FOLDERS = {
    "tests", "test", "testing", "_tests", "site-packages", "idlelib", "lib2to3", "turtledemo", "ensurepip", "_vendor", "vendor", "externals",
    "__pycache__", "conftest.py", "pydoc_data", "encodings",
}
_MAX_FILE_BYTES = 400_000  # larger ones are generated tables more often than code

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
DocumentedNode = ast.Module | ast.ClassDef | FunctionNode


@dataclass(frozen=True)
class PythonObject:
    """One documented object of a source file.

    Attributes:
        name: dotted name from the package down, as found in the file.
        docstring: cleaned of its indentation, not empty.
        node: where it is in `lines`.
        lines: the whole file.
    """

    name: str
    package: str
    kind: Literal["module", "class", "function"]
    docstring: str
    node: DocumentedNode
    lines: Sequence[str]

    @property
    def parent(self) -> str:
        """Dotted name of the module or class that holds the object."""
        return self.name.rpartition(".")[0]

    def signature(self) -> str:
        """`name(parameters)` of a function, with annotations and defaults, without `self`."""
        assert isinstance(self.node, FunctionNode)
        arguments = re.sub(r"^(self|cls)(, |$)", "", ast.unparse(self.node.args))
        return f"{self.node.name}({arguments})"

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
    for package, module, path in files:
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
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).parts
        if _SKIPPED_FOLDERS.isdisjoint(parts) and path.stat().st_size <= _MAX_FILE_BYTES:
            yield package, ".".join((*prefix, *parts)).removesuffix(".py").removesuffix(".__init__"), path


def _objects_of(package: str, module: str, path: Path) -> Iterator[PythonObject]:
    try:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
    except (UnicodeDecodeError, SyntaxError):
        return  # packages ship templates and Python 2 files; they hold nothing for us
    lines = text.splitlines(keepends=True)
    yield from _walk(tree, module, package, lines)


def _walk(node: DocumentedNode, name: str, package: str, lines: Sequence[str]) -> Iterator[PythonObject]:
    docstring = ast.get_docstring(node, clean=False)
    if docstring and docstring.strip():
        kind: Literal["module", "class", "function"] = (
            "module" if isinstance(node, ast.Module) else "class" if isinstance(node, ast.ClassDef) else "function"
        )
        yield PythonObject(name, package, kind, inspect.cleandoc(docstring), node, lines)
    if not isinstance(node, FunctionNode):
        for child in node.body:
            if isinstance(child, ast.ClassDef | FunctionNode):
                yield from _walk(child, f"{name}.{child.name}", package, lines)
