"""``SearchSpec``: the checked job file, and the functions that read it, convert it and compute its fingerprint."""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from trainables.catalog import is_dotted
from trainables.errors import did_you_mean
from trainables.space import PlannedDomain
from trainables.variants import VARIANTS
from tuner.spec.experiment import NET_STRIDE, ArmSpec, DataSpec, FamilySpec, Line, MetricSpec, ModelSpec, Name
from tuner.spec.messages import InvalidValue, Origin, shown
from tuner.spec.pydantic_messages import from_pydantic
from tuner.spec.ranges import MODEL_KNOB, Frozen, Range, check_knob_name
from tuner.spec.settings import (
    BudgetSpec,
    ConfirmSpec,
    ResourcesSpec,
    SamplerSpec,
    SchedulerSpec,
    SearchesSpec,
    TrackingSpec,
)
from tuner.spec.strict_yaml import Document, KeyPath, read

__all__ = [
    "ArmSpec",
    "BudgetSpec",
    "ConfirmSpec",
    "DataSpec",
    "FamilySpec",
    "MetricSpec",
    "ModelSpec",
    "ResourcesSpec",
    "SamplerSpec",
    "SchedulerSpec",
    "SearchSpec",
    "SearchesSpec",
    "TrackingSpec",
    "fingerprint",
    "from_dict",
    "from_document",
    "load",
    "starter",
    "to_dict",
]

ALPHA = 0.05
"""Chance of any false 'beats' or 'loses' in a job."""

PLACEBO = "placebo"
"""Name of the arm that repeats the baseline."""

ONE_SETTING: Mapping[str, int] = {"top_k": 3, "selection_seeds": 3, "seeds": 5}
"""Keys of ``confirm`` that belong to claims about one setting, and what they are for the best setting of a method."""

DATA = "the images, and their split into training, validation and test"
MODEL = "the neural network"
NO_DATA, NO_MODEL = DataSpec.model_construct(name="none"), ModelSpec.model_construct(name="none")
"""What a job of own trainables has instead of data and a model."""

LEARNS_FROM_OTHERS = ("tpe", "gp")
"""Samplers that take the trials of another job for trials of their own."""

MOST_PER_GPU = 8
"""Largest number of trials at once on one GPU that ``resources: auto`` measures."""

_SECRET_WORD = r"(?:pass(?:word|wd|phrase)|pwd|secret|(?:api|access|secret)_?key|(?:access|auth)_token)"
_PASSWORD = re.compile(
    rf"://[^:/@\s]{{0,300}}:[^@\s]{{0,300}}@|(?:^|[?&;\s])(?:[a-z]{{1,20}}_)*(?:{_SECRET_WORD}|sslpassword|token)\s?=",
    re.IGNORECASE,
)
_SECRET_KEY = re.compile(rf"(?:[a-z]{{1,20}}_)*{_SECRET_WORD}", re.IGNORECASE)


class SearchSpec(Frozen):
    """A search: the data and the model, the arms that compete, and the budget."""

    name: Name = Field(description="the job's name")
    seed: int = Field(default=0, ge=0, lt=2**31, description="seed of the data split, the samplers and the trials")
    data: DataSpec = Field(default=NO_DATA, description=DATA)
    model: ModelSpec = Field(default=NO_MODEL, description=MODEL)
    metric: MetricSpec = Field(default=MetricSpec(), description="the metric that chooses the best settings")
    baseline: Name = Field(description="the arm that the other arms are compared with")
    arms: tuple[ArmSpec, ...] = Field(
        min_length=2, max_length=100, description="the arms; each is the name of a variant, or a mapping"
    )
    passed: tuple[Literal["seed", "read_test"], ...] = Field(
        default=(),
        alias="pass",
        description="own trainables: keys that their config gets besides the knobs: seed, and read_test, which is true "
        "in confirm runs",
    )
    parameters: dict[str, Range] = Field(
        default_factory=dict, description="knob -> range for every arm that searches the knob"
    )
    budget: BudgetSpec = Field(description="how much is trained: trials, epochs and limits")
    sampler: SamplerSpec = Field(
        default=SamplerSpec(), description="the sampler, which proposes settings: a name, or a mapping"
    )
    scheduler: SchedulerSpec = Field(
        default=SchedulerSpec(), description="the scheduler, which stops trials early: a name, or a mapping"
    )
    resources: ResourcesSpec = Field(
        default=ResourcesSpec(), description="the resources of a trial: auto, or a mapping"
    )
    claim: Literal["method", "setting"] = Field(
        default="method",
        description="what the verdict is about: the method (several searches per arm), or one best setting per arm; "
        "default: method, but setting if the spec has confirm.seeds, confirm.top_k or confirm.selection_seeds",
    )
    searches: SearchesSpec | None = Field(
        default=None,
        description="claim method: how many searches per arm, and when the verdict looks: a number, or a mapping",
    )
    placebo: bool = Field(
        default=False,
        description="claim method: search the baseline once more under the name placebo; it must not beat itself",
    )
    families: dict[Name, FamilySpec] = Field(
        default_factory=dict,
        description="claim method: the questions of the job, each with its own baseline and its share of the 5 %; "
        "default: one question, all arms against the baseline",
    )
    confirm: ConfirmSpec = Field(
        default=ConfirmSpec(), description="how the best settings are trained again on fresh seeds"
    )
    tracking: TrackingSpec = Field(default=TrackingSpec(), description="where MLflow stores the runs")
    storage: Line | None = Field(
        default=None,
        description="SQLAlchemy URL of the studies' database; default: one SQLite file for all jobs of the workspace",
    )

    code: Line | None = Field(
        default=None,
        description="folder of your own modules, relative to this file; default: the folder of this file",
    )

    _origin: Origin = PrivateAttr(default_factory=Origin)

    @property
    def origin(self) -> Origin:
        """The file that the spec was read from."""
        return self._origin

    @property
    def data_path(self) -> Path | None:
        """The absolute place of the data.

        A ``data.path`` in a file is relative to the folder of that file, like ``code``. If the data lies only in the
        current folder, as in older versions, it is taken from there; ``tuner.spec.checks`` warns of that. A path from
        ``--data`` or ``TUNER_DATA`` is relative to the current folder.
        """
        if self.data.path is None:
            return None
        there, here = (Path(folder, self.data.path).absolute() for folder in (self._origin.data_folder, Path()))
        # ``os.path.exists`` raises no error for a name that no file can have.
        return here if os.path.exists(here) and not os.path.exists(there) else there

    @property
    def is_data_elsewhere(self) -> bool:
        """Whether the data lies in the current folder only, and not in the folder of the spec file."""
        path = self.data.path
        return path is not None and self.data_path != Path(self._origin.data_folder, path).absolute()

    @property
    def own_trainable(self) -> bool:
        """Whether the arms are the user's own trainables. Such a spec has neither data nor a model."""
        return any(arm.kind == "trainable" for arm in self.arms)

    def arm(self, name: str) -> ArmSpec:
        """The arm of this name; the baseline for the placebo."""
        named = self.baseline if name == PLACEBO and self.placebo else name
        return next(arm for arm in self.arms if arm.name == named)

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of searches per arm at which the verdict is computed; empty if the claim is about one setting."""
        return self.searches.at if self.searches else ()

    @property
    def questions(self) -> tuple[FamilySpec, ...]:
        """The families of arms that are compared with a baseline of their own; without any, all arms are one family."""
        others = tuple(arm.name for arm in self.arms if arm.name != self.baseline)
        return tuple(self.families.values()) or (FamilySpec(baseline=self.baseline, arms=others, alpha=ALPHA),)

    def baseline_of(self, arm: str) -> str:
        """The arm that an arm is compared with."""
        return next((family.baseline for family in self.questions if arm in family.arms), self.baseline)

    @property
    def arm_count(self) -> int:
        """Number of arms that are searched, the placebo among them."""
        return len(self.arms) + self.placebo

    @property
    def first_rung(self) -> int:
        """Number of epochs before the scheduler first decides whether a trial continues."""
        return self.scheduler.first_rung_of(self.budget.epochs)

    def concurrent_on(self, cpus: int, gpus: int) -> int:
        """Number of trials that run at once on a machine.

        Args:
            cpus: number of CPU cores of the machine.
            gpus: number of GPUs of the machine.

        Returns:
            ``resources.concurrent`` if it is given, else the number that fits, at least 1. With ``resources: auto`` and
            a GPU, the largest number that the measurement can choose.
        """
        wanted = self.resources
        if wanted.concurrent is not None:
            return wanted.concurrent
        if wanted.auto and gpus:
            return gpus * MOST_PER_GPU
        return max(1, int(gpus / wanted.gpus) if wanted.gpus else cpus // wanted.cpus)

    def from_origin(self, origin: Origin) -> Self:
        """Store the file that the spec was read from; returns the spec itself."""
        self._origin = origin
        return self

    @model_validator(mode="after")
    def _arms_fit(self) -> Self:
        names = [arm.name for arm in self.arms]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise InvalidValue(f"arm {name!r} occurs twice; give one of them its own 'name'", "arms", index)
        if self.baseline not in names:
            near = did_you_mean(self.baseline, names)
            raise InvalidValue(f"no arm named {self.baseline!r}; arms: {', '.join(names)}{near}", "baseline")
        for knob, range_ in self.parameters.items():
            self._check_shared(knob, range_)
        return self

    @model_validator(mode="before")
    @classmethod
    def _claim_of_searches(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        confirm = value.get("confirm", {})
        if not isinstance(confirm, dict):
            return value
        of_setting = value.get("searches") is None and bool(confirm.keys() & ONE_SETTING.keys())
        claim = value.get("claim", "setting" if of_setting else "method")
        if claim != "method":
            return {**value, "claim": claim}
        for key in ONE_SETTING:
            if key in confirm:
                raise InvalidValue(
                    "is for claim: setting only, and this spec has claim: method; remove this key, or the key searches",
                    "confirm",
                    key,
                )
        searches = {} if value.get("searches") is None else value["searches"]
        return {**value, "searches": searches, "claim": claim, "confirm": {**confirm, **ONE_SETTING}}

    @model_validator(mode="before")
    @classmethod
    def _margin_of_metric(cls, value: Any) -> Any:
        """A margin in the unit of an own metric cannot have a default but 0."""
        metric, confirm = (value.get(key, {}) for key in ("metric", "confirm")) if isinstance(value, dict) else ({}, {})
        own = isinstance(metric, dict) and metric.get("choose") is not None and metric.get("unit") is None
        if own and isinstance(confirm, dict) and "margin" not in confirm:
            return {**value, "confirm": {**confirm, "margin": 0.0}}
        return value

    @model_validator(mode="after")
    def _claim_fits(self) -> Self:
        if self.claim == "setting":
            for key, given in (
                ("searches", self.searches is not None),
                ("placebo", self.placebo),
                ("families", bool(self.families)),
            ):
                if given:
                    raise InvalidValue("is for claim: method only; remove this key, or set claim: method", key)
            return self
        if self.placebo and PLACEBO in [arm.name for arm in self.arms]:
            raise InvalidValue("an arm has the name placebo; rename the arm", "placebo")
        if self.families:
            self._check_families()
        return self

    def _check_families(self) -> None:
        names, asked = [arm.name for arm in self.arms], dict[str, str]()
        for name, family in self.families.items():
            for key, arm in (("baseline", family.baseline), *(("arms", arm) for arm in family.arms)):
                if arm not in names:
                    text = f"no arm named {arm!r}; arms: {', '.join(names)}{did_you_mean(arm, names)}"
                    raise InvalidValue(text, "families", name, key)
            for arm in family.arms:
                if arm in (family.baseline, self.baseline):
                    raise InvalidValue(f"{arm} is a baseline; it is not compared with itself", "families", name, "arms")
                if arm in asked:
                    text = f"{arm} is in the family {asked[arm]} too; an arm is asked about once"
                    raise InvalidValue(text, "families", name, "arms")
                asked[arm] = name
        if missing := [name for name in names if name not in asked and name != self.baseline]:
            raise InvalidValue(f"no family asks about {', '.join(missing)}; add it to one", "families")
        if self.baseline not in {family.baseline for family in self.families.values()}:
            raise InvalidValue(f"no family is compared with the baseline {self.baseline}", "families")
        if sum(family.alpha for family in self.families.values()) > ALPHA + 1e-12:
            raise InvalidValue(f"the alphas are more than {ALPHA:g} together", "families")

    @model_validator(mode="after")
    def _kinds_fit(self) -> Self:
        kinds = [arm.kind for arm in self.arms]
        for index, kind in enumerate(kinds):
            if (kind == "trainable") != self.own_trainable:
                text = "has no own trainable, but another arm has; they would not report the same numbers"
                raise InvalidValue(text, "arms", index)
        for key, about in (("data", DATA), ("model", MODEL)):
            if self.own_trainable and key in self.model_fields_set:
                raise InvalidValue("is not used, because own trainables read their data themselves; remove it", key)
            if not self.own_trainable and key not in self.model_fields_set:
                raise InvalidValue(f"is missing; {about}", key)
        if self.own_trainable and not self.metric.own:
            raise InvalidValue("choose is missing: the name of a number that your trainables report", "metric")
        if self.metric.own and not self.own_trainable:
            text = "is for own trainables; the built-in training has the metric val/acc or val/loss"
            raise InvalidValue(text, "metric", "choose")
        for index, arm in enumerate(self.arms):
            self._check_trainer_knobs(index, arm)
        if self.own_trainable:
            self._check_unused()
        if self.metric.in_points and self.confirm.margin > 100:
            text = f"is {shown(self.confirm.margin)}; must be at most 100, because it is in percentage points"
            raise InvalidValue(text, "confirm", "margin")
        if self.passed and not self.own_trainable:
            raise InvalidValue("is for own trainables only; remove this key", "pass")
        return self

    def _check_unused(self) -> None:
        """Refuse settings of the built-in training in a job of own trainables."""
        for section in ("budget", "resources"):
            part = getattr(self, section)
            for key in ("batch_size", "auto", "precision", "deterministic", "cuda_graph"):
                field = type(part).model_fields.get(key)
                if field is not None and getattr(part, key) != field.default:
                    text = "is for the built-in training; give your trainables a knob of their own under fixed"
                    raise InvalidValue(text, section, key)

    def _check_trainer_knobs(self, index: int, arm: ArmSpec) -> None:
        if arm.kind == "trainable":
            return
        for section, knobs in (("parameters", arm.parameters), ("fixed", arm.fixed)):
            for knob in knobs:
                place = ("arms", index, section, knob)
                if knob.startswith(MODEL_KNOB) and not is_dotted(self.model.name):
                    text = f"is an option of your own model, but the model is {self.model.name}; remove this key"
                    raise InvalidValue(text, *place)
                if knob == "augment_shift" and self.data.augment == "none":
                    raise InvalidValue("has no effect, because data.augment is none; set it to flip_crop", *place)

    def _check_shared(self, knob: str, range_: Range) -> None:
        searching: list[PlannedDomain] = [
            VARIANTS[variant].space[knob]
            for variant in dict.fromkeys(arm.variant for arm in self.arms if arm.variant)
            if knob in VARIANTS[variant].space
        ]
        known = {other for arm in self.arms if arm.variant for other in VARIANTS[arm.variant].space}
        try:
            check_knob_name(knob)
            if not searching:
                raise InvalidValue(
                    f"no arm searches {knob}; the arms search: {', '.join(sorted(known))}; or put the range into an arm"
                )
            for own in searching:
                range_.domain(knob, own)
        except InvalidValue as wrong:
            raise wrong.under("parameters", knob) from None

    @model_validator(mode="after")
    def _starts_fit(self) -> Self:
        for index, arm in enumerate(self.arms):
            if len(arm.first) > self.budget.trials:
                text = f"lists {len(arm.first)} settings; must be at most budget.trials ({self.budget.trials})"
                raise InvalidValue(text, "arms", index, "first")
            if arm.warm_start is None:
                continue
            if self.claim == "method":
                text = (
                    "is for claim: setting only: in a claim about methods, every search would repeat the luck of one "
                    "job; remove this key"
                )
                raise InvalidValue(text, "arms", index, "warm_start")
            if self.sampler.name not in LEARNS_FROM_OTHERS:
                names = " or ".join(LEARNS_FROM_OTHERS)
                text = f"has no effect: the sampler {self.sampler.name} learns nothing from other trials; use {names}"
                raise InvalidValue(text, "arms", index, "warm_start")
        return self

    @model_validator(mode="after")
    def _limits_fit(self) -> Self:
        budget, rung = self.budget, self.scheduler.first_rung
        if rung is not None and rung >= budget.epochs:
            raise InvalidValue(
                f"is {rung}; the first rung must be below budget.epochs ({budget.epochs})",
                "scheduler",
                "first_rung",
            )
        if budget.max_gpu_hours is not None and not (self.resources.gpus or self.resources.auto):
            raise InvalidValue(
                "no GPU is used; set resources.gpus, or use max_hours instead", "budget", "max_gpu_hours"
            )
        # The best settings of a method are the winners of its searches: their number does not depend on the trials.
        if self.claim == "setting" and self.confirm.top_k > budget.trials:
            raise InvalidValue(
                f"is {self.confirm.top_k}; must be at most budget.trials ({budget.trials})",
                "confirm",
                "top_k",
            )
        if self.model.name == "elu_net" and (self.data.size or 0) % NET_STRIDE:
            raise InvalidValue(f"is {self.data.size}; elu_net needs a multiple of {NET_STRIDE}", "data", "size")
        return self


def load(path: str | Path, data_path: str | None = None, here: bool = True) -> SearchSpec:
    """Read a spec from a file.

    Args:
        path: the YAML file.
        data_path: replaces ``data.path``. Without it, the environment variable ``TUNER_DATA`` replaces ``data.path``.
            Both are relative to the current folder, and a path in the file is relative to the folder of the file.
        here: whether the job runs on this machine. If not, ``TUNER_DATA`` is ignored, because it is a path of this
            machine.

    Raises:
        NotFound: there is no such file.
        SpecError: the first mistake, as ``FILE:LINE: KEY.PATH: what is wrong; what is allowed``.
    """
    spec = from_document(read(Path(path)), data_path, here)
    given = data_path_of(spec.data.name, data_path) if here else data_path
    if given is not None:
        return spec
    return spec.from_origin(replace(spec.origin, data_folder=Path(path).absolute().parent))


def from_document(document: Document, data_path: str | None = None, here: bool = True) -> SearchSpec:
    """The spec in a document that was already read. Arguments and errors are those of ``load``."""
    value, data = document.value, document.value.get("data")
    if isinstance(data, dict):
        path = data_path_of(data.get("name"), data_path) if here else data_path
        value = value | {"data": data if path is None else data | {"path": path}}
    return from_dict(value, Origin.of(document))


def from_dict(value: Mapping[str, Any], origin: Origin | None = None) -> SearchSpec:
    """The spec with these plain values: the inverse of ``to_dict``; raises ``SpecError``."""
    origin = origin or Origin()
    for path, text in _texts(dict(value)):
        if _PASSWORD.search(text) or (path and _SECRET_KEY.fullmatch(str(path[-1]))):
            what = "contains a password in a URL" if "://" in text else "contains a password"
            hint = (
                "everybody can read a spec: remove it, and set MLFLOW_TRACKING_PASSWORD or PGPASSWORD, or use ~/.pgpass"
            )
            raise origin.error(InvalidValue(f"{what}; {hint}", *path))
    try:
        return SearchSpec.model_validate(_in_full(dict(value))).from_origin(origin)
    except ValidationError as error:
        wrongs = sorted(from_pydantic(SearchSpec, error), key=lambda wrong: origin.line(wrong.path))
        raise origin.error(wrongs[0], more=len(wrongs) - 1) from None


def to_dict(spec: SearchSpec) -> dict[str, Any]:
    """Every value of the spec, with the defaults, as plain values that JSON and YAML can store."""
    values: dict[str, Any] = spec.model_dump(mode="json", by_alias=True)
    _drop_later(spec, values)
    for key in ("image_column", "label_column"):
        # A spec that does not name columns keeps its fingerprint.
        if "data" in values and values["data"][key] is None:
            del values["data"][key]
    if spec.claim == "method":
        for key in ONE_SETTING:
            del values["confirm"][key]
    else:
        # A spec that knows nothing of searches keeps its fingerprint.
        for key in ("claim", "searches", "placebo", "families"):
            del values[key]
        if spec.budget.epochs_per_search is None:
            del values["budget"]["epochs_per_search"]
    return values


def _drop_later(spec: SearchSpec, values: dict[str, Any]) -> None:
    """Drop keys that older versions do not know, where they say nothing: such a spec keeps its fingerprint."""
    if spec.own_trainable:
        del values["data"], values["model"], values["metric"]["name"]
    for section, keys in ((values, ("pass",)), (values["metric"], ("choose", "judge", "unit"))):
        for key in keys:
            if not section[key]:
                del section[key]
    for arm in values["arms"]:
        for key in ("variant", "optimizer", "trainable", "groups", "first", "warm_start"):
            if not arm[key]:
                del arm[key]


def fingerprint(spec: SearchSpec) -> str:
    """SHA-256 of the canonical JSON of ``to_dict``. Equal specs have equal fingerprints, however they are written."""
    text = json.dumps(to_dict(spec), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def starter() -> str:
    """The example spec with comments that ``tuner init`` writes."""
    return Path(__file__).with_name("starter.yaml").read_text(encoding="utf-8")


def data_path_of(name: Any, given: str | None) -> str | None:
    """The path that replaces the ``data.path`` of a spec.

    Args:
        name: the name of the data set.
        given: the path from the command line, if there is one.

    Returns:
        The given path, else ``TUNER_DATA``. ``TUNER_DATA`` is ignored for digits, which need no path.
    """
    return given or (os.environ.get("TUNER_DATA") or None if name != "digits" else None)


def _in_full(value: dict[str, Any]) -> dict[str, Any]:
    """The values with expanded shorthands, and with tuples in place of lists: strict models accept only tuples."""
    full: dict[str, Any] = {key: _tuples(part) for key, part in value.items()}
    for key in ("sampler", "scheduler"):
        if isinstance(full.get(key), str):
            full[key] = {"name": full[key]}
    if full.get("resources") == "auto":
        full["resources"] = {"auto": True}
    if isinstance(full.get("searches"), int) and not isinstance(full["searches"], bool):
        full["searches"] = {"at": (full["searches"],)}
    if isinstance(full.get("arms"), tuple):
        full["arms"] = tuple({"variant": arm} if isinstance(arm, str) else arm for arm in full["arms"])
    return full


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(part) for key, part in value.items()}
    return tuple(_tuples(part) for part in value) if isinstance(value, list | tuple) else value


def _texts(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, str]]:
    """Every key, text and number as text, with its place. The place of a key is the place of its mapping."""
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        yield path, str(value)
    elif isinstance(value, dict):
        yield from ((path, key) for key in value)
        for key, part in value.items():
            yield from _texts(part, (*path, key))
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from _texts(part, (*path, index))
