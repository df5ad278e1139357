"""`phasor init`: a project folder for somebody's own documents."""

import shutil
import subprocess
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import yaml

from phasor.artifacts import write_text
from phasor.dvc_adapter import PARAMS, run_dvc, write_dvc_yaml
from phasor.errors import DataError, PhasorError, RecipeError
from phasor.recipe import dump_recipe, parse_recipe

_IGNORED = "/work/\n"
_NEXT = """\
Created {directory} with {params}, dvc.yaml and a Git and DVC repository.
Next:
  cd {directory}
  phasor repro                  # or `dvc repro`; both go on where they stopped
  phasor results                # the table, and where the report page is
  phasor search "..."           # the trained pair next to BM25
Sources, sizes and models are settings in {params}; `phasor dvc` renders dvc.yaml anew after tasks change.
"""


def _folder() -> Traversable:
    return resources.files("phasor") / "recipes"


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(p.name.removesuffix(".yaml") for p in _folder().iterdir() if p.name.endswith(".yaml"))


def recipe_text(name: str) -> str:
    """YAML text of a recipe that comes with the package. Raises RecipeError for an unknown name."""
    if name not in recipe_names():
        raise RecipeError(f"no recipe is called {name!r}; there are {', '.join(recipe_names())}.")
    return (_folder() / f"{name}.yaml").read_text(encoding="utf-8")


def init_project(directory: Path, documents: Path, recipe_name: str) -> str:
    """Create the folder, its recipe on the documents as one task, dvc.yaml, a Git and a DVC repository.

    Returns:
        What was made and what to run next.

    Raises:
        PhasorError: the folder is not empty, the documents do not exist or the recipe is unknown; nothing is left behind.
    """
    if directory.exists() and any(directory.iterdir()):
        raise PhasorError(f"{directory} is not empty. Name a new folder.")
    source = _source(documents.resolve())
    tree = yaml.safe_load(recipe_text(recipe_name))
    tree["name"] = directory.resolve().name
    instruction = next(iter(tree["tasks"].values())).get("instruction")
    tree["tasks"] = {"documents": {"sources": [source], "instruction": instruction}}
    recipe = parse_recipe(yaml.safe_dump(tree), origin=f"recipe {recipe_name}")
    created = not directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_text(dump_recipe(recipe), directory / PARAMS)
        write_dvc_yaml(recipe, directory / PARAMS)
        write_text(_IGNORED, directory / ".gitignore")
        subprocess.run(["git", "init", "-q"], cwd=directory, check=True, capture_output=True, text=True)
        for arguments in (["init", "-q"], ["config", "core.analytics", "false"]):
            run_dvc(arguments, directory, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        if created:
            shutil.rmtree(directory, ignore_errors=True)
        detail = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
        raise PhasorError(f"{directory} cannot be made a project: {detail}") from None
    return _NEXT.format(directory=directory, params=PARAMS)


def _source(documents: Path) -> dict[str, str]:
    if documents.is_file() and documents.suffix == ".jsonl":
        examples = documents.with_name("examples.jsonl")
        return {"kind": "jsonl", "corpus": str(documents)} | ({"examples": str(examples)} if examples.exists() else {})
    if documents.is_dir():
        kind = "beir" if (documents / "corpus.jsonl").exists() else "folder"
        return {"kind": kind, "path": str(documents)}
    raise DataError(
        f"{documents} is neither a folder nor a .jsonl file. Name a folder of txt/md/html/pdf, a .jsonl file, or a BEIR-layout folder."
    )
