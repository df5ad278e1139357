"""The overlay `kind` after it was applied: its store keeps what it is given, its account may little, its namespace is restricted."""

import io
import json

import pytest
from tests.minio_server import BUCKET
from tests.waiting import until

from .cluster import Namespace, ready, run
from .conftest import ROOT, reached

RUNNER = "system:serviceaccount:phasor:pipeline-runner"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize(("verb", "group", "resource", "name", "allowed"), [
    ("get", "", "secrets", "phasor-store", True), ("get", "", "secrets", "other", False), ("list", "", "secrets", "", False),
    ("get", "", "configmaps", "kfp-launcher", True), ("get", "", "configmaps", "other", False),
    ("get", "", "pods", "any", True), ("delete", "", "pods", "any", False), ("create", "", "pods", "", False),
    ("create", "argoproj.io", "workflowtaskresults", "", True), ("create", "argoproj.io", "workflows", "", False),
])  # fmt: skip
def test_a_pipeline_pod_may_what_it_needs_and_no_more(
    verb: str, group: str, resource: str, name: str, allowed: bool, namespace: Namespace
) -> None:
    asked = {"namespace": namespace.name, "verb": verb, "group": group, "resource": resource, "name": name}
    review = {
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {"user": RUNNER, "resourceAttributes": asked},
    }  # fmt: skip
    answer = namespace.kubectl("create", "-o", "json", "-f", "-", text=json.dumps(review))
    assert json.loads(answer.stdout)["status"].get("allowed", False) is allowed


def test_the_namespace_takes_no_pod_that_is_not_restricted(namespace: Namespace) -> None:
    result = namespace.kubectl("run", "root", "--image", "phasor.local/minio:dev", check=False)
    assert result.returncode and "violates PodSecurity" in result.stderr


def test_applying_again_changes_nothing(namespace: Namespace) -> None:
    result = run("kubectl", "diff", "--server-side", "-k", str(ROOT / "manifests" / "overlays" / "kind"), check=False)
    assert result.returncode == 0, result.stdout


def test_the_store_keeps_objects_on_its_volume_when_its_pod_goes(namespace: Namespace) -> None:
    with reached(namespace) as store:
        store.client.put_object(bucket_name=BUCKET, object_name="kept", data=io.BytesIO(b"kept"), length=4)
    assert namespace.get("persistentvolumeclaim")[0]["status"]["phase"] == "Bound"
    namespace.kubectl("delete", "pod", "-l", "app.kubernetes.io/name=minio")
    until(lambda: [pod for pod in namespace.get("pods", "-l", "app.kubernetes.io/name=minio") if ready(pod)], "a new pod")
    with reached(namespace) as store:
        assert store.client.get_object(bucket_name=BUCKET, object_name="kept").read() == b"kept"
