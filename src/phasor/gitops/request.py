"""What a deployment repository asks for: one run, named by all that decides it.

A request is a folder, the same in Git, in a pod and in a poller's clone: `request.yaml` with the revisions, `recipe.yaml`,
and `pipeline.yaml`, the compiled pipeline.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import Field, ValidationError

from phasor.artifacts import Record, digest_json, first_problem
from phasor.errors import ArtifactError
from phasor.recipe import Recipe, dump_recipe, parse_recipe

REQUEST, RECIPE, PIPELINE = "request.yaml", "recipe.yaml", "pipeline.yaml"
FILES = (REQUEST, RECIPE, PIPELINE)
_SHORT = 12


class Revisions(Record):
    """What decides what a run comes to. The key is a digest of it, so that another value is another run.

    Attributes:
        recipe: digest of the recipe's text.
        code: digest of the training code.
        images: of the pipeline's pods.
        data: task, or `shared`, to tracked path to DVC digest.
    """

    recipe: str
    code: str
    images: list[str]
    data: dict[str, dict[str, str]]

    @property
    def key(self) -> str:
        """Equal for equal work, and for no other."""
        return digest_json(self.model_dump(mode="json"))

    def data_rev(self) -> dict[str, str]:
        """As the pipeline takes it."""
        return {path: digest for files in self.data.values() for path, digest in files.items()}


class Server(Record):
    """Where the run shall be, as the Job sees it."""

    host: str
    namespace: str = Field("", description="On a multi-user installation.")
    experiment: str


class RequestFile(Record):
    """The schema of request.yaml."""

    schema_version: int = 1
    key: str
    revisions: Revisions
    server: Server
    results: str = Field("", description="s3://BUCKET/PREFIX where the run tells its result; empty: nowhere.")


@dataclass(frozen=True)
class Request:
    """A request in memory.

    Attributes:
        told: its request.yaml.
        recipe: as it shall run.
        pipeline: text of the compiled pipeline.
    """

    told: RequestFile
    recipe: Recipe
    pipeline: str

    @property
    def short_key(self) -> str:
        """The part of the key that names have room for."""
        return self.told.key[:_SHORT]

    @property
    def job_name(self) -> str:
        """Of the Job and of its ConfigMap."""
        return f"retrain-{self.short_key}"

    @property
    def run_name(self) -> str:
        """What KFP shows, and by which the run is found again."""
        return f"{self.recipe.name}-{self.short_key}"

    def parameters(self) -> dict[str, Any]:
        """Of the pipeline."""
        revisions = self.told.revisions
        return {
            "recipe": dump_recipe(self.recipe), "data_rev": revisions.data_rev(), "code_rev": revisions.code,
            "roles": list(self.recipe.roles), "run_note": f"Asked for in Git as {self.job_name}.",
        }  # fmt: skip

    def texts(self) -> dict[str, str]:
        """File name to content."""
        told = yaml.safe_dump(self.told.model_dump(mode="json"), sort_keys=False, width=140)
        return {REQUEST: told, RECIPE: dump_recipe(self.recipe), PIPELINE: self.pipeline}

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a request and check that its parts belong together.

        Raises:
            ArtifactError: a file is missing or of another version, or was changed by hand.
            RecipeError: the recipe is wrong.
        """
        texts = {name: _read(folder / name) for name in FILES}
        try:
            told = RequestFile.model_validate(yaml.safe_load(texts[REQUEST]))
        except (yaml.YAMLError, ValidationError) as error:
            problem = first_problem(error) if isinstance(error, ValidationError) else str(error)
            raise ArtifactError(f"{folder / REQUEST} is no request of this version ({problem}). {_REMEDY}") from None
        recipe, revisions = parse_recipe(texts[RECIPE], origin=str(folder / RECIPE)), told.revisions
        for name, right in (
            (RECIPE, revisions.recipe == digest_json(dump_recipe(recipe))), (PIPELINE, revisions.images == _images_read(texts[PIPELINE])),
            (REQUEST, told.key == revisions.key),
        ):  # fmt: skip
            if not right:
                raise ArtifactError(f"{folder / name} is not what was rendered: it does not fit the key {told.key[:_SHORT]}. {_REMEDY}")
        return cls(told, recipe, texts[PIPELINE])


def make_request(recipe: Recipe, data: dict[str, dict[str, str]], code: str, pipeline: str, server: Server, results: str) -> Request:
    """A request for one run.

    Args:
        recipe: as it shall run.
        data: task, or `shared`, to tracked path to DVC digest.
        code: digest of the training code that the images hold.
        pipeline: text of the compiled pipeline.
        server: where.
        results: s3://BUCKET/PREFIX where the run tells its result, or empty.
    """
    revisions = Revisions(recipe=digest_json(dump_recipe(recipe)), code=code, images=images_of(pipeline), data=data)
    return Request(RequestFile(key=revisions.key, revisions=revisions, server=server, results=results), recipe, pipeline)


def images_of(pipeline: str) -> list[str]:
    """The images of a compiled pipeline's pods."""
    executors = next(yaml.safe_load_all(pipeline))["deploymentSpec"]["executors"]
    return sorted({executor["container"]["image"] for executor in executors.values()})


def _images_read(pipeline: str) -> list[str] | None:
    """As `images_of`, but None if the text is not one that was rendered, for example because it was cut off."""
    try:
        return images_of(pipeline)
    except (yaml.YAMLError, StopIteration, LookupError, AttributeError, TypeError):
        return None


def tagged(images: list[str]) -> list[str]:
    """Those of the images that are not named by digest."""
    return [image for image in images if "@sha256:" not in image]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}. {_REMEDY}") from None
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path} is no UTF-8 ({error.reason} at byte {error.start}). {_REMEDY}") from None


_REMEDY = "Render the request with `phasor gitops render`."
