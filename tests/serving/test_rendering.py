"""Template, tokens and cut of any text: what an engine gets is the beginning of the whole, and never too long."""

import asyncio
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.packaging.conftest import TEXTS, bert_tokenizer, qwen_tokenizer
from transformers import PreTrainedTokenizerFast

from phasor.config.serving import ServeConfig
from phasor.data.templates import render_pair, render_query
from phasor.models.tokenizer import train_tokenizer
from phasor.models.tokens import special_affixes, tokenize
from phasor.serving.bundle import Bundle, open_bundle
from phasor.serving.failures import ApiError
from phasor.serving.gateway import Gateway
from phasor.serving.metrics import Metrics
from phasor.serving.rendering import Renderer

RUNS = [" " * 64 + "x", "-" * 64 + "\n", "\n" * 64, "." * 64 + "\n\n"]
# What tokenizers join across borders: white space with what follows it, signs with line ends, letters with their accents.
PIECES = [*TEXTS, *RUNS, "word", " ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "...\n\n", ":def", "_", "'s", "東京", "\U0001f600", "e\u0301"]
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=40).map("".join)
instructions = st.sampled_from(["Find it.", "", "{query} {instruction} %s"]) | texts




def with_runs() -> PreTrainedTokenizerFast:
    """As real vocabularies, it has tokens of many blanks, lines or dashes."""
    found: PreTrainedTokenizerFast = qwen_tokenizer().train_new_from_iterator([*TEXTS * 3, *RUNS * 50], 1500, show_progress=False)
    return found


def scratch() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS * 3, 600)


@pytest.fixture(scope="module", params=[qwen_tokenizer, with_runs, bert_tokenizer, scratch], ids=lambda make: make.__name__)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    found: PreTrainedTokenizerFast = request.param()
    return found


@pytest.fixture(scope="module")
def opened(bundle: Path) -> Bundle:
    return open_bundle(bundle)


@pytest.fixture(scope="module")
def renderer(opened: Bundle) -> Renderer:
    return Renderer(opened)


def whole(opened: Bundle, role: str, text: str) -> list[int]:
    """Tokens of a text by a bundle's tokenizer, without those around it."""
    found: list[int] = PreTrainedTokenizerFast.from_pretrained(str(opened.folder / role)).encode(text, add_special_tokens=False)
    return found


@given(several=st.lists(texts, min_size=1, max_size=4), most=st.integers(3, 60))
def test_a_cut_text_is_the_beginning_of_the_whole(tokenizer: PreTrainedTokenizerFast, several: list[str], most: int) -> None:
    affixes = special_affixes(tokenizer)
    for full, found in zip(tokenize(tokenizer, several), tokenize(tokenizer, several, most, affixes), strict=True):
        assert found.tolist() == [*affixes.prefix, *full[: most - affixes.size], *affixes.suffix] and len(found) <= most


@pytest.mark.parametrize("text", ["." * 64 + "\n\n" + "word " * 20, "a" + " " * 200 + "word " * 20])
def test_what_a_tokenizer_joins_is_not_parted_by_the_cut(text: str) -> None:
    tokenizer = with_runs()
    full = tokenize(tokenizer, [text])[0].tolist()
    assert all(tokenize(tokenizer, [text], most)[0].tolist() == full[:most] for most in range(1, 9))


@given(instruction=instructions, query=texts)
def test_a_query_is_its_template_cut_at_the_limit(opened: Bundle, renderer: Renderer, instruction: str, query: str) -> None:
    most, [end] = opened.embed.max_query_tokens, renderer.documents([""])[0].tolist()
    text = render_query(opened.embed.template, instruction, query)
    assert renderer.queries([query], instruction)[0].tolist() == [*whole(opened, "embed", text)[: most - 1], end]


@given(
    instruction=instructions, query=texts, documents=st.lists(texts, min_size=1, max_size=3),
    most_of_one=st.none() | st.integers(1, 300),
)
def test_a_pair_has_its_ends_whole_and_is_cut_inside_the_document(
    opened: Bundle, renderer: Renderer, instruction: str, query: str, documents: list[str], most_of_one: int | None
) -> None:
    config = opened.rerank
    assert config is not None
    head, _, tail = (whole(opened, "rerank", part) for part in render_pair(config.template, instruction, query, ""))
    room = config.max_pair_tokens - len(tail)
    head = head[:room]
    pairs = renderer.pairs(instruction, query, documents, most_of_one)
    assert pairs.shared == len(head)
    for document, found in zip(documents, pairs.tokens, strict=True):
        wanted = whole(opened, "rerank", document)[: min(room - len(head), most_of_one or room)]
        assert found.tolist() == [*head, *wanted, *tail] and len(found) <= config.max_pair_tokens


def test_queries_and_pairs_do_not_wait_for_the_texts_of_many_others(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_bundle(bundle)
    gateway, go = Gateway(opened, Renderer(opened), ServeConfig(), Metrics(), wants_index=False), threading.Event()
    documents = gateway.renderer.documents
    monkeypatch.setattr(gateway.renderer, "documents", lambda many: go.wait(60) and documents(many))
    long = "word " * 1000

    async def run() -> None:
        bulk = [asyncio.create_task(gateway.embed_documents([long, long])) for _ in range(100)]
        await asyncio.sleep(0.1)
        async with asyncio.timeout(10):
            assert len((await gateway.pairs("", long, [long])).tokens) == 1
            with pytest.raises(ApiError, match="being loaded"):  # so far it came
                await gateway.embed_queries([long], "", "input")
        assert not any(task.done() for task in bulk)
        go.set()
        assert {str(problem) for problem in await asyncio.gather(*bulk, return_exceptions=True)} == {
            "The models are being loaded. Try again."
        }  # fmt: skip

    asyncio.run(run())
