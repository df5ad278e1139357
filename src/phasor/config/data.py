"""Settings of the data phases: collect, synthesize, filter, mine."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, model_validator

from phasor.config.base import Config

LANGUAGES: dict[str, str] = {
    "ar": "Arabic", "bn": "Bengali", "de": "German", "en": "English", "es": "Spanish", "fa": "Persian", "fr": "French", "he": "Hebrew",
    "hi": "Hindi", "id": "Indonesian", "it": "Italian", "ja": "Japanese", "ko": "Korean", "nl": "Dutch", "pl": "Polish",
    "pt": "Portuguese", "ru": "Russian", "sw": "Swahili", "te": "Telugu", "th": "Thai", "tr": "Turkish", "uk": "Ukrainian",
    "vi": "Vietnamese", "zh": "Chinese",
}
"""Languages that queries can be asked for in: ISO 639-1 code to the name put into the prompt."""


class CollectConfig(Config):
    """Bring every source into one corpus and one set of examples per task, split by document."""

    max_passage_chars: int = Field(2000, ge=50, description="Sections of files are cut into passages of this size.")
    min_passage_chars: int = Field(20, ge=1, description="Shorter texts are dropped and counted.")
    near_duplicate_jaccard: float = Field(0.8, gt=0, le=1, description="Near-duplicates share so much of their word 5-shingles.")
    on_bad_row: Literal["error", "skip"] = Field("error", description="skip: count and go on.")
    test_share: float = Field(0.08, gt=0, lt=0.5, description="Share of the documents whose queries may be tested, in every task the same.")
    dev_share: float = Field(0.04, gt=0, lt=0.25, description="As test_share, for dev.")
    heldout_share: float = Field(0.03, gt=0, lt=0.25, description="As test_share, for heldout.")


class LsaTeacher(Config):
    """Latent semantic analysis fitted on the task's own corpus: needs no weights and no network."""

    kind: Literal["lsa"] = "lsa"
    dims: int = Field(256, ge=2, description="Embedding size.")


class SentenceTransformerTeacher(Config):
    """Any model that sentence-transformers loads."""

    kind: Literal["sentence_transformer"] = "sentence_transformer"
    name: str = Field(description="Hub name, folder, or `package:NAME/PATH` for weights inside an installed package.")
    query_prompt: str = Field("", description="Put before every query.")
    batch_size: int = Field(64, ge=1)


class EndpointConfig(Config):
    """Where an OpenAI-compatible service is and how patient we are. Its key comes from OPENAI_API_KEY."""

    base_url: str = Field(pattern=r"^https?://[^\s/]+", description="Usually ends in /v1.")
    model: str = Field(min_length=1, description="Name under which the service knows the model.")
    timeout_s: float = Field(120.0, gt=0, description="For one request.")
    max_tries: int = Field(6, ge=1, description="Tries per request before the phase fails.")
    backoff_s: float = Field(1.0, gt=0, description="First pause between tries; doubles each time, with jitter, up to 60 s.")


class EndpointTeacher(EndpointConfig):
    """An OpenAI-compatible /v1/embeddings endpoint."""

    kind: Literal["endpoint"] = "endpoint"
    query_prompt: str = Field("", description="Put before every query.")
    batch_size: int = Field(64, ge=1)


Teacher = Annotated[LsaTeacher | SentenceTransformerTeacher | EndpointTeacher, Field(discriminator="kind")]


class ExtractiveGenerator(Config):
    """Queries cut out of the passage by rule: no LLM, repeatable, weaker than one."""

    kind: Literal["extractive"] = "extractive"


class OpenAIGenerator(EndpointConfig):
    """Any OpenAI-compatible /v1/chat/completions endpoint with JSON-schema responses (vLLM, SGLang, hosted)."""

    kind: Literal["openai"] = "openai"
    temperature: float = Field(0.7, ge=0, description="Paper A.3.")
    top_p: float = Field(0.8, gt=0, le=1, description="Paper A.3.")
    top_k: int | None = Field(50, ge=1, description="Paper A.3; an extension of the protocol, null where the server refuses it.")
    max_tokens: int = Field(512, ge=1, description="Longest answer.")
    concurrency: int = Field(16, ge=1, description="Requests under way at once.")


Generator = Annotated[ExtractiveGenerator | OpenAIGenerator, Field(discriminator="kind")]


class SynthesizeConfig(Config):
    """Queries written from passages by persona. Paper section 3.4 and A.3."""

    generator: Generator = ExtractiveGenerator()
    teacher: Teacher = LsaTeacher()
    personas: str | None = Field(
        None, description="Text file, one persona a line, or .jsonl with a field `persona`, relative to the recipe; none: our own list."
    )
    personas_per_passage: int = Field(5, ge=1, description="Candidates offered to the generator. Paper A.3.")
    passages_per_task: NonNegativeInt | dict[str, NonNegativeInt] = Field(
        2000, description="Passages that get a query; 0 leaves the phase empty. Or task to number; a task that is not named gets none."
    )
    languages: tuple[str, ...] = Field(("en",), min_length=1, description="ISO 639-1 codes of the query languages, in equal shares.")

    def passages_of(self, task: str) -> int:
        """How many passages of a task get a query."""
        return self.passages_per_task.get(task, 0) if isinstance(self.passages_per_task, dict) else self.passages_per_task

    @model_validator(mode="after")
    def _languages_can_be_written(self) -> Self:
        if isinstance(self.generator, ExtractiveGenerator) and self.languages != ("en",):
            raise ValueError(f"the extractive generator cannot translate (languages={list(self.languages)}); use the openai generator")
        if unknown := [code for code in self.languages if code not in LANGUAGES]:
            raise ValueError(f"unknown language {unknown[0]!r}; known are {', '.join(sorted(LANGUAGES))}")
        return self


class FilterConfig(Config):
    """Keep synthetic pairs that are well-formed, answerable, new and unseen in any test set. Paper section 3.4."""

    teacher: Teacher = LsaTeacher()
    consistency_top_k: int = Field(20, ge=1, description="Keep a pair if the teacher finds its passage in the top k. Paper section 3.4.")
    length_tolerance: float = Field(1.0, ge=0, description="1.0: a query may have half to twice the words asked for.")
    max_copied_fraction: float = Field(0.9, gt=0, le=1, description="Most of its passage that a query may repeat, in order.")
    near_duplicate_jaccard: float = Field(0.8, gt=0, le=1, description="As in collect, over queries.")


class MineConfig(Config):
    """Hard negatives for every pair, positive-aware (NV-Retriever, arXiv 2407.15831)."""

    teacher: Teacher = LsaTeacher()
    num_negatives: int = Field(15, ge=1, description="Most negatives kept per query.")
    relative_margin: float = Field(0.05, ge=0, lt=1, description="A negative scores below (1 - margin) times the positive.")
    min_rank: int = Field(0, ge=0, description="So many best-ranked non-positives are skipped as likely false negatives.")
    max_rank: int = Field(100, ge=1, description="Last rank looked at.")
    sampling: Literal["top", "random"] = Field("top", description="Which candidates of the window are kept.")
    search_batch_size: int = Field(1024, ge=1, description="Queries searched at once; bounds memory.")

    @model_validator(mode="after")
    def _window_fits(self) -> Self:
        if self.max_rank - self.min_rank < self.num_negatives:
            raise ValueError(
                f"ranks {self.min_rank + 1} to {self.max_rank} hold fewer passages than num_negatives={self.num_negatives}; raise max_rank"
            )
        return self
