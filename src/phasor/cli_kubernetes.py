"""`phasor pipeline` and `phasor data`: only their arguments; the work is in `pipeline` and `storage`."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

PIPELINES_NAMESPACE = "kubeflow"
_PROFILES = Path("pipelines/profiles")


def add_commands(commands: Any) -> None:
    """Add the commands to the parser's."""
    pipeline = commands.add_parser("pipeline", help="Compile the Kubeflow pipeline for a platform, or run it there.")
    actions = pipeline.add_subparsers(dest="action", required=True, metavar="ACTION", help="what to do")
    compiling = actions.add_parser("compile", help="Write the pipeline for a platform profile.")
    add_profile(compiling)
    compiling.add_argument("--format", choices=("ir", "crd"), default="ir", help="ir, or crd: Pipeline and PipelineVersion manifests")
    compiling.add_argument("--namespace", default=PIPELINES_NAMESPACE, help=f"of the manifests (default: {PIPELINES_NAMESPACE})")
    compiling.add_argument("--output", type=Path, required=True, help="file to write")
    compiling.set_defaults(handler=_compile)
    running = actions.add_parser("submit", help="Upload the pipeline if it is new, and start a run on a KFP server.")
    add_profile(running)
    add_recipe(running)
    running.add_argument("--host", required=True, help="URL of the KFP server")
    running.add_argument("--namespace", default="", help="of the run, on a multi-user installation")
    add_credentials(running)
    running.add_argument("--only", action="append", choices=("embed", "rerank"), help="train this role only; repeatable (default: all)")
    running.add_argument("--any-code", action="store_true", help="take the image's code, even if it is not the code here")
    running.add_argument("--note", default="", help="why this run; shown on its card")
    add_experiment(running)
    running.add_argument("--watch", action="store_true", help="follow the run: one line per task, and an exit code by its outcome")
    running.set_defaults(handler=_submit)
    data = commands.add_parser("data", help="The data under DVC: its revision, and what differs where.")
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION", help="what to do")
    rev = actions.add_parser("rev", help="Print the data revision of the recipe's files, as the pipeline takes it.")
    add_recipe(rev)
    rev.set_defaults(handler=_rev)
    status = actions.add_parser("status", help="Compare the recipe's files with their .dvc files, the remote and the last run.")
    add_recipe(status)
    status.set_defaults(handler=_status)


def add_credentials(command: argparse.ArgumentParser) -> None:
    """How to be known to a KFP server, and to know it."""
    command.add_argument("--token-file", default="", help="file with a bearer token, read again for every request")
    add_ca(command)


def add_ca(command: argparse.ArgumentParser) -> None:
    """Whom to trust."""
    command.add_argument("--ca-file", default="", help="certificates to trust")


def add_experiment(command: argparse.ArgumentParser) -> None:
    """Under which heading the UI shows a run."""
    command.add_argument("--experiment", default="phasor", help="group of runs (default: phasor)")


def add_profile(command: argparse.ArgumentParser) -> None:
    """The platform, and the image on it."""
    command.add_argument("--profile", required=True, help=f"name of a file in {_PROFILES} of the checkout you are in, or its path")
    command.add_argument("--image", help="instead of the profile's; by digest, so that a run can be repeated")


def add_recipe(command: argparse.ArgumentParser) -> None:
    """The recipe, and what differs from it."""
    command.add_argument("--recipe", type=Path, default=Path("params.yaml"), help="recipe file (default: params.yaml)")
    command.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
        help="change one setting, for example merge.search_steps=50; repeatable",
    )  # fmt: skip


def profile_of(args: argparse.Namespace) -> Any:
    """The profile that the arguments of `add_profile` name. Raises RecipeError as `load_profile`."""
    from phasor.pipeline.profile import load_profile

    path = Path(args.profile) if args.profile.endswith(".yaml") else _PROFILES / f"{args.profile}.yaml"
    profile = load_profile(path)
    return profile.model_copy(update={"image": args.image}) if args.image else profile


def _compile(args: argparse.Namespace) -> None:
    from phasor.code_rev import code_digest
    from phasor.pipeline.compile import write_compiled

    version = write_compiled(profile_of(args), Path(), args.format, args.namespace, args.output)
    sys.stdout.write(f"{args.output}: version {version}, code_rev {code_digest()}\n")


def _submit(args: argparse.Namespace) -> None:
    from phasor.code_rev import code_digest
    from phasor.pipeline.compile import compile_text
    from phasor.pipeline.submit import Server, follow, run_url, submit
    from phasor.recipe import dump_recipe, load_recipe
    from phasor.storage.revision import data_rev

    recipe = load_recipe(args.recipe, args.overrides)
    parameters = {
        "recipe": dump_recipe(recipe), "data_rev": data_rev(recipe, args.recipe.parent), "code_rev": "" if args.any_code else code_digest(),
        "roles": args.only or list(recipe.roles), "run_note": args.note,
    }  # fmt: skip
    server = Server(args.host, args.namespace, args.token_file, args.ca_file)
    run_id = submit(server, compile_text(profile_of(args), Path()), parameters, args.experiment, recipe.name)
    sys.stdout.write(f"{run_url(server, run_id)}\n")
    if args.watch:
        follow(server, run_id, say)


def say(line: str) -> None:
    """A line of output, shown at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _rev(args: argparse.Namespace) -> None:
    from phasor.recipe import load_recipe
    from phasor.storage.revision import data_rev

    sys.stdout.write(json.dumps(data_rev(load_recipe(args.recipe, args.overrides), args.recipe.parent), indent=2) + "\n")


def _status(args: argparse.Namespace) -> None:
    from phasor.recipe import load_recipe
    from phasor.storage.revision import status

    sys.stdout.write(status(load_recipe(args.recipe, args.overrides), args.recipe.parent))
