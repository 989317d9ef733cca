"""Time that an MLflow server on Postgres needs to log an epoch while several writers report at once. Prints JSON.

Both servers run on this machine, on loopback, with their data on disk (fsync on). Each writer is a process. It logs the
metrics of an epoch to its own run at a fixed rate. ``call`` is the duration of a call. ``due`` counts from the time at
which the call was due, so it includes the wait behind a slow call. The CPU time of the services per call depends little
on other work on the machine.

    python -m benchmarks.tracker_load --writers 8 --rate 64 --seconds 60
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from multiprocessing.pool import AsyncResult
from pathlib import Path

import numpy as np
import psutil
import psycopg

from benchmarks.conditions import conditions
from tests.faults.services import MlflowServer, Postgres, Service, running
from tuner.tracking.run_layout import METRICS

METRICS_A_CALL = len(METRICS)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--rate", type=float, default=64.0, help="calls per second, of all writers together")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--workers", type=int, default=1, help="number of server processes")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tuner-load-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        postgres = Postgres(folder / "postgres", {"fsync": "on"})
        os.environ |= postgres.env
        with running(postgres):
            server = MlflowServer(postgres.create("mlflow"), folder / "mlflow", postgres.env, asked.workers)
            with running(server):
                before = [cpu_s(service) for service in (server, postgres)]
                result = measure(server.uri, asked.writers, asked.rate, asked.seconds)
                used = [cpu_s(service) - then for service, then in zip((server, postgres), before, strict=True)]
                calls = asked.rate * asked.seconds
                result["cpu_ms_per_call"] = [round(1000 * seconds / calls, 2) for seconds in used]
                result["rows"] = rows(postgres.connect("mlflow"))
    print(json.dumps(result | conditions(), indent=2))


def measure(uri: str, writers: int, rate: float, seconds: float) -> dict[str, object]:
    """Latencies in milliseconds, and the numbers of all calls and of failed calls."""
    calls = round(rate / writers * seconds)
    with multiprocessing.get_context("spawn").Pool(writers) as pool:
        begin = time.time() + 20  # by then, all writers have imported mlflow
        ended: list[AsyncResult[tuple[list[tuple[float, float]], list[str], float]]] = [
            pool.apply_async(report, (uri, begin + number / rate, writers / rate, calls)) for number in range(writers)
        ]
        results = [one.get() for one in ended]
    latencies = {
        name: 1000 * np.array([pair[number] for result in results for pair in result[0]])
        for number, name in enumerate(("call", "due"))
    }
    errors = [error for result in results for error in result[1]]
    last = max(result[2] for result in results)
    return {
        "writers": writers,
        "asked_calls_per_s": rate,
        "calls_per_s": round(len(latencies["due"]) / (last - begin), 1),
        "metrics_per_call": METRICS_A_CALL,
        "seconds": round(last - begin, 1),
        "calls": len(latencies["due"]) + len(errors),
        "errors": len(errors),
        "first_error": errors[0] if errors else None,
    } | {f"{name}_ms": percentiles(values) for name, values in latencies.items()}


def cpu_s(service: Service) -> float:
    """CPU time of a service so far, with all its processes, the ended ones included."""
    process = psutil.Process(service.pid)
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return float(sum(t.user + t.system + t.children_user + t.children_system for t in times))


def percentiles(values: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> dict[str, float]:
    """Median, high percentiles and maximum."""
    found = {f"p{share}": float(np.percentile(values, share)) for share in (50, 95, 99)}
    return {name: round(value, 1) for name, value in (found | {"max": float(values.max())}).items()}


def report(uri: str, begin: float, every: float, calls: int) -> tuple[list[tuple[float, float]], list[str], float]:
    """Run one writer.

    Returns:
        For each call, its seconds and the seconds since it was due; the errors; and the time of the end.
    """
    from mlflow import MlflowClient
    from mlflow.entities import Metric
    from mlflow.exceptions import MlflowException

    client = MlflowClient(tracking_uri=uri)
    run = client.create_run("0").info.run_id
    latencies: list[tuple[float, float]] = []
    errors: list[str] = []
    for call in range(calls):
        due = begin + call * every
        time.sleep(max(0.0, due - time.time()))
        metrics = [Metric(name, call / calls, round(due * 1000), call + 1) for name in METRICS.values()]
        sent = time.time()
        try:
            client.log_batch(run, metrics=metrics)
            latencies.append((time.time() - sent, time.time() - due))
        except MlflowException as error:
            errors.append(str(error).splitlines()[0])
    return latencies, errors, time.time()


def rows(connection: "psycopg.Connection[tuple[object, ...]]") -> object:
    """Number of metric rows in the database."""
    with connection:
        found = connection.execute("select count(*) from metrics").fetchone()
    return found and found[0]


if __name__ == "__main__":
    main()
