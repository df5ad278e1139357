"""What a platform profile says about a component's pod, set on its KFP task."""

from kfp import kubernetes
from kfp.dsl import PipelineTask

from phasor.pipeline.launch import TRAINING
from phasor.pipeline.profile import Pod, Profile, Storage

SECRET_DIR = "/var/run/phasor/store"
CA_DIR = "/var/run/phasor/ca"
_STORELESS = ("gather",)
_UNCACHED = ("fetch", "publish")
"""One looks at what is outside: the remote, and the code of its image; the other writes there, for each run."""
_RETRIED_FOR = "365d"
"""KFP's `backoff_max_duration` bounds no pause but all tries together, from the start of the first: it must never end a long training."""


def place(task: PipelineTask, component: str, profile: Profile, title: str = "") -> PipelineTask:
    """Set image, resources, environment, security, retries and queue of a task.

    Args:
        task: of the graph.
        component: its name in the profile.
        profile: the platform.
        title: what the UI shows; the component's name if empty.
    """
    pod = profile.pod(component)
    task.set_display_name(title or component)
    task.set_container_image(profile.images.get(component, profile.image))
    kubernetes.set_image_pull_policy(task, profile.pull_policy)
    task.set_cpu_request(pod.cpu).set_cpu_limit(pod.cpu).set_memory_request(pod.memory).set_memory_limit(pod.memory)
    kubernetes.set_security_context(task, run_as_user=profile.uid, run_as_group=0, run_as_non_root=True)
    kubernetes.empty_dir_mount(task, volume_name="tmp", mount_path="/tmp")
    kubernetes.set_timeout(task, pod.timeout_s)
    environment = _processes(component, pod) | {"PHASOR_CHECKPOINT_STEPS": str(profile.checkpoint_steps)} | profile.environment
    for name, value in environment.items():
        task.set_env_variable(name, value)
    for name, source in profile.secret_environment.items():
        secret, _, key = source.partition("/")
        kubernetes.use_secret_as_env(task, secret_name=secret, secret_key_to_env={key: name})
    if component in _UNCACHED:
        task.set_caching_options(False)
    if component != "fetch":
        task.set_retry(profile.num_retries, profile.backoff, 2.0, _RETRIED_FOR)
    if profile.storage and component not in _STORELESS:
        _mount_store(task, profile.storage)
    _choose_node(task, pod, profile.queue)
    return task


def _processes(component: str, pod: Pod) -> dict[str, str]:
    """One training process per accelerator; the cores of the pod, not of its node, are shared out among them."""
    processes = max(1, pod.accelerators) if component in TRAINING else 1
    cores = float(pod.cpu[:-1]) / 1000 if pod.cpu.endswith("m") else float(pod.cpu)
    return {"PHASOR_PROCESSES": str(processes), "OMP_NUM_THREADS": str(max(1, int(cores) // processes)), "PHASOR_LOG_LEVEL": "INFO"}


def _mount_store(task: PipelineTask, storage: Storage) -> None:
    # Optional: without it the first task ends and says so, where Kubernetes would let it wait for hours and say nothing.
    kubernetes.use_secret_as_volume(task, secret_name=storage.secret, mount_path=SECRET_DIR, optional=True)
    if storage.ca_config_map:
        kubernetes.use_config_map_as_volume(task, config_map_name=storage.ca_config_map, mount_path=CA_DIR, optional=True)
    places = {"PHASOR_DVC_REMOTE": storage.remote, "PHASOR_CHECKPOINTS": storage.checkpoints, "PHASOR_RESULTS": storage.results}
    for name, value in (store_environment(storage) | places).items():
        task.set_env_variable(name, value)


def store_environment(storage: Storage) -> dict[str, str]:
    """How a pod finds the store, with the secret mounted at SECRET_DIR and certificates, if there are any, at CA_DIR."""
    values = {"PHASOR_S3_ENDPOINT": storage.endpoint, "PHASOR_S3_REGION": storage.region, "PHASOR_S3_SECRET": SECRET_DIR}
    return values | ({"PHASOR_S3_CA": f"{CA_DIR}/ca.crt"} if storage.ca_config_map else {})


def _choose_node(task: PipelineTask, pod: Pod, queue: str) -> None:
    if pod.accelerator:
        task.set_accelerator_type(pod.accelerator).set_accelerator_limit(str(pod.accelerators))
    if pod.shared_memory:
        kubernetes.empty_dir_mount(task, volume_name="shm", mount_path="/dev/shm", medium="Memory", size_limit=pod.shared_memory)
    for key, value in pod.node_selector.items():
        kubernetes.add_node_selector(task, label_key=key, label_value=value)
    for toleration in pod.tolerations:
        wanted = toleration.value or None
        kubernetes.add_toleration(task, key=toleration.key, operator=toleration.operator, value=wanted, effect=toleration.effect)
    if queue:
        kubernetes.add_pod_label(task, label_key="kueue.x-k8s.io/queue-name", label_value=queue)
