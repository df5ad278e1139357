"""Platform profiles: closed, with every mistake named."""

from pathlib import Path

import pytest

from phasor.errors import RecipeError
from phasor.pipeline.profile import load_profile

STORAGE = "storage: {endpoint: http://minio:9000, secret: phasor-store}\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def test_a_component_has_the_default_pod_with_its_own_on_top(tmp_path: Path) -> None:
    pods = "pods: {default: {cpu: '4', memory: 8Gi}, train: {accelerator: nvidia.com/gpu, accelerators: 2}}\n"
    profile = load_profile(write(tmp_path, f"image: phasor@sha256:0\n{STORAGE}{pods}"))
    assert (profile.pod("train").cpu, profile.pod("train").accelerators) == ("4", 2)
    assert (profile.pod("merge").memory, profile.pod("merge").accelerators) == ("8Gi", 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (STORAGE, "image: Field required"),
        (f"image: x\n{STORAGE}pods: {{trian: {{}}}}", "'trian' is no component; there are fetch, collect"),
        (f"image: x\n{STORAGE}pods: {{train: {{gpu: 1}}}}", "Extra inputs are not permitted"),
        (f"image: x\n{STORAGE}pods: {{train: {{accelerators: 1}}}}", "set both or neither"),
        (f"image: x\n{STORAGE}pods: {{train: {{memory: 8}}}}", "memory"),
        (f"image: x\n{STORAGE}colour: red", "colour: Extra inputs are not permitted"),
        ("image: [", "is not valid YAML"),
    ],
)
def test_a_wrong_profile_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        load_profile(write(tmp_path, text))
    assert "mine.yaml" in str(caught.value)


def test_a_missing_profile_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="Go to a checkout of Phasor") as caught:
        load_profile(tmp_path / "gpu.yaml")
    assert str(tmp_path / "gpu.yaml") in str(caught.value)
    write(tmp_path, STORAGE)
    with pytest.raises(RecipeError, match="In that folder there are: mine."):
        load_profile(tmp_path / "gpu.yaml")
