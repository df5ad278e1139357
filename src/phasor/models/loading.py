"""Load and save models: from nothing, a folder, an installed package or the hub; a specialist with its adapter folded."""

import importlib.util
import inspect
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from phasor.config.base import Role
from phasor.config.model import ModelConfig, PretrainedBackbone, ScratchBackbone
from phasor.errors import ModelError, first_line
from phasor.models.embedder import Embedder
from phasor.models.network import Network
from phasor.models.reranker import Reranker

ADAPTER = "adapter_config.json"
_PACKAGE = "package:"


def resolve_name(name: str) -> str:
    """Folder or hub name that a recipe's model name means.

    `package:NAME/PATH` is the folder PATH inside the installed package NAME.

    Raises:
        ModelError: the package is not installed or has no such folder.
    """
    if not name.startswith(_PACKAGE):
        return name
    package, _, inner = name.removeprefix(_PACKAGE).partition("/")
    spec = importlib.util.find_spec(package) if package else None
    if spec is None or not spec.submodule_search_locations:
        install = f"pip install {package.replace('_', '-')}"
        raise ModelError(f"{name!r} names the package {package!r}, which is not installed. Install it, for example `{install}`.")
    folder = Path(spec.submodule_search_locations[0]) / inner
    if not folder.is_dir():
        raise ModelError(f"{name!r}: package {package!r} has no folder {inner!r}. Look into {folder.parent}.")
    return str(folder)


def load_backbone(model: ModelConfig, role: Role, texts: Iterable[str], seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The untrained model of a recipe.

    Args:
        model: what to load or build.
        role: decides about the head.
        texts: from `backbone_texts`; read only if the backbone is built from nothing.
        seed: of random weights.

    Raises:
        ModelError: unknown name, damaged files or a tokenizer that cannot serve.
    """
    if isinstance(model.backbone, ScratchBackbone):
        from phasor.models.scratch import build  # late: what loads weights, a server for one, needs no statistics of a corpus

        return build(model, model.backbone, role, texts, seed)
    assert isinstance(model.backbone, PretrainedBackbone), "what grows from the embedder is made by `grow`"
    return _from_pretrained(resolve_name(model.backbone.name), role, dtype=model.dtype, revision=model.backbone.revision)


def load_model(folder: Path, role: Role) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A model that `save_model` wrote. Raises ModelError if the folder holds none."""
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} holds no model: config.json is missing. Run the phase that writes it.")
    return _from_pretrained(str(folder), role, dtype="auto")


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write weights (safetensors), config and tokenizer; equal models give equal bytes."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def load_specialist(warmup: Path, specialist: Path, role: Role) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A specialist: the warm-up model with the specialist's adapter folded in, or its own full weights.

    Raises:
        ModelError: the adapter was trained on another backbone.
    """
    if not (specialist / ADAPTER).is_file():
        return load_model(specialist, role)
    from phasor.training.adapters import check_base, fold_saved

    check_base(specialist, warmup)
    model, tokenizer = load_model(warmup, role)
    return fold_saved(model, specialist), tokenizer


def make_network(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, config: ModelConfig, role: Role) -> Network:
    """Embedder or reranker around a loaded model, on the GPU if there is one. Raises ModelError for texts longer than it has positions."""
    positions = _positions(model)
    for name in ("max_query_tokens", "max_passage_tokens") if role == "embed" else ("max_pair_tokens",):
        if (tokens := getattr(config, name)) > positions:
            raise ModelError(f"model.{role}.{name} is {tokens}, but the backbone has {positions} positions. Lower it to that.")
    network = Embedder(model, tokenizer, config) if role == "embed" else Reranker(model, tokenizer, config)
    return network.to("cuda") if torch.cuda.is_available() else network


def _positions(model: PreTrainedModel) -> float:
    """How many tokens fit where positions come from a table, as BERT's do; others have no limit."""
    tables = [module for name, module in model.named_modules() if name.endswith("position_embeddings") and isinstance(module, nn.Embedding)]
    # RoBERTa's begins after the padding's index.
    return min((t.num_embeddings - (0 if t.padding_idx is None else t.padding_idx + 1) for t in tables), default=math.inf)


def _from_pretrained(name: str, role: Role, **options: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    kind: Any = AutoModel if role == "embed" else AutoModelForCausalLM
    revision = {"revision": options["revision"]} if options.get("revision") else {}
    try:
        if role == "embed" and (architecture := _with_pooler(name, revision)):
            options["add_pooling_layer"] = False  # never read here, and unused weights would enter adapters and optimizer
            ignored = architecture._keys_to_ignore_on_load_unexpected or ()
            architecture._keys_to_ignore_on_load_unexpected = {*ignored, r"(^|\.)pooler\."}  # nor need anybody be told
        loaded: Any = kind.from_pretrained(name, output_loading_info=True, **options)
        model: PreTrainedModel = loaded[0]
        # tokenizer.json as it stands: AutoTokenizer would build the tokenizer of a Qwen2 model anew, with another pre-tokenizer.
        tokenizer = PreTrainedTokenizerFast.from_pretrained(name, **revision)
        # Some files come with the lengths of their last use; cutting and padding are ours.
        tokenizer.backend_tokenizer.no_padding()
        tokenizer.backend_tokenizer.no_truncation()
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError(
            f"model {name!r} cannot be loaded as {role}: {first_line(error).rstrip('.')}. "
            f"Check model.{role}.backbone.name, or copy the files here and name the folder."
        ) from None
    if missing := sorted(loaded[1]["missing_keys"]):
        raise ModelError(
            f"model {name!r} lacks {len(missing)} of its weights, first {missing[0]}, which would start at random. "
            f"Choose a backbone that fits the role {role}, or fetch the model again."
        )
    return model, tokenizer


def _with_pooler(name: str, revision: Mapping[str, str]) -> Any:
    """The architecture's class if it puts a layer on the first token, as BERT does; else None."""
    kind: Any = MODEL_MAPPING[type(AutoConfig.from_pretrained(name, **revision))]
    return kind if "add_pooling_layer" in inspect.signature(kind.__init__).parameters else None
