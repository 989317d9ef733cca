"""Whole jobs on a real cluster: submitted from the machine of a user, until the verdict is back there."""

import json
import re

import pytest

from tests.cluster.stack import Stack, named, wait_until
from tests.faults.checker import check_end_state
from tests.tuner.whole_jobs import SPEC
from tuner.export.export_file import read_export
from tuner.storage.events import Stage

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(900)]


def test_a_submitted_spec_returns_a_verdict(up: Stack) -> None:
    (up.here.cwd / "spec.yaml").write_text(named("whole", SPEC))
    ended = up.tuner("submit", "spec.yaml", "--wait")
    assert ended.code == 0, ended.err
    job = ended.out.splitlines()[0]
    assert "adam_l2" in ended.out
    assert "search 9/9" in ended.err
    record = check_end_state(up.head, up.job(job))

    again = up.tuner("submit", "spec.yaml", "-o", "json")
    assert json.loads(again.out) == {"job": job, "new": False}
    status = json.loads(up.tuner("status", job[:-3], "-o", "json").out)
    assert (status["job"], status["state"], status["search"], status["holder"]) == (job, "finished", [9, 9], None)
    assert job in [row["job"] for row in json.loads(up.tuner("list", "-o", "json").out)]
    board = json.loads(up.tuner("leaderboard", job, "-o", "json").out)
    assert board["job"] == job
    assert "search/adam_l2/0 complete" in up.tuner("logs", job).out
    assert job in up.tuner("report", job, "-o", "md").out
    assert up.tuner("report", job[:-3]).out == f"{job}.html\n"
    assert (up.here.cwd / f"{job}.html").read_text().startswith("<!doctype html>")

    exported = up.tuner("export", job, "--best", "-o", "best.yaml")
    assert exported.code == 0, exported.err
    assert read_export(up.here.cwd / "best.yaml").arm in record.arms
    refused = up.tuner("export", job, "--best", "-o", "best.yaml")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert up.tuner("export", job, "--arm", "noam", "-o", "w.safetensors").code == 0
    assert up.tuner("export", job, "--all", "-o", "all").code == 0
    assert sorted(file.name for file in (up.here.cwd / "all").iterdir()) == [
        f"{arm}.yaml" for arm in sorted(record.arms)
    ]
    unknown = up.tuner("status", "nosuch")
    assert (unknown.code, unknown.err.count("\n")) == (4, 1)


@pytest.mark.slow
def test_a_job_without_time_for_a_verdict_is_extended_from_afar(up: Stack) -> None:
    small = SPEC.replace("trials: 3, epochs: 6", "trials: 1, epochs: 3, max_hours: 1e-6")
    text = named("short", small.replace("confirm: {seeds: 3}", "searches: 3\nconfirm: {margin: 1}"))
    (up.here.cwd / "short.yaml").write_text(text)
    ended = up.tuner("submit", "short.yaml", "--wait")
    assert ended.code == 7
    assert "no arm has 3 searches to compare" in ended.err
    job = ended.out.splitlines()[0]
    extended = up.tuner("extend", job)
    assert (extended.code, extended.out) == (0, f"{job}\n")
    wait_until(lambda: up.state(job) == "finished")
    record = up.finished(job).record()
    assert [look.searches for look in record.looks] == [3]
    assert [more.until_s for more in record.extensions] == [None]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["trainable", "optimizer"])
def test_a_question_of_ones_own_is_answered_by_a_cluster(up: Stack, kind: str) -> None:
    assert up.tuner("init", "--kind", kind, f"{kind}.yaml").code == 0
    # The search of the starter for an optimizer takes minutes.
    text = (up.here.cwd / f"{kind}.yaml").read_text()
    small = re.sub(r"trials: 8 .*", "trials: 2", re.sub(r"epochs: 8 .*", "epochs: 2", text))
    (up.here.cwd / f"{kind}.yaml").write_text(small.replace("seeds: 5", "seeds: 3"))
    ended = up.tuner("submit", f"{kind}.yaml", "--wait")
    assert ended.code == 0, ended.err
    job = ended.out.splitlines()[0]
    record = up.finished(job).record()
    metric = record.spec.metric
    confirmed = record.of(Stage.CONFIRM)
    assert len(confirmed) == 3 * len(record.arms)
    assert all(
        run.result is not None and metric.judged in run.result.to_dict().get("values", {"test_acc"})
        for run in confirmed
    )
    reported = {name for trial in record.trials.values() for epoch in trial.epochs for name in epoch.numbers()}
    assert metric.key in reported
    assert metric.judged not in reported
    exported = up.tuner("export", job, "--best", "-o", f"{kind}-best.yaml")
    assert exported.code == 0, exported.err
    again = up.tuner("reproduce", f"{kind}-best.yaml", "--allow-code")
    assert again.code == 0, again.err


def test_doctor_checks_every_connection_and_reports_missing_passwords(up: Stack) -> None:
    ended = up.tuner("doctor", "-o", "json")
    hops = {hop["name"]: hop for hop in json.loads(ended.out)}
    # This MLflow server has no passwords. The doctor reports that, and no other problem.
    assert [name for name, hop in hops.items() if not hop["ok"]] == ["MLflow asks for a password"], hops
    assert ended.code == 5
    workers = {node.ip for node in up.cluster.workers}
    for way in ("→ checkpoint", "→ data", "→ tracker"):
        assert {name.split()[1] for name in hops if name.endswith(way)} == workers
