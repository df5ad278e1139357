"""The four views of installed packages, on a small package made here and on the real standard library."""

import ast
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from phasor.config.tasks import PythonPackageSource
from phasor.data.sources import Collected, Context, read_source
from phasor.data.sources.python_package.docstrings import cut, is_question, plain_text, sections, split_docstring, without
from phasor.data.sources.python_package.scan import objects
from phasor.errors import DataError

MakeContext = Callable[..., Context]

MODULE = '''\
"""Tools for reading the archives of a lake. They cover every format that the weather station has written since 1987."""
raise RuntimeError("a package that is only read is never imported")


@wraps
def read_levels(path: str, *, limit: int = 3) -> list[float]:
    """Read the water levels from an archive file.

    The file may be compressed; levels are given in metres above the sea and in the order of their days.

    Parameters
    ----------
    path : str
        Where the archive file lies, as a path or as the address of a server.

    Returns
    -------
    list of float
        The levels of the lake in metres, one for every day of the archive.

    Examples
    --------
    >>> read_levels("lake.gz", limit=2) # doctest: +SKIP and so on and on
    [395.1, 395.2]
    """
    with open(path) as stream:
        # Read the water levels from an archive file, line by line.
        lines = stream.readlines()
    return [float(line) for line in lines[:limit]]


def _private(path):
    """Remove every trace of a broken archive from the disk.

    Nothing that was in the archive can be read again once this has been called by anybody.
    """
    a = 1
    b = 2
    return a + b


class Station:
    """A weather station that stands at the shore of the lake.

    It measures the temperature of air and water every hour and writes both of them to its archive.
    """

    def undocumented(self):
        def inner():
            """Inner functions are no objects of their own and are left out."""
        return inner

    def twice(self):
        """Double the number of measurements within every single hour.

        The station needs twice the power from then on; call this in summer only, when the sun shines.
        """
        self.rate *= 2
        self.log()
        return self
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An importable package that fails when it is imported."""
    folder = tmp_path / "lib/lakes"
    (folder / "tests").mkdir(parents=True)
    (folder / "__init__.py").write_text(MODULE)
    (folder / "tests/test_levels.py").write_text(MODULE)
    (folder / "broken.py").write_text('"""Docs."""\ndef (:\n')
    (folder / "latin.py").write_bytes(b'"""Docs of caf\xe9."""\n')
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    return "lakes"


def view(name: str, context: Context, *packages: str, max_passages: int = 100) -> Collected:
    return read_source(
        PythonPackageSource.model_validate({"kind": "python_package", "view": name, "packages": packages, "max_passages": max_passages}),
        context,
    )


def test_documentation_is_found_by_its_first_sentence(package: str, context: MakeContext) -> None:
    found = view("documentation", context(), package)
    assert {e.query: e.positives for e in found.examples} == {
        "Tools for reading the archives of a lake": ["lakes"],
        "Read the water levels from an archive file": ["lakes.read_levels"],
        "A weather station that stands at the shore of the lake": ["lakes.Station"],
        "Double the number of measurements within every single hour": ["lakes.Station.twice"],
    }
    assert all(p.source == p.title == p.id for p in found.passages)
    assert all(e.query.lower() not in p.text.lower() for e, p in zip(found.examples, found.passages, strict=True))


def test_code_is_found_by_what_its_docstring_says_and_does_not_say_it_itself(package: str, context: MakeContext) -> None:
    found = view("code", context(), package)
    texts = {p.id: p.text for p in found.passages}
    assert set(texts) == {"lakes.read_levels", "lakes._private", "lakes.Station.twice"}
    assert texts["lakes.Station.twice"] == "def twice(self):\n    self.rate *= 2\n    self.log()\n    return self"
    assert (
        texts["lakes.read_levels"].startswith("def read_levels(path: str, *, limit: int = 3)")
        and "archive file" not in texts["lakes.read_levels"]
    )
    assert {p.language for p in found.passages} == {"python"}


def test_constrained_queries_differ_in_what_they_ask_for(package: str, context: MakeContext) -> None:
    found = view("constrained", context(), package)
    forms = {p.id.partition("#")[2] for p in found.passages}
    assert forms == {"overview", "parameters", "returns", "examples", "code"}
    assert {p.source for p in found.passages} == {"lakes.read_levels"}
    pairs = {e.pair_id for e in found.examples}
    assert len(pairs) == 2 and len(found.examples) == 4
    for pair in pairs:
        original, changed = (e for e in found.examples if e.pair_id == pair)
        assert original.id.endswith("-og") and changed.id.endswith("-changed")
        assert original.query == changed.query and original.instruction != changed.instruction
        assert set(original.positives) != set(changed.positives)
        assert all(e.query.lower() not in p.text.lower() for e in found.examples for p in found.passages)


def test_operations_come_from_service_models_and_generated_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, context: MakeContext
) -> None:
    model = {
        "metadata": {"serviceId": "Lake"},
        "operations": {
            "GetLevel": {"documentation": "<p>Returns the <b>level</b> of one lake. It may be old.</p>", "input": {"shape": "In"}}
        },
        "shapes": {"In": {"members": {"LakeId": {"documentation": "<p>Name of the lake. Short.</p>"}}}},
    }
    newest = tmp_path / "lib/botocore/data/lake/2024-01-01"
    newest.mkdir(parents=True)
    (tmp_path / "lib/botocore/__init__.py").write_text("")
    (newest / "service-2.json.gz").write_bytes(gzip.compress(json.dumps(model).encode()))
    client = tmp_path / "lib/client/lake_api.py"
    client.parent.mkdir()
    (client.parent / "__init__.py").write_text("")
    client.write_text(
        "class LakeApi:\n    def list_lakes(self, region, **kwargs):\n"
        '        """list_lakes  # noqa: E501\n\n        List all lakes of one region.  # noqa: E501\n\n'
        '        :param async_req bool\n        :param str region: Where the lakes are\n'
        '        :return: Lakes\n        """\n        return 1\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    found = view("operations", context(), "client", "botocore")
    assert [(e.query, e.positives) for e in found.examples] == [
        ("List all lakes of one region", ["client.lake_api.LakeApi.list_lakes"]),
        ("Returns the level of one lake", ["botocore.lake.GetLevel"]),
    ]
    assert [p.text for p in found.passages] == [
        "list_lakes(region) region: Where the lakes are",
        "GetLevel(LakeId) LakeId: Name of the lake.",
    ]


def test_reading_stops_at_max_passages_and_the_order_is_the_seeds(package: str, context: MakeContext) -> None:
    assert len(view("documentation", context(), package, max_passages=2).passages) == 2
    assert view("documentation", context(), package) == view("documentation", context(), package)


def test_a_query_that_two_passages_share_is_dropped_and_counted(package: str, context: MakeContext, tmp_path: Path) -> None:
    (tmp_path / "lib/lakes/copy.py").write_text(MODULE)
    found = view("code", context(), package)
    assert found.examples == [] and found.dropped["query shared by several passages"] == 6


def test_a_package_that_is_not_installed_is_one_error(context: MakeContext) -> None:
    with pytest.raises(DataError, match="package 'no_such_package' is not installed in this Python.*phasor.demo"):
        view("code", context(), "no_such_package")


def test_the_standard_library_gives_topics_and_valid_code(context: MakeContext) -> None:
    found = view("documentation", context(), "stdlib", max_passages=450)
    assert len(found.passages) == 450 and any(p.source.startswith("topics.") for p in found.passages)
    code = view("code", context(), "stdlib", max_passages=150).passages
    parsed = 0
    for passage in code:
        try:
            parsed += isinstance(ast.parse(passage.text).body[0], ast.FunctionDef | ast.AsyncFunctionDef)
        except SyntaxError:  # a function that was nothing but a docstring and a comment
            continue
    assert parsed >= 0.95 * len(code)
    assert not any(part in p.source for p in code for part in (".test.", "idlelib", "_vendor"))


def test_objects_know_their_place(package: str) -> None:
    found = {item.name: item for item in objects([package], seed=0)}
    assert [name for name, item in found.items() if not item.is_public] == ["lakes._private"]
    assert found["lakes.Station.twice"].parent == "lakes.Station" and found["lakes"].kind == "module"
    assert found["lakes.Station.twice"].num_code_lines() == len(found["lakes.Station.twice"].code().splitlines())


@pytest.mark.parametrize(
    ("docstring", "summary", "rest"),
    [
        ("Read it.\n\nMore.", "Read it", "More."),
        ("Read :func:`~os.path` with ``x``. Then go.", "Read os.path with x", "Then go."),
        ("Title of it\n===========\n\nBody.", "Title of it", "Body."),
        ("Do it.\n:param x: the x", "Do it", ":param x: the x"),
        (".. note:: a\n\nRest", "", "Rest"),
    ],
)
def test_docstrings_are_split_into_summary_and_rest(docstring: str, summary: str, rest: str) -> None:
    parts = split_docstring(docstring)
    assert (parts.summary, parts.rest) == (summary, rest)


@pytest.mark.parametrize(
    ("summary", "good"),
    [
        ("Read every line of a file", True), ("Read a file", False), ("See also the other function here", False),
        ("Return foo(x, y) of all the things", False), ("Copyright of the authors of this file", False),
        ("Read {name} from the given file", False),
        ("word " * 41, False), ("Ouvre le fichier donné par l'été", False),
    ],
)  # fmt: skip
def test_which_summaries_are_queries(summary: str, good: bool) -> None:
    assert is_question(summary) is good


def test_small_text_tools() -> None:
    assert without("First, read  THE\nfile. Then stop", "Read the file") == "First,  Then stop"
    assert without("unrelated", "Read the file") == "unrelated"
    assert cut("alpha beta gamma", 11) == "alpha beta" and cut("alphabeta", 4) == "alph" and cut("short", 9) == "short"
    assert plain_text("A\n---\n`b`_ and ``c``") == "A: b and c"
    assert list(sections("Head\n\nReturns\n-------\nx\n")) == ["", "Returns"]
