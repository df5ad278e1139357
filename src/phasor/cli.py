"""The `phasor` command: one sub-command per phase, and a few around them. It decides nothing."""

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from phasor import __version__, cli_gitops, cli_kubernetes, cli_serving
from phasor.errors import PhasorError
from phasor.logs import configure_logging
from phasor.phases import PHASES

_EPILOG = """\
start:     phasor init my-project --documents ~/docs     then: cd my-project && dvc repro
one phase: phasor train --role embed --task code
change:    phasor warmup --role embed --set warmup.embed.learning_rate=0.001
search:    phasor search "read a gzip file line by line"
"""


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; its surface is frozen by a test."""
    parser = argparse.ArgumentParser(
        prog="phasor", description="Turn documents into a served retrieval model, phase by phase.",
        epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for phase in PHASES:
        command = commands.add_parser(phase.name, help=phase.summary, description=phase.summary)
        _add_run_options(command)
        if phase.scope.startswith("role"):
            command.add_argument("--role", choices=("embed", "rerank"), required=True, help="which of the two models")
        if phase.scope.endswith("task"):
            command.add_argument("--task", required=True, help="a task of the recipe")
        command.set_defaults(handler=_run_phase)
    init = commands.add_parser("init", help="Start a project on your own documents.")
    init.add_argument("directory", type=Path, help="folder to create")
    init.add_argument("--documents", type=Path, required=True, help="folder of txt/md/html/pdf, a .jsonl file, or a BEIR-layout folder")
    init.add_argument("--recipe", default="documents", help="name of a recipe to start from (default: documents)")
    init.set_defaults(handler=_init)
    dvc = commands.add_parser("dvc", help="Write dvc.yaml anew after tasks or roles of the recipe changed.")
    dvc.add_argument("--recipe", type=Path, default=Path("params.yaml"), help="recipe file (default: params.yaml)")
    dvc.set_defaults(handler=_dvc)
    repro = commands.add_parser("repro", help="Bring every DVC stage up to date, independent ones side by side.")
    repro.add_argument("--jobs", type=_positive, default=2, help="stages at once (default: 2)")
    repro.add_argument(
        "--keep-warmup", action="store_true",
        help="do not warm up again because a task's data changed: only its specialist, merge and what follows",
    )
    repro.set_defaults(handler=_repro)
    search = commands.add_parser("search", help="Search with the trained pair, next to BM25.")
    search.add_argument("query", help="what to look for")
    _add_run_options(search)
    search.add_argument("--task", help="whose corpus to search (default: every task)")
    search.add_argument("--instruction", help="what kind of passage is wanted (default: the task's)")
    search.add_argument("-k", type=_positive, default=5, help="passages to show (default: 5)")
    search.set_defaults(handler=_search)
    results = commands.add_parser("results", help="Print the results table and where the report is.")
    results.add_argument("--work", type=Path, default=Path("work"), help="folder of all inputs and outputs (default: work)")
    results.set_defaults(handler=_results)
    cli_serving.add_commands(commands)
    cli_kubernetes.add_commands(commands)
    cli_gitops.add_commands(commands, _positive)
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def _add_run_options(command: argparse.ArgumentParser) -> None:
    cli_kubernetes.add_recipe(command)
    command.add_argument("--work", type=Path, default=Path("work"), help="folder of all inputs and outputs (default: work)")


def _run_phase(args: argparse.Namespace) -> None:
    from phasor.recipe import load_recipe
    from phasor.runner import execute, make_job

    recipe = load_recipe(args.recipe, args.overrides)
    job = make_job(args.command, recipe, args.work, getattr(args, "role", None), getattr(args, "task", None), root=args.recipe.parent)
    execute(job, args.work)


def _init(args: argparse.Namespace) -> None:
    from phasor.project import init_project

    print(init_project(args.directory, args.documents, args.recipe))


def _dvc(args: argparse.Namespace) -> None:
    from phasor.dvc_adapter import write_dvc_yaml
    from phasor.recipe import load_recipe

    write_dvc_yaml(load_recipe(args.recipe), args.recipe)


def _repro(args: argparse.Namespace) -> None:
    from phasor.dvc_adapter import PARAMS, reproduce
    from phasor.recipe import load_recipe

    reproduce(load_recipe(Path(PARAMS)), Path(), args.jobs, args.keep_warmup)


def _search(args: argparse.Namespace) -> None:
    from phasor.recipe import load_recipe
    from phasor.search import search

    print(search(load_recipe(args.recipe, args.overrides), args.work, args.query, args.task, args.instruction, args.k))


def _results(args: argparse.Namespace) -> None:
    from phasor.evaluation.table import results_text

    print(results_text(args.work))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0, the error's `exit_code` (2) for a mistake the user can mend, 1 for a defect of ours."""
    args = build_parser().parse_args(argv)
    try:
        configure_logging()
        args.handler(args)
    except PhasorError as error:
        print(f"phasor {args.command}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"phasor {args.command}: interrupted; run it again to go on.", file=sys.stderr)
        return 130
    except Exception:
        traceback.print_exc()
        print(f"phasor {args.command}: this is a defect of Phasor {__version__}. Please report the lines above.", file=sys.stderr)
        return 1
    return 0
