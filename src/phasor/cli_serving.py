"""`phasor serve`, `key`, `fetch`, `check` and `index`: only their arguments; the work is in `serving` and `indexing`."""

import argparse
import sys
from pathlib import Path
from typing import Any

_SET = "change one setting, for example {example}; repeatable"


def add_commands(commands: Any) -> None:
    """Add the commands to the parser's."""
    serve = commands.add_parser("serve", help="Serve a bundle: embeddings, reranking and, with an index, search.")
    serve.add_argument("bundle", type=Path, help="folder that `phasor package` wrote")
    serve.add_argument("--index", help="folder or s3://BUCKET/PREFIX of an index that this bundle made")
    _add_settings(serve, "port=9000 or engine.precision=float32")
    serve.set_defaults(handler=_serve)
    key = commands.add_parser("key", help="Make an API key, and the line that lets it in.")
    key.add_argument("name", help="whose key it is; appears in the server's log")
    key.set_defaults(handler=_key)
    fetch = commands.add_parser("fetch", help="Bring a bundle from an object store, every file checked.")
    fetch.add_argument("location", help="s3://BUCKET/PREFIX")
    fetch.add_argument("bundle", type=Path, help="folder to make")
    fetch.add_argument("--sha256", help="of the bundle's manifest.json; pins every file of it")
    fetch.set_defaults(handler=_fetch)
    check = commands.add_parser("check", help="Ask a server for the golden answers of a bundle, and for a search.")
    check.add_argument("url", help="of the server, for example http://127.0.0.1:8000; its key comes from PHASOR_API_KEY")
    check.add_argument("bundle", type=Path, help="the bundle that it should serve")
    check.set_defaults(handler=_check)
    index = commands.add_parser("index", help="Build a search index from documents, or change one.")
    actions = index.add_subparsers(dest="action", required=True, metavar="ACTION", help="what to do")
    build = actions.add_parser("build", help="Embed every document into a new version of an index.")
    build.add_argument("bundle", type=Path, help="folder that `phasor package` wrote")
    build.add_argument("source", type=Path, help="a .parquet or .jsonl file (id, text, optional title, source, language, …), or a folder")
    build.add_argument("--index", type=Path, required=True, help="folder of the index")
    _add_settings(build, "dims=128 or store.type=hnsw")
    build.set_defaults(handler=_build)
    update = actions.add_parser("update", help="Add, replace or delete documents by id; only new texts are embedded.")
    update.add_argument("bundle", type=Path, help="the bundle that made the index")
    update.add_argument("--index", type=Path, required=True, help="folder of the index")
    update.add_argument("--add", type=Path, help="as SOURCE of build; documents with an id that is there replace it")
    update.add_argument("--delete", action="append", default=[], metavar="ID", help="id of a document to delete; repeatable")
    _add_settings(update, "on_bad_row=skip")
    update.set_defaults(handler=_update)


def _add_settings(command: argparse.ArgumentParser, example: str) -> None:
    command.add_argument("--config", type=Path, help="YAML file with settings that differ from the defaults")
    command.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help=_SET.format(example=example)
    )


def _serve(args: argparse.Namespace) -> None:
    from phasor.config.serving import ServeConfig
    from phasor.recipe import load_settings

    config = load_settings(ServeConfig, args.config, args.overrides)  # before torch: a wrong setting should be told at once
    from phasor.serving.server import serve

    serve(args.bundle, args.index, config)


def _key(args: argparse.Namespace) -> None:
    from phasor.serving.keys import new_key

    key, line = new_key(args.name)
    sys.stderr.write(f"The key, shown this once; give it to its owner:\n{key}\nThe line for the key file:\n")
    sys.stdout.write(f"{line}\n")


def _fetch(args: argparse.Namespace) -> None:
    from phasor.serving.fetch import fetch_bundle

    fetch_bundle(args.location, args.bundle, args.sha256)


def _check(args: argparse.Namespace) -> None:
    from phasor.serving.check import check_server

    sys.stdout.write(f"{check_server(args.url, args.bundle)}\n")


def _build(args: argparse.Namespace) -> None:
    from phasor.config.indexing import IndexConfig
    from phasor.recipe import load_settings

    config = load_settings(IndexConfig, args.config, args.overrides)
    from phasor.indexing.build import build_index
    from phasor.serving.bundle import open_bundle

    _tell(build_index(open_bundle(args.bundle), args.source, args.index, config), args.index)


def _update(args: argparse.Namespace) -> None:
    from phasor.config.indexing import IndexConfig
    from phasor.recipe import load_settings

    config = load_settings(IndexConfig, args.config, args.overrides)
    from phasor.indexing.build import update_index
    from phasor.serving.bundle import open_bundle

    _tell(update_index(open_bundle(args.bundle), args.index, args.add, args.delete, config), args.index)


def _tell(info: Any, root: Path) -> None:
    store = info.store.type or info.store.kind
    sys.stdout.write(f"{root}: {info.count:,} passages, {info.dims} dimensions, {store}, recall@10 {info.recall_at_10:.4f}\n")
