"""`phasor gitops` and `phasor retrain`: only their arguments; the work is in `gitops`."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from phasor.cli_kubernetes import (
    PIPELINES_NAMESPACE,
    add_ca,
    add_credentials,
    add_experiment,
    add_profile,
    add_recipe,
    profile_of,
    say,
)


def add_commands(commands: Any, positive: Callable[[str], int]) -> None:
    """Add the commands to the parser's.

    Args:
        commands: of the parser.
        positive: reads a whole number above 0.
    """
    gitops = commands.add_parser("gitops", help="Ask for runs in a deployment repository, and propose there what came out.")
    actions = gitops.add_subparsers(dest="action", required=True, metavar="ACTION", help="what to do")
    rendering = actions.add_parser("render", help="Write what asks for a run with the data, recipe, code and image of now.")
    rendering.add_argument("folder", type=Path, help="in the deployment repository, for example ../deployment/retrain")
    add_profile(rendering)
    add_recipe(rendering)
    rendering.add_argument("--host", required=True, help="URL of the KFP server, as the Job sees it")
    rendering.add_argument("--kfp-namespace", default="", help="of the run, on a multi-user installation")
    rendering.add_argument("--ca-config-map", default="", help="ConfigMap with ca.crt, to trust for the KFP server")
    add_experiment(rendering)
    rendering.add_argument("--namespace", default="phasor", help="of the Job (default: phasor)")
    rendering.add_argument("--format", choices=("ir", "crd"), default="ir", help="crd: with manifests of the pipeline; Flux: see README")
    rendering.set_defaults(handler=_render)
    promoting = actions.add_parser("promote", help="Commit the bundle of a run with a green gate to the serving values, on a branch.")
    _add_request(promoting)
    promoting.add_argument("--values", type=Path, required=True, help="values of the serving chart, in the same repository")
    promoting.add_argument("--track", help="of the chart (default: the active one)")
    promoting.set_defaults(handler=_promote)
    cloning = actions.add_parser("clone", help="Bring the newest commit of a deployment repository, where there is no Git.")
    cloning.add_argument("url_file", type=Path, help="file that holds its URL, with user and token if it needs them")
    cloning.add_argument("folder", type=Path, help="folder to make; an untouched clone from an earlier call gives way")
    cloning.add_argument("--branch", default="main", help="which (default: main)")
    add_ca(cloning)
    cloning.set_defaults(handler=_clone)
    retraining = commands.add_parser("retrain", help="See that the run which a request asks for exists, once.")
    _add_request(retraining)
    retraining.add_argument("--tries", type=positive, default=3, help="most runs for one request, failed ones counted (default: 3)")
    retraining.add_argument("--watch", action="store_true", help="follow the run, start it again if it fails, and end as it ends")
    retraining.set_defaults(handler=_retrain)


def _add_request(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", type=Path, help="what `phasor gitops render` wrote")
    command.add_argument("--host", default="", help="URL of the KFP server, if not the request's")
    add_credentials(command)


def _render(args: argparse.Namespace) -> None:
    from phasor.gitops.render import render
    from phasor.gitops.request import Server, tagged
    from phasor.recipe import load_recipe

    request, changed = render(
        args.folder, load_recipe(args.recipe, args.overrides), args.recipe.parent, profile_of(args),
        Server(host=args.host, namespace=args.kfp_namespace, experiment=args.experiment), form=args.format, namespace=args.namespace,
        pipelines_namespace=args.kfp_namespace or PIPELINES_NAMESPACE, ca_config_map=args.ca_config_map,
    )  # fmt: skip
    for image in tagged(request.told.revisions.images):
        say(f"{image} is named by tag, which another image may take: name it as NAME@sha256:..., or one request may run different code.")
    done = f"wrote {', '.join(changed)}; commit and push them" if changed else "nothing has changed"
    say(f"{args.folder}: {request.job_name}, {done}.")


def _clone(args: argparse.Namespace) -> None:
    from phasor.gitops.clone import clone

    clone(args.url_file, args.folder, args.branch, args.ca_file)


def _request(args: argparse.Namespace) -> tuple[Any, Any]:
    """The request, and the server that it or the command line names."""
    from phasor.gitops.request import Request
    from phasor.pipeline.submit import Server

    request = Request.read(args.folder)
    told = request.told.server
    return request, Server(args.host or told.host, told.namespace, args.token_file, args.ca_file)


def _retrain(args: argparse.Namespace) -> None:
    from phasor.gitops.retrain import describe, outcome, retrain
    from phasor.settings import store_settings

    request, server = _request(args)
    told = bool(store_settings().endpoint)  # before anything is started: a mounted secret may lack its keys
    run_id = retrain(server, request, args.tries, args.watch, say)
    if not run_id or not request.told.results:
        return
    if not told:
        say(f"What it came to is in {request.told.results}; set PHASOR_S3_ENDPOINT and credentials to be told.")
        return
    for line in describe(outcome(request, run_id)):
        say(line)


def _promote(args: argparse.Namespace) -> None:
    from phasor.gitops.promote import promote
    from phasor.gitops.retrain import finished, outcome

    request, server = _request(args)
    say(promote(request, outcome(request, finished(server, request)), args.values, args.track))
