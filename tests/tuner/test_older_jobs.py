"""Jobs that version 0.1 made: the code of today lists, reports, exports and resumes them.

The files are in ``tests/fixtures/version_0_1``; the README there says how they were made. They are never edited.
"""

import json
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.faults.services import Postgres
from tests.tuner.whole_jobs import Ended, Place, place
from tuner.export.export_file import read_export
from tuner.jobs.workspace import Workspace
from tuner.spec.search_spec import fingerprint, from_dict
from tuner.storage.events import Entry
from tuner.storage.journal import encode

Tuner = Callable[..., Ended]
Event = dict[str, Any]

MADE = Path(__file__).parents[1] / "fixtures" / "version_0_1"
FINISHED, INTERRUPTED, SHARED = MADE / "finished", MADE / "interrupted", MADE / "postgres"
FINISHED_ID, INTERRUPTED_ID, SHARED_ID = "tiny-6c989e", "tiny-de424f", "shared-cad9f5"
SAME_IN_A_ROW = (
    *("arm", "variant", "knobs", "trials", "complete", "pruned", "diverged", "failed"),
    *("epochs", "seconds", "winner", "val"),
)
"""What a row of the leaderboard says of a search. It does not depend on the rules of the verdict."""
SAME_IN_A_REPORT = (*("knobs", "trials", "after_trials", "after_epochs", "importances", "near", "rates", "settings"),)
"""The same for an arm's part of the report."""


def check_same_searches(board: Mapping[str, Any], recorded: Mapping[str, Any]) -> None:
    """The leaderboard says of the job and its searches what it said in version 0.1."""
    for key in ("job", "state", "baseline", "metric", "margin"):
        assert board[key] == recorded[key]
    rows = [[{key: row[key] for key in SAME_IN_A_ROW} for row in each["rows"]] for each in (board, recorded)]
    assert rows[0] == rows[1]
    assert board["claim"] == "setting"
    assert "made by an earlier version" in "\n".join(board["warnings"])


def events(journal: Path) -> list[Event]:
    """All events of a journal, with their checksums."""
    return [json.loads(line) for line in journal.read_text().splitlines()]


def checkpoint(folder: Path, trial: str, done: int) -> int:
    """The newest epoch, of the ``done`` ones on record, that a trial has a checkpoint of; 0 if there is none."""
    epochs = [int(file.name.split("-")[0]) for file in (folder / trial).glob("[!.]*.safetensors")]
    return max((epoch for epoch in epochs if epoch <= done), default=0)


def check_continued(before: list[Event], after: list[Event], checkpoints: Path) -> None:
    """Every trial of the interrupted job continued where it stood, and the job is finished.

    Args:
        before: the journal as version 0.1 left it.
        after: the journal at the end of the job.
        checkpoints: the folder of the checkpoints that version 0.1 left.
    """
    assert after[: len(before)] == before
    new = after[len(before) :]
    assert (after[-1]["kind"], after[-1]["state"]) == ("state", "finished")
    # No trial is proposed twice, so its settings are the old ones.
    assert set(Counter(event["trial"] for event in after if event["kind"] == "trial").values()) == {1}
    epochs: dict[str, list[int]] = {event["trial"]: [] for event in after if event["kind"] == "trial"}
    for event in after:
        if event["kind"] == "epoch":
            epochs[event["trial"]].append(event["epoch"])
    assert all(found == list(range(1, len(found) + 1)) for found in epochs.values())
    assert Counter(event["trial"] for event in after if event["kind"] == "end") == Counter(epochs.keys())

    ended = {event["trial"] for event in before if event["kind"] == "end"}
    running = [event["trial"] for event in before if event["kind"] == "trial" and event["trial"] not in ended]
    assert len(running) >= 2
    assert not any(event.get("trial") in ended for event in new)
    for trial in running:
        done = sum(event["kind"] == "epoch" and event["trial"] == trial for event in before)
        theirs = [event for event in new if event.get("trial") == trial]
        attempts = [(event["attempt"], event["epoch"]) for event in theirs if event["kind"] == "attempt"]
        assert attempts == [(2, done)]
        # The training starts at the old checkpoint: only the epochs after it are trained again.
        again = [event["epoch"] for event in theirs if event["kind"] == "again"]
        assert again == list(range(checkpoint(checkpoints, trial, done) + 1, done + 1))


def check_judged(printed: str, job: str, arms: int) -> None:
    """The leaderboard that ``resume -o json`` prints has a verdict on every arm, from three seeds."""
    board = json.loads(printed)
    assert (board["job"], board["state"], board["round"]) == (job, "finished", 1)
    assert [len(row["tests"]) for row in board["rows"]] == [3] * arms
    assert [row["comparison"] is None for row in board["rows"]] == [True] + [False] * (arms - 1)


def check_stands(tuner: Tuner, made: Path) -> None:
    """The status and the leaderboard of a job say what they said in version 0.1."""
    status = tuner("status", "-o", "json")
    assert status.code == 0, status.err
    assert status.out == (made / "status.json").read_text()
    board = json.loads(tuner("leaderboard", "-o", "json").out)
    check_same_searches(board, json.loads((made / "leaderboard.json").read_text()))


class TestFinished:
    @pytest.fixture(autouse=True)
    def copied(self, home: Workspace) -> Path:
        """The home of the finished job, which commands use; returns the job's folder."""
        shutil.copytree(FINISHED / "home", home.path)
        return home.path / "jobs" / FINISHED_ID

    def test_it_is_listed_as_finished(self, tuner: Tuner, copied: Path) -> None:
        (row,) = json.loads(tuner("list", "-o", "json").out)
        started_ms = json.loads((copied / "start.json").read_text())["ms"]
        assert datetime.fromisoformat(row.pop("started")).timestamp() == started_ms // 1000
        assert row == {"job": FINISHED_ID, "state": "finished", "arms": 3, "trials": 48, "waits": ""}

    def test_its_search_is_as_recorded_and_its_verdict_is_that_of_the_first_round(
        self, tuner: Tuner, copied: Path
    ) -> None:
        board = json.loads(tuner("leaderboard", "-o", "json").out)
        check_same_searches(board, json.loads((FINISHED / "leaderboard.json").read_text()))
        assert board["round"] == 1
        results = {
            event["trial"]: event["result"] for event in events(copied / "journal.jsonl") if event["kind"] == "end"
        }
        for row in board["rows"]:
            first = {seed: results[f"confirm/{row['arm']}/1/{seed}"]["test_acc"] for seed in board["seeds"]}
            assert row["tests"] == {str(seed): accuracy for seed, accuracy in first.items()}
        assert "round 2 of confirm runs, on 3 other seeds, estimates" in "\n".join(board["warnings"])

    def test_its_report_shows_the_recorded_searches(self, tuner: Tuner) -> None:
        ended = tuner("report", "-o", "json")
        assert ended.code == 0, ended.err
        now, then = json.loads(ended.out), json.loads((FINISHED / "report.json").read_text())
        check_same_searches(now["board"], then["board"])
        for mine, recorded in zip(now["arms"], then["arms"], strict=True):
            for trial in recorded["trials"]:
                trial["label"] = str(trial.pop("number"))
            assert {key: mine[key] for key in SAME_IN_A_REPORT} == {key: recorded[key] for key in SAME_IN_A_REPORT}
        assert now["origin"] == then["origin"]

    def test_its_winners_are_exported_with_the_recorded_settings(
        self, tuner: Tuner, tmp_path: Path, copied: Path
    ) -> None:
        ended = tuner("export", "--all", "-o", "exports")
        assert ended.code == 0, ended.err
        then = sorted((copied / "exports").iterdir())
        assert len(then) == 3
        for file in then:
            old, new = read_export(file), read_export(tmp_path / "exports" / file.name)
            assert (old.schema_version, new.schema_version, new.claim) == (1, 2, "setting")
            # The verdict is that of the first round, so the seeds are the ones of that round.
            assert {**new.trial, "seed": 0} == {**old.trial, "seed": 0}
            assert (new.confirm_round, old.confirm_round) == (1, 2)

    def test_its_weights_are_exported(self, tuner: Tuner, tmp_path: Path, copied: Path) -> None:
        ended = tuner("export", "--arm", "amsgrad_far", "-o", "w.safetensors")
        assert ended.code == 0, ended.err
        kept = copied / "weights" / "amsgrad_far-round1.safetensors"
        assert (tmp_path / "w.safetensors").read_bytes() == kept.read_bytes()

    @pytest.mark.parametrize("name", ["best.yaml", "best.json"])
    def test_an_export_is_read_and_trained_again(self, tuner: Tuner, name: str) -> None:
        ended = tuner("reproduce", FINISHED / name, "-o", "json")
        assert ended.code == 0, ended.err
        assert json.loads(ended.out)["reproduced"] is True


class TestInterrupted:
    def test_it_stands_where_it_stood(self, home: Workspace, tuner: Tuner) -> None:
        shutil.copytree(INTERRUPTED / "home", home.path)
        check_stands(tuner, INTERRUPTED)

    def test_it_is_resumed_to_its_end(self, tmp_path: Path) -> None:
        job = Path("jobs") / INTERRUPTED_ID
        with place(tmp_path) as where:
            shutil.copytree(INTERRUPTED / "home", where.home.path)
            ended = where.tuner("resume", "-q", "-o", "json")
            assert ended.code == 0, ended.err
            assert where.processes_left() == []
            check_judged(ended.out, INTERRUPTED_ID, arms=3)
            before, after = (events(there / job / "journal.jsonl") for there in (INTERRUPTED / "home", where.home.path))
            check_continued(before, after, INTERRUPTED / "home" / job / "checkpoints")
            proposed, now = (studied(there / "studies.db") for there in (INTERRUPTED / "home", where.home.path))
            assert (len(proposed), len(now)) == (5, 9)
            assert proposed.items() <= now.items()


OLDER_MODEL = """\
from trainables.models.elu_net import build


def net(classes, shape):
    return build(classes, shape, 0.03)
"""


class TestOwnModel:
    """The same jobs with a user's own model, which version 0.1 trained in channels_last as any other."""

    def test_exports_of_a_finished_job_have_the_layout_of_its_weights(
        self, tuner: Tuner, home: Workspace, tmp_path: Path
    ) -> None:
        shutil.copytree(FINISHED / "home", home.path)
        use_own_model(home.path / "jobs" / FINISHED_ID, tmp_path)
        ended = tuner("export", "--all", "-o", "exports")
        assert ended.code == 0, ended.err
        layouts = {read_export(file).config.channels_last for file in (tmp_path / "exports").iterdir()}
        assert layouts == {True}

    @pytest.mark.slow
    def test_an_interrupted_job_is_resumed_in_one_layout_and_reproduced(self, tmp_path: Path) -> None:
        with place(tmp_path, modules={"older.py": OLDER_MODEL}) as where:
            shutil.copytree(INTERRUPTED / "home", where.home.path)
            job = where.home.path / "jobs" / INTERRUPTED_ID
            use_own_model(job, where.cwd)
            ended = where.tuner("resume", "-q", "-o", "json")
            assert ended.code == 0, ended.err
            check_judged(ended.out, INTERRUPTED_ID, arms=3)
            export = job / "exports" / "adam_l2.yaml"
            assert read_export(export).config.channels_last
            again = where.tuner("reproduce", str(export), "--allow-code", "-o", "json")
            assert again.code == 0, again.err
            assert json.loads(again.out)["same_bits"] is True


def use_own_model(job: Path, code: Path) -> None:
    """Rewrite a job as if its model had been the user's own, from ``older.py`` in the folder ``code``."""
    model = {"name": "older:net", "width": 1.0, "setup": "sound", "options": {}}
    start = json.loads((job / "start.json").read_text())
    start["spec"]["model"], start["folder"] = model, str(code)
    (job / "start.json").write_text(json.dumps(start))
    first, *others = (job / "journal.jsonl").read_bytes().splitlines(keepends=True)
    described = json.loads(first)
    del described["sum"]
    described["spec"]["model"] = model
    described["spec_sha256"] = fingerprint(from_dict(described["spec"]))
    (job / "journal.jsonl").write_bytes(b"".join([encode(Entry.from_json(described)), *others]))
    text = (job / "spec.yaml").read_text()
    assert "{name: elu_net, width: 0.03}" in text
    (job / "spec.yaml").write_text(text.replace("{name: elu_net, width: 0.03}", "{name: 'older:net'}"))


def studied(database: Path) -> dict[tuple[str, int], tuple[str, str]]:
    """When each trial of the studies started, and its settings; by its study and its number.

    Studies that were rebuilt from the journal have other times, which are rounded.
    """
    connection = sqlite3.connect(database)
    try:
        rows = connection.execute(
            "select study_name, number, datetime_start, group_concat(param_name || ' ' || param_value, ', ')"
            " from trials join studies using (study_id) join trial_params using (trial_id) group by trial_id"
        )
        return {(study, number): (start, settings) for study, number, start, settings in rows}
    finally:
        connection.close()


@pytest.mark.slow
class TestInPostgres:
    """The interrupted job of another machine, of which there is only the database and the shared folder."""

    @pytest.fixture
    def database(self, postgres: Postgres) -> str:
        """The name of a database with the job's record."""
        name = f"older_{time.time_ns()}"
        postgres.create(name)
        with postgres.connect(name) as connection:
            connection.execute((SHARED / "database.sql").read_bytes())
        return name

    @pytest.fixture
    def empty(self, postgres: Postgres, database: str, home: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
        """An empty home, which commands use, and the database."""
        monkeypatch.setenv("TUNER_STORAGE", postgres.url(database))

    @pytest.fixture
    def where(self, tmp_path: Path) -> Iterator[Place]:
        with place(tmp_path / "there") as made:
            shutil.copytree(SHARED / "shared", made.root / "shared")
            yield made

    @pytest.mark.usefixtures("empty")
    def test_it_is_listed_and_shown_as_far_as_it_got(self, tuner: Tuner) -> None:
        (row,) = json.loads(tuner("list", "-o", "json").out)
        del row["started"]
        assert row == {"job": SHARED_ID, "state": "interrupted", "arms": 2, "trials": 4, "waits": ""}
        check_stands(tuner, SHARED)
        report = tuner("report", "-o", "md")
        assert report.code == 0, report.err
        assert report.out.startswith(f"# {SHARED_ID}\n")
        assert "\n| amsgrad |" in report.out

    def test_it_is_resumed_to_its_end(self, postgres: Postgres, database: str, where: Place) -> None:
        with postgres.connect(database) as connection:
            before = journal_of(connection)
            env = {"TUNER_STORAGE": postgres.url(database), "TUNER_SHARED": str(where.root / "shared")}
            ended = where.ended(where.start("resume", "-q", "-o", "json", env=env))
            assert ended.code == 0, ended.err
            assert where.processes_left() == []
            check_judged(ended.out, SHARED_ID, arms=2)
            after = journal_of(connection)
            row = connection.execute("select state, arms, trials from tuner_jobs").fetchall()
        assert row == [("finished", 2, 2 * 3 + 2 * 3)]
        assert after == events(where.home.path / "jobs" / SHARED_ID / "journal.jsonl")
        check_continued(before, after, SHARED / "shared" / "jobs" / SHARED_ID / "checkpoints")
        weights = where.root / "shared" / "jobs" / SHARED_ID / "weights"
        assert {file.name for file in weights.iterdir()} == {
            "adam_l2-round1.safetensors",
            "amsgrad-round1.safetensors",
        }


def journal_of(connection: Any) -> list[Event]:
    """All events of the journal in a database with one job, with their checksums."""
    return [json.loads(line) for (line,) in connection.execute("select line from tuner_journal order by n")]
