"""Time to read the leaderboard of a job of 1,000 trials from its journal, against MLflow's ``search_runs``."""

import tempfile
from pathlib import Path

import mlflow
from mlflow.entities import Metric, Param

from benchmarks.measuring import Comparison, Goal, Result, interleaved, seconds
from tests.tuner.whole_jobs import Place, place
from tuner.jobs.request import spec_of
from tuner.tracking.client import connect
from tuner.verdict.ranking import build

SPEC = """\
name: many
data: {{name: digits}}
model: {{name: elu_net, width: 0.03}}
baseline: adam_l2
arms: [adam_l2, adamw]
budget: {{trials: {trials}, epochs: {epochs}, batch_size: 50}}
sampler: random
scheduler: none
confirm: {{seeds: 3}}
"""
METRICS, EPOCHS = 20, 3
"""A run of the peer has 20 metrics. A trial of ours has about as many values: three epochs of seven values each."""
PARAMS = 5


def measure(pairs: int, trials: int = 1000) -> Result:
    """Compare in one process. Before the timing, all modules are imported and both files are read once."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as name,
        place(Path(name, "place"), SPEC.format(trials=trials // 2, epochs=EPOCHS)) as where,
    ):
        ended = where.tuner("run", "spec.yaml", "--simulate", "-q")
        if ended.code:
            raise RuntimeError(ended.err)
        uri = f"sqlite:///{name}/mlflow.db"
        experiment = _filled(uri, trials)
        figures = interleaved(
            lambda: seconds(lambda: _ours(where)),
            lambda: seconds(lambda: _theirs(uri, experiment, trials)),
            pairs,
            warmup=1,
        )
    return Result(
        f"Ours reads a journal of {trials:,} simulated trials of {EPOCHS} epochs and six confirm runs. The peer reads"
        f" {trials:,} runs of {METRICS} metrics and {PARAMS} parameters from SQLite.",
        (Comparison("Leaderboard", "mlflow.search_runs", "s", *figures, Goal(1 / 20, "most")),),
    )


def _ours(where: Place) -> None:
    job = where.home.job()
    assert build(job.record(), spec_of(job)).rows


def _theirs(uri: str, experiment: str, trials: int) -> None:
    mlflow.set_tracking_uri(uri)
    found = mlflow.search_runs([experiment], order_by=["metrics.metric_0 DESC"], max_results=trials)
    assert len(found) == trials


def _filled(uri: str, trials: int) -> str:
    client = connect(uri)
    experiment = client.create_experiment("many")
    params = [Param(f"param_{number}", str(number)) for number in range(PARAMS)]
    for trial in range(trials):
        run = client.create_run(experiment, run_name=f"trial {trial}")
        metrics = [Metric(f"metric_{number}", trial / (number + 1), 0, 1) for number in range(METRICS)]
        client.log_batch(run.info.run_id, metrics, params)
        client.set_terminated(run.info.run_id)
    return str(experiment)
