"""Commands that write manifests for other machines: render kubernetes."""

import io
import math
import sys
from functools import partial
from pathlib import Path

import click

EXAMPLE = "Example: tuner render kubernetes searches/cifar10.yaml --workers 4 --data-claim cifar10 | kubectl apply -f -"
STORAGE = "postgresql+psycopg://tuner@postgres:5432/tuner"


@click.group()
def render() -> None:
    """Write manifests that run a spec on other machines."""


@render.command(epilog=EXAMPLE)
@click.argument("spec", type=click.Path(path_type=Path))
@click.option("--image", required=True, help="Image built from cluster/Dockerfile and pushed to your registry.")
@click.option("--namespace", default="default", show_default=True, help="Kubernetes namespace.")
@click.option("--workers", type=click.IntRange(1, 10_000), default=2, show_default=True, help="Number of worker pods.")
@click.option("--worker-cpus", type=click.IntRange(1), help="CPUs per worker [the CPUs of one trial, at least 2].")
@click.option("--worker-gpus", type=click.IntRange(0), help="GPUs per worker [the GPUs of one trial, rounded up].")
@click.option("--worker-memory", type=click.FloatRange(1), default=4.0, show_default=True, help="GiB per worker.")
@click.option(
    "--storage",
    envvar="TUNER_STORAGE",
    default=STORAGE,
    show_default=True,
    help="URL of the Postgres database with the jobs' records [TUNER_STORAGE].",
)
@click.option(
    "--tracking",
    envvar="MLFLOW_TRACKING_URI",
    default="http://mlflow:5000",
    show_default=True,
    help="URL of the MLflow server [MLFLOW_TRACKING_URI].",
)
@click.option(
    "--tracking-user",
    envvar="MLFLOW_TRACKING_USERNAME",
    default="tuner",
    show_default=True,
    help="User of the MLflow server [MLFLOW_TRACKING_USERNAME].",
)
@click.option(
    "--secret",
    default="tuner-stores",
    show_default=True,
    help="Secret with the keys pgpass and mlflow_password. Only the head reads it.",
)
@click.option(
    "--shared",
    default="tuner-shared",
    show_default=True,
    help="PersistentVolumeClaim that all nodes can write, or an s3:// URL. Holds checkpoints, weights and exports.",
)
@click.option("--shared-secret", help="Secret with the AWS_* keys for an s3:// URL.")
@click.option("--data-claim", help="PersistentVolumeClaim with the data set.")
@click.option(
    "--retries",
    type=click.IntRange(0),
    default=3,
    show_default=True,
    help="How many times a new cluster may resume the job after its head is lost.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file, not stdout.")
@click.option("--force", is_flag=True, help="Overwrite the file.")
def kubernetes(
    spec: Path,
    image: str,
    namespace: str,
    workers: int,
    worker_cpus: int | None,
    worker_gpus: int | None,
    worker_memory: float,
    storage: str,
    tracking: str,
    tracking_user: str,
    secret: str,
    shared: str,
    shared_secret: str | None,
    data_claim: str | None,
    retries: int,
    output: Path | None,
    force: bool,
) -> None:
    """Print the Kubernetes manifests that run SPEC: a ConfigMap, and a RayJob for the KubeRay operator.

    If the head is lost, the next head resumes the job from the stores. The operator creates Ray's token.
    """
    from importlib.metadata import version

    from cluster.deploy.kubernetes import DATA, Job, Stores, Workers, dns_name, manifests
    from tuner.driver.code_check import try_imports
    from tuner.remote.client import WORK
    from tuner.remote.submission import pack_job
    from tuner.storage.atomic_files import write_new

    _check_storage(storage)
    packed = pack_job(spec, DATA if data_claim else None, partial(try_imports, announce=partial(click.echo, err=True)))
    for line in [] if packed.code is None else packed.code.lines():
        click.echo(line, err=True)
    resources = packed.spec.resources
    gpus = math.ceil(resources.gpus) if worker_gpus is None else worker_gpus
    text = manifests(
        Job(
            name=dns_name(packed.job),
            namespace=namespace,
            files=packed.files,
            image=image,
            ray_version=version("ray"),
            entrypoint=WORK,
            retries=retries,
        ),
        Workers(workers, worker_cpus or max(2, resources.cpus), worker_memory, gpus),
        Stores(storage, tracking, tracking_user, secret, shared, shared_secret, data_claim),
    )
    if output is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            # YAML is UTF-8, whatever the encoding of the terminal.
            sys.stdout.reconfigure(encoding="utf-8")
        click.echo(text, nl=False)
    else:
        write_new(output, text, force)
        click.echo(f"wrote {output}; next: kubectl apply -f {output}", err=True)


def _check_storage(storage: str) -> None:
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    from tuner.errors import SpecError

    try:
        url = make_url(storage)
    except ArgumentError:
        raise SpecError(f"--storage is not a database URL; give one like {STORAGE}") from None
    if url.password is not None:
        raise SpecError("--storage contains a password that everyone could read; put it in the Secret's key pgpass")
    if url.get_backend_name() == "sqlite":
        raise SpecError(f"--storage is an SQLite file, which pods cannot share; give a URL like {STORAGE}")


COMMANDS = (render,)
