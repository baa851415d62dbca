"""What Kubernetes would say of a PyTorchJob, and what the operator gives its pods.

The schema is that part of the published one which our manifest uses, written from the resource definition of Kubeflow's
training operator (manifests/base/crds/kubeflow.org_pytorchjobs.yaml); the environment, from its
pkg/controller.v1/pytorch/envvar.go and master.go, of version 1.7 and later. Fields that are not here are refused.
"""

from typing import Any

DEFAULT_PORT = 23456  # of the operator
FIRST_RETRYABLE = 128  # pkg/util/train/train_util.go: with ExitCode, statuses from here on start a pod again

TEXT, WHOLE = {"type": "string"}, {"type": "integer"}
QUANTITY = {
    "anyOf": [
        WHOLE,
        {"type": "string", "pattern": r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))([KMGTPE]i|[numkMGTPE])?$"},
    ]
}


def thing(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    """The schema of a mapping that has these fields and no others."""
    return {"type": "object", "required": list(required), "properties": properties, "additionalProperties": False}


def several(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


CONTAINER = thing(
    ("name",),
    name=TEXT,
    image=TEXT,
    command=several(TEXT),
    args=several(TEXT),
    workingDir=TEXT,
    env=several(thing(("name",), name=TEXT, value=TEXT)),
    resources=thing(limits={"type": "object", "additionalProperties": QUANTITY}),
    volumeMounts=several(thing(("mountPath", "name"), mountPath=TEXT, name=TEXT, subPath=TEXT)),
)
VOLUME = thing(
    ("name",),
    name=TEXT,
    persistentVolumeClaim=thing(("claimName",), claimName=TEXT),
    emptyDir=thing(medium=TEXT, sizeLimit=QUANTITY),
)
POD = thing(
    ("containers",), terminationGracePeriodSeconds=WHOLE, containers=several(CONTAINER), volumes=several(VOLUME)
)
REPLICAS = thing(
    replicas=WHOLE,
    restartPolicy={"enum": ["Always", "OnFailure", "Never", "ExitCode"]},
    template=thing(spec=POD),
)
SPEC = thing(
    ("pytorchReplicaSpecs",),
    nprocPerNode=TEXT,
    runPolicy=thing(cleanPodPolicy={"enum": ["All", "Running", "None"]}, backoffLimit=WHOLE),
    pytorchReplicaSpecs=thing(Master=REPLICAS, Worker=REPLICAS),
)
PYTORCH_JOB = thing(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "kubeflow.org/v1"},
    kind={"const": "PyTorchJob"},
    metadata=thing(("name",), name={"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$"}),
    spec=SPEC,
)


def environments(job: dict[str, Any]) -> list[dict[str, str]]:
    """What the operator puts into each pod's environment: the master's first, then the workers'."""
    spec = job["spec"]
    n_pods = sum(replicas["replicas"] for replicas in spec["pytorchReplicaSpecs"].values())
    return [
        {
            "PYTHONUNBUFFERED": "0",
            "MASTER_PORT": str(DEFAULT_PORT),
            "MASTER_ADDR": f"{job['metadata']['name']}-master-0",
            "WORLD_SIZE": str(n_pods * int(spec["nprocPerNode"])),
            "RANK": str(pod),
            "PET_NPROC_PER_NODE": spec["nprocPerNode"],
            "PET_NODE_RANK": str(pod),
            "PET_NNODES": str(n_pods),
        }
        for pod in range(n_pods)
    ]
