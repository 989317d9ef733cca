"""Loads and tries the user's own code in a process of its own, with a time limit, before a job may run it.

A module that hangs, ends the process or crashes the interpreter then costs one line, and not the command. The parent
sends the spec as JSON on the child's standard input. The child answers with lines of JSON: a message to show, the step
that it begins, its error, or its result. What the user's code prints is not shown; if the code ends the process, the
message has the end of it.
"""

import io
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from trainables.catalog import is_dotted
from trainables.errors import TrainableError
from trainables.foreign_text import is_users, printable
from trainables.own.scratch import Scratch
from trainables.space import Plan
from tuner.driver.cost import Images, images_of, made_up, seconds_per_epoch
from tuner.errors import SpecError, TunerError, error_of
from tuner.jobs.code_archive import Imported
from tuner.spec.arms import Arm, arms
from tuner.spec.checks import Checked, check_code
from tuner.spec.messages import InvalidValue, Origin
from tuner.spec.search_spec import SearchSpec, from_dict, to_dict
from tuner.spec.trial_config import image_trial, own_trial
from tuner.spec.user_code import arm_code, dotted_paths, import_from

LIMIT_S = 120.0
"""Longest time of one step of the check, in seconds; ``TUNER_CHECK_S`` replaces it."""
VARIABLE = "TUNER_CHECK_S"
LAST_CHARACTERS = 200
"""Most characters that are shown of what a process printed before it ended."""
STEPS = 100
"""Updates per epoch of a trial whose images are counted only when the data is read."""
ANY_IMAGES = Images(1000, (32, 32, 3), 10)
"""Made-up images for an optimizer, if only reading the data tells what they are."""
POLL_S = 0.1
"""Longest time until the end of the process is noticed, if another process keeps its answers open."""
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
    if next(dotted_paths(spec), None) is None:
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
        seconds: float | None = child.ask(request, announce)
        return seconds


def try_imports(spec: SearchSpec, folder: Path, announce: Callable[[str], None]) -> Imported:
    """Import the user's own code that a spec names, in another process; it is to run on other machines.

    Args:
        spec: the spec.
        folder: folder of the user's modules.
        announce: called with a line for each optimizer and trainable of a package that is not here: a cluster may
            have it.

    Returns:
        The files of the modules that were imported.

    Raises:
        SpecError: as for ``inspect_code``.
    """
    if next(dotted_paths(spec), None) is None:
        return Imported((), {})
    request = {"spec": to_dict(spec), "origin": _origin_out(spec.origin), "folder": str(folder), "do": None}
    with _child(spec) as child:
        files, named = child.ask(request, announce)
    return Imported(tuple(files), named)


class _Child:
    """The process that runs the user's code. The clock starts again with every step."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._limit_s = _limit_s()
        self._step = "starting"
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

    def ask(self, request: Mapping[str, Any], announce: Callable[[str], None]) -> Any:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(request).encode())
            self.process.stdin.close()
        for line in self._answers():
            kind, value = json.loads(line)
            if kind == "say":
                announce(value)
            elif kind == "step":
                self._step = value
            elif kind == "error":
                raise error_of(value["code"])(value["message"])
            else:
                return value
        code = self.process.poll()
        if code is None:
            raise SpecError(
                f"{self._name}: {self._step}: your code did not come back within {self._limit_s:g} s; if it only "
                f"needs longer, set {VARIABLE} to more seconds"
            )
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        raise SpecError(
            f"{self._name}: {self._step}: your code ended the process that checks it, which {how}{self._last_line()}"
        )

    def _answers(self) -> Iterator[bytes]:
        """The lines of the process, until it ends or the limit is over.

        A process that the user's code has forked may keep the pipe open, so the end of the pipe alone does not count.
        """
        assert self.process.stdout is not None
        pipe, waiting = self.process.stdout.fileno(), b""
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            until = time.monotonic() + self._limit_s
            while time.monotonic() < until:
                ended = self.process.poll() is not None
                if not selector.get_map():
                    if ended:
                        return
                    time.sleep(POLL_S)
                elif not selector.select(0.0 if ended else min(POLL_S, self._limit_s)):
                    if ended:
                        return
                elif read := os.read(pipe, 65536):
                    *lines, waiting = (waiting + read).split(b"\n")
                    for line in lines:
                        yield line
                        until = time.monotonic() + self._limit_s
                else:
                    selector.unregister(pipe)

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
    for stream in (sys.stdout, sys.stderr):
        # Code that prints is not wrong because this terminal knows fewer characters.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # A process that the user's code forks must neither answer nor keep the pipe open.
    os.register_at_fork(after_in_child=lambda: os.dup2(2, answers.fileno()))
    scratch: list[Scratch] = []

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
        tell("done", _inspect(request, tell, scratch))
    except TunerError as error:
        tell("error", {"message": str(error), "code": error.exit_code})
    except TrainableError as error:
        tell("error", {"message": str(error), "code": SpecError.exit_code})
    finally:
        for made in scratch:
            made.remove()
    # Threads of the user's code must not keep this process alive.
    os._exit(0)


def _inspect(request: Mapping[str, Any], tell: Tell, scratch: list[Scratch]) -> object:
    spec = from_dict(request["spec"], _origin_in(request["origin"]))
    do = request["do"]
    import_from(Path(request["folder"]))
    if spec.own_trainable:
        # As in a worker, the module is imported in an empty folder, without the variables of a tracker.
        scratch.append(Scratch())
        scratch[0].enter_trial()
    tell("step", "importing")
    if do is None:
        return _imported(spec, tell)
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


def _imported(spec: SearchSpec, tell: Tell) -> object:
    check_code(spec, absent=lambda text: tell("say", f"warning: {text}"))
    files = {file for module in [*sys.modules.values()] if isinstance(file := getattr(module, "__file__", None), str)}
    named = {path: getattr(sys.modules.get(path.partition(":")[0]), "__file__", None) for _, path in arm_code(spec)}
    return sorted(file for file in files if is_users(file)), {
        path: file for path, file in named.items() if isinstance(file, str) and is_users(file)
    }


def _try_trainables(spec: SearchSpec, found: tuple[Arm, ...], tell: Tell) -> None:
    from trainables.own.check import check_trainable

    for arm in _of_spec(spec, found):
        step = f"arm {arm.name}: {arm.variant}"
        with _placed(spec, arm, "trainable"):
            trial = own_trial(spec, arm.name, arm.setting(arm.default), spec.seed)
            # Every report has the whole limit.
            check_trainable(trial, lambda line: tell("say", line), partial(tell, "step", step))


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
