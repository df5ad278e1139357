"""Teachers: embedding models that are not trained here, used to mine, to filter and to match personas.

`lsa` needs nothing but the corpus; `sentence_transformer` and `endpoint` use weights that exist already. None of
the imports of this module loads torch; only a sentence-transformers teacher does, when it is asked for.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from itertools import chain
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from phasor.config.data import EndpointTeacher, LsaTeacher, SentenceTransformerTeacher, Teacher
from phasor.data.characters import CJK
from phasor.errors import DataError, ModelError, first_line
from phasor.progress import progress

Vectors = NDArray[np.float32]

_WORD = re.compile(rf"[{CJK}]+|[^\W_{CJK}]+(?:_[^\W_{CJK}]+)*")
_ASCII_WORD = re.compile(r"[^\W_]+(?:_[^\W_]+)*", re.ASCII)  # the same on ASCII, several times as fast
_BOUNDARY = re.compile("_|(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])")
_FUNCTION_WORDS = frozenset(
    {"a", "an", "and", "are", "as", "at", "be", "by", "for", "in", "is", "it", "of", "on", "or", "that", "the", "this", "to", "who", "with"}
)
_CACHE_SIZE = 1 << 17
_SORTED_BATCHES = 32  # sentence-transformers sorts what it gets by length: the more, the less padding, but no word until all is done
_MAX_TERMS = 50_000
_RARE_TERM_CORPUS = 1000  # from this many texts on, a term of a single text says nothing about two texts


class TeacherModel(Protocol):
    """A loaded teacher. Vectors are float32 [N, D] with norm 1; a text in which nothing is known gives zeros.

    Attributes:
        tokens: read so far, as the model counts them; an lsa teacher counts terms.
    """

    tokens: int

    def token_lengths(self, texts: Sequence[str]) -> list[int] | None:
        """Tokens of every text, without special ones; None where the model has no tokenizer, or not here."""

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """Embed passages [N] to [N, D]."""

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """Embed queries [N] to [N, D]."""


def load_teacher(config: Teacher, corpus_texts: Sequence[str], seed: int) -> TeacherModel:
    """Load, or fit, the teacher that a recipe names.

    Args:
        config: which one.
        corpus_texts: what an `lsa` teacher is fitted on; the others ignore it.
        seed: of the fit.

    Raises:
        DataError: an lsa teacher got no texts.
        ModelError: the weights cannot be loaded.
    """
    if isinstance(config, LsaTeacher):
        return LsaModel(config, corpus_texts, seed)
    if isinstance(config, SentenceTransformerTeacher):
        return SentenceTransformerModel(config)
    return EndpointModel(config)


def terms(text: str) -> list[str]:
    """Stemmed terms of prose or code: identifiers are split, and kept whole beside their parts.

    `readFile` and `read_file` both give read, file and readfile; Chinese, Japanese and Korean give character pairs.
    """
    return [term for word in (_ASCII_WORD if text.isascii() else _WORD).findall(text) for term in _word_terms(word)]


@lru_cache(_CACHE_SIZE)
def split_identifier(name: str) -> tuple[str, ...]:
    """Parts of an identifier at underscores, case changes and digits: `readHTTPHeader2` gives read, HTTP, Header, 2."""
    return tuple(part for part in _BOUNDARY.split(name) if part)


class LsaModel:
    """Latent semantic analysis of a corpus: tf-idf with logarithmic counts, projected on a sample of the texts' span.

    The span is sampled once, without power iterations: over the four quickstart corpora each iteration costs 1 to 2 points of
    recall@20 of a query's own passage, because what the queries ask for is rarely in the strongest directions.

    Source: Deerwester et al. 1990, "Indexing by latent semantic analysis"; Halko et al. 2011 (arXiv:0909.4061), algorithm 4.1.
    """

    # Shapes: N texts, V terms, D dims.

    def __init__(self, config: LsaTeacher, corpus_texts: Sequence[str], seed: int) -> None:
        if not corpus_texts:
            raise DataError("teacher lsa: the corpus holds no passages to fit on. Check the sources of the task.")
        found = list(map(_terms_or_text, corpus_texts))
        self.tokens = sum(map(len, found))
        frequency = Counter(chain.from_iterable(map(dict.fromkeys, found)))
        least = 2 if len(found) >= _RARE_TERM_CORPUS and max(frequency.values()) > 1 else 1
        kept = sorted((term for term in frequency if frequency[term] >= least), key=lambda term: (-frequency[term], term))[:_MAX_TERMS]
        self._column = {term: column for column, term in enumerate(kept)}
        self._rarity_V = np.log((1 + len(found)) / (1 + np.array([frequency[term] for term in kept]))) + 1
        weights_NV = self._weights(found)
        dims = min(config.dims, *weights_NV.shape)
        directions_ND = np.random.default_rng(seed).standard_normal((len(found), dims), dtype=np.float32)
        self._basis_VD = np.linalg.qr(weights_NV.T @ directions_ND).Q
        self._known = dict(zip(corpus_texts, _normalize(weights_NV @ self._basis_VD), strict=True))

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """Embed passages [N] to [N, D]."""
        if not texts:
            return np.zeros((0, self._basis_VD.shape[1]), dtype=np.float32)
        unknown = [text for text in dict.fromkeys(texts) if text not in self._known]
        new = dict(zip(unknown, self._fold_in(unknown), strict=True)) if unknown else {}
        return np.stack([new[text] if text in new else self._known[text] for text in texts])

    encode_queries = encode_documents

    def token_lengths(self, texts: Sequence[str]) -> None:
        """Terms are no tokens: function words and word forms are lost."""

    def _fold_in(self, texts: Sequence[str]) -> Vectors:
        found = list(map(_terms_or_text, texts))
        self.tokens += sum(map(len, found))
        return _normalize(self._weights(found) @ self._basis_VD)

    def _weights(self, found: Sequence[Sequence[str]]) -> Any:
        """Sparse matrix [N, V] with rows of norm 1, of the terms of every text; unknown terms count nothing."""
        from scipy.sparse import csr_array

        columns = [[self._column[term] for term in terms if term in self._column] for terms in found]
        owner = np.repeat(np.arange(len(found)), list(map(len, columns)))
        cells, times = np.unique(owner * len(self._column) + np.fromiter(chain.from_iterable(columns), np.int64), return_counts=True)
        rows, terms = np.divmod(cells, len(self._column))
        values = (1 + np.log(times)) * self._rarity_V[terms]
        norms_N = np.sqrt(np.bincount(rows, values**2, minlength=len(found)))
        shape = (len(found), len(self._column))
        return csr_array(((values / norms_N[rows]).astype(np.float32), (rows, terms)), shape=shape)


class SentenceTransformerModel:
    """Any model that sentence-transformers loads, from the hub, a folder or an installed package."""

    def __init__(self, config: SentenceTransformerTeacher) -> None:
        from sentence_transformers import SentenceTransformer

        from phasor.models.loading import resolve_name

        self._config = config
        try:
            self._model = SentenceTransformer(resolve_name(config.name))
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"teacher sentence_transformer: {config.name!r} cannot be loaded: {first_line(error)} "
                             "Check the name, or that the model is in the local cache when there is no network.") from None
        self.tokens = 0
        self._model[0].register_forward_pre_hook(self._count)

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """Embed passages [N] to [N, D]."""
        return self._encode(texts, prompt="")

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """Embed queries [N] to [N, D], each after the configured prompt."""
        return self._encode(texts, prompt=self._config.query_prompt)

    def token_lengths(self, texts: Sequence[str]) -> list[int] | None:
        """Tokens of every text, without special ones; None if the model has no tokenizer of transformers."""
        from transformers import PreTrainedTokenizerBase

        tokenizer = self._model.tokenizer
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            return None
        return [len(ids) for ids in tokenizer(list(texts), add_special_tokens=False, verbose=False).input_ids] if texts else []

    def _count(self, module: Any, inputs: tuple[dict[str, Any], ...]) -> None:
        features = inputs[0]
        self.tokens += int(features["attention_mask"].sum()) if "attention_mask" in features else features["input_ids"].numel()

    def _encode(self, texts: Sequence[str], prompt: str) -> Vectors:
        from phasor.models.products import through_onednn

        def encode(part: Sequence[str]) -> Vectors:
            vectors = self._model.encode(
                [prompt + text for text in part], prompt="", batch_size=self._config.batch_size, normalize_embeddings=True,
                convert_to_numpy=True, show_progress_bar=False,
            )
            return np.asarray(vectors, dtype=np.float32)

        if not texts:
            return np.zeros((0, int(self._model.get_embedding_dimension() or 0)), dtype=np.float32)
        with through_onednn():
            return _part_by_part(encode, texts, _SORTED_BATCHES * self._config.batch_size)


class EndpointModel:
    """An embedding service with the OpenAI protocol."""

    def __init__(self, config: EndpointTeacher) -> None:
        from phasor.synthesis.endpoint import Endpoint

        self._config = config
        self._endpoint = Endpoint(config)
        self.tokens = 0

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """Embed passages [N] to [N, D]."""
        return _normalize(_part_by_part(self._embed, texts, self._config.batch_size)) if texts else np.zeros((0, 0), dtype=np.float32)

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """Embed queries [N] to [N, D], each after the configured prompt."""
        return self.encode_documents([self._config.query_prompt + text for text in texts])

    def token_lengths(self, texts: Sequence[str]) -> None:
        """Only the service knows, and says it of what it embeds."""

    def _embed(self, texts: Sequence[str]) -> Vectors:
        def read(answer: Any) -> tuple[Vectors, int]:
            rows = sorted(answer["data"], key=lambda row: row["index"])
            vectors = np.array([row["embedding"] for row in rows], dtype=np.float32)
            if vectors.ndim != 2 or len(vectors) != len(texts):
                raise ValueError(f"{len(texts)} texts gave vectors of shape {vectors.shape}")
            return vectors, int((answer.get("usage") or {}).get("total_tokens") or 0)

        vectors, tokens = self._endpoint.post("embeddings", {"model": self._config.model, "input": list(texts)}, read)
        self.tokens += tokens
        return vectors


def _part_by_part(encode: Callable[[Sequence[str]], Vectors], texts: Sequence[str], size: int) -> Vectors:
    """Embed at least one text, so many at a time, with a progress bar if that takes several times."""
    if len(texts) <= size:
        return encode(texts)
    parts = []
    with progress(len(texts), "encode", "text") as bar:
        for start in range(0, len(texts), size):
            parts.append(encode(texts[start : start + size]))
            bar.update(len(parts[-1]))
    return np.concatenate(parts)


def _normalize(vectors: NDArray[Any]) -> Vectors:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.where(norms > 0, norms, 1), dtype=np.float32)


def _terms_or_text(text: str) -> list[str]:
    # A text of punctuation alone is its own term, so that a vocabulary is never empty.
    found = terms(text)
    return [term for term in found if term not in _FUNCTION_WORDS] or found or [text]


@cache
def _stemmer() -> Any:
    import Stemmer

    return Stemmer.Stemmer("english")


@lru_cache(_CACHE_SIZE)
def _word_terms(word: str) -> tuple[str, ...]:
    stem = _stemmer().stemWord
    if word.islower() and word.isalpha():
        return (stem(word),)
    if not word.isascii() and not word.upper().isupper():
        return tuple(word[i : i + 2] for i in range(max(1, len(word) - 1)))
    parts = [part.lower() for part in split_identifier(word)]
    whole = ["".join(parts)] if len(parts) > 1 else []
    return (*map(stem, parts), *whole)
