"""Pico models in the layout that the training phases leave, and the bundles made from them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Model,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
)

from phasor.artifacts import Manifest, digest_tree, write_json
from phasor.config.model import ModelConfig
from phasor.models.embedder import Embedder
from phasor.models.loading import save_model
from phasor.models.reranker import Reranker
from phasor.models.tokenizer import train_tokenizer
from phasor.packaging.export import export_models
from phasor.packaging.golden import GOLDEN, Probe, make_golden
from phasor.recipe import Recipe

TEXTS = [
    "gzip.open opens a compressed file and reads it line by line.\n\n    with gzip.open(path) as f:\n        pass\n",
    "def readLine(self, size=-1):\n    return self._fp.readline(size)",
    "The yes or no answer depends on the document; 42 queries, 7 relevant.",
    "Über die Größe: naïve café — 東京の天気 и погода.",
    "Instruct: find the passage\nQuery:what\nDocument:this\nRelevant:",
]
PROBES = [
    Probe("Find the function for a description.", "read a file line by line", TEXTS[1]),
    Probe("Find the passage that answers the question.", "Wie groß ist die Größe?", f"{TEXTS[3]}\n"),
    Probe("Find the passage that answers the question.", "which answer", "  leading space, and an end in punctuation..."),
    Probe("Find the passage: {braces} {{ stay }}.", "what does {query} mean", "\nfirst line empty"),
    Probe("Find the passage that answers the question.", "x", TEXTS[2]),
]
# The pre-tokenizer of Qwen2: it joins a sign with the letters after it and with the line ends after that.
_QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def qwen_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-pair tokenizer with Qwen2's pre-tokenizer, its special tokens and its post-processor that adds nothing."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(_QWEN), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([*TEXTS * 3, *["yes", "no"] * 200, "...\n\n" * 50, ":def " * 50], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", clean_up_tokenization_spaces=False,
    )


def bert_tokenizer() -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer that puts [CLS] and [SEP] around a text."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False))
    around = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=around)
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **dict(zip(names, special, strict=True)))


def pico(kind: str, tokenizer: PreTrainedTokenizerFast, head: int = 8) -> PreTrainedModel:
    """A model of two layers and four heads of that size, whose outputs differ visibly from text to text."""
    shape = {
        "vocab_size": len(tokenizer), "hidden_size": 4 * head, "intermediate_size": 8 * head, "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }  # fmt: skip
    causal = shape | {
        "num_key_value_heads": 2, "max_position_embeddings": 256, "tie_word_embeddings": True, "initializer_range": 0.2,
        # Not the 10000 that old libraries assume.
        "rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}, "pad_token_id": tokenizer.pad_token_id,
    }
    torch.manual_seed(3)
    if kind == "bert":
        return BertModel(BertConfig(**shape, max_position_embeddings=128, initializer_range=0.2), add_pooling_layer=False)
    if kind.startswith("qwen2"):
        config = Qwen2Config(**causal)
        return Qwen2Model(config) if kind == "qwen2" else Qwen2ForCausalLM(config)
    config = Qwen3Config(**causal, head_dim=head)
    return Qwen3Model(config) if kind == "qwen3" else Qwen3ForCausalLM(config)


@dataclass(frozen=True)
class Built:
    """A bundle, and the models it was made from."""

    folder: Path
    recipe: Recipe
    embedder: Embedder
    reranker: Reranker | None


def recipe_of(embed: ModelConfig, rerank: ModelConfig | None, dims: tuple[int, ...] = ()) -> Recipe:
    """A recipe with two tasks; only its models, instructions and sizes matter here."""
    source = {"kind": "jsonl", "corpus": "corpus.jsonl"}
    return Recipe.model_validate({
        "name": "pico", "roles": ["embed", "rerank"] if rerank else ["embed"],
        "tasks": {
            "code": {"sources": [source], "instruction": PROBES[0].instruction},
            "basic": {"sources": [source], "instruction": "Find \"it\" — naïve \U0001f600 {{ x }}."},
        },
        "model": {"embed": embed.model_dump(), "rerank": (rerank or ModelConfig()).model_dump()},
        "enhance": {"embed": {"loss": {"matryoshka_dims": list(dims)}}},
    })


def build(folder: Path, recipe: Recipe, enhanced: dict[str, Path]) -> Built:
    """Export, add golden answers and seal with a manifest, as the phase and the runner do."""
    folder.mkdir(parents=True)
    embedder, reranker = export_models(recipe, enhanced, folder)
    write_json(make_golden(PROBES, embedder, reranker), folder / GOLDEN)
    seal(folder)
    return Built(folder, recipe, embedder, reranker)


def seal(folder: Path) -> None:
    """Write the manifest of a folder as it is now."""
    files = digest_tree(folder)
    manifest = Manifest(phase="package", role=None, task=None, seed=0, config={}, inputs={}, files=files, code_rev="", versions={})
    write_json(manifest, folder / "manifest.json")


@pytest.fixture(scope="session")
def make_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Built]:
    """A function that makes a bundle once for every set of arguments."""
    made: dict[str, Built] = {}

    def make(
        kind: str, template: str = "instruct", tokenizer: str = "qwen", dims: tuple[int, ...] = (), dtype: str = "float32", head: int = 8
    ) -> Built:
        key = f"{kind}-{template}-{tokenizer}-{dims}-{dtype}-{head}"
        if key not in made:
            root = tmp_path_factory.mktemp("bundle")
            words = bert_tokenizer() if kind == "bert" else qwen_tokenizer() if tokenizer == "qwen" else train_tokenizer(TEXTS * 3, 600)
            limits = {"max_query_tokens": 100, "max_passage_tokens": 120, "max_pair_tokens": 200, "dtype": dtype, "template": template}
            save_model(pico(kind, words, head), words, root / "embed")
            enhanced = {"embed": root / "embed"}
            if kind != "bert":
                save_model(pico(f"{kind}-lm", words, head), words, root / "rerank")
                enhanced["rerank"] = root / "rerank"
            embed = ModelConfig.model_validate(limits | {"pooling": "mean" if kind == "bert" else "last"})
            rerank = ModelConfig.model_validate(limits) if kind != "bert" else None
            made[key] = build(root / "bundle", recipe_of(embed, rerank, dims), enhanced)
        return made[key]

    return make
