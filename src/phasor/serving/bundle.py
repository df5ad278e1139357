"""A bundle that was checked file by file, and what the gateway must know of it."""

import json
from dataclasses import dataclass
from pathlib import Path

from phasor.artifacts import Manifest, digest_json
from phasor.config.model import ModelConfig
from phasor.errors import ArtifactError
from phasor.packaging.verification import verify_bundle
from phasor.recipe import Recipe, load_recipe


@dataclass(frozen=True)
class Bundle:
    """A verified bundle.

    Attributes:
        folder: where it is.
        recipe: of its training; names templates, limits and instructions.
        digest: of every file: the bundle's version.
        model: digest of the embedder's files alone; an index is bound to it.
        dims: vector sizes that may be asked for, the full one first.
    """

    folder: Path
    recipe: Recipe
    digest: str
    model: str
    dims: tuple[int, ...]

    @property
    def embed(self) -> ModelConfig:
        """Template and limits of the embedder."""
        return self.recipe.model.embed

    @property
    def rerank(self) -> ModelConfig | None:
        """Template and limits of the reranker, if there is one."""
        return self.recipe.model.rerank if "rerank" in self.recipe.roles else None

    @property
    def instructions(self) -> dict[str, str]:
        """Task name to instruction; the first is that of a query without any."""
        return {name: task.instruction for name, task in self.recipe.tasks.items()}


def open_bundle(folder: Path) -> Bundle:
    """Check a bundle, then read it.

    Raises:
        ArtifactError: it is not whole, was changed, or could run foreign code.
    """
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is not a folder. Name the bundle that `phasor package` wrote, for example work/bundle.")
    manifest = verify_bundle(folder)
    if "recipe.yaml" not in manifest.files:
        raise ArtifactError(f"{folder} holds no recipe.yaml, so its template is unknown. Package the bundle anew.")
    recipe = load_recipe(folder / "recipe.yaml")
    if "rerank" in recipe.roles and "rerank/config.json" not in manifest.files:
        raise ArtifactError(f"{folder} names a reranker in recipe.yaml but holds none. Package the bundle anew.")
    return Bundle(folder, recipe, digest_json(manifest.files), embed_digest(manifest), _dims(folder))


def embed_digest(manifest: Manifest) -> str:
    """Digest of the embedder's files."""
    return digest_json({name: digest for name, digest in manifest.files.items() if name.startswith("embed/")})


def _dims(folder: Path) -> tuple[int, ...]:
    config = json.loads((folder / "embed" / "config.json").read_bytes())
    return tuple(config.get("matryoshka_dimensions") or [config["hidden_size"]])
