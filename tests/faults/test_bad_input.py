"""Bad input causes one line that names the place, and the promised exit code, in time. Nothing is written.

The rows of ``test_search_spec`` and ``test_strict_yaml`` go through the command line here. More rows, thousands of
broken specs and damaged exports follow.
"""

import dataclasses
import hashlib
import http.server
import json
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.faults import fuzz_specs
from tests.faults.command_line import Answer, call
from tests.faults.fuzz_specs import SECRET, faults, mutated
from tests.tuner.spec.test_search_spec import BAD as BAD_VALUES
from tests.tuner.spec.test_strict_yaml import BAD as BAD_FILES
from tests.tuner.spec_texts import SPEC, more, noam, search, spec_of
from trainables.hyper import Hyper
from trainables.schedules import Schedule
from trainables.space import Plan
from tuner.errors import IntegrityError
from tuner.export.export_file import SCHEMA, Export, read_export, render
from tuner.jobs.workspace import Workspace
from tuner.spec.arms import arms
from tuner.spec.checks import check
from tuner.spec.search_spec import from_document
from tuner.spec.strict_yaml import read_text
from tuner.spec.trial_config import trial_config

PROMISED_S, PROMISED_WITH_SERVICE_S = 2.0, 5.0
HEAVY_IMPORTS_S = 60.0
"""Time limit for a command that has to import torch before it can check its input."""
ONE_LINE = re.compile(r"error: [^\n]+\n")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and a workspace that cannot be created, so that no job can start."""
    for name in ("TUNER_DATA", "MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "file").touch()
    monkeypatch.setenv("TUNER_HOME", str(tmp_path / "file" / "home"))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path / "cwd"


def check_promise(answer: Answer, code: int, start: str = "", part: str = "", within_s: float = PROMISED_S) -> None:
    """Check that the command printed one expected line to stderr, in time, and wrote no file.

    Args:
        answer: the result of the command.
        code: the expected exit code.
        start: the expected beginning of the message.
        part: text that the message must contain.
        within_s: time limit of the command in seconds.
    """
    assert answer.crash is None, repr(answer.crash)
    assert (answer.code, answer.out) == (code, ""), answer.err
    assert ONE_LINE.fullmatch(answer.err), answer.err
    assert answer.err[:-1].isprintable()
    assert answer.err.startswith(f"error: {start}")
    assert part in answer.err
    assert answer.seconds < within_s
    assert not Workspace.find().path.exists()
    assert len(list(Path().iterdir())) <= 1


def edited(*edits: tuple[str, str]) -> str:
    text = SPEC
    for old, new in edits:
        assert old in text
        text = text.replace(old, new, 1)
    return text


@pytest.mark.parametrize("command", ["validate", "run", "plan"])
@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_reported_and_nothing_is_written(here: Path, case: str, command: str) -> None:
    data, line, problem = BAD_FILES[case]
    (here / "job.yaml").write_bytes(data)
    check_promise(call(command, "job.yaml"), 2, f"job.yaml:{line}: ", problem)


@pytest.mark.parametrize("command", ["validate", "run"])
@pytest.mark.parametrize("case", BAD_VALUES)
def test_a_bad_value_is_reported_and_nothing_is_written(here: Path, case: str, command: str) -> None:
    edit, line, key, problem = BAD_VALUES[case]
    (here / "job.yaml").write_text(edited(edit))
    check_promise(call(command, "job.yaml"), 2, f"job.yaml:{line}: {key}: ", problem)


@pytest.mark.parametrize("command", ["validate", "run", "plan"])
def test_a_path_that_is_not_a_spec_file_is_reported(here: Path, command: str) -> None:
    check_promise(call(command, "none.yaml"), 4, "none.yaml: no such file")
    (here / "folder").mkdir()
    check_promise(call(command, "folder"), 2, "folder: is a directory")
    check_promise(call(command, "a" * 300), 2, "", "File name too long")


LONG_PATH = "/" + "a" * 300
MORE: dict[str, tuple[tuple[str, str], str, str]] = {
    # case: (edit, place, part of the message)
    "NaN as a bound": (search("lr", "{min: .nan, max: 1}"), "14: parameters.lr.min: ", "must be finite"),
    "infinity as a bound": (search("lr", "{min: 1, max: .inf}"), "14: parameters.lr.max: ", "must be finite"),
    "1e400 for a number": (("trials: 4", "trials: 1e400"), "11: budget.trials: ", "must be finite"),
    "an infinite choice": (search("lr", "{values: [1, 1e999]}"), "14: parameters.lr.values[1]: ", "must be finite"),
    "an infinite option": (("elu_net", "m:f\n  options: {a: [.inf]}"), "6: model.options.a[0]: ", "must be finite"),
    "a tag on a value": (noam("name: !!str x"), "10: arms[1].name: ", "tags are not allowed"),
    "an alias as a value": (noam("name: *x"), "10: arms[1].name: ", "aliases are not allowed"),
    "a key twice in an arm": (noam("name: a\nname: b"), "11: arms[1]: ", "key 'name' occurs twice"),
    "an escape in a name": (("name: job", 'name: "a\\e[31m"'), "1: name: ", "control character U+001B"),
    "a warm-up as long as the training": (noam("fixed: {warmup: 80}"), "10: arms[1].fixed.warmup: ", "shorter than"),
    "a range of warm-ups too long": (
        search("warmup", "{min: 4, max: 80}"),
        "14: parameters.warmup: ",
        "shorter than the training (80 updates)",
    ),
    "data that does not exist": (("digits", "parquet\n  path: nowhere"), "4: data.path: ", "nowhere: no such folder"),
    "a data path too long": (("digits", f"parquet\n  path: {LONG_PATH}"), "4: data.path: ", "File name too long"),
    "images at a path too long": (("digits", f"image_folder\n  path: {LONG_PATH}"), "4: data.path: ", "too long"),
    "cifar10 at a path too long": (("digits", f"cifar10\n  path: {LONG_PATH}"), "4: data.path: ", "too long"),
    "own data at a path too long": (("digits", f"math:sqrt\n  path: {LONG_PATH}"), "4: data.path: ", "too long"),
    "a checksum of a file outside": (
        ("digits", f"cifar10\n  path: .\n  sha256: {{../f: '{'0' * 64}'}}"),
        "5: data.sha256.'../f': ",
        "relative to data.path, without '..'",
    ),
    "a checksum of a file anywhere": (
        ("digits", f"cifar10\n  path: .\n  sha256: {{/etc/passwd: '{'0' * 64}'}}"),
        "5: data.sha256.'/etc/passwd': ",
        "relative to data.path",
    ),
    "code that does not exist": (("elu_net", "no_such_module:build"), "5: model.name: ", "no module 'no_such_module'"),
    "code without that name": (("elu_net", "math:no_such_name"), "5: model.name: ", "no attribute"),
    "code that is not callable": (("elu_net", "math:pi"), "5: model.name: ", "must be a callable"),
    "code that exits": (("elu_net", "exits:build"), "5: model.name: ", "importing it raised SystemExit"),
    "code whose names raise": (("elu_net", "moody:build"), "5: model.name: ", "raised ImportError: not today"),
    "a password in a connection string": (
        more(f"storage: host=h dbname=d password={SECRET}\n"),
        "13: storage: ",
        "a password",
    ),
    "a password under the key password": (
        ("elu_net", f"m:f\n  options: {{password: {SECRET}}}"),
        "6: model.options.password: ",
        "a password",
    ),
    "a password of digits": (
        ("elu_net", "m:f\n  options: {db_password: 123456}"),
        "6: model.options.db_password: ",
        "a password",
    ),
    "a password as a key": (more(f"postgresql://u:{SECRET}@h/db: 1\n"), "1: ", "a password"),
}  # fmt: skip


@pytest.fixture
def odd_modules(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make two modules importable: one that exits at import, and one whose names raise errors."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "exits.py").write_text("raise SystemExit(0)\n")
    (folder / "moody.py").write_text("def __getattr__(name):\n    raise ImportError('not today')\n")
    # The user's code is imported in a process of its own.
    monkeypatch.setenv("PYTHONPATH", str(folder))


@pytest.mark.parametrize("command", ["validate", "run"])
@pytest.mark.parametrize("case", MORE)
@pytest.mark.usefixtures("odd_modules")
def test_further_bad_specs_are_reported_by_the_command_line(here: Path, case: str, command: str) -> None:
    edit, place, problem = MORE[case]
    (here / "job.yaml").write_text(edited(edit))
    answer = call(command, "job.yaml")
    check_promise(answer, 2, f"job.yaml:{place}", problem)
    assert SECRET not in answer.err


def test_restarts_that_do_not_end_with_the_trial_cause_a_warning_with_the_nearest_that_do(here: Path) -> None:
    (here / "job.yaml").write_text(edited(("variant: noam", "variant: adamw_restarts\n    fixed: {restarts: 2x2}")))
    answer = call("validate", "job.yaml")
    assert answer.code == 0
    assert answer.err.startswith(
        "warning: job.yaml:10: arms[1].fixed.restarts: 2x2 ends a cycle on epoch 6 or 14, but not on the last epoch (8)"
    )
    assert "; use 2x2 with 6 or 14 epochs, or 4x1, " in answer.err


@pytest.mark.parametrize("prefix", ["", "\ufeff"])
def test_a_byte_order_mark_crlf_and_1e_4_are_accepted(here: Path, prefix: str) -> None:
    text = prefix + edited(search("lr", "{min: 1e-4, max: 1}")).replace("\n", "\r\n")
    (here / "job.yaml").write_bytes(text.encode())
    assert call("validate", "job.yaml").code == 0


THIS_MACHINE: dict[str, tuple[tuple[str, str], str, str]] = {
    "more CPUs than the machine has": (more("resources: {cpus: 1024}\n"), "resources.cpus: ", "asks for 1024 CPUs"),
    "more GPUs than the machine has": (more("resources: {gpus: 1000}\n"), "resources.gpus: ", "asks for 1000 GPUs"),
    "a storage that is not a URL": (more("storage: nonsense\n"), "storage: ", "is no database URL"),
    "a storage of an unknown kind": (more("storage: frob://h/db\n"), "storage: ", "frob"),
    "a storage without its driver": (more("storage: mysql://u@h/db\n"), "storage: ", "needs the package 'MySQLdb'"),
    "a tracker that is not a URI": (more("tracking: {uri: mlruns}\n"), "tracking.uri: ", "it begins with"),
}


@pytest.mark.parametrize("case", THIS_MACHINE)
def test_a_spec_that_this_machine_cannot_run_is_refused_before_a_job_exists(here: Path, case: str) -> None:
    edit, start, problem = THIS_MACHINE[case]
    (here / "job.yaml").write_text(edited(edit))
    check_promise(call("run", "job.yaml"), 2, start, problem)


@contextmanager
def tracker(status: int, patience_s: float = 0) -> Iterator[str]:
    """A server on loopback that answers every request with this status, after up to ``patience_s`` seconds."""

    class Refuses(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            released.wait(patience_s)
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Write no log."""

    released = threading.Event()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            released.set()
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "problem"),
    [(401, "refuses us (401 Unauthorized)"), (403, "start it with --allowed-hosts")],
)
def test_a_tracker_that_refuses_us_is_reported_with_a_way_out(here: Path, status: int, problem: str) -> None:
    (here / "job.yaml").write_text(SPEC)
    with tracker(status) as uri, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri.replace("//", f"//user:{SECRET}@"))
        answer = call("run", "job.yaml")
    check_promise(answer, 3, "MLflow at http://***@127.0.0.1:", problem, PROMISED_WITH_SERVICE_S)
    assert SECRET not in answer.err


@pytest.mark.parametrize(
    "uri",
    ["http://127.0.0.1:9", "https://user:hunter2@127.0.0.1:9", "http://127.0.0.1:99999", "http://", "http://[::1",
     "http://.example.invalid", f"http://{'a' * 70}.invalid", "http://user:hunter2@[", "http://127.0.0.1:x/",
     "https://\u2603.invalid:-1"],
)  # fmt: skip
def test_a_tracker_that_cannot_be_reached_is_reported(here: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "job.yaml").write_text(SPEC)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    answer = call("run", "job.yaml")
    check_promise(answer, 3, "MLflow at ", "cannot be reached", PROMISED_WITH_SERVICE_S)
    assert SECRET not in answer.err


@pytest.mark.parametrize("status", [200, 404])
def test_a_server_of_another_program_is_reported(here: Path, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "job.yaml").write_text(SPEC)
    with tracker(status) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        answer = call("run", "job.yaml")
    check_promise(answer, 3, uri, "answers, but not as MLflow does", PROMISED_WITH_SERVICE_S)


def test_a_tracker_that_does_not_answer_is_reported_in_time(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "job.yaml").write_text(SPEC)
    monkeypatch.setattr("tuner.tracking.server_check.ANSWER_S", 0.5)
    with tracker(200, patience_s=30) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        check_promise(call("run", "job.yaml"), 3, "MLflow at ", "cannot be reached", 0.5 + PROMISED_S)


HUGE = {
    "100 restarts in every one of 10 arms": edited(
        ("  - variant: noam\n", "".join(f"  - {{variant: adamw_restarts, name: a{n}}}\n" for n in range(9))),
        (
            "epochs: 8\n",
            f"epochs: 100000\nparameters: {{restarts: {{values: {[f'{n}x1' for n in range(1, 101)]}}}}}\n",
        ),
    ),
    "4,500 unknown keys": SPEC + "".join(f"k{n}: 1\n" for n in range(4500)),
    "a key of 200 KB": SPEC + "a" * 200_000 + ": 1\n",
    "a name of 200 KB": SPEC.replace("name: job", "name: " + "a" * 200_000),
    "200 KB of colons": SPEC.replace("name: job", "name: 'x" + "://a:" * 40_000 + "'"),
    "a name that begins like the name of a secret": SPEC.replace("name: job", "name: " + "a_" * 120_000),
    "a key that begins like the name of a secret": SPEC + "a_" * 120_000 + ": 1\n",
    "10,000 items": SPEC.replace("arms:", "seed: [" + "1, " * 9_900 + "]\narms:"),
    "100 choices in 100 arms": edited(
        ("  - variant: noam\n", "".join(f"  - {{variant: adamw, name: a{n}}}\n" for n in range(99))),
        ("epochs: 8\n", f"epochs: 8\nparameters: {{lr: {{values: {[n / 1e6 for n in range(1, 101)]}}}}}\n"),
    ),
    "many quotes": "name: " + "'" * 100_001 + "\n",
    "many brackets": "name: " + "[" * 100_000 + "\n",
    "many escapes": 'name: "' + "\\x41" * 50_000 + '"\n',
    "a comment of 250 KB": "# " + "x" * 250_000 + "\n" + SPEC,
    "60,000 lines": "\n" * 60_000 + SPEC,
}  # fmt: skip


@pytest.mark.parametrize("case", HUGE)
def test_no_spec_takes_longer_than_promised(here: Path, case: str) -> None:
    (here / "job.yaml").write_text(HUGE[case])
    answer = call("validate", "job.yaml")
    assert answer.crash is None
    assert answer.code in (0, 2)
    assert answer.seconds < PROMISED_S


def fuzzed(seeds: range) -> Counter[str]:
    """Count the accepted and the refused specs of these seeds. Fails with the first seed that broke the promise."""
    counts: Counter[str] = Counter()
    slowest = 0.0
    for seed in seeds:
        data = mutated(seed)
        Path("job.yaml").write_bytes(data)
        answer = call("validate", "job.yaml")
        if answer.seconds > PROMISED_S:
            answer = call("validate", "job.yaml")  # the machine may have been busy
        slowest = max(slowest, answer.seconds)
        assert answer.crash is None, (seed, repr(answer.crash))
        assert answer.seconds < PROMISED_S, seed
        assert SECRET not in answer.err + answer.out, seed
        if answer.code == 0:
            assert answer.out.startswith("job.yaml: valid, "), seed
            assert all(line.startswith("warning: job.yaml:") for line in answer.err.splitlines()), seed
            assert not list(faults(check(from_document(read_text(data.decode(), "job.yaml"))), data)), seed
        else:
            assert answer.code == 2, (seed, answer)
            assert answer.out == "", seed
            assert re.fullmatch(r"error: job\.yaml(:\d+)?: [^\n]{1,1000}\n", answer.err), (seed, answer.err)
            assert answer.err[:-1].isprintable(), (seed, answer.err)
        counts["accepted" if answer.code == 0 else "refused"] += 1
    assert [file.name for file in Path().iterdir()] == ["job.yaml"]
    assert not Workspace.find().path.exists()
    print(f"{len(seeds)} specs: {dict(counts)}, slowest {slowest:.2f} s")
    return counts


def test_no_broken_spec_is_accepted_or_causes_a_crash() -> None:
    counts = fuzzed(range(500))
    assert counts["refused"] > 300
    assert counts["accepted"] > 20


def test_the_checks_of_accepted_specs_find_mistakes() -> None:
    checked = check(spec_of())
    assert list(faults(checked, SPEC.encode())) == []
    assert list(faults(checked, b"trails: 3\n" + SPEC.encode())) == ["lost or changed: .trails"]
    assert list(faults(checked, SPEC.replace("trials: 4", "trials: 5").encode())) == ["lost or changed: .budget.trials"]
    odd = dataclasses.replace(checked, arms=(dataclasses.replace(checked.arms[0], space={}), checked.arms[1]))
    assert list(faults(odd, SPEC.encode())) == ["arm adam_l2 searches nothing"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_none_of_5000_broken_specs_is_accepted_or_causes_a_crash() -> None:
    assert fuzzed(range(500, 5500)).total() == 5000


@pytest.fixture(scope="module")
def made_up() -> Export:
    """A made-up export, with options in more than one alphabet."""
    spec = spec_of(("elu_net", "mine:net\n  options: {depth: 3, 'größe 😀': 'a: b # c', rate: 1e-7, on: true}"))
    noam_arm = arms(spec, Plan(8, 10))[1]
    trial = trial_config(spec, noam_arm.name, noam_arm.setting(noam_arm.default), seed=1)
    run = {"val_acc": 0.625, "test_loss": 0.1, "weights_sha256": "a" * 64, "device": "cpu made up", "mlflow_run": None}
    return Export.sealed(
        {
            "schema_version": SCHEMA,
            "job": "job-1",
            "arm": "noam",
            "variant": "noam",
            "chosen_by": "highest val/acc at the last epoch among 1 complete of 1 trials",
            "search_trial": "search/noam/0",
            "search_value": 0.625,
            "trial": trial.to_dict(),
            "confirm_round": 1,
            "confirm_runs": [run | {"seed": seed, "test_acc": acc} for seed, acc in ((1, 0.9), (2, 11 / 12), (3, 1))],
            "test_mean_points": 93.88888888888889,
            "test_sd_points": 5.4e-05,
            "baseline": "adam_l2",
            "verdict": "not enough evidence",
            "comparison": {"outcome": "null", "half": 1e-300, "seeds": [1, 2, 3], "none": {}, "ratio": -0.0},
            "versions": {"python": "3.11.0", "torch": "2.15.0"},
            "git_commit": "0123456789e5",
            "data_fingerprint": "1e5" + "0" * 61,
            "mlflow_parent_run": None,
            "mlflow_search_run": "12e4",
        }
    )


def taken(file: Path) -> bool:
    try:
        read_export(file)
    except IntegrityError:
        return False
    return True


def changes(whole: bytes, count: int) -> Iterator[bytes]:
    """Changed copies of a file: ``count`` flips of one byte, truncations, and changes by editors and transfers."""
    chance = random.Random(0)
    for _ in range(count):
        at, mask = chance.randrange(len(whole)), chance.randrange(1, 256)
        yield whole[:at] + bytes([whole[at] ^ mask]) + whole[at + 1 :]
    yield from (whole[: chance.randrange(len(whole))] for _ in range(count // 4))
    yield from (whole[:-1], whole + b"\n", whole + b"# x\n", whole + b"\0", b"\xef\xbb\xbf" + whole, b" " + whole)
    yield whole.replace(b"\n", b"\r\n")
    yield whole + whole


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_an_export_with_a_changed_byte_is_refused(made_up: Export, tmp_path: Path, suffix: str) -> None:
    check_changes(made_up, tmp_path / f"export{suffix}", 50)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_an_export_with_any_of_200_changed_bytes_is_refused(made_up: Export, tmp_path: Path, suffix: str) -> None:
    check_changes(made_up, tmp_path / f"export{suffix}", 200)


def check_changes(export: Export, file: Path, count: int) -> None:
    whole = render(export, file.suffix).encode()
    file.write_bytes(whole)
    assert taken(file)
    wrongly = []
    for changed in changes(whole, count):
        file.write_bytes(changed)
        if taken(file):
            wrongly.append(changed)
    assert wrongly == []


def test_an_export_with_changed_white_space_is_refused(made_up: Export, tmp_path: Path) -> None:
    file, text = tmp_path / "export.yaml", render(made_up, ".yaml")
    places = [found.start() for found in re.finditer(r"[ \n]", text)]
    for at in places[:: max(1, len(places) // 40)]:
        file.write_text(text[:at] + ("\n" if text[at] == " " else " ") + text[at + 1 :])
        assert not taken(file), at


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_an_export_is_read_as_it_was_written(made_up: Export, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"export{suffix}"
    file.write_text(render(made_up, suffix))
    found = read_export(file)
    assert found == made_up
    assert found.config.model.options == {"depth": 3, "größe 😀": "a: b # c", "rate": 1e-7, "on": True}
    assert file.read_text() == render(found, suffix)


def forged(export: Export, change: Callable[[dict[str, Any]], None]) -> str:
    """The changed export as JSON, with a correct checksum."""
    values = export.plain(exclude={"sha256"})
    change(values)
    return resealed(values)


def resealed(values: dict[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    values["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


NO_TRIALS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no epochs": lambda values: values["trial"].update(epochs=0),
    "epochs as text": lambda values: values["trial"].update(epochs="8"),
    "an empty batch": lambda values: values["trial"].update(batch_size=0),
    "no threads": lambda values: values["trial"].update(threads=0),
    "far too many threads": lambda values: values["trial"].update(threads=10**6),
    "a seed as text": lambda values: values["trial"].update(seed="1"),
    "a negative seed": lambda values: values["trial"].update(seed=-1),
    "odd normalisation": lambda values: values["trial"].update(normalize="none"),
    "odd augmentation": lambda values: values["trial"].update(augment="spin"),
    "odd precision": lambda values: values["trial"].update(precision="fp8"),
    "gpu as text": lambda values: values["trial"].update(gpu="yes"),
    "a learning rate of 0": lambda values: values["trial"]["hyper"].update(lr=0.0),
    "a learning rate as text": lambda values: values["trial"]["hyper"].update(lr="0.1"),
    "an unknown schedule": lambda values: values["trial"]["hyper"].update(schedule="saw"),
    "an unknown data set": lambda values: values["trial"]["data"].update(name="mnist"),
    "a data path": lambda values: values["trial"]["data"].update(path="/etc"),
    "a file outside": lambda values: values["trial"]["data"].update(sha256=[["../x", "0" * 64]]),
    "no share for validation": lambda values: values["trial"]["data"].update(validation=1.0),
    "an unknown model": lambda values: values["trial"]["model"].update(name="resnet", options={}),
    "a model that is a path": lambda values: values["trial"]["model"].update(name="../x:y"),
    "options that are a list": lambda values: values["trial"]["model"].update(options=[1]),
    "a list as an option": lambda values: values["trial"]["model"].update(options={"a": [1]}),
    "no confirm runs": lambda values: values.update(confirm_runs=[]),
    "an accuracy of 2": lambda values: values["confirm_runs"][0].update(test_acc=2.0),
    "a seed twice": lambda values: values["confirm_runs"][1].update(seed=values["confirm_runs"][0]["seed"]),
    "another first seed": lambda values: values["trial"].update(seed=7),
}


@pytest.mark.parametrize("case", NO_TRIALS)
def test_a_forged_export_does_not_crash_reproduce(made_up: Export, here: Path, case: str) -> None:
    file = here / "forged.json"
    file.write_text(forged(made_up, NO_TRIALS[case]))
    check_promise(call("reproduce", file.name, "--allow-code"), 5, "forged.json: not an export of this version: ")


def test_a_forged_export_raises_only_integrity_errors(made_up: Export, tmp_path: Path) -> None:
    values, file = made_up.plain(exclude={"sha256"}), tmp_path / "forged.json"
    accepted = 0
    for seed in range(300):
        file.write_text(resealed(fuzz_specs.forged(values, seed)), "utf-8", "surrogatepass")
        if taken(file):
            accepted += 1
            config = read_export(file).config
            Schedule(Hyper.of(dataclasses.asdict(config.hyper)), Plan(config.epochs, 10**9))
            assert min(config.epochs, config.batch_size, config.threads) >= 1
    assert 10 < accepted < 200


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "empty"),
        (b"- 1\n", "a list at the top"),
        (b"\xff", "cannot be read"),
        (b"a: !!python/object/apply:os.system [id]\n", "tags are not allowed"),
        (b"schema_version: 99\n", "written by a newer tuner (schema 99"),
        (b"x" * 8_000_000, "larger than"),
        (b"a: " + b"[" * 5000, "nested deeper"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_an_export_is_reported(here: Path, content: bytes, problem: str) -> None:
    (here / "best.yaml").write_bytes(content)
    check_promise(call("reproduce", "best.yaml"), 5, "best.yaml", problem)


def test_an_export_that_does_not_exist_or_is_a_folder_is_reported(here: Path) -> None:
    check_promise(call("reproduce", "none.yaml"), 4, "no file none.yaml")
    check_promise(call("reproduce", "a" * 300), 5, "a", "File name too long")
    (here / "folder").mkdir()
    check_promise(call("reproduce", "folder"), 5, "folder", "directory")


def test_missing_code_that_an_export_names_is_reported(made_up: Export, here: Path) -> None:
    def change(values: dict[str, Any]) -> None:
        values["trial"]["data"]["name"] = "no_such_module:read"

    (here / "best.json").write_text(forged(made_up, change))
    check_promise(call("reproduce", "best.json"), 2, "the export names code to run (mine:net, no_such_module:read)")
    seeds = ("--fresh-seed", 2, "--allow-code")
    check_promise(call("reproduce", "best.json", *seeds), 2, "seed 2 is one of the recorded seeds; name another")
    check_promise(call("reproduce", "best.json", "--allow-code"), 2, "", "no module 'no_such_module'", HEAVY_IMPORTS_S)


@pytest.mark.parametrize("file", ["a" * 300 + ".yaml", "/dev/null/x.yaml", "x\ny.yaml"])
def test_a_file_that_cannot_be_written_is_reported(here: Path, file: str) -> None:
    answer = call("init", file)
    assert answer.crash is None
    if "\n" not in file:
        check_promise(answer, 3, "cannot write ", file)
