"""View `operations`: what an operation does finds its entry in the interface of a client library."""

import gzip
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

from phasor.config.tasks import PythonPackageSource
from phasor.data.chunking import first_sentence
from phasor.data.hashing import position
from phasor.data.sources import Collected, Context
from phasor.data.sources.python_package.builder import Builder
from phasor.data.sources.python_package.docstrings import cut, is_question, plain_text, split_docstring, without
from phasor.data.sources.python_package.scan import objects, package_folder
from phasor.progress import track

_MAX_PER_SERVICE = 40
_MAX_CHARS = 500
_MAX_DESCRIPTION_CHARS = 100
_TAG = re.compile(r"<[^>]+>")
_PARAM = re.compile(r":param (?:(?P<type>[\w\[\](), ]+?) )?(?P<name>\w+):(?P<text>[^\n]*(?:\n(?!\s*:)[^\n]*)*)")
_GENERATED = re.compile(r"# noqa: \w+|This method makes a synchronous.*|>>>.*", re.DOTALL)
_TRANSPORT = {"async_req", "_preload_content", "_request_timeout", "_request_auth", "pretty", "_return_http_data_only"}


@dataclass(frozen=True)
class Operation:
    """One entry of an interface.

    Attributes:
        service: what it belongs to, as a reader would name it.
        description: documentation, plain text.
        parameters: name and documentation, in order.
    """

    name: str
    service: str
    title: str
    description: str
    parameters: Sequence[tuple[str, str]]


def read(source: PythonPackageSource, context: Context) -> Collected:
    """Operations of botocore service models and of clients generated from OpenAPI, in an order given by the seed."""
    builder = Builder(context)
    for operation in _operations(source.packages, context.seed):
        summary = split_docstring(operation.description).summary
        if not is_question(summary):
            builder.found.dropped["description is no query"] += 1
            continue
        builder.add(operation.name, title=operation.title, text=_render(operation, summary), query=summary)
        if len(builder) >= source.max_passages:
            break
    return builder.finish("description")


def _render(operation: Operation, summary: str) -> str:
    """`Name(parameters).` and what each parameter means, never the summary itself."""
    names = ", ".join(name for name, _ in operation.parameters)
    details = " ".join(f"{name}: {cut(first_sentence(text)[0], _MAX_DESCRIPTION_CHARS)}" for name, text in operation.parameters if text)
    text = f"{operation.title.rpartition(' ')[2]}({names}) {details}".strip()
    return cut(without(text, summary), _MAX_CHARS)


def _operations(packages: Sequence[str], seed: int) -> Iterator[Operation]:
    generated = [package for package in packages if package != "botocore"]
    yield from _openapi_operations(generated, seed)
    if "botocore" in packages:
        yield from _botocore_operations(seed)


def _openapi_operations(packages: Sequence[str], seed: int) -> Iterator[Operation]:
    """Methods with `:param name:` documentation in the `api` modules of generated clients."""
    for item in objects(packages, seed):
        if item.kind != "function" or not item.parent.endswith("Api") or item.name.endswith("_with_http_info"):
            continue
        head, _, tail = item.docstring.partition(":param")
        description = plain_text(_GENERATED.sub("", head.partition("\n")[2]))
        parameters = [(m["name"], plain_text(m["text"])) for m in _PARAM.finditer(":param" + tail) if m["name"] not in _TRANSPORT]
        service = item.parent.rpartition(".")[2]
        method = item.name.rpartition(".")[2]
        yield Operation(item.name, service, f"{item.package} {service} {method}", description, parameters)


def _botocore_operations(seed: int) -> Iterator[Operation]:
    folders = [path for path in (package_folder("botocore") / "data").iterdir() if path.is_dir()]
    folders.sort(key=lambda path: position(path.name, seed, "service"))
    for folder in track(folders, "read services", unit="service"):
        newest = max(folder.iterdir(), key=lambda path: path.name)
        model_path = newest / "service-2.json.gz"
        if model_path.exists():
            yield from _service_operations(folder.name, model_path, seed)


def _service_operations(service: str, path: Path, seed: int) -> Iterator[Operation]:
    model: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    label = model["metadata"].get("serviceId", service)
    names = sorted(model["operations"], key=lambda name: position(f"{service}.{name}", seed, "operation"))
    for name in names[:_MAX_PER_SERVICE]:
        operation = model["operations"][name]
        members = model["shapes"].get(operation.get("input", {}).get("shape"), {}).get("members", {})
        parameters = [(key, _html_text(member.get("documentation", ""))) for key, member in members.items()]
        yield Operation(f"botocore.{service}.{name}", label, f"{label} {name}", _html_text(operation.get("documentation", "")), parameters)


def _html_text(html: str) -> str:
    return " ".join(unescape(_TAG.sub(" ", html)).replace(" .", ".").replace(" ,", ",").split())
