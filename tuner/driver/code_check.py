"""Loads and tries the user's own code in a process of its own, with a time limit, before a job may run it.

A module that hangs, ends the process or crashes the interpreter then costs one line, and not the command. The parent
sends the spec as JSON on the child's standard input. The child answers with lines of JSON: a message to show, the step
that it begins, its error, or its result. What the user's code prints is not shown; if the code ends the process, the
message has the end of it.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from trainables.catalog import is_dotted
from trainables.errors import TrainableError
from trainables.foreign_text import printable
from trainables.space import Plan
from tuner.driver.cost import Images, images_of, made_up, seconds_per_epoch
from tuner.errors import SpecError, TunerError, error_of
from tuner.spec.arms import Arm, arms
from tuner.spec.checks import Checked, check_code
from tuner.spec.messages import InvalidValue, Origin
from tuner.spec.search_spec import SearchSpec, from_dict, to_dict
from tuner.spec.trial_config import image_trial, own_trial
from tuner.spec.user_code import arm_code, import_from, names_code

LIMIT_S = 120.0
"""Longest time of one step of the check, in seconds; ``TUNER_CHECK_S`` replaces it."""
VARIABLE = "TUNER_CHECK_S"
LAST_CHARACTERS = 200
"""Most characters that are shown of what a process printed before it ended."""
STEPS = 100
"""Updates per epoch of a trial whose images are counted only when the data is read."""
ANY_IMAGES = Images(1000, (32, 32, 3), 10)
"""Made-up images for an optimizer, if only reading the data tells what they are."""
Tell = Callable[..., None]


def inspect_code(
    checked: Checked,
    folder: Path,
    announce: Callable[[str], None],
    *,
    build: bool = True,
    model: bool = True,
    timed: bool = False,
) -> float | None:
    """Check the user's own code that a spec names, in another process.

    Args:
        checked: the spec, checked without its code.
        folder: folder of the user's modules.
        announce: called with the messages of the check.
        build: also build and train with it: an own trainable reports, saves and loads once, an own optimizer takes one
            update, an own model is trained for one update. Otherwise the code is only imported.
        model: whether ``build`` includes an own model.
        timed: also measure the seconds per epoch of the baseline.

    Returns:
        Seconds per epoch of the baseline, or None if they were not measured.

    Raises:
        SpecError: what is wrong with the code, in one line; or it hangs, or it ended the process.
    """
    spec = checked.spec
    if not names_code(spec) and next(arm_code(spec), None) is None:
        return None
    images = images_of(checked)
    request = {
        "spec": to_dict(spec),
        "origin": _origin_out(spec.origin),
        "folder": str(folder),
        "images": None if images is None else [images.train, images.shape_HWC, images.classes],
        "plan": None if checked.plan is None else [checked.plan.epochs, checked.plan.steps_per_epoch],
        "do": {"build": build, "model": model, "timed": timed},
    }
    with _child(spec) as child:
        return child.ask(request, announce)


class _Child:
    """The process that runs the user's code. The clock starts again with every step."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._limit_s = _limit_s()
        self._step = "starting"
        self._timed_out = False
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            # Without -P, a file of the current folder could hide a module of Python.
            [sys.executable, "-P", "-m", "tuner.driver.code_check"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._printed,
            # Processes that the user's code starts end with it.
            start_new_session=True,
        )

    def ask(self, request: Mapping[str, Any], announce: Callable[[str], None]) -> float | None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request).encode())
        self.process.stdin.close()
        clock = self._clock()
        try:
            for line in self.process.stdout:
                clock.cancel()
                kind, value = json.loads(line)
                if kind == "say":
                    announce(value)
                elif kind == "step":
                    self._step = value
                elif kind == "error":
                    raise error_of(value["code"])(value["message"])
                else:
                    seconds: float | None = value
                    return seconds
                clock = self._clock()
        finally:
            clock.cancel()
        code = self.process.wait()
        if self._timed_out:
            raise SpecError(
                f"{self._name}: {self._step}: your code did not come back within {self._limit_s:g} s; if it only "
                f"needs longer, set {VARIABLE} to more seconds"
            )
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        raise SpecError(
            f"{self._name}: {self._step}: your code ended the process that checks it, which {how}{self._last_line()}"
        )

    def end(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._printed.close()

    def _last_line(self) -> str:
        self._printed.seek(0)
        lines = printable(self._printed.read().decode(errors="replace")).split()
        return f"; it printed: {' '.join(lines)[-LAST_CHARACTERS:]}" if lines else ""

    def _clock(self) -> threading.Timer:
        clock = threading.Timer(self._limit_s, self._time_out)
        clock.daemon = True
        clock.start()
        return clock

    def _time_out(self) -> None:
        self._timed_out = True
        self.process.kill()


@contextmanager
def _child(spec: SearchSpec) -> Iterator[_Child]:
    child = _Child(spec.origin.name)
    try:
        yield child
    finally:
        child.end()


def _limit_s() -> float:
    text = os.environ.get(VARIABLE)
    try:
        limit_s = float(text) if text else LIMIT_S
    except ValueError:
        limit_s = 0.0
    if not 0 < limit_s < threading.TIMEOUT_MAX:
        raise SpecError(f"{VARIABLE} is {text!r}; must be a number of seconds above 0")
    return limit_s


def main() -> None:
    """Answer one request, in the child."""
    request = json.loads(sys.stdin.buffer.read())
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    said: set[str] = set()

    def tell(kind: str, value: Any) -> None:
        if kind == "say":
            # Arms with the same code need the same line once.
            if value in said:
                return
            said.add(value)
        answers.write(json.dumps([kind, value]) + "\n")
        answers.flush()

    try:
        tell("done", _inspect(request, tell))
    except TunerError as error:
        tell("error", {"message": str(error), "code": error.exit_code})
    except TrainableError as error:
        tell("error", {"message": str(error), "code": SpecError.exit_code})
    # Threads of the user's code must not keep this process alive.
    os._exit(0)


def _inspect(request: Mapping[str, Any], tell: Tell) -> float | None:
    spec = from_dict(request["spec"], _origin_in(request["origin"]))
    do = request["do"]
    import_from(Path(request["folder"]))
    tell("step", "importing")
    check_code(spec)
    if not do["build"]:
        return None
    plan = Plan(*request["plan"]) if request["plan"] else Plan(spec.budget.epochs, STEPS)
    found = arms(spec, plan)
    images = None
    if request["images"] is not None:
        train, shape_HWC, classes = request["images"]
        images = Images(train, tuple(shape_HWC), classes)
    if spec.own_trainable:
        _try_trainables(spec, found, tell)
        return None
    _try_optimizers(spec, found, images, tell)
    if is_dotted(spec.model.name) and do["model"]:
        if images is None:
            text = "the model is not checked here, because only reading the data tells its images; a run checks it"
            tell("say", text)
            return None
        _try_model(spec, found[0], images, tell)
    if not do["timed"] or images is None or not request["plan"]:
        return None
    tell("step", "timing an epoch")
    return seconds_per_epoch(spec, found[0], images, plan)


def _try_trainables(spec: SearchSpec, found: tuple[Arm, ...], tell: Tell) -> None:
    from trainables.own.check import check_trainable

    for arm in _of_spec(spec, found):
        tell("step", f"arm {arm.name}: {arm.variant}")
        with _placed(spec, arm, "trainable"):
            trial = own_trial(spec, arm.name, arm.setting(arm.default), spec.seed)
            check_trainable(trial, lambda line: tell("say", line))


def _try_optimizers(spec: SearchSpec, found: tuple[Arm, ...], images: Images | None, tell: Tell) -> None:
    named = {spec.arms[int(place[1])].name for place, _ in arm_code(spec)}
    own = [arm for arm in _of_spec(spec, found) if arm.name in named]
    if not own or (images is None and is_dotted(spec.model.name)):
        return
    from trainables.training.optimizer_check import check_optimizer, check_setting

    for arm in own:
        tell("step", f"arm {arm.name}: {arm.variant}")
        with _placed(spec, arm, "optimizer" if arm.kind == "optimizer" else "fixed"):
            trial = image_trial(spec, arm.name, arm.setting(arm.default), spec.seed)
            splits = made_up(images or ANY_IMAGES, trial.batch_size)
            check_optimizer(trial, splits, lambda line: tell("say", line))
        for knob, sampled in arm.extremes():
            with _placed(spec, arm, "parameters", knob):
                trial = image_trial(spec, arm.name, arm.setting(sampled), spec.seed)
                check_setting(trial, made_up(images or ANY_IMAGES, trial.batch_size))


def _try_model(spec: SearchSpec, arm: Arm, images: Images, tell: Tell) -> None:
    from trainables.training.model_check import check_model

    tell("step", spec.model.name)
    trial = image_trial(spec, arm.name, arm.setting(arm.default), spec.seed)
    check_model(trial, made_up(images, trial.batch_size), lambda line: tell("say", line))


def _of_spec(spec: SearchSpec, found: tuple[Arm, ...]) -> Iterator[Arm]:
    """The arms without the placebo, which repeats one of them."""
    names = {arm.name for arm in spec.arms}
    return (arm for arm in found if arm.name in names)


@contextmanager
def _placed(spec: SearchSpec, arm: Arm, *keys: str) -> Iterator[None]:
    """Give an error of the user's code its place in the spec."""
    try:
        yield
    except TrainableError as error:
        index = [given.name for given in spec.arms].index(arm.name)
        raise spec.origin.error(InvalidValue(str(error), "arms", index, *keys)) from error


def _origin_out(origin: Origin) -> dict[str, Any]:
    lines = [[list(place), line] for place, line in origin.lines.items()]
    return {"name": origin.name, "lines": lines, "data_folder": str(origin.data_folder)}


def _origin_in(values: Mapping[str, Any]) -> Origin:
    lines = {tuple(place): line for place, line in values["lines"]}
    return Origin(values["name"], lines, Path(values["data_folder"]))


if __name__ == "__main__":
    main()
