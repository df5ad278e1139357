"""Running the pipeline on a KFP server: upload a version when its content is new, start a run, follow it task by task."""

import contextlib
import io
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import certifi
import urllib3
import yaml
from urllib3.exceptions import HTTPError

from phasor.errors import EndpointError, PhasorError, first_line
from phasor.pipeline.compile import version_name

POLL_S = 5.0
_PATIENCE_S = 30.0
POLLS = 120
"""Polls in a row that may fail before following is given up: ten minutes."""
NEWS = 36
"""Polls in a row without news before it is said that the run goes on: three minutes."""
DONE = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
_BAD = ("FAILED", "CANCELED")
_ACCOUNT = "pipeline-runner"
"""Of the pods, see manifests/base. A single-user KFP takes it by itself, a multi-user one would take `default-editor`."""
Say = Callable[[str], None]


class RunFailed(PhasorError):  # noqa: N818  a run that fails is no error of the program
    """The run ended, and not well."""


@dataclass(frozen=True)
class Server:
    """Where KFP is.

    Attributes:
        host: URL of its API, the UI's too where both are one.
        namespace: of the run, on a multi-user installation; empty on a single-user one.
        token_file: bearer token, read again for every request, as the kubelet renews it.
        ca_file: certificates to trust.
    """

    host: str
    namespace: str = ""
    token_file: str = ""
    ca_file: str = ""

    def connect(self) -> Any:
        """A kfp client. Raises EndpointError if the server does not answer."""
        from kfp import client

        if self.token_file and not Path(self.token_file).is_file():
            raise EndpointError(f"--token-file {self.token_file} does not exist. Mount a token for the audience pipelines.kubeflow.org.")
        if self.ca_file and not Path(self.ca_file).is_file():
            raise EndpointError(f"--ca-file {self.ca_file} does not exist. Name a PEM file of certificates.")
        credentials = client.ServiceAccountTokenVolumeCredentials(path=self.token_file) if self.token_file else None
        with _asking(self.host), _quiet():
            self._knock()
            return client.Client(host=self.host, credentials=credentials, ssl_ca_cert=self.ca_file or None)

    def _knock(self) -> None:
        """One request, because the client itself tries a wrong token, host or certificate for half a minute and hides why."""
        from kfp_server_api import ApiException

        token = Path(self.token_file).read_text(encoding="utf-8").strip() if self.token_file else ""
        pool = urllib3.PoolManager(retries=False, timeout=_PATIENCE_S, ca_certs=self.ca_file or certifi.where())
        headers = {"authorization": f"Bearer {token}"} if token else {}
        answer = pool.request("GET", f"{self.host.rstrip('/')}/apis/v2beta1/healthz", headers=headers)
        if answer.status != 200:
            error = ApiException(answer.status, answer.reason)
            error.body = answer.data
            raise error


@dataclass(frozen=True)
class Run:
    """A run as the server lists it: its id, its state in KFP's words, and when it was made, in whole seconds."""

    run_id: str
    state: str
    created_at: datetime


def submit(server: Server, ir: str, parameters: dict[str, Any], experiment: str, run_name: str) -> str:
    """Upload the compiled pipeline if this content is new, and start a run.

    Args:
        server: where.
        ir: text of a compiled pipeline.
        parameters: of the run; what is left out has the pipeline's default.
        experiment: created if there is none of that name.
        run_name: shown in the UI.

    Returns:
        The run's id.

    Raises:
        EndpointError: the server does not answer or refuses.
        PhasorError: the pipeline has no such parameter.
    """
    spec = next(yaml.safe_load_all(ir))
    _check(spec, parameters)
    client = server.connect()
    with _asking(server.host), _quiet():
        pipeline = _pipeline(client, spec["pipelineInfo"], server.namespace)
        version = _version(client, pipeline, ir)
        group = client.create_experiment(name=experiment, namespace=server.namespace or None)
        run = client.run_pipeline(
            experiment_id=group.experiment_id, job_name=run_name, params=parameters, pipeline_id=pipeline, version_id=version,
            service_account=_ACCOUNT,
        )  # fmt: skip
    return str(run.run_id)


def runs_named(server: Server, name: str) -> list[Run]:
    """Every run of that name, the newest first. Raises EndpointError if the server does not answer or refuses."""
    client = server.connect()
    with _asking(server.host), _quiet():
        found = client.list_runs(filter=_named(name), sort_by="created_at desc", page_size=100, namespace=server.namespace or None).runs
    return [Run(str(run.run_id), str(run.state), run.created_at) for run in found or []]


def delete(server: Server, run_id: str) -> None:
    """Stop a run and forget it. Raises EndpointError if the server does not answer or refuses."""
    client = server.connect()
    with _asking(server.host), _quiet():
        client.delete_run(run_id)


def run_url(server: Server, run_id: str) -> str:
    """Page of a run in the UI."""
    return f"{server.host.rstrip('/')}/#/runs/details/{run_id}"


def follow(server: Server, run_id: str, say: Say) -> None:
    """Say one line for every task that starts or ends, until the run ends.

    KFP 2.17 tells of none that starts after Argo has compressed the workflow, which it does above 1 MB: only of the run's end.

    Raises:
        RunFailed: it did not succeed; the message names the tasks that failed.
        EndpointError: the server stopped answering; the run goes on without us.
    """
    client, seen, titles, failures, without_news = server.connect(), dict[str, str](), dict[str, str](), 0, 0
    while True:
        try:
            with _asking(server.host), _quiet():
                run = client.get_run(run_id)
                titles = titles or _titles(client, run)
            failures = 0
        except EndpointError as error:
            failures += 1
            if failures == POLLS:
                raise EndpointError(f"{error} The run goes on without us: {run_url(server, run_id)}") from None
            if failures == 1:
                say(f"{error} The run goes on; asking again for {POLLS * POLL_S / 60:.0f} minutes.")
            time.sleep(POLL_S)
            continue
        tasks = [task for task in (run.run_details.task_details if run.run_details else None) or [] if task.display_name in titles]
        for task in tasks:
            if task.state and seen.get(task.task_id) != task.state:
                seen[task.task_id], without_news = task.state, 0
                say(f"{titles[task.display_name]:<24} {task.state.lower()}{_took(task)}")
        if run.state in DONE:
            break
        without_news += 1
        if without_news == NEWS:
            say(f"the run goes on; the server may list no further task of a large run: {run_url(server, run_id)}")
        time.sleep(POLL_S)
    say(f"run {run_id} {run.state.lower()}")
    if run.state != "SUCCEEDED":
        failed = sorted({titles[task.display_name] for task in tasks if task.state in _BAD})
        where = f" in {', '.join(failed)}" if failed else ""
        raise RunFailed(f"the run ended as {run.state}{where}. Its log is at {run_url(server, run_id)}")


def _check(spec: dict[str, Any], parameters: dict[str, Any]) -> None:
    known = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    if unknown := sorted(parameters.keys() - known.keys()):
        raise PhasorError(f"the pipeline has no parameter {unknown[0]!r}; it has {', '.join(sorted(known))}.")


def _pipeline(client: Any, info: dict[str, Any], namespace: str) -> str:
    found = client.list_pipelines(filter=_named(info["name"]), namespace=namespace or None).pipelines
    if found:
        return str(found[0].pipeline_id)
    wanted = client.api_models.V2beta1Pipeline(
        name=info["name"], display_name=info["name"], description=info.get("description"), namespace=namespace or None
    )
    return str(client.pipelines.pipeline_service_create_pipeline(pipeline=wanted).pipeline_id)


def _version(client: Any, pipeline: str, ir: str) -> str:
    name = version_name(ir)
    found = client.list_pipeline_versions(pipeline_id=pipeline, filter=_named(name)).pipeline_versions
    if found:
        return str(found[0].pipeline_version_id)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.yaml"
        path.write_text(ir, encoding="utf-8")
        uploaded = client.upload_pipeline_version(str(path), pipeline_version_name=name, pipeline_id=pipeline)
    return str(uploaded.pipeline_version_id)


def _named(name: str) -> str:
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "string_value": name}]})


def _titles(client: Any, run: Any) -> dict[str, str]:
    """Task of the compiled pipeline to what the UI calls it; KFP lists drivers, loops and single tries beside them."""
    reference = run.pipeline_version_reference
    compiled = client.get_pipeline_version(reference.pipeline_id, reference.pipeline_version_id).pipeline_spec
    spec = compiled.get("pipeline_spec", compiled)  # inside another where there is a platform's part
    tasks = [task for part in (spec["root"], *spec["components"].values()) for task in part.get("dag", {}).get("tasks", {}).items()]
    work = {name: task for name, task in tasks if "executorLabel" in spec["components"][task["componentRef"]["name"]]}
    return {name: task["taskInfo"]["name"] for name, task in work.items()}


def _took(task: Any) -> str:
    if task.state not in DONE or not task.start_time or not task.end_time or task.end_time <= datetime(1971, 1, 1, tzinfo=UTC):
        return ""
    return f" after {(task.end_time - task.start_time).total_seconds():.0f} s"


@contextlib.contextmanager
def _asking(host: str) -> Iterator[None]:
    """Other libraries' errors as one sentence of ours."""
    from kfp_server_api import ApiException

    try:
        yield
    except ApiException as error:
        told = _reason(error)
        hint = {401: " Check --token-file.", 403: " Check --namespace and the rights of this account."}.get(error.status, "")
        raise EndpointError(f"the KFP server at {host} answers {error.status}: {told}{hint}") from None
    except (HTTPError, TimeoutError) as error:
        raise EndpointError(f"the KFP server at {host} cannot be reached: {first_line(error)}. Check --host and --ca-file.") from None


def _reason(error: Any) -> str:
    try:
        told = json.loads(error.body)
        return first_line(ValueError(told.get("error") or told.get("message") or error.reason))
    except (ValueError, TypeError, AttributeError):
        return str(error.reason)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The client prints links and warnings of its own; ours is said once."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
