"""Teachers: embedding models that are not trained here, used to mine, to filter and to match personas.

`lsa` needs nothing but the corpus; `sentence_transformer` and `endpoint` use weights that exist already. None of
the imports of this module loads torch; only a sentence-transformers teacher does, when it is asked for.
"""

import re
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from phasor.config.data import EndpointTeacher, LsaTeacher, SentenceTransformerTeacher, Teacher
from phasor.errors import DataError, ModelError
from phasor.synthesis.endpoint import Endpoint

Vectors = NDArray[np.float32]

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_CJK}]+|[^\W_{_CJK}]+(?:_[^\W_{_CJK}]+)*")
_BOUNDARY = re.compile("_|(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])")
_FUNCTION_WORDS = frozenset(
    {"a", "an", "and", "are", "as", "at", "be", "by", "for", "in", "is", "it", "of", "on", "or", "that", "the", "this", "to", "who", "with"}
)
_CACHE_SIZE = 1 << 17
_RARE_TERM_CORPUS = 1000  # from this many texts on, a term of a single text says nothing about two texts


class TeacherModel(Protocol):
    """A loaded teacher. Vectors are float32 [N, D] with norm 1; a text in which nothing is known gives zeros."""

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
    return [term for word in _WORD.findall(text) for term in _word_terms(word)]


@lru_cache(_CACHE_SIZE)
def split_identifier(name: str) -> tuple[str, ...]:
    """Parts of an identifier at underscores, case changes and digits: `readHTTPHeader2` gives read, HTTP, Header, 2."""
    return tuple(part for part in _BOUNDARY.split(name) if part)


class LsaModel:
    """Latent semantic analysis of a corpus: tf-idf with logarithmic counts, then truncated SVD.

    Source: Deerwester et al. 1990, "Indexing by latent semantic analysis".
    """

    def __init__(self, config: LsaTeacher, corpus_texts: Sequence[str], seed: int) -> None:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        if not corpus_texts:
            raise DataError("teacher lsa: the corpus holds no passages to fit on. Check the sources of the task.")
        self._tfidf = TfidfVectorizer(
            analyzer=_terms_or_text, sublinear_tf=True, dtype=np.float32, max_features=50_000,
            min_df=2 if len(corpus_texts) >= _RARE_TERM_CORPUS else 1,
        )
        weights = self._tfidf.fit_transform(corpus_texts)
        dims = min(config.dims, *weights.shape)
        # scikit-learn refuses a single column, which needs no projection anyway.
        self._svd = TruncatedSVD(dims, n_iter=3, random_state=seed).fit(weights) if weights.shape[1] > 1 else None

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """Embed passages [N] to [N, D]."""
        if not texts:
            return np.zeros((0, self._dims), dtype=np.float32)
        weights = self._tfidf.transform(texts)
        return _normalize(weights.toarray() if self._svd is None else self._svd.transform(weights))

    encode_queries = encode_documents

    @property
    def _dims(self) -> int:
        return 1 if self._svd is None else int(self._svd.n_components)


class SentenceTransformerModel:
    """Any model that sentence-transformers loads, from the hub, a folder or an installed package."""

    def __init__(self, config: SentenceTransformerTeacher) -> None:
        from sentence_transformers import SentenceTransformer

        from phasor.models.loading import resolve_name

        self._config = config
        try:
            self._model = SentenceTransformer(resolve_name(config.name))
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"teacher sentence_transformer: {config.name!r} cannot be loaded: {_first_line(error)} "
                             "Check the name, or that the model is in the local cache when there is no network.") from None

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """Embed passages [N] to [N, D]."""
        return self._encode(texts, prompt="")

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """Embed queries [N] to [N, D], each after the configured prompt."""
        return self._encode(texts, prompt=self._config.query_prompt)

    def _encode(self, texts: Sequence[str], prompt: str) -> Vectors:
        if not texts:
            return np.zeros((0, int(self._model.get_embedding_dimension() or 0)), dtype=np.float32)
        vectors = self._model.encode(
            [prompt + text for text in texts], prompt="", batch_size=self._config.batch_size, normalize_embeddings=True,
            convert_to_numpy=True, show_progress_bar=False,
        )
        return np.asarray(vectors, dtype=np.float32)


class EndpointModel:
    """An embedding service with the OpenAI protocol."""

    def __init__(self, config: EndpointTeacher) -> None:
        self._config = config
        self._endpoint = Endpoint(config)

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """Embed passages [N] to [N, D]."""
        size = self._config.batch_size
        batches = [self._embed(texts[start : start + size]) for start in range(0, len(texts), size)]
        return _normalize(np.concatenate(batches)) if batches else np.zeros((0, 0), dtype=np.float32)

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """Embed queries [N] to [N, D], each after the configured prompt."""
        return self.encode_documents([self._config.query_prompt + text for text in texts])

    def _embed(self, texts: Sequence[str]) -> Vectors:
        def read(answer: Any) -> Vectors:
            rows = sorted(answer["data"], key=lambda row: row["index"])
            vectors = np.array([row["embedding"] for row in rows], dtype=np.float32)
            if vectors.ndim != 2 or len(vectors) != len(texts):
                raise ValueError(f"{len(texts)} texts gave vectors of shape {vectors.shape}")
            return vectors

        return self._endpoint.post("embeddings", {"model": self._config.model, "input": list(texts)}, read)


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


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
