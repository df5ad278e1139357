"""A platform profile: everything about pods that is no part of a recipe. One YAML file per kind of cluster."""

from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from phasor.artifacts import first_problem
from phasor.config.base import Config
from phasor.errors import RecipeError
from phasor.phases import PHASES

KFP_ONLY = ("fetch", "gather", "publish")
"""Components around the phases."""
COMPONENTS = ("fetch", *(phase.name for phase in PHASES[:4]), "gather", *(phase.name for phase in PHASES[4:]), "publish")
"""Every component, in the order of the graph."""


class Toleration(Config):
    """As in a pod's specification."""

    key: str
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str = ""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = "NoSchedule"


class Pod(Config):
    """What one component's pod gets."""

    cpu: str = Field("2", pattern=r"^\d+(\.\d+)?m?$", description="Cores, requested and at most.")
    memory: str = Field("4Gi", pattern=r"^\d+[KMGT]i$", description="Requested and at most.")
    accelerator: str = Field("", description="Resource name, for example nvidia.com/gpu.")
    accelerators: int = Field(0, ge=0, description="How many; training starts one process on each.")
    shared_memory: str = Field("", description="Size of /dev/shm; several processes need it. Empty: the node's default.")
    node_selector: dict[str, str] = {}
    tolerations: tuple[Toleration, ...] = ()
    timeout_s: int = Field(6 * 3600, ge=60, description="The pod is ended then, waiting for a node not counted.")

    @model_validator(mode="after")
    def _accelerators_have_a_kind(self) -> Self:
        if bool(self.accelerator) != bool(self.accelerators):
            raise ValueError(f"accelerator {self.accelerator!r} with accelerators={self.accelerators}: set both or neither")
        return self


class Storage(Config):
    """The object store as pods see it; see phasor.settings.StoreSettings."""

    endpoint: str = Field(description="For example http://minio:9000.")
    region: str = Field("us-east-1", description="S3 wants one, MinIO too.")
    remote: str = Field("s3://phasor/dvc", description="DVC remote with the data.")
    checkpoints: str = Field("s3://phasor/checkpoints", description="For what tasks have done; a run ends by emptying it.")
    results: str = Field("s3://phasor/results", description="For what runs came to: bundle and verdict, read by who promotes.")
    secret: str = Field(description="Name of the secret with the keys accesskey and secretkey; mounted, never in the environment.")
    ca_config_map: str = Field("", description="Name of a ConfigMap with ca.crt, for a store with its own certificates.")


class Profile(Config):
    """One kind of cluster.

    A component's pod is `pods.default` with what `pods.NAME` says on top.
    """

    image: str = Field(min_length=1, description="By digest, so that a run can be repeated.")
    images: dict[str, str] = Field({}, description="Component to an image of its own.")
    pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    pods: dict[str, dict[str, Any]] = Field({}, description="`default` or a component's name to what differs from the defaults of a pod.")
    storage: Storage | None = Field(None, description="null: the environment of the pods says it already.")
    environment: dict[str, str] = Field({}, description="Further variables of every pod; no secrets.")
    secret_environment: dict[str, str] = Field({}, description="Variable to SECRET/KEY, for example the key of a generation endpoint.")
    uid: int = Field(1000, ge=1, description="Pods run as this user and group 0.")
    queue: str = Field("", description="Kueue local queue; empty: pods are not queued.")
    num_retries: int = Field(3, ge=0, description="After a pod that was lost; KFP 2.17 retries none that failed by itself.")
    backoff: str = Field("30s", pattern=r"^\d+s$", description="Before the first retry; doubles.")
    parallelism: int = Field(4, ge=1, description="Branches of a loop at once.")
    checkpoint_steps: int = Field(50, ge=0, description="Steps between checkpoints where the recipe says nothing.")

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        for name in (*self.images, *self.pods):
            if name != "default" and name not in COMPONENTS:
                raise ValueError(f"{name!r} is no component; there are {', '.join(COMPONENTS)}")
        for name in COMPONENTS:
            self.pod(name)
        return self

    def pod(self, component: str) -> Pod:
        """The pod of a component."""
        return Pod.model_validate(self.pods.get("default", {}) | self.pods.get(component, {}))


def load_profile(path: Path) -> Profile:
    """Read a profile.

    Raises:
        RecipeError: the file is missing, is not YAML, or a key or value is not allowed.
    """
    try:
        return Profile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        hint = f"In that folder there are: {known}." if known else "Go to a checkout of Phasor and name your recipe with --recipe."
        raise RecipeError(f"there is no profile {path.absolute()}. {hint}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not valid YAML: {error}") from None
    except ValidationError as error:
        raise RecipeError(f"{path}: {first_problem(error)}. See src/phasor/pipeline/profile.py for what may stand there.") from None
