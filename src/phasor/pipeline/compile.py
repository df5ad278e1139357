"""The pipeline of a platform profile, written out: KFP's IR, or manifests for its Kubernetes-native API."""

import hashlib
import importlib
import sys
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import yaml

from phasor.artifacts import write_text
from phasor.errors import PhasorError
from phasor.pipeline.profile import Profile

Format = Literal["ir", "crd"]
_MODULE = "pipelines.train_retriever"


def graph(profile: Profile, root: Path) -> Any:
    """The pipeline of a checkout for a profile, as a kfp component.

    Raises:
        PhasorError: the folder is no checkout of Phasor.
    """
    if not (root / "pipelines" / "train_retriever.py").is_file():
        raise PhasorError(f"{root.resolve()} has no pipelines/train_retriever.py. Run this in a checkout of Phasor.")
    sys.path.insert(0, str(root.resolve()))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # kfp announces changes of its own interface
            build = importlib.import_module(_MODULE).build
            # At every setting of a task kfp looks through the sources of all callers; a thread of its own has few.
            with ThreadPoolExecutor(1) as pool:
                return pool.submit(build, profile).result()
    finally:
        sys.path.remove(str(root.resolve()))


def compile_text(profile: Profile, root: Path, form: Format = "ir", namespace: str = "") -> str:
    """The compiled pipeline as YAML text.

    Args:
        profile: the platform.
        root: checkout.
        form: `ir`, or `crd` for Pipeline and PipelineVersion manifests.
        namespace: of the manifests; the IR has none.
    """
    pipeline = graph(profile, root)
    text = _compile(pipeline)
    if form == "ir":
        return text
    return _compile(pipeline, namespace=namespace, version=version_name(text))


def version_name(ir: str) -> str:
    """Name of the version with this content: another content gets another name, because versions cannot be changed."""
    name = next(yaml.safe_load_all(ir))["pipelineInfo"]["name"]
    return f"{name}-{hashlib.sha256(ir.encode()).hexdigest()[:12]}"


def write_compiled(profile: Profile, root: Path, form: Format, namespace: str, target: Path) -> str:
    """Compile into a file; returns the name of the version."""
    text = compile_text(profile, root, form, namespace)
    write_text(text, target)
    return version_name(text if form == "ir" else compile_text(profile, root))


def _compile(pipeline: Any, namespace: str = "", version: str = "") -> str:
    from kfp import compiler

    options = compiler.KubernetesManifestOptions(
        pipeline_version_name=version, namespace=namespace, include_pipeline_manifest=True
    ) if version else None  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(
            pipeline, str(path), kubernetes_manifest_format=bool(version), kubernetes_manifest_options=options
        )
        return path.read_text(encoding="utf-8")
