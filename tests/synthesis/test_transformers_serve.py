"""Generation by a real server: `transformers serve` with two tiny Qwen2 models, one that answers and one of random weights."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.phases.data_world import LSA, World
from tests.ports import free_port
from tests.waiting import await_health

from phasor.data.records import read_examples
from phasor.errors import EndpointError
from phasor.synthesis.rows import read_rows

pytestmark = pytest.mark.slow
START_S = 180

# The server looks for Qwen's own marks; the last token of a prompt says which of the two steps it is.
END, TURN = "<|im_end|>", "<|im_start|>assistant\n"
ASK_CONFIGURATION, ASK_QUERY = f"configuration{TURN}", f"query{TURN}"
CONFIGURATION = '{"character": 2, "type": "summary", "difficulty": "university"}'
QUERY = '{"query": "which module releases its buffers even after an error?"}'
ANSWERS = {ASK_CONFIGURATION: CONFIGURATION, ASK_QUERY: QUERY}
TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    "{% set step = 'configuration' if 'Candidates' in messages[1]['content'] else 'query' %}{{ step + '<|im_start|>assistant\\n' }}"
)


def save_model(folder: Path, *, answers: bool) -> Path:
    """A one-layer Qwen2. With `answers` its last token alone decides the next: a whole JSON object, then the end."""
    import torch
    from tokenizers import AddedToken, pre_tokenizers
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

    vocabulary = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], eos_token=END, pad_token=END, chat_template=TEMPLATE)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in [*ANSWERS, *(ANSWERS.values() if answers else ())]])
    end = tokenizer.eos_token_id
    size = 64  # vLLM wants heads of at least 32 on a CPU
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=size, intermediate_size=size, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, eos_token_id=end, pad_token_id=end, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config)
    if answers:
        state = model.state_dict()
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            state[f"model.layers.0.{name}.weight"].zero_()
        inputs, outputs = state["model.embed_tokens.weight"].zero_(), state["lm_head.weight"].zero_()
        inputs[:, -1] = 1
        for dimension, (ask, answer) in enumerate(ANSWERS.items()):
            asked, answered = tokenizer.convert_tokens_to_ids([ask, answer])
            inputs[asked], inputs[answered] = torch.eye(size)[dimension], torch.eye(size)[dimension + 2]
            outputs[answered, dimension] = outputs[end, dimension + 2] = 100
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=end, do_sample=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    log = tmp_path_factory.mktemp("serve") / "log"
    command = [Path(sys.executable).with_name("transformers"), "serve", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with log.open("w") as stream:
        server = subprocess.Popen(command, stdout=stream, stderr=stream, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    try:
        await_health(f"http://127.0.0.1:{port}/health", server, log, START_S)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(timeout=30)


def settings(url: str, model: Path, **generator: object) -> dict[str, object]:
    base = {"kind": "openai", "base_url": url, "model": str(model), "top_k": None, "concurrency": 2, "max_tokens": 12, "max_tries": 2}
    return {"teacher": LSA, "passages_per_task": 15, "generator": base | generator}


def test_rows_of_a_real_server(url: str, tmp_path: Path) -> None:
    world = World(tmp_path)
    answering, babbling = save_model(tmp_path / "answering", answers=True), save_model(tmp_path / "babbling", answers=False)

    report = world.run("synthesize", synthesize=settings(url, answering))
    rows = read_rows(tmp_path / "t/synthetic/raw.parquet")
    assert len(rows) == 15 and {row.query for row in rows} == {"which module releases its buffers even after an error?"}
    assert {(row.error, row.generator) for row in rows} == {("", f"openai:{answering}")}
    assert report.counts["endpoint_requests"] == 30 and "endpoint_repairs" not in report.counts and report.cost.tokens > 30 * 20
    assert report.counts["endpoint_configurations_unusable"] == 0 and report.counts["endpoint_configurations_followed"] >= 1

    report = world.run("synthesize", synthesize=settings(url, babbling) | {"passages_per_task": 5})
    rows = read_rows(tmp_path / "t/synthetic/raw.parquet")
    assert len(rows) == 5 and {row.query for row in rows} == {""}
    assert {row.error for row in rows} <= {"truncated", "invalid_json", "no_answer"}
    assert report.counts["without_query"] == 5 and report.counts["endpoint_repairs"] == 10 and report.counts["endpoint_requests"] == 20
    assert sum(number for name, number in report.counts.items() if name.startswith("endpoint_unusable")) == 10

    world.run("filter", filter={"teacher": LSA})
    assert read_examples(tmp_path / "t/filtered/kept.parquet") == []
    with pytest.raises(EndpointError, match="status 422: .*top_k.*a service that refuses top_k needs `top_k: null`"):
        world.run("synthesize", synthesize=settings(url, answering, top_k=50))
    with pytest.raises(EndpointError, match="chat/completions"):
        world.run("synthesize", synthesize=settings(url, tmp_path / "no-such-model", backoff_s=0.01))
