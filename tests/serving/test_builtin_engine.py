"""The builtin engine on every kind of bundle that the export makes: it reads them as the trained models read their texts."""

import asyncio
import shutil
from pathlib import Path
from weakref import WeakSet

import numpy as np
import pytest
import torch
from tests.packaging.conftest import PROBES, TEXTS, Built, bert_tokenizer, build, pico, qwen_tokenizer, recipe_of, seal

from phasor.config.base import Role
from phasor.config.model import ModelConfig
from phasor.config.serving import BuiltinEngineConfig, LimitsConfig, Precision
from phasor.errors import ModelError
from phasor.models.loading import save_model
from phasor.models.network import Network
from phasor.models.tokenizer import train_tokenizer
from phasor.packaging.golden import read_golden
from phasor.recipe import dump_recipe
from phasor.serving.batching import Ran
from phasor.serving.builtin import BuiltinEngine, load_network, open_builtin
from phasor.serving.bundle import Bundle, open_bundle
from phasor.serving.engine import Engine
from phasor.serving.golden import prove
from phasor.serving.rendering import Renderer

KINDS = [("qwen2", "instruct", "qwen"), ("qwen3", "qwen-chat", "qwen"), ("qwen2", "brief", "scratch"), ("bert", "plain", "bert")]
LONG = " ".join(probe.document for probe in PROBES * 8)
DOCUMENTS = [*(probe.document for probe in PROBES), LONG, " ", "a"]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: "-".join(kind))
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A sealed bundle with its recipe: Qwen2, Qwen3, a model from nothing (exported as Llama), and BERT without a reranker."""
    kind, template, words = request.param
    root = tmp_path_factory.mktemp("engine")
    tokenizer = bert_tokenizer() if kind == "bert" else qwen_tokenizer() if words == "qwen" else train_tokenizer(TEXTS * 3, 600)
    limits = {"max_query_tokens": 100, "max_passage_tokens": 120, "max_pair_tokens": 200, "template": template}
    enhanced = {}
    for role in ("embed",) if kind == "bert" else ("embed", "rerank"):
        save_model(pico(kind if role == "embed" else f"{kind}-lm", tokenizer), tokenizer, root / role)
        enhanced[role] = root / role
    embed = ModelConfig.model_validate(limits | {"pooling": "mean" if kind == "bert" else "last"})
    rerank = None if kind == "bert" else ModelConfig.model_validate(limits)
    made = build(root / "bundle", recipe_of(embed, rerank), enhanced)
    (made.folder / "recipe.yaml").write_text(dump_recipe(made.recipe), encoding="utf-8")
    seal(made.folder)
    return made


def opened(bundle: Bundle, ran: list[Ran], **settings: object) -> Engine:
    """The engine, after it reproduced the golden answers."""
    config = BuiltinEngineConfig.model_validate({"precision": "float32", **settings})
    engine, proof = asyncio.run(open_builtin(bundle, Renderer(bundle), read_golden(bundle.folder), config, LimitsConfig(), ran.append))
    assert proof.holds and proof.min_cosine > 0.99999 and proof.max_score_difference < 1e-4
    return engine


def test_vectors_and_scores_are_those_of_the_trained_models(built: Built) -> None:
    bundle, ran = open_bundle(built.folder), list[Ran]()
    renderer, engine = Renderer(bundle), opened(bundle, ran, batch_tokens=500)

    async def ask() -> None:
        queries, instruction = [probe.query for probe in PROBES], PROBES[3].instruction
        found, documents = await asyncio.gather(
            engine.embed(renderer.queries(queries, instruction), "query"), engine.embed(renderer.documents(DOCUMENTS), "bulk")
        )
        np.testing.assert_allclose(found, built.embedder.encode_queries(queries, [instruction] * len(queries)), atol=1e-5)
        np.testing.assert_allclose(documents, built.embedder.encode_documents(DOCUMENTS), atol=1e-5)
        if built.reranker is not None:
            for query in (PROBES[1].query, LONG):
                scores = await engine.score(renderer.pairs(instruction, query, DOCUMENTS), "query")
                np.testing.assert_allclose(scores, built.reranker.score(instruction, query, DOCUMENTS), atol=1e-5)
        await engine.close()

    asyncio.run(ask())
    assert all(one.padded <= 500 for one in ran) and {one.role for one in ran} == ({"embed", "rerank"} if built.reranker else {"embed"})


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU, int8 is refused")
def test_a_precision_that_is_not_faithful_is_refused_by_its_numbers(built: Built) -> None:
    if built.reranker is None:
        pytest.skip("this one is near enough")
    bundle = open_bundle(built.folder)
    for precision in ("int8", "bfloat16"):
        config = BuiltinEngineConfig(precision=precision)
        with pytest.raises(ModelError, match=rf"do not reproduce the bundle's golden answers \({precision}: least cosine 0\.\d+"):
            asyncio.run(open_builtin(bundle, Renderer(bundle), read_golden(bundle.folder), config, LimitsConfig(), lambda ran: None))


def test_auto_takes_a_faithful_precision(built: Built) -> None:
    bundle = open_bundle(built.folder)
    engine = opened(bundle, [], precision="auto") if built.reranker else opened(bundle, [])
    assert engine.name == "builtin-float32"
    asyncio.run(engine.close())


def test_precisions_are_tried_one_after_the_other_in_the_memory_of_one(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, alive, tried = open_bundle(built.folder), WeakSet[Network](), list[str]()

    def watched(opened: Bundle, role: Role, precision: Precision) -> Network:
        if role == "embed":
            assert not alive, f"{precision} beside {tried[-1]}"
            tried.append(precision)
        network = load_network(opened, role, precision)
        alive.add(network)
        return network

    monkeypatch.setattr("phasor.serving.builtin.load_network", watched)
    engine = opened(bundle, [], precision="auto") if built.reranker else opened(bundle, [])
    assert len(alive) == (2 if built.reranker else 1) and engine.name == f"builtin-{tried[-1]}"
    asyncio.run(engine.close())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_on_a_gpu_the_answers_stay_near_the_golden_ones(built: Built, precision: str) -> None:
    bundle = open_bundle(built.folder)
    renderer, golden = Renderer(bundle), read_golden(bundle.folder)
    golden.min_cosine, golden.max_score_difference = 0.99, 0.1
    engine = BuiltinEngine(bundle, precision, BuiltinEngineConfig(), LimitsConfig(), lambda ran: None)  # type: ignore[arg-type]

    async def ask() -> None:
        proof = await prove(engine, renderer, golden)
        assert proof.holds and (precision == "bfloat16" or proof.min_cosine > 0.9999), proof
        await engine.close()

    asyncio.run(ask())


def test_a_damaged_reranker_is_one_message(built: Built, tmp_path: Path) -> None:
    if built.reranker is None:
        pytest.skip("no reranker")
    copy = Path(shutil.copytree(built.folder, tmp_path / "bundle"))
    (copy / "rerank" / "model.safetensors").write_bytes(b"not safetensors")
    seal(copy)
    with pytest.raises(ModelError, match="cannot be loaded as rerank"):
        opened(open_bundle(copy), [])
