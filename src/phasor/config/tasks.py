"""What to learn from: the tasks (the paper's task clusters) and their sources."""

from typing import Annotated, Literal

from pydantic import Field

from phasor.config.base import Config


class PythonPackageSource(Config):
    """Text of installed Python packages, read without importing them where possible. No network."""

    kind: Literal["python_package"] = "python_package"
    view: Literal["documentation", "code", "operations", "constrained"] = Field(
        description="documentation: pydoc topics, module and class docs. code: docstring to function source. "
        "operations: description to API operation of a client library. constrained: queries whose answer depends "
        "on the instruction."
    )
    packages: tuple[str, ...] = Field(min_length=1, description="Importable names; `stdlib` is the standard library.")
    max_passages: int = Field(7000, ge=1, description="Reading stops at this many; files come in an order given by a seeded hash.")


class FolderSource(Config):
    """Files of a folder, cut into passages."""

    kind: Literal["folder"] = "folder"
    path: str = Field(description="Folder, relative to the recipe file.")
    suffixes: tuple[str, ...] = Field((".txt", ".md", ".html", ".pdf"), description="File endings that are read.")
    document: Literal["file", "section"] = Field(
        "file", description="What is kept within one split. section (of Markdown and HTML; page of PDF): for a few large files."
    )
    language: str = Field("en", description="Of the documents, ISO 639-1: what synthetic queries are written in.")


class JsonlSource(Config):
    """Passages and, optionally, queries in JSON lines."""

    kind: Literal["jsonl"] = "jsonl"
    corpus: str = Field(description="File with one object a line: id, text, optional title, source (its document), language.")
    examples: str | None = Field(None, description="Of query, positives (ids or texts); optional id, instruction, pair_id, negatives.")


class BeirSource(Config):
    """A folder in BEIR layout: corpus.jsonl, queries.jsonl, qrels/*.tsv."""

    kind: Literal["beir"] = "beir"
    path: str = Field(description="Folder, relative to the recipe file.")


class HuggingFaceSource(Config):
    """A data set of the Hugging Face hub, or a local copy of one."""

    kind: Literal["huggingface"] = "huggingface"
    name: str = Field(description="Hub name, or a local folder; one that begins with ./ or / is watched for changes.")
    subset: str | None = Field(None, description="Configuration name of the data set.")
    split: str = Field("train", description="Split to read.")
    revision: str | None = Field(None, description="Commit of the data set; pin it for repeatable runs.")
    query: str = Field("query", description="Column of the query.")
    instruction: str | None = Field(None, description="Column of the query's own instruction; the task's where it is empty.")
    positive: str = Field("positive", description="Column of one or more positives: texts, or objects with text and title.")
    negative: str | None = Field(None, description="Column of negatives, in the same forms.")
    max_rows: int | None = Field(None, ge=1, description="Rows read, chosen by seeded shuffle.")

    @property
    def is_local(self) -> bool:
        """Whether it is a folder by its name alone, as whoever watches for changes may not see it. A copy under a hub name is not."""
        return self.name.startswith((".", "/"))


Source = Annotated[
    PythonPackageSource | FolderSource | JsonlSource | BeirSource | HuggingFaceSource, Field(discriminator="kind")
]


def brings_queries(source: Source) -> bool:
    """Whether a source has labelled queries by its kind and settings."""
    return not isinstance(source, FolderSource) and not (isinstance(source, JsonlSource) and source.examples is None)


RESERVED_NAMES = frozenset({"query", "document", "bundle", "report", "reports", "embed", "rerank"})
"""No names for tasks: prompts of the bundle are called so, or other folders of the work folder."""


class TaskConfig(Config):
    """One task: what is searched, how it is asked for, and how many queries each split gets."""

    sources: tuple[Source, ...] = Field(min_length=1)
    instruction: str = Field(min_length=1, description="Put before every query that brings no own instruction.")
    num_train: int | None = Field(None, ge=1, description="Most training queries; all if not given.")
    num_dev: int = Field(100, ge=1, description="Queries for choices during training.")
    num_heldout: int = Field(64, ge=1, description="Queries for the merge search (D_t); never trained on.")
    num_test: int = Field(200, ge=1, description="Queries of the test set.")
    in_batch_negatives: bool = Field(True, description="False where other queries' positives may be relevant too.")
