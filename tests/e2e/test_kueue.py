"""The queue of the overlay `gpu` under a real Kueue, where the cluster has one: who is let in, who waits, and for what."""

import json
from collections.abc import Iterator

import pytest
import yaml
from tests.waiting import until

from .cluster import Namespace, Object, restricted, run
from .conftest import ROOT

KINDS = ("LimitRange", "ResourceFlavor", "ClusterQueue", "LocalQueue")
LABEL, GPU = "kueue.x-k8s.io/queue-name", "nvidia.com/gpu"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def queue(namespace: Namespace) -> Iterator[Namespace]:
    """Our namespace with the queue that the profile names, and the disk that the overlay gives every pod."""
    if run("kubectl", "get", "crd", "clusterqueues.kueue.x-k8s.io", check=False).returncode:
        pytest.skip("the cluster has no Kueue")
    overlay = run("kubectl", "kustomize", str(ROOT / "manifests" / "overlays" / "gpu")).stdout
    text = yaml.safe_dump_all([tree for tree in yaml.safe_load_all(overlay) if tree["kind"] in KINDS])
    told = run("kubectl", "apply", "--server-side", "-f", "-", text=text)
    assert told.stderr == "", "no field unknown, no version that is about to go"
    yield namespace
    namespace.kubectl("delete", "pods", "-l", LABEL, "--timeout=120s")
    run("kubectl", "delete", "--timeout=120s", "-f", "-", text=text)


def cluster_queue() -> Object:
    found: Object = json.loads(run("kubectl", "get", "clusterqueue", "phasor", "-o", "json").stdout)
    return found


def used() -> dict[str, str]:
    """What is taken of the queue's quota, by resource."""
    (flavor,) = cluster_queue()["status"]["flavorsUsage"]
    return {entry["name"]: entry["total"] for entry in flavor["resources"]}


def gpus() -> int:
    """The GPUs of its quota."""
    (group,) = cluster_queue()["spec"]["resourceGroups"]
    return int(next(entry["nominalQuota"] for entry in group["flavors"][0]["resources"] if entry["name"] == GPU))


def pod(name: str, component: str, image: str) -> Object:
    """What KFP's driver makes of the compiled component, as far as a queue or a scheduler looks; beside it a container like Argo's."""
    pipeline, platform = yaml.safe_load_all((ROOT / "pipelines" / "compiled" / "gpu-kueue.yaml").read_text())
    compiled = pipeline["deploymentSpec"]["executors"][f"exec-{component}"]["container"]["resources"]
    placed = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"][f"exec-{component}"]
    accelerator = compiled.get("accelerator")
    resources = {
        "requests": {"cpu": compiled["resourceCpuRequest"], "memory": compiled["resourceMemoryRequest"]},
        "limits": {"cpu": compiled["resourceCpuLimit"], "memory": compiled["resourceMemoryLimit"]}
        | ({accelerator["resourceType"]: accelerator["resourceCount"]} if accelerator else {}),
    }  # fmt: skip
    made = restricted(
        name, image, ["sleep", "600"], labels=placed["podMetadata"]["labels"], container={"resources": resources},
        activeDeadlineSeconds=int(placed["activeDeadlineSeconds"]), tolerations=placed.get("tolerations", []),
    )  # fmt: skip
    (main,) = made["spec"]["containers"]
    made["spec"]["containers"].append({key: value for key, value in main.items() if key != "resources"} | {"name": "wait"})
    return made


def waiting(home: Namespace) -> set[str]:
    """Names of the pods that the queue lets wait."""
    found = [one for one in home.get("pods", "-l", LABEL) if one["spec"].get("schedulingGates")]
    return {one["metadata"]["name"] for one in found}


def reason(home: Namespace, name: str) -> str:
    """What Kueue says of a pod that waits."""
    (found,) = [one for one in home.get("workloads") if one["metadata"]["ownerReferences"][0]["name"] == name] or [{}]
    conditions = found.get("status", {}).get("conditions", [])
    return " ".join(one["message"] for one in conditions if (one["type"], one["status"]) == ("QuotaReserved", "False"))


def test_a_pod_is_let_in_and_holds_its_share_until_it_goes(queue: Namespace, images: dict[str, str]) -> None:
    queue.apply(pod("fetch", "fetch", images["phasor"]))
    until(lambda: used()["cpu"] == "500m", "a share")
    until(lambda: not waiting(queue), "its start")
    assert queue.get("pod", "fetch")[0]["metadata"]["labels"]["kueue.x-k8s.io/managed"] == "true"
    queue.kubectl("delete", "pod", "fetch")
    until(lambda: set(used().values()) == {"0"}, "nothing held")


def test_every_gpu_of_the_quota_has_a_pod_beside_those_without_one_and_the_next_pod_waits(queue: Namespace, images: dict[str, str]) -> None:
    trains = [f"train-{i}" for i in range(gpus())]
    queue.apply(pod("mine", "mine", images["phasor"]), *(pod(name, "train", images["phasor"]) for name in trains))
    until(lambda: not waiting(queue), "a share for every pod")  # no node of this cluster has a GPU: the scheduler keeps them now
    assert used()[GPU] == str(gpus())

    queue.apply(pod("next", "train", images["phasor"]))
    until(lambda: reason(queue, "next"), "a reason to wait")
    assert waiting(queue) == {"next"}
    assert f"quota for {GPU} " in reason(queue, "next")
    queue.kubectl("delete", "pod", trains[0])
    until(lambda: not waiting(queue), "the turn of the next pod")
