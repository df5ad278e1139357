"""`phasor init`: a project folder for somebody's own documents."""

import io
import shutil
import subprocess
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from phasor.artifacts import write_text
from phasor.dvc_adapter import PARAMS, run_dvc, write_dvc_yaml, yaml_editor
from phasor.errors import DataError, PhasorError, RecipeError
from phasor.recipe import parse_recipe

_IGNORED = "/work/\n"
_INSTRUCTION = "Given a question, find the passage that answers it"
_NEXT = """\
Created {directory} with {params}, dvc.yaml and a Git and DVC repository.
Next:
  cd {directory}
  phasor repro                  # or `dvc repro`; both go on where they stopped
  phasor results                # the table, and where the report page is
  phasor search "..."           # the trained pair next to BM25
Sources, sizes and models are settings in {params}; after tasks change, `phasor repro` or `phasor dvc` renders dvc.yaml anew.
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
        PhasorError: the folder is not empty or lies within the documents, these do not exist or the recipe is unknown; nothing is
            left behind.
    """
    if directory.exists() and not directory.is_dir():
        raise PhasorError(f"{directory} is not a folder. Name a new folder.")
    if directory.exists() and any(directory.iterdir()):
        raise PhasorError(f"{directory} is not empty. Name a new folder.")
    source = _source(documents.resolve())
    if documents.is_dir() and directory.resolve().is_relative_to(documents.resolve()):
        # They would contain the project's own files, which DVC refuses; and every run would read what the one before wrote.
        raise PhasorError(f"{directory} lies within the documents, {documents.resolve()}. Name a new folder outside of them.")
    text = _adapt(recipe_text(recipe_name), directory.resolve().name, source)
    recipe = parse_recipe(text, origin=f"recipe {recipe_name}")
    created, made = not directory.exists(), False
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_text(text, directory / PARAMS)
        write_dvc_yaml(recipe, directory / PARAMS)
        write_text(_IGNORED, directory / ".gitignore")
        subprocess.run(["git", "init", "-q"], cwd=directory, check=True, capture_output=True, text=True)
        for arguments in (["init", "-q"], ["config", "core.analytics", "false"]):
            run_dvc(arguments, directory, check=True, capture_output=True)
        made = True
    except (OSError, subprocess.CalledProcessError) as error:
        detail = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
        raise PhasorError(f"{directory} cannot be made a project: {detail}") from None
    finally:
        if not made:
            _clear(directory, created)
    return _NEXT.format(directory=directory, params=PARAMS)


def _adapt(text: str, name: str, source: dict[str, str]) -> str:
    """The recipe with another name and one task of its own, its comments kept."""
    editor = yaml_editor()
    tree = editor.load(text)
    tree["name"] = DoubleQuotedScalarString(name)  # a folder may be called `on`
    tree["tasks"] = {"documents": {"instruction": _INSTRUCTION, "sources": [source]}}
    if isinstance(numbers := tree.get("synthesize", {}).get("passages_per_task"), dict):
        tree["synthesize"]["passages_per_task"] = max(numbers.values())
    stream = io.StringIO()
    editor.dump(tree, stream)
    return stream.getvalue()


def _clear(directory: Path, whole: bool) -> None:
    for path in directory.iterdir() if directory.is_dir() else ():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    if whole and directory.is_dir():
        directory.rmdir()


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
