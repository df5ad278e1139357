"""From the final models of a run to the model folders of a bundle."""

from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import PreTrainedModel

from phasor.config.base import Role
from phasor.models.embedder import Embedder
from phasor.models.loading import load_model, make_network
from phasor.models.network import Network
from phasor.models.reranker import Reranker
from phasor.packaging.embed import write_embed
from phasor.packaging.rerank import write_rerank
from phasor.recipe import Recipe


def export_models(recipe: Recipe, enhanced: Mapping[str, Path], bundle: Path) -> tuple[Embedder, Reranker | None]:
    """Write every role's folder.

    Args:
        recipe: of the run.
        enhanced: role to the final model.
        bundle: an existing folder.

    Returns:
        The exported models, computing in float32 with the weights as they were stored.
    """
    embedder = _export(recipe, "embed", enhanced["embed"], bundle)
    reranker = _export(recipe, "rerank", enhanced["rerank"], bundle) if "rerank" in recipe.roles else None
    assert isinstance(embedder, Embedder) and (reranker is None or isinstance(reranker, Reranker))
    return embedder, reranker


def _export(recipe: Recipe, role: Role, source: Path, bundle: Path) -> Network:
    config = recipe.model.of(role)
    instructions = {name: task.instruction for name, task in recipe.tasks.items()}
    model, tokenizer = load_model(source, role)
    cast_weights(model, getattr(torch, config.dtype))
    folder = bundle / role
    folder.mkdir()
    if role == "embed":
        write_embed(model, tokenizer, config, instructions, recipe.enhance.embed.loss.matryoshka_dims, folder)
    else:
        write_rerank(model, tokenizer, config, instructions, folder)
    cast_weights(model, torch.float32)
    network = make_network(model, tokenizer, config, role)
    network.precision = "float32"
    return network


def cast_weights(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Round the weights only: `Module.to` would round the rotary frequencies as well, which no runtime does."""
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)
