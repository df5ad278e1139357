import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from phasor.artifacts import read_manifest, sha256_file
from phasor.errors import ArtifactError
from phasor.packaging.verification import verify_bundle

from .conftest import Built, seal


@pytest.fixture
def bundle(make_bundle: Callable[..., Built], tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(make_bundle("qwen2").folder, tmp_path / "bundle"))


def edit(path: Path, key: str, value: object) -> None:
    """Change one setting and seal the bundle again, as an attacker would."""
    tree = json.loads(path.read_text())
    (tree[0] if isinstance(tree, list) else tree)[key] = value
    path.write_text(json.dumps(tree))
    bundle = path.parent if path.name == "golden.json" else path.parent.parent
    seal(bundle)


def test_every_file_stands_in_the_manifest_with_its_sha256(bundle: Path) -> None:
    manifest = verify_bundle(bundle)
    found = {p.relative_to(bundle).as_posix(): sha256_file(p) for p in bundle.rglob("*") if p.is_file() and p.name != "manifest.json"}
    assert manifest.files == found and len(found) == 17
    assert read_manifest(bundle) == manifest


@pytest.mark.parametrize("name", ["embed/model.safetensors", "rerank/tokenizer.json", "golden.json"])
def test_one_flipped_bit_is_noticed_and_the_file_named(bundle: Path, name: str) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=f"{name} does not match its manifest"):
        verify_bundle(bundle)


def test_a_missing_file_is_named(bundle: Path) -> None:
    (bundle / "embed/modules.json").unlink()
    with pytest.raises(ArtifactError, match="embed/modules.json is listed in the manifest but missing"):
        verify_bundle(bundle)


@pytest.mark.parametrize("name", ["embed/pytorch_model.bin", "embed/modeling.py", "other.pkl"])
def test_a_file_that_could_carry_code_has_no_place_even_if_listed(bundle: Path, name: str) -> None:
    (bundle / name).write_bytes(b"x")
    seal(bundle)
    with pytest.raises(ArtifactError, match=f"{name} has no place in a bundle.*Do not serve"):
        verify_bundle(bundle)


def test_a_link_is_refused(bundle: Path) -> None:
    target = bundle / "embed/config.json"
    target.rename(bundle.parent / "outside.json")
    target.symlink_to(bundle.parent / "outside.json")
    with pytest.raises(ArtifactError, match="is a link"):
        verify_bundle(bundle)


@pytest.mark.parametrize(("name", "key", "value", "words"), [
    ("embed/config.json", "auto_map", {"AutoModel": "modeling.Model"}, "auto_map"),
    ("embed/tokenizer_config.json", "auto_map", {"AutoTokenizer": ["x.Y", None]}, "auto_map"),
    ("embed/modules.json", "type", "os.system", "os.system"),
    ("rerank/config.json", "sentence_transformers", {"activation_fn": "os.system"}, "activation 'os.system'"),
])
def test_a_setting_that_would_run_foreign_code_is_refused(bundle: Path, name: str, key: str, value: object, words: str) -> None:
    edit(bundle / name, key, value)
    with pytest.raises(ArtifactError, match=words):
        verify_bundle(bundle)


@pytest.mark.parametrize("text", ["{", "[" * 100_000])
def test_settings_that_cannot_be_parsed_are_refused(bundle: Path, text: str) -> None:
    (bundle / "embed/config.json").write_text(text)
    seal(bundle)
    with pytest.raises(ArtifactError, match="embed/config.json is not valid JSON"):
        verify_bundle(bundle)


def test_a_folder_without_an_embedder_is_no_bundle(bundle: Path) -> None:
    shutil.rmtree(bundle / "embed")
    seal(bundle)
    with pytest.raises(ArtifactError, match="embed/config.json is missing"):
        verify_bundle(bundle)
