"""The Job that runs a request, and the kustomization that applies both.

The Job's name holds the request's key, so that Kubernetes itself refuses a second one, and its text depends on hardly anything
else: what may change for the same key (the server, the pipeline's resources) is in the ConfigMap, because a Job cannot change.
"""

from typing import Any

from phasor.gitops.request import FILES, Request
from phasor.gitops.retrain import ENDED
from phasor.pipeline.placement import CA_DIR, SECRET_DIR, store_environment
from phasor.pipeline.profile import Profile, Storage

ACCOUNT = "retrain"
AUDIENCE = "pipelines.kubeflow.org"
_REQUEST_DIR, _TOKEN_DIR, _SERVER_CA_DIR = "/var/run/phasor/request", "/var/run/secrets/kfp", "/var/run/phasor/kfp-ca"
_LABELS = {"app.kubernetes.io/name": "retrain", "app.kubernetes.io/part-of": "phasor"}
# Should the Job's text change for the same key, as with a new version of Phasor: make it anew; the run itself is not repeated.
_REPLACED = {
    "argocd.argoproj.io/sync-wave": "2", "argocd.argoproj.io/sync-options": "Force=true,Replace=true",
    "kustomize.toolkit.fluxcd.io/force": "enabled",
}  # fmt: skip
_BACKOFF_LIMIT = 100
"""Pods that may fail, because KFP is away for example: with pauses that grow to six minutes, some ten hours."""
_WAVES = {"Pipeline": "0", "PipelineVersion": "1"}


def job(request: Request, profile: Profile, namespace: str, ca_config_map: str) -> dict[str, Any]:
    """The Job's manifest.

    Args:
        request: what it runs.
        profile: image, user and store.
        namespace: where it lives.
        ca_config_map: with ca.crt, to trust for the KFP server; empty: the system's certificates.
    """
    volumes: dict[str, tuple[str, dict[str, Any]]] = {
        "request": (_REQUEST_DIR, {"configMap": {"name": request.job_name}}),
        "token": (_TOKEN_DIR, {"projected": {"sources": [{"serviceAccountToken": {"path": "token", "audience": AUDIENCE}}]}}),
        "tmp": ("/tmp", {"emptyDir": {}}),
    }
    arguments = ["retrain", _REQUEST_DIR, "--watch", "--token-file", f"{_TOKEN_DIR}/token"]
    if ca_config_map:
        volumes["kfp-ca"] = (_SERVER_CA_DIR, {"configMap": {"name": ca_config_map}})
        arguments += ["--ca-file", f"{_SERVER_CA_DIR}/ca.crt"]
    if profile.storage:
        volumes |= _store_volumes(profile.storage)
    container = {
        "name": "retrain", "image": profile.image, "imagePullPolicy": profile.pull_policy, "args": arguments,
        "env": [{"name": name, "value": value} for name, value in (store_environment(profile.storage) if profile.storage else {}).items()],
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": name, "mountPath": path} for name, (path, _) in volumes.items()],
    }  # fmt: skip
    user = {"runAsNonRoot": True, "runAsUser": profile.uid, "runAsGroup": 0, "fsGroup": profile.uid}
    pod = {
        "serviceAccountName": ACCOUNT, "automountServiceAccountToken": False, "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,  # it has nothing to save, and as process 1 Python does not hear SIGTERM
        "securityContext": user | {"seccompProfile": {"type": "RuntimeDefault"}}, "containers": [container],
        "volumes": [{"name": name, **source} for name, (_, source) in volumes.items()],
    }  # fmt: skip
    ended = {"containerName": container["name"], "operator": "In", "values": [ENDED]}
    return {
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": request.job_name, "namespace": namespace, "labels": dict(_LABELS), "annotations": _REPLACED},
        "spec": {
            "backoffLimit": _BACKOFF_LIMIT, "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": ended}]},
            # A second pod starts only when the first is gone for good: there is one writer.
            "podReplacementPolicy": "Failed", "template": {"metadata": {"labels": dict(_LABELS)}, "spec": pod},
        },
    }  # fmt: skip


def kustomization(request: Request, namespace: str, resources: list[str]) -> dict[str, Any]:
    """The kustomization's manifest: the request's files as a ConfigMap beside the other files.

    Args:
        request: what is asked for.
        namespace: of the ConfigMap.
        resources: names of the other files.
    """
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": resources,
        "configMapGenerator": [{
            "name": request.job_name, "namespace": namespace, "files": list(FILES),
            "options": {"labels": dict(_LABELS), "disableNameSuffixHash": True},
        }],
    }  # fmt: skip


def kept(manifest: dict[str, Any]) -> dict[str, Any]:
    """A Pipeline or PipelineVersion as GitOps tools shall treat it: applied before the Job, and kept when a newer one comes."""
    notes = {
        "argocd.argoproj.io/sync-wave": _WAVES[manifest["kind"]], "argocd.argoproj.io/sync-options": "Prune=false",
        "argocd.argoproj.io/compare-options": "IgnoreExtraneous",  # else a version that is kept would leave the application OutOfSync
        "kustomize.toolkit.fluxcd.io/prune": "disabled",
    }  # fmt: skip
    return manifest | {"metadata": manifest["metadata"] | {"annotations": notes}}


def _store_volumes(storage: Storage) -> dict[str, tuple[str, dict[str, Any]]]:
    # Optional: without it the pod ends and says so, where Kubernetes would let it wait for ever and say nothing.
    volumes: dict[str, tuple[str, dict[str, Any]]] = {"store": (SECRET_DIR, {"secret": {"secretName": storage.secret, "optional": True}})}
    if storage.ca_config_map:
        volumes["store-ca"] = (CA_DIR, {"configMap": {"name": storage.ca_config_map}})
    return volumes
