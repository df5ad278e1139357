"""LoRA adapters on every linear layer, by peft: put on, saved, folded into the weights. Lychee paper section 4.1."""

import json
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from transformers import PreTrainedModel

from phasor.artifacts import digest_json, sha256_file, write_json
from phasor.config.training import AdapterConfig
from phasor.errors import ModelError, first_line
from phasor.models.network import Network

_CONFIG = "adapter_config.json"
_BASE = "base.json"
_AGAIN = "Train the specialist again from this warm-up model."


class Adapter:
    """A fresh adapter on a network, whose other weights it freezes.

    Raises:
        ModelError: a module that is to be trained whole is not there.
    """

    def __init__(self, network: Network, config: AdapterConfig, seed: int) -> None:
        modules = {name.rpartition(".")[2] for name, _ in network.model.named_modules()}
        if missing := [name for name in config.whole_modules if name not in modules]:
            raise ModelError(
                f"adapter.whole_modules: {type(network.model).__name__} has no module {missing[0]!r}. "
                "Correct the name, for example embed_tokens, or leave it out."
            )
        lora = LoraConfig(
            r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules="all-linear",  # type: ignore[arg-type]
            modules_to_save=list(config.whole_modules) or None, ensure_weight_tying=_trains_tied(network.model, config),
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self._model = get_peft_model(network.model, lora)

    def fold(self) -> None:
        """Add the adapter to the weights and take it off."""
        self._model.merge_and_unload()

    def save(self, folder: Path, base: Path) -> None:
        """Write the adapter and the digest of the model it belongs to; equal adapters give equal bytes."""
        self._model.save_pretrained(str(folder))
        (folder / "README.md").unlink(missing_ok=True)
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        config |= {"base_model_name_or_path": None, "target_modules": sorted(config["target_modules"])}
        config["modules_to_save"] = sorted(config["modules_to_save"] or ()) or None
        write_json(dict(sorted(config.items())), folder / _CONFIG)
        write_json({"weights": weights_digest(base)}, folder / _BASE)


def _trains_tied(model: PreTrainedModel, config: AdapterConfig) -> bool:
    """Whether a module that is trained whole shares its weight: token embeddings that are the head as well, and stay so."""
    head, tokens = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or head.weight is not tokens.weight:
        return False
    return any(module in (head, tokens) and name.rpartition(".")[2] in config.whole_modules for name, module in model.named_modules())


def weights_digest(folder: Path) -> str:
    """One digest for all weight files of a model folder."""
    return digest_json([sha256_file(path) for path in sorted(folder.glob("*.safetensors"))])


def check_base(specialist: Path, base: Path) -> None:
    """Raise ModelError if an adapter was trained on other weights than those of `base`."""
    record = specialist / _BASE
    if record.is_file() and json.loads(record.read_text(encoding="utf-8"))["weights"] != weights_digest(base):
        raise ModelError(f"the adapter in {specialist} was trained on another model than {base}. {_AGAIN}")


def fold_saved(model: PreTrainedModel, specialist: Path) -> PreTrainedModel:
    """A model with a saved adapter folded in. Raises ModelError if the adapter does not fit."""
    try:
        return PeftModel.from_pretrained(model, str(specialist)).merge_and_unload()  # type: ignore[no-any-return]
    except (RuntimeError, ValueError, KeyError, OSError, SafetensorError) as error:
        raise ModelError(f"the adapter in {specialist} does not fit its model: {first_line(error)}. {_AGAIN}") from None
