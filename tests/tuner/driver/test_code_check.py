"""The user's own code is tried in another process: whatever it does there costs one line."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tuner.spec_texts import SPEC
from tuner.driver.code_check import inspect_code
from tuner.errors import SpecError
from tuner.spec.checks import check
from tuner.spec.search_spec import load

Try = Callable[..., tuple[float | None, list[str]]]

OWN = SPEC.replace("name: elu_net", "name: 'MODULE:build'").replace(", width: 0.03", "")

TRAINABLE = "from ray import tune\n\n\ndef train(config):\n    tune.report({'loss': config['x']})\n"
SAME_CODE = """\
name: same
metric: {choose: loss, goal: minimize}
baseline: one
arms:
  - {name: one, trainable: "tried_train:train", parameters: {x: {min: 1.0, max: 2.0}}}
  - {name: two, trainable: "tried_train:train", parameters: {x: {min: 1.0, max: 2.0}}}
budget: {trials: 2, epochs: 1}
"""


@pytest.fixture
def tried(tmp_path: Path) -> Try:
    """Checks a spec whose model is in a module with this text; returns the result and the messages."""

    def run(text: str, **options: bool) -> tuple[float | None, list[str]]:
        (tmp_path / "tried_model.py").write_text(text)
        (tmp_path / "spec.yaml").write_text(OWN.replace("MODULE", "tried_model"))
        said: list[str] = []
        checked = check(load(tmp_path / "spec.yaml"), code=False)
        return inspect_code(checked, tmp_path, said.append, **options), said

    return run


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import os\nos._exit(0)", r"importing: your code ended the process .* ended with exit code 0$"),
        ("import os\nos.abort()", r"importing: your code ended the process .* killed by SIGABRT$"),
        ("import sys\nsys.exit(3)", r"spec\.yaml:\d+: model\.name: .*raised SystemExit"),
        ("import nosuch", r"spec\.yaml:\d+: model\.name: .*there is no module 'nosuch' to import"),
        ("build = 3", r"spec\.yaml:\d+: model\.name: 'tried_model:build' is an int; must be a callable"),
        ("", "module 'tried_model' has no attribute 'build'"),
    ],
    ids=["exit", "abort", "sys.exit", "import", "kind", "missing"],
)
def test_code_that_cannot_be_loaded_is_one_line(text: str, message: str, tried: Try) -> None:
    with pytest.raises(SpecError, match=message) as raised:
        tried(text, build=False)
    assert "\n" not in str(raised.value)


def test_code_that_hangs_is_ended(tried: Try, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNER_CHECK_S", "4")
    begun = time.monotonic()
    with pytest.raises(SpecError, match=r"importing: your code did not come back within 4 s; .* set TUNER_CHECK_S"):
        tried("import time\nwhile True:\n    time.sleep(1)", build=False)
    assert time.monotonic() - begun < 60


def test_a_line_that_is_equal_for_several_arms_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "tried_train.py").write_text(TRAINABLE)
    (tmp_path / "spec.yaml").write_text(SAME_CODE)
    said: list[str] = []
    inspect_code(check(load(tmp_path / "spec.yaml"), code=False), tmp_path, said.append)
    assert [line.partition(":")[0] for line in said] == ["checking the trainable", "warning"]


def test_a_limit_that_is_no_number_is_refused(tried: Try, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNER_CHECK_S", "soon")
    with pytest.raises(SpecError, match="TUNER_CHECK_S is 'soon'; must be a number of seconds above 0"):
        tried("def build(classes, shape): ...", build=False)


def test_what_the_code_prints_is_shown_only_if_it_ends_the_process(
    tried: Try, capfd: pytest.CaptureFixture[str]
) -> None:
    prints = "print('[\"error\", 3]')\n"
    assert tried(f"{prints}def build(classes, shape): ...", build=False) == (None, [])
    assert capfd.readouterr() == ("", "")
    with pytest.raises(SpecError, match=r'exit code 4; it printed: \["error", 3\]$'):
        tried(f"{prints}import os, sys\nsys.stdout.flush()\nos._exit(4)", build=False)


def test_a_thread_of_the_code_does_not_keep_the_check_alive(tried: Try) -> None:
    text = "import threading, time\nthreading.Thread(target=lambda: time.sleep(3600)).start()\ndef build(): ..."
    assert tried(text, build=False) == (None, [])


def test_a_spec_without_own_code_starts_no_process(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC)
    assert inspect_code(check(load(tmp_path / "spec.yaml")), tmp_path, print, timed=True) is None


FORKS = "import os, time\nif os.fork() == 0:\n    time.sleep(100)\n    os._exit(0)\n"


def test_a_process_that_the_code_forks_does_not_hold_up_the_limit(tried: Try, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNER_CHECK_S", "4")
    begun = time.monotonic()
    with pytest.raises(SpecError, match=r"importing: your code did not come back within 4 s"):
        tried(f"{FORKS}time.sleep(100)", build=False)
    assert time.monotonic() - begun < 60


def test_a_process_without_pythons_fork_does_not_keep_the_check_alive(tried: Try) -> None:
    # The C function knows nothing of what Python does after a fork.
    forks = "import ctypes, os, time\nif ctypes.CDLL(None).fork() == 0:\n    time.sleep(100)\n"
    begun = time.monotonic()
    with pytest.raises(SpecError, match=r"ended with exit code 3"):
        tried(f"{forks}os._exit(3)", build=False)
    assert time.monotonic() - begun < 60
