"""What callers send, and what they get when it goes wrong.

Fields that other servers know and we have no use for are ignored, except in our own /v1/search.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError


def _whole(text: str) -> str:
    """JSON can name half of a surrogate pair, but UTF-8, and so every tokenizer and answer, has no bytes for it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("lone_surrogate", "Text must not hold half of a character (a lone surrogate)") from None
    return text


Text = Annotated[str, Field(strict=True), AfterValidator(_whole)]


class EmbeddingsRequest(BaseModel):
    """OpenAI's, with the role of the texts."""

    model: Text
    input: Text | list[Text] = Field(description="One text or several; token ids are refused, because other tokenizers made them.")
    encoding_format: Literal["float", "base64"] | None = Field("float", description="null is float.")
    dimensions: int | None = Field(None, ge=1, description="One of the sizes in /v1/models.")
    input_type: Literal["query", "document", "search_query", "search_document"] = Field(
        "document", description="query: the text is put behind an instruction, as in training. document: it is read as it is."
    )
    instruction: Text | None = Field(None, description="For queries: what kind of passage is wanted; that of the first task if left out.")


class RerankDocument(BaseModel):
    """A document as an object."""

    text: Text
    title: Text | None = Field(None, description="Read on a line of its own before the text.")


class RerankRequest(BaseModel):
    """Cohere's and Jina's."""

    model: Text | None = Field(None, description="The one that is served, if left out.")
    query: Text
    documents: list[Text | RerankDocument]
    top_n: int | None = Field(None, ge=1)
    return_documents: bool | None = Field(False, description="Whether the answer repeats each document as it was sent; null is false.")
    instruction: Text | None = Field(None, description="What kind of passage is wanted; that of the first task if left out.")
    max_tokens_per_doc: int | None = Field(None, ge=1)


class SearchRequest(BaseModel):
    """Ours."""

    model_config = ConfigDict(extra="forbid")

    query: Text
    instruction: Text | None = Field(None, description="What kind of passage is wanted; that of the first task if left out.")
    k: int | None = Field(None, ge=1, description="Passages in the answer.")
    rerank: bool = Field(True, description="Whether the reranker reorders what the embedder finds; without one it does not.")
    rerank_depth: int | None = Field(None, ge=1, description="Passages of the first stage that the reranker reads.")
    filters: dict[Text, Text | list[Text]] = Field(default_factory=dict, description="Field to its wanted value, or several.")
    include_first_stage: bool = Field(False, description="Also list what the embedder alone would have answered.")


class Problem(BaseModel):
    """What went wrong, as OpenAI's clients read it."""

    message: str
    type: str
    param: str | None
    code: str


class Failure(BaseModel):
    """The body of every answer that is no success."""

    error: Problem
