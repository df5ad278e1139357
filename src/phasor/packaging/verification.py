"""Whether a bundle may be loaded: every byte as listed, nothing that could run code, nothing unexpected.

Needs neither torch nor transformers, so that an untrusted folder is checked before anything parses it.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from phasor.artifacts import MANIFEST, Manifest, verify
from phasor.errors import ArtifactError

_TOP = {MANIFEST, "README.md", "golden.json", "recipe.yaml"}
_MODEL = {
    "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "modules.json", "sentence_bert_config.json",
    "config_sentence_transformers.json",
}
_EMBED, _RERANK = _MODEL | {"1_Pooling/config.json"}, _MODEL | {"chat_template.jinja"}
ALLOWED = _TOP | {f"embed/{name}" for name in _EMBED} | {f"rerank/{name}" for name in _RERANK}
"""Every file that a bundle may hold. The weights are safetensors; no format that can carry code is among them."""
_MODULE_TYPES = ("sentence_transformers.models.", "sentence_transformers.base.modules.")
_ACTIVATIONS = "torch.nn.modules."
_REMEDY = "Do not serve this bundle; fetch it again from where it was published, or package it anew."


def verify_bundle(folder: Path) -> Manifest:
    """Check a bundle before it is loaded.

    Returns:
        Its manifest.

    Raises:
        ArtifactError: a file is missing, changed, unlisted or unexpected, or a setting would run foreign code; the
            message names the first such file.
    """
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise ArtifactError(f"{path} is a link; a bundle holds plain files only. {_REMEDY}")
        if not path.is_dir() and name not in ALLOWED:
            raise ArtifactError(f"{path} has no place in a bundle. {_REMEDY}")
    manifest = verify(folder)
    if "embed/config.json" not in manifest.files:
        raise ArtifactError(f"{folder} is no bundle: embed/config.json is missing. {_REMEDY}")
    for name in manifest.files:
        if name.endswith(".json") and not name.endswith("tokenizer.json"):  # a vocabulary may hold any word
            _check_settings(folder / name)
    return manifest


def _check_settings(path: Path) -> None:
    try:
        tree = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is not valid JSON ({error}). {_REMEDY}") from None
    for key, value in _entries(tree):
        if key == "auto_map":
            raise ArtifactError(f"{path} asks for code of its own (auto_map). {_REMEDY}")
        if key == "activation_fn" and not str(value).startswith(_ACTIVATIONS):
            raise ArtifactError(f"{path} names the activation {value!r}, which is none of {_ACTIVATIONS}*. {_REMEDY}")
        if key == "type" and path.name == "modules.json" and not str(value).startswith(_MODULE_TYPES):
            raise ArtifactError(f"{path} names the module {value!r}, which is not of sentence-transformers. {_REMEDY}")


def _entries(tree: Any) -> Iterator[tuple[str, Any]]:
    """Every key and value at any depth; a loop, because hostile files nest deeper than Python's stack."""
    stack = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            yield from node.items()
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)
