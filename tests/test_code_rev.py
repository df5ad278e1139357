"""Which code counts for which phase: what it can import, and nothing else."""

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from phasor import code_rev as room
from phasor.code_rev import code_digest, reachable
from phasor.phases import PHASES

TREE = {
    "__init__.py": "",
    "runner.py": "import phasor.errors",
    "errors.py": "",
    "kfp_adapter.py": "def run() -> None:\n    from phasor.store import Store",
    "store.py": "",
    "serving/__init__.py": "",
    "serving/app.py": "from phasor.words import read",
    "serving/page.html": "<p>",
    "words/__init__.py": "from phasor.words.reading import read",
    "words/reading.py": "import importlib\n\ndef read(kind):\n    return importlib.import_module(f'phasor.words.kinds.{kind}')",
    "words/kinds/__init__.py": "",
    "words/kinds/long.py": "import json",
    "words/list.txt": "a b c",
    "recipes/quickstart.yaml": "name: x",
    "phases/__init__.py": "import importlib\n\ndef load(name):\n    return importlib.import_module(f'phasor.phases.{name}')",
    **{f"phases/{phase.name}.py": "from phasor.errors import Error" for phase in PHASES},
    "phases/collect.py": "def run() -> None:\n    from phasor.words import read",
}
IN_COLLECT = ("words/__init__.py", "words/reading.py", "words/kinds/long.py", "words/list.txt", "phases/collect.py")
IN_ALL = ("__init__.py", "runner.py", "errors.py", "phases/__init__.py")
PARTS = ("collect", "merge", None)


def forget() -> None:
    for function in (room.code_digest, room._modules, room._mentioned):
        function.cache_clear()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small package of the same layout."""
    root = tmp_path / "phasor"
    for name, text in TREE.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.setattr(room, "_ROOT", root)
    forget()
    yield root
    forget()


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (IN_COLLECT, {"collect", None}),
        (IN_ALL, {"collect", "merge", None}),
        (("phases/merge.py",), {"merge", None}),
        (("kfp_adapter.py", "store.py"), {None}),
        (("serving/__init__.py", "serving/app.py", "serving/page.html", "recipes/quickstart.yaml"), set[str]()),
    ],
)
def test_a_change_counts_for_the_phases_that_can_import_it(names: tuple[str, ...], parts: set[str | None], package: Path) -> None:
    before = {part: code_digest(part) for part in PARTS}
    for name in names:
        path = package / name
        path.write_text(path.read_text() + "\n# changed")
        forget()
        assert {part for part in PARTS if code_digest(part) != before[part]} == parts, name
        path.write_text(TREE[name])


def test_what_no_image_would_hold_counts_for_nothing(package: Path) -> None:
    """An editor's copy, say: a pod that holds the same code must come to the same digest."""
    before = code_digest()
    for name in (".DS_Store", "list.txt~", ".list.txt.swp", "list.orig"):
        (package / "words" / name).write_text("x")
    forget()
    assert code_digest() == before
    shipped = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["phasor"]
    assert {f"**/*{suffix}" for suffix in room._DATA} == {pattern for pattern in shipped if pattern.startswith("**/")}


def test_a_file_that_nobody_imports_yet_counts_for_nothing(package: Path) -> None:
    before = code_digest()
    (package / "new.py").write_text("x = 1")
    forget()
    assert code_digest() == before


def test_every_module_that_a_phase_loads_is_one_that_was_found() -> None:
    """Against the import system itself; what is imported inside functions comes on top."""
    code = (
        "import sys, importlib, phasor.runner; importlib.import_module('phasor.phases.{}'); "
        "print(*(name for name, module in sys.modules.items() if name.split('.')[0] == 'phasor' and module.__file__))"
    )
    for name in ("collect", "merge"):
        result = subprocess.run([sys.executable, "-c", code.format(name)], capture_output=True, text=True, check=True)
        loaded = set(result.stdout.split())
        assert loaded and loaded <= reachable([f"phasor.phases.{name}", "phasor.runner"])


def test_serving_is_no_part_of_training_and_every_source_is_part_of_collect() -> None:
    everything = reachable(["phasor.runner", "phasor.kfp_adapter", *(f"phasor.phases.{phase.name}" for phase in PHASES)])
    assert not [name for name in everything if name.startswith(("phasor.serving", "phasor.indexing", "phasor.cli"))]
    assert {"phasor.data.sources.jsonl", "phasor.data.sources.huggingface"} < reachable(["phasor.phases.collect"])
    assert "phasor.data.sources.jsonl" not in reachable(["phasor.phases.merge"])
