"""Writing a request, its Job and their kustomization into a deployment repository. The same input gives the same bytes."""

from pathlib import Path
from typing import Any

import yaml

from phasor.artifacts import write_text
from phasor.code_rev import code_digest
from phasor.gitops.job import job, kept, kustomization
from phasor.gitops.repository import Repository
from phasor.gitops.request import PIPELINE, Request, Server, make_request
from phasor.pipeline.compile import Format, compile_text
from phasor.pipeline.profile import Profile
from phasor.recipe import Recipe
from phasor.storage.revision import data_by_task

_HEADER = "# Rendered by `phasor gitops render`: change the recipe, the data or the code, and render again.\n"
_JOB, _VERSION, _KUSTOMIZATION = "job.yaml", "version.yaml", "kustomization.yaml"


def render(
    folder: Path, recipe: Recipe, root: Path, profile: Profile, server: Server, *,
    form: Format, namespace: str, pipelines_namespace: str, ca_config_map: str,
) -> tuple[Request, list[str]]:  # fmt: skip
    """Write what asks for a run with the data, recipe, code and image of now.

    Another request takes the place of the last one: its Job and ConfigMap leave Git, and the GitOps tool prunes them.

    Args:
        folder: in the deployment repository; made if there is none.
        recipe: as it shall run.
        root: folder of the recipe, with the `.dvc` files beside it. The checkout of Phasor is the current folder.
        profile: the platform.
        server: KFP, as seen from the Job.
        form: `ir`: the Job uploads the pipeline; `crd`: it comes as manifests as well.
        namespace: of Job and ConfigMap.
        pipelines_namespace: of those manifests.
        ca_config_map: with ca.crt, to trust for the KFP server; or empty.

    Returns:
        The request, and the names of the files that changed.

    Raises:
        PhasorError: the folder is in no Git work tree, or cannot be written.
        DataError: a file of the recipe is not under DVC.
    """
    Repository.around(folder)
    pipeline = compile_text(profile, Path())
    results = profile.storage.results if profile.storage else ""
    request = make_request(recipe, data_by_task(recipe, root), code_digest(), pipeline, server, results)
    others = {_JOB: _dump([job(request, profile, namespace, ca_config_map)])}
    if form == "crd":
        others[_VERSION] = _dump([kept(item) for item in yaml.safe_load_all(compile_text(profile, Path(), "crd", pipelines_namespace))])
    texts = request.texts() | others | {_KUSTOMIZATION: _dump([kustomization(request, namespace, sorted(others))])}
    # The pipeline's version is named by its text, which has a header of its own.
    texts = {name: text if name == PIPELINE else _HEADER + text for name, text in texts.items()}
    changed = [name for name, text in texts.items() if not (folder / name).is_file() or (folder / name).read_bytes() != text.encode()]
    for name in changed:
        write_text(texts[name], folder / name)
    if _VERSION not in texts and (folder / _VERSION).exists():
        (folder / _VERSION).unlink()
        changed.append(_VERSION)
    return request, changed


def _dump(manifests: list[dict[str, Any]]) -> str:
    return yaml.safe_dump_all(manifests, sort_keys=False, width=140)
