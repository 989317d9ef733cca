"""A JSON schema of the part of KubeRay's RayJob that our manifests use, after its API reference (ray.io/v1).

It is written by hand, because KubeRay publishes its schema only inside a CustomResourceDefinition of more than a
megabyte. Kubernetes' own schema checks the pod templates.
"""

from typing import Any

TEMPLATE: dict[str, Any] = {"type": "object", "required": ["spec"]}
START_PARAMS: dict[str, Any] = {"type": "object", "additionalProperties": {"type": "string"}}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


HEAD = _object(["template"], template=TEMPLATE, rayStartParams=START_PARAMS)
WORKERS = _object(
    ["groupName", "template", "minReplicas", "maxReplicas"],
    groupName={"type": "string"},
    replicas={"type": "integer", "minimum": 0},
    minReplicas={"type": "integer", "minimum": 0},
    maxReplicas={"type": "integer", "minimum": 0},
    rayStartParams=START_PARAMS,
    template=TEMPLATE,
)
CLUSTER = _object(
    ["headGroupSpec"],
    rayVersion={"type": "string"},
    authOptions=_object([], mode={"enum": ["disabled", "token"]}),
    headGroupSpec=HEAD,
    workerGroupSpecs={"type": "array", "items": WORKERS},
)
RAYJOB = _object(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=_object(
        ["name"],
        name={"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,45}[a-z0-9])?$"},
        namespace={"type": "string"},
        labels={"type": "object"},
    ),
    spec=_object(
        [],
        entrypoint={"type": "string"},
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        backoffLimit={"type": "integer", "minimum": 0},
        shutdownAfterJobFinishes={"type": "boolean"},
        ttlSecondsAfterFinished={"type": "integer", "minimum": 0},
        submitterPodTemplate=TEMPLATE,
        rayClusterSpec=CLUSTER,
    ),
)
