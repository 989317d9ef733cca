"""A job as Kubernetes manifests: a ConfigMap with its files, and a RayJob for the KubeRay operator (1.6 or newer).

Values in, dictionaries out. The pods are hardened as the containers of ``docker-compose.yml`` are: uid 10001, a root
file system that cannot be written, no capabilities. Ray's token is KubeRay's to make and to hand to the pods.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from cluster.errors import ClusterError

Manifest = dict[str, Any]

USER = 10001
FILES = "/etc/tuner"
MOST_BYTES = 1_000_000
"""Of a ConfigMap, a little less than Kubernetes takes."""
HOME = "/var/lib/tuner"
SHARED = "/shared"
DATA = "/data"
PGPASS = "/run/tuner/pgpass"
SECRETS = "/run/secrets"
PGPASS_KEY = "pgpass"
PASSWORD_KEY = "mlflow_password"


@dataclass(frozen=True)
class Workers:
    """How many worker pods there are, and what one of them has."""

    count: int
    cpus: int
    memory_gb: float
    gpus: int = 0


@dataclass(frozen=True)
class Stores:
    """Where results go, and the Secret that says how to get in.

    ``secret`` has the keys ``pgpass`` (a libpq password file) and ``mlflow_password``; only the head reads it.
    ``shared`` is a claim's name, for a volume that all nodes mount, or an ``s3://`` URL; ``shared_secret`` then holds
    ``AWS_ACCESS_KEY_ID`` and ``AWS_SECRET_ACCESS_KEY``, if the nodes have no role that grants access.
    """

    storage: str
    tracking: str
    tracking_user: str
    secret: str
    shared: str
    shared_secret: str | None = None
    data_claim: str | None = None


@dataclass(frozen=True)
class Job:
    """What runs: a name that Kubernetes takes, the files that the command finds in its folder, the image, the command.

    ``entrypoint`` is split into words, and no shell reads it.
    """

    name: str
    namespace: str
    files: Mapping[str, bytes]
    image: str
    ray_version: str
    entrypoint: str
    retries: int


def manifests(job: Job, workers: Workers, stores: Stores) -> list[Manifest]:
    """The ConfigMap and the RayJob of a job.

    A lost head ends the RayJob's attempt; KubeRay makes a new cluster and runs the entrypoint again, which goes on
    with the job that the stores know, up to ``job.retries`` times.

    Raises:
        ClusterError: the job's files are too large for a ConfigMap.
    """
    return [_config_map(job), _ray_job(job, workers, stores)]


def _config_map(job: Job) -> Manifest:
    size = sum(len(content) for content in job.files.values()) * 4 // 3
    if size > MOST_BYTES:
        raise ClusterError(
            f"the job's files take {size:,} bytes and a ConfigMap holds {MOST_BYTES:,}: put the code into the image"
        )
    texts, binaries = {}, {}
    for name, content in job.files.items():
        try:
            texts[name] = content.decode()
        except UnicodeDecodeError:
            binaries[name] = base64.b64encode(content).decode()
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(job, f"{job.name}-files"),
        "data": texts,
        **({"binaryData": binaries} if binaries else {}),
    }


def _ray_job(job: Job, workers: Workers, stores: Stores) -> Manifest:
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": _metadata(job, job.name),
        "spec": {
            "entrypoint": f"env --chdir={FILES} {job.entrypoint}",
            "submissionMode": "K8sJobMode",
            "backoffLimit": job.retries,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 600,
            "submitterPodTemplate": _pod(job, [_container(job, "ray-job-submitter", "500m", 1.0)], restart="Never"),
            "rayClusterSpec": {
                "rayVersion": job.ray_version,
                "authOptions": {"mode": "token"},
                "headGroupSpec": {
                    # No CPU: trials run on workers alone.
                    "rayStartParams": {"num-cpus": "0", "num-gpus": "0", "dashboard-host": "0.0.0.0"},
                    "template": _head(job, stores),
                },
                "workerGroupSpecs": [
                    {
                        "groupName": "workers",
                        "replicas": workers.count,
                        "minReplicas": workers.count,
                        "maxReplicas": workers.count,
                        "rayStartParams": {"num-cpus": str(workers.cpus), "num-gpus": str(workers.gpus)},
                        "template": _worker(job, workers, stores),
                    }
                ],
            },
        },
    }


def _head(job: Job, stores: Stores) -> Manifest:
    environment = _environment(stores) | {
        "TUNER_STORAGE": stores.storage,
        "PGPASSFILE": PGPASS,
        "MLFLOW_TRACKING_URI": stores.tracking,
        "MLFLOW_TRACKING_USERNAME": stores.tracking_user,
        "MLFLOW_TRACKING_PASSWORD_FILE": f"{SECRETS}/{PASSWORD_KEY}",
    }
    head = _container(job, "ray-head", "2", 6.0, environment, stores)
    head["ports"] = [{"name": "gcs", "containerPort": 6379}, {"name": "dashboard", "containerPort": 8265}]
    head |= _probes(8265, "/api/gcs_healthz")
    head["volumeMounts"] += [
        {"name": "files", "mountPath": FILES, "readOnly": True},
        {"name": "secrets", "mountPath": SECRETS, "readOnly": True},
        {"name": "pgpass", "mountPath": "/run/tuner", "readOnly": True},
    ]
    volumes: list[Manifest] = [
        {"name": "files", "configMap": {"name": f"{job.name}-files"}},
        {"name": "secrets", "secret": {"secretName": stores.secret, "defaultMode": 0o440}},
        {"name": "pgpass", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
    ]
    return _pod(job, [head], stores, volumes, [_own_pgpass(job)])


def _own_pgpass(job: Job) -> Manifest:
    """Copies the password file: libpq ignores one that a group may read, as every mounted secret is."""
    step = _container(job, "pgpass", "100m", 0.1)
    step["command"] = ["sh", "-c", f"umask 077 && cp {SECRETS}/{PGPASS_KEY} {PGPASS} && chmod 0400 {PGPASS}"]
    step["volumeMounts"] = [
        {"name": "secrets", "mountPath": SECRETS, "readOnly": True},
        {"name": "pgpass", "mountPath": "/run/tuner"},
    ]
    return step


def _worker(job: Job, workers: Workers, stores: Stores) -> Manifest:
    worker = _container(job, "ray-worker", str(workers.cpus), workers.memory_gb, _environment(stores), stores)
    if workers.gpus:
        for bound in ("requests", "limits"):
            worker["resources"][bound]["nvidia.com/gpu"] = workers.gpus
    return _pod(job, [worker | _probes(52365, "/api/local_raylet_healthz")], stores)


def _environment(stores: Stores) -> dict[str, str]:
    """What head and workers both know; the workers nothing else."""
    return {
        "TUNER_HOME": HOME,
        "TUNER_SHARED": stores.shared if _is_url(stores.shared) else SHARED,
        **({"TUNER_DATA": DATA} if stores.data_claim else {}),
        "RAY_USAGE_STATS_ENABLED": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def _container(
    job: Job,
    name: str,
    cpu: str,
    memory_gb: float,
    environment: Mapping[str, str] | None = None,
    stores: Stores | None = None,
) -> Manifest:
    mounts = [{"name": "tmp", "mountPath": "/tmp"}]
    container: Manifest = {
        "name": name,
        "image": job.image,
        "imagePullPolicy": "IfNotPresent",
        "resources": _resources(cpu, memory_gb),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": mounts,
    }
    if environment:
        container["env"] = [{"name": key, "value": value} for key, value in environment.items()]
    if stores is not None:
        mounts.append({"name": "home", "mountPath": HOME})
        mounts += [{"name": volume, "mountPath": path} for volume, path, _ in _claims(stores)]
        if stores.shared_secret:
            container["envFrom"] = [{"secretRef": {"name": stores.shared_secret}}]
    return container


def _resources(cpu: str, memory_gb: float) -> Manifest:
    amounts = {"cpu": cpu, "memory": f"{round(memory_gb * 1024)}Mi"}
    return {"requests": dict(amounts), "limits": dict(amounts)}


def _probes(port: int, path: str) -> Manifest:
    """Written out, for those that KubeRay puts in by itself call wget, which the image lacks."""
    check = {"httpGet": {"path": path, "port": port}, "timeoutSeconds": 5, "periodSeconds": 10}
    return {
        "startupProbe": check | {"failureThreshold": 30},
        "readinessProbe": check | {"failureThreshold": 3},
        "livenessProbe": check | {"failureThreshold": 12},
    }


def _pod(
    job: Job,
    containers: Sequence[Manifest],
    stores: Stores | None = None,
    volumes: Sequence[Manifest] = (),
    init: Sequence[Manifest] = (),
    restart: str | None = None,
) -> Manifest:
    spec: Manifest = {
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": list(containers),
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "10Gi"}}, *volumes],
    }
    if stores is not None:
        spec["volumes"].append({"name": "home", "emptyDir": {"sizeLimit": "50Gi"}})
        spec["volumes"] += [
            {"name": volume, "persistentVolumeClaim": {"claimName": claim}} for volume, _, claim in _claims(stores)
        ]
    if init:
        spec["initContainers"] = list(init)
    if restart:
        spec["restartPolicy"] = restart
    return {"metadata": {"labels": _labels(job)}, "spec": spec}


def _claims(stores: Stores) -> list[tuple[str, str, str]]:
    """(volume, path, claim) of what all nodes mount."""
    shared = [] if _is_url(stores.shared) else [("shared", SHARED, stores.shared)]
    return shared + ([("data", DATA, stores.data_claim)] if stores.data_claim else [])


def _is_url(shared: str) -> bool:
    return "://" in shared


def _metadata(job: Job, name: str) -> Manifest:
    return {"name": name, "namespace": job.namespace, "labels": _labels(job)}


def _labels(job: Job) -> Manifest:
    return {"app.kubernetes.io/name": "tuner", "app.kubernetes.io/instance": job.name}


def dns_name(name: str) -> str:
    """``name`` as Kubernetes takes it for a RayJob: lower case, digits and dashes, 47 characters at most."""
    dashed = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return dashed[:47].strip("-") or "search"


def to_yaml(documents: Sequence[Manifest]) -> str:
    """The manifests as one YAML stream, texts of several lines as blocks.

    PyYAML writes the YAML 1.1 that Kubernetes reads: a string such as ``on`` stays one there.
    """
    return yaml.dump_all(documents, Dumper=_Blocks, sort_keys=False, explicit_start=True, width=120)


class _Blocks(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Blocks.add_representer(str, _text)
