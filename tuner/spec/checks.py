"""The checks of a spec before training: against the data, the user's code and the packages of this machine.

``tuner validate`` and ``tuner plan`` show their result.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from trainables.catalog import DATASETS, is_dotted, load_object
from trainables.data.checksums import check_file
from trainables.data.request import Columns, ImageCounts, Survey
from trainables.errors import DataError, TrainableError
from trainables.foreign_text import with_article
from trainables.space import Choice, Plan
from tuner.spec.arms import Arm, arms, own_plan, plan, warnings
from tuner.spec.messages import InvalidValue
from tuner.spec.search_spec import SearchSpec
from tuner.spec.user_code import dotted_paths

POINTS = 100.0
"""The fraction 1 in points."""

CMAES_KNOBS = 2
"""Smallest number of knobs that CMA-ES can search. Each of them must be a number."""


@dataclass(frozen=True)
class Checked:
    """A spec that passed the checks, and the results of the checks.

    The results are None or empty if the number of images is not known before the data is read.
    """

    spec: SearchSpec
    images: ImageCounts | None
    plan: Plan | None
    arms: tuple[Arm, ...]
    warnings: tuple[str, ...]
    survey: Survey | None


def check(spec: SearchSpec, progress: Callable[[str], None] | None = None, *, code: bool = True) -> Checked:
    """Check a spec against the data, the code and the packages of this machine.

    This reads only footers, labels and folders of the data, and the images of small sets, to see whether two splits
    share some. If ``data.sha256`` gives checksums, it also reads those files.

    Args:
        spec: the spec to check.
        progress: called with a line of text before a file is hashed.
        code: whether to import the user's code too, in this process.

    Raises:
        SpecError: the first problem, with its place.
    """
    if code:
        check_code(spec)
    if spec.own_trainable:
        _check_packages(spec)
        planned = own_plan(spec)
        found = arms(spec, planned)
        check_sampler(spec, found)
        return Checked(spec, None, planned, found, warnings(spec, planned), None)
    survey = _survey(spec)
    images = _images(spec, survey)
    _check_sums(spec, progress or (lambda line: None))
    _check_packages(spec)
    _check_margin(spec, images)
    train = images.train if images else spec.data.train_images
    if train is None:
        return Checked(spec, None, None, (), tuple(_data_warnings(spec, survey, images)), survey)
    planned = plan(spec, train)
    found = arms(spec, planned)
    check_sampler(spec, found)
    told = (*_data_warnings(spec, survey, images), *warnings(spec, planned))
    return Checked(spec, images, planned, found, told, survey)


def coarse_validation(spec: SearchSpec, images: ImageCounts) -> str | None:
    """A warning if one validation image is worth more than the margin: the choice then hangs on single images."""
    margin, points = spec.confirm.margin, POINTS / images.val
    if spec.metric.key != "val_acc" or not 0 < margin < points:
        return None
    text = (
        f"one of the {images.val:,} validation images is worth {points:.2g} points, more than confirm.margin "
        f"({margin:g}): chance decides which setting is chosen; use more validation images, or metric val/loss"
    )
    return spec.origin.tell(("data",), text)


def _data_warnings(spec: SearchSpec, survey: Survey | None, images: ImageCounts | None) -> Iterator[str]:
    if spec.is_data_elsewhere:
        text = (
            f"{spec.data.path} is not in the folder of this file, so {spec.data_path} in the current folder is used; "
            "write the path relative to this file, or give --data"
        )
        yield spec.origin.tell(("data", "path"), text)
    if survey is not None:
        yield from (spec.origin.tell(("data",), note) for note in survey.notes)
        if survey.val is not None and spec.data.validation is not None:
            text = f"is not used, because the data has {survey.val:,} validation images of its own"
            yield spec.origin.tell(("data", "validation"), text)
    if images is not None and (coarse := coarse_validation(spec, images)):
        yield coarse


def _check_margin(spec: SearchSpec, images: ImageCounts | None) -> None:
    """Raise ``SpecError`` if the margin of a claim about methods is smaller than one test image."""
    margin, tested = spec.confirm.margin, images.test if images else spec.data.test_images
    if spec.searches and tested and 0 < margin < POINTS / tested:
        text = f"is {margin:g}, but one of the {tested} test images is {POINTS / tested:.2g} points; use 0, or more"
        raise spec.origin.error(InvalidValue(text, "confirm", "margin"))


def check_sampler(spec: SearchSpec, found: tuple[Arm, ...]) -> None:
    """Raise ``SpecError`` if the sampler cannot search one of the arms."""
    if spec.sampler.name == "gp":
        for arm in (arm for arm in found if arm.when):
            text = f"gp searches only knobs that every trial has, but arm {arm.name} has conditional ones"
            more = f" ({', '.join(arm.when)}); use tpe, qmc or random"
            raise spec.origin.error(InvalidValue(text + more, "sampler"))
    if spec.sampler.name != "cmaes":
        return
    for arm in found:
        choices = [knob for knob, domain in arm.space.items() if isinstance(domain, Choice)]
        if choices:
            problem = f"cmaes searches only numbers, but arm {arm.name} has choices ({', '.join(choices)})"
        elif len(arm.space) < CMAES_KNOBS:
            problem = f"cmaes needs at least {CMAES_KNOBS} knobs, but arm {arm.name} has {len(arm.space)}"
        else:
            continue
        raise spec.origin.error(InvalidValue(f"{problem}; use tpe, gp, qmc or random", "sampler"))


def _check_packages(spec: SearchSpec) -> None:
    if spec.sampler.name == "cmaes" and importlib.util.find_spec("cmaes") is None:
        raise spec.origin.error(InvalidValue("needs the package 'cmaes'; run pip install cmaes, or use tpe", "sampler"))


def check_code(spec: SearchSpec, absent: Callable[[str], None] | None = None) -> None:
    """Import the user's own code.

    Args:
        spec: the spec that names it.
        absent: called with a line if there is no such package as that of an optimizer or trainable; None refuses it.

    Raises:
        SpecError: it cannot be imported, or is not callable.
    """
    for place, name in dotted_paths(spec):
        try:
            found = load_object(name)
        except TrainableError as error:
            refused = spec.origin.error(InvalidValue(str(error), *place))
            missing, package = error.__cause__, name.partition(":")[0].partition(".")[0]
            is_absent = isinstance(missing, ModuleNotFoundError) and missing.name == package
            if absent is not None and is_absent and place[-1] in ("optimizer", "trainable"):
                absent(f"{refused}; the cluster must have it")
                continue
            raise refused from None
        if not callable(found):
            text = f"{name!r} is {with_article(type(found).__name__)}; must be a callable"
            raise spec.origin.error(InvalidValue(text, *place))


def _survey(spec: SearchSpec) -> Survey | None:
    """What the data has; None if only reading it tells."""
    data = spec.data
    path = spec.data_path
    try:
        if is_dotted(data.name):
            if path is not None and not path.exists():
                raise spec.origin.error(InvalidValue(f"{path}: no such file or folder", "data", "path"))
            return None
        reader = importlib.import_module(DATASETS[data.name])
        found: Survey = reader.survey(path, Columns(data.image_column, data.label_column), compare=True)
        return found
    except TrainableError as error:
        raise spec.origin.error(InvalidValue(str(error), "data", "path")) from None
    except OSError as error:
        raise spec.origin.error(InvalidValue(f"{path}: cannot be read: {error.strerror}", "data", "path")) from None


def _images(spec: SearchSpec, survey: Survey | None) -> ImageCounts | None:
    if survey is None:
        return None
    train, val = survey.train, survey.val
    if val is None:
        val = survey.held_out(spec.data.validation_share)
        train -= val
        if val < 1 and train == survey.classes:
            text = "every class has only one training image, so none can be held out for validation"
            raise spec.origin.error(InvalidValue(text, "data"))
    return ImageCounts(
        _subset(spec, "train_images", train),
        _subset(spec, "val_images", val),
        _subset(spec, "test_images", survey.test),
    )


def _subset(spec: SearchSpec, key: str, there: int) -> int:
    asked: int | None = getattr(spec.data, key)
    if asked is not None and asked > there:
        text = f"is {asked}; must be at most {there}, the number of images in this split"
        raise spec.origin.error(InvalidValue(text, "data", key))
    if there < 1:
        raise spec.origin.error(
            InvalidValue(f"this split has no {key.replace('_', ' ')}; give it at least one image", "data")
        )
    return there if asked is None else asked


def _check_sums(spec: SearchSpec, progress: Callable[[str], None]) -> None:
    if not spec.data.sha256:
        return
    root = spec.data_path
    assert root is not None
    for name, expected in spec.data.sha256.items():
        progress(f"hashing {name} in {root}")
        try:
            check_file(root, name, expected)
        except DataError as error:
            raise spec.origin.error(InvalidValue(str(error), "data", "sha256", name)) from None
