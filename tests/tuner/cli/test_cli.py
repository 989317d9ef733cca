"""The command line: its output on stdout and stderr, and its exit codes."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import click
import jsonschema
import numpy as np
import pytest
from PIL import Image

from tests.tuner.events import History
from tests.tuner.own_jobs import OwnHistory, own_spec
from tests.tuner.spec_texts import spec_of
from tests.tuner.whole_jobs import ROOT, SPEC, Ended, place
from trainables.hyper import Hyper
from trainables.schedules import Schedule
from trainables.simulated import EPOCH_S
from trainables.space import Plan
from tuner import __version__
from tuner.cli import cli
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.workspace import Workspace
from tuner.storage.events import Outcome

Tuner = Callable[..., Ended]
MakeJob = Callable[[str, History], JobFolder]

QUICKSTART = ROOT / "searches" / "quickstart.yaml"
BASE = {1: 0.50, 2: 0.51, 3: 0.52}
BETTER = {1: 0.60, 2: 0.61, 3: 0.621}


def commands(group: click.Group = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        elif not command.hidden:
            yield (*path, name)


def finished(tests: dict[int, float]) -> History:
    """A finished job whose variant has these test accuracies."""
    history = History(spec_of())
    for arm in history.arms:
        history.trial(arm, 0, [0.5])
    history.confirm(1, dict.fromkeys(history.arms, 0), {"adam_l2": BASE, "noam": tests})
    history.add("state", state="finished")
    return history


def test_every_command_is_listed(tuner: Tuner) -> None:
    ended = tuner("--help")
    assert (ended.code, ended.err) == (0, "")
    assert all(path[0] in ended.out for path in commands())
    assert "Exit codes:" in ended.out


@pytest.mark.parametrize("path", [*commands()], ids=" ".join)
def test_every_commands_help_shows_an_example(path: tuple[str, ...], tuner: Tuner) -> None:
    ended = tuner(*path, "--help")
    assert (ended.code, ended.err) == (0, "")
    assert re.search(rf"Examples?:\s+tuner {' '.join(path)}", ended.out)


def test_the_version_is_printed(tuner: Tuner) -> None:
    assert __version__ in tuner("--version").out


@pytest.mark.parametrize("args", [("nosuch",), ("run",), ("validate", "--nosuch", "x"), ("list", "-o", "xml")])
def test_wrong_usage_exits_2(tuner: Tuner, args: tuple[str, ...]) -> None:
    ended = tuner(*args)
    assert (ended.code, ended.out) == (2, "")
    assert "Error: " in ended.err


def test_a_missing_spec_exits_4_and_an_invalid_spec_2(tuner: Tuner, tmp_path: Path) -> None:
    assert tuner("validate", "none.yaml").code == 4
    (tmp_path / "spec.yaml").write_text(SPEC.replace("epochs: 6", "epochs: 0"))
    ended = tuner("validate", "spec.yaml")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: spec.yaml:6: budget.epochs: is 0; must be at least 1")


def test_init_writes_a_valid_spec_and_overwrites_only_with_force(tuner: Tuner, tmp_path: Path) -> None:
    assert tuner("init", "mine.yaml").code == 0
    assert tuner("validate", "mine.yaml").code == 0
    (tmp_path / "mine.yaml").write_text("edited")
    ended = tuner("init", "mine.yaml")
    assert ended.code == 2
    assert "mine.yaml exists already; give --force to overwrite it" in ended.err
    assert (tmp_path / "mine.yaml").read_text() == "edited"
    assert tuner("init", "mine.yaml", "--force").code == 0
    assert (tmp_path / "mine.yaml").read_text() != "edited"


def test_an_unwritable_file_is_named_in_the_error(tuner: Tuner, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = tuner("init", "file/mine.yaml")
    assert ended.code == 3
    assert "cannot write file/mine.yaml: " in ended.err


def test_validate_prints_json(tuner: Tuner) -> None:
    ended = tuner("validate", QUICKSTART, "-o", "json")
    assert json.loads(ended.out) == {"valid": True, "name": "quickstart", "warnings": []}


def test_a_plan_as_json_has_arms_and_cost(tuner: Tuner) -> None:
    ended = tuner("plan", QUICKSTART, "--no-measure", "-o", "json")
    found = json.loads(ended.out)
    assert found["arms"][0]["name"] == "adam_l2"
    # Three arms, six searches of each with six trials of eight epochs; a confirm run for each search, and 9 + 5 runs
    # for the best setting.
    assert found["cost"]["search_trials"] == 3 * 6 * 6
    assert found["cost"]["search_epochs"] == 3 * 6 * 6 * 8
    assert found["cost"]["confirm_runs"] == 3 * 6 + 9 + 5
    assert [(look["searches"], look["epochs"]) for look in found["cost"]["looks"]] == [
        (at, 3 * at * (6 + 1) * 8) for at in (4, 6)
    ]
    assert found["cost"]["seconds_per_epoch"] is None


@pytest.mark.filterwarnings("ignore")
def test_a_plan_times_a_few_updates(tuner: Tuner, tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC)
    ended = tuner("plan", "spec.yaml")
    assert ended.code == 0, ended.err
    assert "images:  200 training, 100 validation, 100 test\n" in ended.out
    assert "search:  9 trials, at most 54 epochs, about" in ended.out
    assert re.search(r"timed: .* s an epoch of 10 updates", ended.out)


@pytest.mark.filterwarnings("ignore")
def test_a_cap_without_time_for_a_verdict_is_refused_by_the_plan(tuner: Tuner, tmp_path: Path) -> None:
    text = SPEC.replace("confirm: {seeds: 3}", "searches: {at: [3, 5]}\nconfirm: {margin: 1}")
    (tmp_path / "spec.yaml").write_text(text.replace("batch_size: 20", "batch_size: 20, max_hours: 0.00001"))
    ended = tuner("plan", "spec.yaml")
    assert (ended.code, ended.out) == (2, "")
    assert "spec.yaml:6: budget.max_hours: is 1e-05, but 3 searches of every arm" in ended.err
    (tmp_path / "spec.yaml").write_text(text.replace("batch_size: 20", "batch_size: 20, max_hours: 100"))
    ended = tuner("plan", "spec.yaml")
    assert ended.code == 0, ended.err
    assert "may not be reached" not in ended.out


def test_a_plan_is_about_the_question_with_the_least_chance(tuner: Tuner, tmp_path: Path) -> None:
    text = SPEC.replace("confirm: {seeds: 3}", "searches: 8\nconfirm: {margin: 1}").replace(
        "noam]", "noam, adamw, amsgrad]"
    )
    arms = "adamw_restarts, noam, amsgrad"

    def chances(families: str) -> dict[str, float]:
        (tmp_path / "spec.yaml").write_text(text + families)
        ended = tuner("plan", "spec.yaml", "--no-measure", "-o", "json")
        found: dict[str, float] = json.loads(ended.out)["cost"]["prospects"]["chances"]
        return found

    one = chances("")
    split = chances(
        f"families:\n  a: {{baseline: adam_l2, arms: [{arms}], alpha: 0.01}}\n"
        "  b: {baseline: adam_l2, arms: [adamw], alpha: 0.04}\n"
    )
    assert split["1.0"] < one["1.0"]


def test_the_schema_is_valid_and_accepts_the_quickstart(tuner: Tuner) -> None:
    from ruamel.yaml import YAML

    schema = json.loads(tuner("schema").out)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(YAML(typ="safe", pure=True).load(QUICKSTART.read_text()), schema)


def test_schedule_prints_the_learning_rates_that_training_uses(tuner: Tuner) -> None:
    args = ("--epochs", 4, "--steps-per-epoch", 5, "--set", "warmup=6", "--set", "lr=0.01")
    found = json.loads(tuner("schedule", "noam", *args, "-o", "json").out)
    schedule = Schedule(Hyper(lr=0.01, l2=1e-4, warmup=6, schedule="noam"), Plan(4, 5))
    assert [point["lr"] for point in found["points"]] == [schedule.lr(step) for step in range(20)]
    assert [point["update"] for point in found["points"]] == list(range(1, 21))
    assert max(point["lr"] for point in found["points"]) == 0.01


def test_schedule_prints_the_decay_that_training_uses(tuner: Tuner) -> None:
    args = ("--epochs", 6, "--steps-per-epoch", 5, "--set", "restarts=2x2")
    found = json.loads(tuner("schedule", "adamw_restarts", *args, "-o", "json").out)
    hyper = Hyper(lr=1e-3, lambda_norm=0.05, schedule="restarts", restarts="2x2")
    schedule = Schedule(hyper, Plan(6, 5))
    assert [point["weight_decay"] for point in found["points"]] == [schedule.weight_decay(step) for step in range(30)]
    for point in found["points"]:
        assert point["shrink"] == pytest.approx(1 - point["lr"] * point["weight_decay"])


def test_the_table_of_a_schedule_is_short(tuner: Tuner) -> None:
    assert len(tuner("schedule", "adam_l2").out.splitlines()) < 60
    assert len(tuner("schedule", "adam_l2", "--every", 500).out.splitlines()) < 12


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (("noan",), "no variant named 'noan'; there are: adam_l2, "),
        (("noan",), "did you mean 'noam'?"),
        (("noam", "--set", "warmpu=3"), "--set warmpu: no knob has this name; there are: lr"),
        (("noam", "--set", "warmup=3.5"), "--set warmup: is 3.5; must be a whole number"),
        (("noam", "--set", "warmup=many"), "--set warmup: is 'many'"),
        (("noam", "--set", "warmup=2000"), "warmup of 2000 updates must be at least 1 and shorter than the training"),
        (("noam", "--set", "lr=-1"), "--set lr: is -1; must be above 0"),
        (("noam", "--set", "lr"), "'lr' is not KNOB=VALUE"),
        (("adamw_restarts", "--set", "restarts=ten"), "restarts must be written T_0xT_mult"),
        (("adam_l2", "--set", "schedule=cosin"), "no schedule named 'cosin'"),
        (("adam_l2", "--set", "lr=1e999"), "--set lr: is inf; must be finite"),
        (("adamw", "--set", "warmup=5"), "--set warmup: has no effect on adamw"),
        (("noam", "--set", "schedule=cosine"), "--set schedule: noam fixes schedule at noam"),
        (("noam", "--epochs", "0"), "--epochs"),
        (("noam", "--plot", "noam.docx"), "cannot draw to noam.docx"),
    ],
)
def test_an_impossible_schedule_is_an_error(tuner: Tuner, args: tuple[str, ...], problem: str) -> None:
    ended = tuner("schedule", *args)
    assert (ended.code, ended.out) == (2, "")
    assert problem in ended.err


@pytest.mark.parametrize("variant", ["noam", "adamw_restarts"])
def test_a_schedule_is_drawn(tuner: Tuner, tmp_path: Path, variant: str) -> None:
    ended = tuner("schedule", variant, "--plot", "lr.png")
    assert (ended.code, ended.out) == (0, ""), ended.err
    with Image.open(tmp_path / "lr.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert min(pixels.shape[:2]) > 300
    blue = (pixels[..., 2] > 120) & (pixels[..., 0] < 100)
    assert 200 < blue.sum() < 0.2 * blue.size


def test_an_unwritable_picture_exits_3(tuner: Tuner) -> None:
    ended = tuner("schedule", "noam", "--plot", "nowhere/lr.png")
    assert ended.code == 3
    assert "cannot write nowhere/lr.png: No such file or directory" in ended.err


@pytest.mark.parametrize("command", ["leaderboard", "report", "sync", "ui"])
def test_an_unknown_job_exits_4_and_the_nearest_job_is_named(tuner: Tuner, made_up_job: MakeJob, command: str) -> None:
    made_up_job("tiny-abc123", finished(BASE))
    ended = tuner(command, "tiny-abd123")
    assert (ended.code, ended.out) == (4, "")
    assert "no job 'tiny-abd123' in " in ended.err
    assert "did you mean 'tiny-abc123'?" in ended.err


@pytest.mark.parametrize("command", ["leaderboard", "report", "sync", "ui"])
def test_a_workspace_without_jobs_exits_4_and_suggests_tuner_run(tuner: Tuner, home: Workspace, command: str) -> None:
    ended = tuner(command)
    assert ended.code == 4
    assert "no jobs in " in ended.err
    assert "tuner run SPEC" in ended.err


def test_a_job_can_be_named_by_the_beginning_of_its_id(tuner: Tuner, made_up_job: MakeJob) -> None:
    for job in ("first-abc123", "second-abc", "second-abd"):
        made_up_job(job, finished(BASE))
    assert tuner("leaderboard", "first").code == 0
    assert "several begin so: second-ab" in tuner("leaderboard", "second").err
    assert tuner("leaderboard", "../jobs/first-abc123").code == 4


def test_the_gate_exits_6_if_no_variant_beats_the_baseline(tuner: Tuner, made_up_job: MakeJob) -> None:
    made_up_job("job-1", finished(BASE))
    ended = tuner("leaderboard", "--fail-unless", "beats")
    assert ended.code == 6
    assert "error: no variant of job-1 is shown to beat adam_l2" in ended.err
    assert "not enough evidence" in ended.out


def test_the_gate_exits_0_if_a_variant_beats_the_baseline(tuner: Tuner, made_up_job: MakeJob) -> None:
    made_up_job("job-1", finished(BETTER))
    ended = tuner("leaderboard", "--fail-unless", "beats", "-o", "json")
    assert ended.code == 0
    assert json.loads(ended.out)["best"] == "noam"


@pytest.mark.parametrize(("trees", "code"), [([0.0005, 0.00061, 0.0007], 6), ([0.05, 0.061, 0.07], 0)])
def test_the_gate_exits_6_if_the_arm_that_beats_may_report_something_else(
    trees: list[float], code: int, tuner: Tuner, made_up_job: MakeJob
) -> None:
    history = OwnHistory(own_spec())
    history.searched({"ridge": [0.7, 0.8, 0.91], "trees": trees})
    history.looked(1, 3, {"trees": Outcome.BEATS})
    history.add("state", state="finished")
    made_up_job("own-1", history)
    ended = tuner("leaderboard", "--fail-unless", "beats")
    assert ended.code == code
    assert "beats ridge" in ended.out
    assert ("error: test_loss of trees is about 0.00061, and of ridge about 0.8: are they" in ended.err) == (code == 6)


def test_leaderboard_prints_the_saved_leaderboard(tuner: Tuner, searched_home: Workspace) -> None:
    job = searched_home.job()
    table, as_json = tuner("leaderboard"), tuner("leaderboard", "-o", "json")
    assert table.out.startswith(f"{job.id}: finished")
    assert json.loads(as_json.out) == json.loads(job.leaderboard.read_text())
    assert as_json.err == ""


def test_report_writes_the_same_report_as_the_job(tuner: Tuner, searched_home: Workspace) -> None:
    job = searched_home.job()
    assert tuner("report", "-o", "md").out == job.summary.read_text()
    ended = tuner("report")
    assert ended.out == f"{job.id}.html\n"
    assert Path(f"{job.id}.html").read_text() == job.report.read_text()
    assert tuner("report").code == 0


def test_report_prints_json(tuner: Tuner, searched_home: Workspace) -> None:
    found = json.loads(tuner("report", "-o", "json").out)
    assert found["board"] == json.loads(searched_home.job().leaderboard.read_text())


def test_the_suffix_of_the_file_chooses_the_format_of_the_report(
    tuner: Tuner, searched_home: Workspace, tmp_path: Path
) -> None:
    file = tmp_path / "verdict.md"
    assert tuner("report", "-o", str(file)).code == 0
    assert file.read_text() == searched_home.job().summary.read_text()
    again = tuner("report", "-o", str(file))
    assert (again.code, again.err.count("\n")) == (2, 1)
    assert tuner("report", "-o", str(file), "--force").code == 0
    unknown = tuner("report", "-o", "report.pdf")
    assert (unknown.code, "give a file that ends in .html, .md, .json" in unknown.err) == (2, True)


def test_jobs_are_listed_oldest_first(tuner: Tuner, made_up_job: MakeJob) -> None:
    for age, job in enumerate(("b", "c", "a")):
        history = finished(BASE)
        history.entries = [replace(entry, ms=entry.ms + age) for entry in history.entries]
        made_up_job(job, history)
    found = json.loads(tuner("list", "-o", "json").out)
    assert [row["job"] for row in found] == ["b", "c", "a"]
    assert {(row["state"], row["arms"], row["trials"]) for row in found} == {("finished", 2, 8)}


def test_a_workspace_without_jobs_is_listed_as_empty(tuner: Tuner, home: Workspace) -> None:
    assert json.loads(tuner("list", "-o", "json").out) == []
    assert tuner("list").code == 0
    assert not home.path.exists()


@pytest.mark.parametrize("damaged", [0, 3])
def test_a_damaged_job_is_named_and_the_other_jobs_are_still_listed(
    tuner: Tuner, made_up_job: MakeJob, damaged: int
) -> None:
    made_up_job("good-1", finished(BASE))
    bad = made_up_job("bad-1", finished(BASE))
    lines = bad.journal.read_text().splitlines(keepends=True)
    bad.journal.write_text("".join([*lines[:damaged], "garbage\n", *lines[damaged + 1 :]]))
    ended = tuner("list", "-o", "json")
    assert {row["job"]: row["state"] for row in json.loads(ended.out)} == {"good-1": "finished", "bad-1": "damaged"}
    assert f"{bad.journal}: line {damaged + 1}, which starts at byte" in ended.err
    assert tuner("leaderboard", "good-1").code == 0
    ended = tuner("leaderboard", "bad-1")
    assert ended.code == 5
    assert str(bad.journal) in ended.err


@pytest.mark.parametrize("text", ["", '{"n": 0, "ms"'])
def test_a_job_that_died_before_its_first_event_can_be_resumed(tuner: Tuner, made_up_job: MakeJob, text: str) -> None:
    made_up_job("good-1", finished(BASE))
    made_up_job("dead-1", finished(BASE)).journal.write_text(text)
    rows = json.loads(tuner("list", "-o", "json").out)
    assert {row["job"]: row["state"] for row in rows} == {"good-1": "finished", "dead-1": "new"}
    ended = tuner("leaderboard", "dead-1")
    assert ended.code == 4
    assert "job dead-1 has done nothing yet; start it again with: tuner resume dead-1" in ended.err


def test_only_an_ended_job_can_be_confirmed_again(tuner: Tuner, made_up_job: MakeJob) -> None:
    history = finished(BASE)
    history.add("state", state="running")
    made_up_job("job-1", history)
    ended = tuner("confirm", "--seeds", "3")
    assert ended.code == 2
    assert "job job-1 is crashed; only a job whose search has ended can be confirmed again" in ended.err


def test_a_job_whose_time_was_spent_is_extended_to_its_last_look(tmp_path: Path) -> None:
    # Two trials and a confirm run of two epochs: the made-up time of a search of two arms is about 12 epochs.
    hours = 3.6 * 2 * (2 + 1) * 2 * 1.1 * EPOCH_S / 3600
    spec = f"""\
name: capped
data: {{name: digits}}
model: {{name: elu_net}}
baseline: adam_l2
arms: [adam_l2, adamw]
budget: {{trials: 2, epochs: 2, max_hours: {hours:.6f}}}
scheduler: none
resources: {{concurrent: 1}}
searches: {{at: [3, 4]}}
confirm: {{margin: 0}}
"""

    with place(tmp_path / "place", spec) as where:

        def looks(*command: str) -> list[int]:
            ended = where.ended(where.start(*command, "-q", "-o", "json"))
            assert ended.code == 0, ended.err
            found: list[int] = json.loads(ended.out)["looks"]
            return found

        assert looks("run", "spec.yaml", "--simulate") == [3]
        assert looks("extend", "latest", "--hours", "1") == [3, 4]
        ended = where.ended(where.start("extend"))
        assert ended.code == 2
        assert "has had its last look, after 4 searches per arm" in ended.err


def test_only_a_job_about_methods_can_be_extended(tuner: Tuner, made_up_job: MakeJob) -> None:
    made_up_job("job-1", finished(BETTER))
    ended = tuner("extend", "job-1")
    assert (ended.code, ended.out) == (2, "")
    assert "has claim: setting" in ended.err


def test_no_color_is_obeyed_on_a_terminal(made_up_job: MakeJob) -> None:
    folder = made_up_job("job-1", finished(BETTER))

    def on_terminal(**extra: str) -> str:
        ours, theirs = pty.openpty()
        env = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "CI", "FORCE_COLOR")}
        env |= {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT)} | extra
        command = [sys.executable, "-m", "tuner.cli", "leaderboard", "--home", str(folder.path.parents[1])]
        done = subprocess.run(command, stdout=theirs, stderr=subprocess.DEVNULL, env=env, check=True, timeout=60)
        assert done.returncode == 0
        os.close(theirs)
        text = os.read(ours, 100_000).decode()
        os.close(ours)
        return text

    coloured = re.compile(r"\x1b\[(?:\d+;)*(?:3\d|4\d|9\d)")
    assert not coloured.search(on_terminal(NO_COLOR="1"))
    assert "noam" in on_terminal(NO_COLOR="1")


@pytest.mark.parametrize(
    "args", [("leaderboard",), ("leaderboard", "-o", "json"), ("schema",), ("list",), ("report", "-o", "md")]
)
def test_a_closed_pipe_is_not_an_error(made_up_job: MakeJob, args: tuple[str, ...]) -> None:
    made_up_job("job-1", finished(BETTER))
    process = subprocess.Popen(
        [sys.executable, "-m", "tuner.cli", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr:
        complaints = process.stderr.read()
    assert process.wait(60) == 0
    assert "Traceback" not in complaints
    assert "Broken" not in complaints
