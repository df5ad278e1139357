"""Settings of the data phases: collect, synthesize, filter, mine."""

from typing import Annotated, Literal

from pydantic import Field

from phasor.config.base import Config


class CollectConfig(Config):
    """Bring every source into one corpus and one set of examples per task, split by document."""

    max_passage_chars: int = Field(2000, ge=50, description="Longer texts are cut into passages at paragraphs, then words.")
    min_passage_chars: int = Field(20, ge=1, description="Shorter texts are dropped and counted.")
    near_duplicate_jaccard: float = Field(0.8, gt=0, le=1, description="Similarity of word 5-shingles from which two texts are near-duplicates.")
    on_bad_row: Literal["error", "skip"] = Field("error", description="skip: count and go on.")


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


class EndpointTeacher(Config):
    """An OpenAI-compatible /v1/embeddings endpoint."""

    kind: Literal["endpoint"] = "endpoint"
    base_url: str
    model: str
    query_prompt: str = ""
    batch_size: int = Field(64, ge=1)


Teacher = Annotated[LsaTeacher | SentenceTransformerTeacher | EndpointTeacher, Field(discriminator="kind")]


class ExtractiveGenerator(Config):
    """Queries cut out of the passage by rule: no LLM, repeatable, weaker than one."""

    kind: Literal["extractive"] = "extractive"


class OpenAIGenerator(Config):
    """Any OpenAI-compatible /v1/chat/completions endpoint with JSON-schema responses (vLLM, SGLang, hosted)."""

    kind: Literal["openai"] = "openai"
    base_url: str
    model: str
    temperature: float = Field(0.7, ge=0, description="Paper A.3.")
    top_p: float = Field(0.8, gt=0, le=1, description="Paper A.3.")
    top_k: int | None = Field(50, ge=1, description="Paper A.3; sent as an extension, omit where the server refuses it.")
    max_tokens: int = Field(512, ge=1)
    concurrency: int = Field(16, ge=1, description="Requests under way at once.")
    timeout_s: float = Field(120.0, gt=0)
    max_tries: int = Field(6, ge=1, description="Tries per request before the phase fails.")


Generator = Annotated[ExtractiveGenerator | OpenAIGenerator, Field(discriminator="kind")]


class SynthesizeConfig(Config):
    """Queries written from passages by persona. Paper section 3.4 and A.3."""

    generator: Generator = ExtractiveGenerator()
    teacher: Teacher = LsaTeacher()
    personas: str | None = Field(None, description="JSONL or text file with one persona a line; the built-in list if not given.")
    personas_per_passage: int = Field(5, ge=1, description="Candidates offered to the generator. Paper A.3.")
    passages_per_task: int = Field(2000, ge=0, description="Passages that get a query; 0 leaves the phase empty.")
    languages: tuple[str, ...] = Field(("en",), min_length=1, description="Query languages, in equal shares.")


class FilterConfig(Config):
    """Keep synthetic pairs that are well-formed, answerable, new and unseen in any test set. Paper section 3.4."""

    teacher: Teacher = LsaTeacher()
    consistency_top_k: int = Field(20, ge=1, description="Keep a pair if the teacher finds its passage in the top k. Paper section 3.4.")
    near_duplicate_jaccard: float = Field(0.8, gt=0, le=1, description="As in collect, over queries.")


class MineConfig(Config):
    """Hard negatives for every pair, positive-aware (NV-Retriever, arXiv 2407.15831)."""

    teacher: Teacher = LsaTeacher()
    num_negatives: int = Field(15, ge=1, description="Most negatives kept per query.")
    relative_margin: float = Field(0.05, ge=0, lt=1, description="A negative scores below (1 - margin) times the positive.")
    min_rank: int = Field(0, ge=0, description="Ranks above this one are skipped as likely false negatives.")
    max_rank: int = Field(100, ge=1, description="Last rank looked at.")
    sampling: Literal["top", "random"] = Field("top", description="Which candidates of the window are kept.")
    search_batch_size: int = Field(1024, ge=1, description="Queries searched at once; bounds memory.")
