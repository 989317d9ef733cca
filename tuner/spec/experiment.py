"""The sections of a spec that define the experiment: data, model, metric and arms.

Each section is a frozen model. It refuses unknown keys.
"""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from trainables.catalog import DATASETS, MODELS, is_dotted
from trainables.errors import did_you_mean
from trainables.variants import VARIANTS
from tuner.spec.messages import InvalidValue, shown
from tuner.spec.ranges import Frozen, Kind, PlainValue, Range, ScalarValue, check_knob, domain_of

METRICS = {"val/acc": "maximize", "val/loss": "minimize"}
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
DOTTED_PATTERN = r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_.]*$"
NEEDS_PATH = ("parquet", "image_folder")
HAS_COLUMNS = ("parquet", "cifar10")
DIGITS_VALIDATION, VALIDATION = 0.25, 0.1
NET_STRIDE = 32
"""An image size for elu_net must be a multiple of this, because the net halves an image five times."""


def _name(value: str) -> str:
    if not re.fullmatch(NAME_PATTERN, value) or ".." in value or value.endswith("\n"):
        raise InvalidValue(
            f"is {shown(value)}; a name has 1 to 64 letters, digits, '.', '_' or '-', "
            "begins with a letter or digit and does not contain '..'"
        )
    return value


def _one_of(kind: str, value: str, known: list[str]) -> str:
    if value not in known:
        raise InvalidValue(f"no {kind} named {shown(value)}; there are: {', '.join(known)}{did_you_mean(value, known)}")
    return value


def _one_of_or_own(kind: str, value: str, known: list[str]) -> str:
    if not is_dotted(value):
        return _one_of(kind, value, [*known, "module:callable"])
    if not re.fullmatch(DOTTED_PATTERN, value):
        raise InvalidValue(f"is {shown(value)}; write your own code as package.module:callable")
    return value


def _file_name(value: str) -> str:
    if value.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", value):
        raise InvalidValue(f"is {shown(value)}; must be a path relative to data.path, without '..'")
    return value


def _dotted(value: str) -> str:
    if not re.fullmatch(DOTTED_PATTERN, value):
        raise InvalidValue(f"is {shown(value)}; write the place of your own code as package.module:name")
    return value


Line = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,1000}$")]
FileName = Annotated[Line, AfterValidator(_file_name)]
Name = Annotated[str, AfterValidator(_name), Field(json_schema_extra={"pattern": NAME_PATTERN})]
DataName = Annotated[str, AfterValidator(lambda value: _one_of_or_own("data set", value, list(DATASETS)))]
ModelName = Annotated[str, AfterValidator(lambda value: _one_of_or_own("model", value, list(MODELS)))]
VariantName = Annotated[str, AfterValidator(lambda value: _one_of("variant", value, list(VARIANTS)))]
MetricName = Annotated[str, AfterValidator(lambda value: _one_of("metric", value, list(METRICS)))]
Dotted = Annotated[Line, AfterValidator(_dotted)]
Images = Annotated[int, Field(ge=1, le=10**9)]
MetricKey = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x20\x7f`'\"]{1,100}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{64}$")]


class DataSpec(Frozen):
    """The images, and their split into training, validation and test."""

    name: DataName = Field(description="a built-in data set, or your own as module:callable")
    path: Line | None = Field(
        default=None,
        description="file or folder of the data, relative to this file; --data and TUNER_DATA replace it; cifar10 is "
        "downloaded to it",
    )
    size: int | None = Field(
        default=None, ge=8, le=1024, description="images are resized to this side length, in pixels"
    )
    image_column: Line | None = Field(
        default=None, description="column of the Parquet files with the images; default: img or image"
    )
    label_column: Line | None = Field(
        default=None, description="column of the Parquet files with the labels; default: label or labels"
    )
    sha256: dict[FileName, Sha256] | None = Field(
        default=None, description="file name relative to path -> expected SHA-256 checksum in hexadecimal digits"
    )
    train_images: Images | None = Field(
        default=None, description="number of images in a stratified subset for training; default: all"
    )
    val_images: Images | None = Field(default=None, description="the same for the validation images")
    test_images: Images | None = Field(default=None, description="the same for the test images")
    validation: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="share of the training images held out for validation, if the data has no validation images of its "
        "own; default: 0.1 (digits: 0.25)",
    )
    augment: Literal["none", "flip_crop"] = Field(
        default="none", description="flip_crop randomly mirrors and shifts the training images"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.name in NEEDS_PATH and self.path is None:
            raise InvalidValue(
                f"is missing; {self.name} needs a folder: set it here, with --data or in TUNER_DATA", "path"
            )
        if self.name == "digits" and self.path is not None:
            raise InvalidValue("is not used, because the digits come with scikit-learn; remove the path", "path")
        if self.name == "digits" and self.augment != "none":
            raise InvalidValue("is 'flip_crop', but a mirrored digit no longer fits its label; must be none", "augment")
        if is_dotted(self.name) and self.size is not None:
            raise InvalidValue("is not used, because your own data set is not resized; remove the size", "size")
        for key in ("image_column", "label_column"):
            if self.name not in HAS_COLUMNS and getattr(self, key) is not None:
                raise InvalidValue(f"is for Parquet files only; {shown(self.name)} has no columns", key)
        if self.sha256 and self.path is None:
            raise InvalidValue("checksums are given, but no path; add data.path, or remove the checksums", "sha256")
        return self

    @property
    def validation_share(self) -> float:
        """Share of the training images held out for validation."""
        if self.validation is not None:
            return self.validation
        return DIGITS_VALIDATION if self.name == "digits" else VALIDATION


class ModelSpec(Frozen):
    """The neural network."""

    name: ModelName = Field(description="elu_net, or your own model as module:callable")
    width: float = Field(default=1.0, gt=0, le=16, description="factor for the number of channels of elu_net")
    setup: Literal["article", "sound"] = Field(
        default="sound",
        description="article: elu_net as published in the article; sound: with linear logits and He initialisation",
    )
    options: dict[Line, ScalarValue] = Field(default_factory=dict, description="keyword arguments of your own model")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.options and not is_dotted(self.name):
            raise InvalidValue(f"{self.name} has no options; only your own model can have them", "options")
        for key in ("width", "setup"):
            if is_dotted(self.name) and key in self.model_fields_set and getattr(self, key) != _default(self, key):
                raise InvalidValue(
                    f"is for elu_net only; put the arguments of {shown(self.name)} under model.options", key
                )
        return self


class MetricSpec(Frozen):
    """The metric that chooses the best settings, and for own trainables the one that judges them."""

    name: MetricName = Field(default="val/acc", description="validation accuracy or loss of the built-in training")
    goal: Literal["maximize", "minimize"] = Field(
        default="maximize",
        description="maximize for val/acc, minimize for val/loss; default: the one that fits the metric",
    )
    choose: MetricKey | None = Field(
        default=None, description="own trainables: name of the reported number that chooses the best settings"
    )
    judge: MetricKey | None = Field(
        default=None,
        description="own trainables: name of the number that judges; it is read from the last report of confirm runs "
        "only; default: the number that chooses",
    )
    unit: Literal["points"] | None = Field(
        default=None, description="points: the numbers are shares from 0 to 1, such as accuracies, shown times 100"
    )

    @property
    def own(self) -> bool:
        """Whether the user's own trainables report the metric."""
        return self.choose is not None

    @property
    def key(self) -> str:
        """The name of the choosing metric in a report: ``val_acc``, ``val_loss``, or the user's name."""
        return self.choose or self.name.replace("/", "_")

    @property
    def maximize(self) -> bool:
        """Whether larger values of the choosing metric are better."""
        return self.goal == "maximize"

    @property
    def judged(self) -> str:
        """The name of the judging metric in a result: ``test_acc``, or the user's name."""
        return (self.judge or self.choose) if self.choose else "test_acc"

    @property
    def judge_maximize(self) -> bool:
        """Whether larger values of the judging metric are better."""
        return self.maximize if self.own else True

    @property
    def in_points(self) -> bool:
        """Whether the judging metric is a share from 0 to 1, which is shown in percent and compared in points."""
        return not self.own or self.unit == "points"

    @property
    def factor(self) -> float:
        """What a judging value is multiplied by to be shown."""
        return 100.0 if self.in_points else 1.0

    @property
    def choose_label(self) -> str:
        """The choosing metric in words."""
        return self.choose or {"val_acc": "validation accuracy", "val_loss": "validation loss"}[self.key]

    @property
    def judge_label(self) -> str:
        """The judging metric in words."""
        return self.judged if self.own else "test accuracy"

    def gain(self, value: float, base: float) -> float:
        """By how much a judging value is better than another, in points or in its own unit; positive is better."""
        return (self.factor if self.judge_maximize else -self.factor) * (value - base)

    @model_validator(mode="before")
    @classmethod
    def _goal_of_name(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("choose") is not None:
            if "goal" not in value:
                raise InvalidValue("is missing; maximize or minimize", "goal")
            if "name" in value:
                raise InvalidValue("is for the built-in training; your own metric has 'choose' and 'judge'", "name")
        name = value.get("name", "val/acc") if isinstance(value, dict) else None
        if isinstance(name, str) and "goal" not in value and name in METRICS:
            return {**value, "goal": METRICS[name]}
        return value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.own:
            return self
        for key in ("judge", "unit"):
            if getattr(self, key) is not None:
                raise InvalidValue("is for own trainables, whose metric has 'choose'; remove this key", key)
        if self.goal != METRICS[self.name]:
            raise InvalidValue(
                f"is {self.goal!r}, but {self.name} is {METRICS[self.name]}d; must be {METRICS[self.name]}",
                "goal",
            )
        return self


class ArmSpec(Frozen):
    """A search space in this job, over an optimizer variant, an own optimizer or an own trainable."""

    variant: VariantName | None = Field(default=None, description="a built-in optimizer variant")
    optimizer: Dotted | None = Field(
        default=None, description="instead of a variant: your own optimizer as module:class, such as torch.optim:SGD"
    )
    trainable: Dotted | None = Field(
        default=None, description="instead of a variant: your own trainable as module:name, a class or a function"
    )
    name: Name = Field(
        default="", description="the name of the arm; default: the name of the variant, or of the class or function"
    )
    parameters: dict[str, Range] = Field(
        default_factory=dict, description="knob -> range that this arm searches instead of the range of the variant"
    )
    fixed: dict[str, PlainValue] = Field(
        default_factory=dict, description="knob -> fixed value; the arm does not search the knob"
    )
    groups: Dotted | None = Field(
        default=None,
        description="own optimizer: a function as module:name that takes the model and returns its parameter groups",
    )
    first: tuple[dict[str, ScalarValue], ...] = Field(
        default=(),
        max_length=100,
        description="settings that every search of the arm tries first, instead of the default; a knob that a setting "
        "leaves out has its default",
    )
    warm_start: Line | None = Field(
        default=None,
        description="claim setting: an earlier job of this workspace; the sampler learns from the trials of its arm of "
        "the same name",
    )

    @property
    def kind(self) -> Kind:
        """What trains: a variant of the built-in optimizers, an own optimizer, or an own trainable."""
        return "optimizer" if self.optimizer else "trainable" if self.trainable else "variant"

    @property
    def code(self) -> str:
        """The variant's name, or the dotted path of the own optimizer or trainable."""
        return self.variant or self.optimizer or self.trainable or ""

    @model_validator(mode="before")
    @classmethod
    def _name_of_code(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "name" in value:
            return value
        own = value.get("optimizer") or value.get("trainable")
        if value.get("variant") in list(VARIANTS):
            return {**value, "name": value["variant"]}
        if isinstance(own, str) and re.fullmatch(DOTTED_PATTERN, own):
            return {**value, "name": own.rpartition(":")[2]}
        return value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        given = [key for key in ("variant", "optimizer", "trainable") if getattr(self, key) is not None]
        if len(given) != 1:
            what = f"has {' and '.join(given)}" if given else "has none of them"
            raise InvalidValue(f"{what}; an arm has one of variant, optimizer and trainable")
        if self.groups is not None and self.optimizer is None:
            raise InvalidValue("is for arms with an own optimizer only; remove this key", "groups")
        for knob, fixed in self.fixed.items():
            if knob in self.parameters:
                raise InvalidValue("is also under 'parameters' of this arm; keep one of the two", "fixed", knob)
            try:
                check_knob(self.kind, knob, fixed)
            except InvalidValue as wrong:
                raise wrong.under("fixed", knob) from None
        space = VARIANTS[self.variant].space if self.variant else {}
        for knob, range_ in self.parameters.items():
            try:
                domain_of(self.kind, knob, range_, space.get(knob))
            except InvalidValue as wrong:
                raise wrong.under("parameters", knob) from None
        if self.variant:
            self._check_variant(self.variant)
        elif not self.parameters:
            raise InvalidValue("is empty; give at least one knob to search, with its range", "parameters")
        if self.optimizer and "lr" not in {*self.parameters, *self.fixed}:
            text = "lr is missing: give it a range here, or a value under fixed"
            raise InvalidValue(text, "parameters")
        return self

    def _check_variant(self, name: str) -> None:
        variant = VARIANTS[name]
        for section, knobs in (("parameters", self.parameters), ("fixed", self.fixed)):
            for knob in knobs:
                if knob in variant.fixed:
                    value = shown(variant.fixed[knob])
                    raise InvalidValue(
                        f"defines {name} ({knob}: {value}) and cannot change; choose another variant", section, knob
                    )
        if not self.parameters and set(variant.space) <= set(self.fixed):
            raise InvalidValue("every knob of the arm is fixed; leave at least one knob to search", "fixed")


class FamilySpec(Frozen):
    """Arms that are compared with one baseline, as one question of the job."""

    baseline: Name = Field(description="the arm that the arms of the family are compared with")
    arms: tuple[Name, ...] = Field(min_length=1, max_length=100, description="the arms of the family")
    alpha: float = Field(
        gt=0, le=0.05, description="the family's share of the 5 % chance of any false 'beats' or 'loses'"
    )


def _default(model: Frozen, key: str) -> Any:
    return type(model).model_fields[key].default
