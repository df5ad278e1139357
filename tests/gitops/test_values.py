"""Setting one value in a YAML text: the tree changes there, the text nowhere else."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from phasor.errors import PhasorError
from phasor.gitops.values import put

from .world import ROOT

CHART = sorted((ROOT / "charts" / "phasor" / "ci").glob("*.yaml"))


def expected(text: str, keys: list[str], value: str) -> Any:
    tree = deepcopy(yaml.safe_load(text)) or {}
    node = tree
    for key in keys[:-1]:
        node[key] = node.get(key) or {}
        node = node[key]
    node[keys[-1]] = value
    return tree


@pytest.mark.parametrize("value", ["s3://phasor/next", "1" * 64, "0x10", "yes"])
@pytest.mark.parametrize(
    "text",
    [
        "", "# only a comment\n", "other: 1", "tracks:\n", "tracks: {}\n", "tracks: null  # none yet\nother: 1\n",
        "tracks:\n  blue:\n    replicas: 2\n", "tracks:\n  blue:\n", "tracks: {blue: {bundle: {location: old, sha256: x}}}\n",
        "tracks: {blue: {replicas: 2}}\n",
        "tracks:\n    blue:\n        bundle:\n            location: 'old' # why\n            sha256: x\n",
        "tracks:\n  # the other one\n  green:\n    bundle: {}\nother:\n  - [{a: b}]\n",
        "tracks:\n  blue:\n    bundle:\n      sha256: \"old\"\n",
        "tracks:\n  blue:\n    bundle:\n      location: >-\n        old\n        place\n\n      sha256: x\n",
        "tracks:\n  blue:\n    bundle:\n      location: |\n        old", "other: 1\n# why\n...\n", "---\n",
    ],
)  # fmt: skip
def test_the_tree_changes_at_these_keys_and_nowhere_else(text: str, value: str) -> None:
    keys = ["tracks", "blue", "bundle", "location"]
    after = put(text, keys, value)
    assert yaml.safe_load(after) == expected(text, keys, value)
    assert put(after, keys, value) == after
    assert [part for part in ("# only a comment", "# none yet", "# why", "# the other one") if part in text and part not in after] == []


@pytest.mark.parametrize("text", ["tracks:\r\n  blue:\r\n    replicas: 2\r\n", "other: 1\r\n"])
def test_line_ends_stay_as_they_are(text: str) -> None:
    after = put(text, ["tracks", "blue", "bundle", "location"], "s3://phasor/next")
    assert after.count("\r\n") == after.count("\n") > text.count("\n")


@pytest.mark.parametrize("path", [*CHART, ROOT / "charts" / "phasor" / "values.yaml"], ids=lambda path: path.stem)
@pytest.mark.parametrize("track", ["blue", "canary"])
def test_values_of_the_chart_keep_every_other_line(path: Path, track: str) -> None:
    text = path.read_text()
    keys = ["tracks", track, "bundle", "location"]
    after = put(text, keys, "s3://phasor/next")
    assert yaml.safe_load(after) == expected(text, keys, "s3://phasor/next")
    before = text.splitlines()
    lost = [line for line in before if line not in after.splitlines()]
    assert all("location" in line or "tracks" in line or "bundle" in line for line in lost) and len(lost) <= 1
    assert len(after.splitlines()) - len(before) in (0, 1, 3)


def test_a_mapping_is_not_written_over() -> None:
    with pytest.raises(PhasorError, match="a.b is a mapping"):
        put("a: {b: {c: 1}}\n", ["a", "b"], "x")
