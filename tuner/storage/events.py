"""Every kind of event in a job's journal, as a frozen type.

kind     type               the event
job      JobDescribed       the job begins: its spec, arms, versions, machine and data
earlier  EarlierTrials      trials of an earlier job from which the sampler of an arm learns
trial    TrialBegun         a trial begins: its setting and its seed
attempt  AttemptBegun       an attempt at a trial begins
epoch    EpochReported      an attempt reports a new epoch
again    EpochRepeated      an attempt has trained an epoch that was on record
end      TrialEnded         a trial ends: its state, and the result of a confirm run
look     LookTaken          the verdict was computed after a number of searches per arm
confirm  RoundBegun         a round of confirm runs begins
extend   Extended           a job that ended before its last look searches further
state    JobStateChanged    the job itself runs (each time a driver starts), finishes, fails or is interrupted

An ``Entry`` is an event with its number and its times. Reading checks every field, and an unknown field is an error.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, get_args

from pydantic import BeforeValidator, ConfigDict, Field, PlainValidator, TypeAdapter

from trainables.data.request import ImageCounts
from trainables.foreign_text import printable
from trainables.report import ConfirmResult, EpochReport, OwnReport, OwnResult, Report
from trainables.space import Plan, Scalar


class State(StrEnum):
    """The state of a trial."""

    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    DIVERGED = "diverged"
    FAILED = "failed"
    OOM = "oom"


LOST = (State.DIVERGED, State.FAILED, State.OOM)
"""States of a trial that ended without a result."""


class Stage(StrEnum):
    """The purpose of a trial: to search, to select a winner among an arm's best settings, or to confirm the winner."""

    SEARCH = "search"
    SELECT = "select"
    CONFIRM = "confirm"


class Outcome(StrEnum):
    """The verdict on a variant.

    ``FUTILE``: more searches would hardly settle it, so the variant is not searched again.
    """

    BEATS = "beats"
    TIES = "ties"
    LOSES = "loses"
    FUTILE = "futile"
    NOT_ENOUGH = "not enough evidence"


JobState: TypeAlias = Literal["running", "finished", "failed", "interrupted"]


def _is_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("must be text")
    return value


Text = Annotated[str, PlainValidator(_is_text)]
"""Text that may hold half of a surrogate pair, as the name of a file may; pydantic's own check refuses it."""
OptionalText = Annotated[str | None, PlainValidator(lambda value: None if value is None else _is_text(value))]


LATER = frozenset({"classes", "search", "searches", "contiguous"})
"""Fields that the first version of the journal did not have. A field of an event that may be empty is none of them."""


class _Event:
    """An event. Its fields are those of the journal's line, in the same order."""

    kind: ClassVar[str]
    at_once: ClassVar[bool] = False
    """Whether ``Journal.append`` waits until the event is on the disk. Later work rests on these few events."""
    __pydantic_config__ = ConfigDict(extra="forbid")
    __slots__ = ()

    def to_json(self) -> dict[str, Any]:
        """The fields as plain values; numbers that are not finite as text, because JSON has none.

        A field that says nothing is left out, so that a journal without it stays as it was.
        """
        values = {item.name: plain(getattr(self, item.name)) for item in dataclasses.fields(self)}  # type: ignore[arg-type]
        return {name: value for name, value in values.items() if value or name not in LATER}

    @classmethod
    def nested(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """A line's fields as the type has them."""
        return values


@dataclass(frozen=True, slots=True)
class ArmDescription:
    """An arm as the journal describes it.

    Args:
        name, variant: names.
        space: knob to its domain in words.
        fixed: knobs that the spec fixes.
        default: the arm's first setting.
    """

    name: str
    variant: str
    space: Mapping[str, str]
    fixed: Mapping[str, Scalar]
    default: Mapping[str, Scalar]


@dataclass(frozen=True, slots=True)
class JobDescribed(_Event):
    """A job begins.

    Args:
        job: its id.
        simulated: whether nothing is trained.
        spec: all values of its spec, as ``tuner.spec.search_spec.to_dict`` gives them.
        spec_sha256: their fingerprint.
        arms: the baseline first.
        plan: length of a trial.
        data_fingerprint, data_images: of the data.
        classes: number of classes of the data; 0 in journals that do not say it.
        concurrent: trials at once.
        versions: package to version.
        machine: facts about the machine of the first driver, in words.
        git_commit: commit of the folder of the user's code, or ``none``.
        folder: the folder of the user's code.
        contiguous: whether the user's own model gets contiguous images. Journals of older versions do not say it: their
            jobs trained every model in channels_last.
    """

    kind: ClassVar[str] = "job"
    at_once: ClassVar[bool] = True
    job: str
    simulated: bool
    spec: Mapping[str, Any]
    spec_sha256: str
    arms: tuple[ArmDescription, ...]
    plan: Plan
    data_fingerprint: str
    data_images: ImageCounts
    concurrent: int
    versions: Mapping[str, str]
    machine: Mapping[str, str]
    git_commit: str
    folder: Text
    classes: int = 0
    contiguous: bool = False

    def to_json(self) -> dict[str, Any]:
        """As any event. The training images of the plan are among those of the data."""
        fields = super(JobDescribed, self).to_json()
        return fields | {"plan": {"epochs": self.plan.epochs, "steps_per_epoch": self.plan.steps_per_epoch}}

    @property
    def trial_plan(self) -> Plan:
        """The planned length of a trial with the spec's batch size, and the images for trials with another one."""
        return Plan(self.plan.epochs, self.plan.steps_per_epoch, self.data_images.train)

    @property
    def ranges(self) -> Mapping[str, Mapping[str, str]]:
        """Arm -> searched knob -> its domain in words."""
        return {arm.name: arm.space for arm in self.arms}


@dataclass(frozen=True, slots=True)
class EarlierTrial:
    """An ended trial of an earlier job.

    Args:
        knobs: the searched knobs.
        state: how it ended.
        epoch: number of its last report; 0 if it made none.
        value: objective in this report, or None.
    """

    knobs: Mapping[str, Scalar]
    state: State
    epoch: int
    value: float | None


@dataclass(frozen=True, slots=True)
class EarlierTrials(_Event):
    """The sampler of an arm learns from the trials of an earlier job. They are no trials of this job.

    Args:
        arm: the arm's name, in both jobs.
        job: id of the earlier job.
        trials: its ended trials of this arm, in the order in which they ended.
    """

    kind: ClassVar[str] = "earlier"
    at_once: ClassVar[bool] = True
    arm: str
    job: str
    trials: tuple[EarlierTrial, ...]


@dataclass(frozen=True, slots=True)
class TrialBegun(_Event):
    """A trial begins.

    Args:
        trial: its key, such as ``search/adamw/3``.
        stage: its purpose.
        arm: the arm's name.
        number: of the setting in the arm's search, from 0.
        seed: of weights, order and augmentation.
        round: of confirm runs, from 1; 0 before them.
        hyper: every hyperparameter.
        knobs: the searched ones, as the sampler proposed them; empty after the search.
        search: which of the arm's searches the setting comes from, from 1; 0 in a job with one search per arm.
    """

    kind: ClassVar[str] = "trial"
    trial: str
    stage: Stage
    arm: str
    number: int
    seed: int
    round: int
    hyper: Mapping[str, Scalar]
    knobs: Mapping[str, Scalar]
    search: int = 0

    @property
    def label(self) -> str:
        """The setting in its arm, in words; see ``setting_label``."""
        return setting_label(self.search, self.number)


def setting_label(search: int, number: int) -> str:
    """The short name of a setting in its arm: ``3.7`` is number 7 of search 3, and ``7`` of an arm's only search."""
    return f"{search}.{number}" if search else str(number)


@dataclass(frozen=True, slots=True)
class AttemptBegun(_Event):
    """An attempt at a trial begins: its number, from 1, and the epochs on record."""

    kind: ClassVar[str] = "attempt"
    trial: str
    attempt: int
    epoch: int


@dataclass(frozen=True, slots=True)
class EpochReported(_Event):
    """An attempt reports a new epoch. Why a trial has diverged is in the event of its end."""

    kind: ClassVar[str] = "epoch"
    trial: str
    attempt: int
    report: Annotated[Report, Field(union_mode="left_to_right")]

    def to_json(self) -> dict[str, Any]:
        """The report's fields beside the others, without ``diverged``."""
        fields = _REPORTED if isinstance(self.report, EpochReport) else _OWN_REPORTED
        return {"trial": self.trial, "attempt": self.attempt} | {
            name: plain(getattr(self.report, name)) for name in fields
        }

    @classmethod
    def nested(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The inverse of the flat form."""
        # ``diverged`` is no field of the line, so it stays outside the report and is refused.
        own = {name: values[name] for name in ("trial", "attempt", "diverged") if name in values}
        return own | {"report": {name: value for name, value in values.items() if name not in own}}


_REPORTED, _OWN_REPORTED = (
    tuple(item.name for item in dataclasses.fields(kind) if item.name != "diverged")
    for kind in (EpochReport, OwnReport)
)


@dataclass(frozen=True, slots=True)
class EpochRepeated(_Event):
    """An attempt has trained an epoch again that was on record; its checkpoint is now the valid one."""

    kind: ClassVar[str] = "again"
    trial: str
    attempt: int
    epoch: int


@dataclass(frozen=True, slots=True)
class TrialEnded(_Event):
    """A trial ends: its state, why it was lost, and the result of a confirm run."""

    kind: ClassVar[str] = "end"
    trial: str
    state: State
    reason: OptionalText
    result: Annotated[ConfirmResult | OwnResult | None, BeforeValidator(lambda value: value or None)]

    def __post_init__(self) -> None:
        _clean_reason(self)

    def to_json(self) -> dict[str, Any]:
        """As any event; without a result, an empty mapping."""
        fields = super(TrialEnded, self).to_json()
        return fields | {"result": plain(self.result.to_dict()) if self.result else {}}


@dataclass(frozen=True, slots=True)
class LookTaken(_Event):
    """The verdict was computed.

    Args:
        look: its number, from 1.
        searches: searches per arm that it is based on.
        outcomes: arm to outcome, for the arms that were not settled before.
    """

    kind: ClassVar[str] = "look"
    at_once: ClassVar[bool] = True
    look: int
    searches: int
    outcomes: Mapping[str, Outcome]


@dataclass(frozen=True, slots=True)
class RoundBegun(_Event):
    """A round of confirm runs begins.

    Args:
        round: its number, from 1.
        seeds: its fresh seeds.
        winners: arm to the number of its winning setting.
        searches: arm to the search which that setting comes from; empty in a job with one search per arm.
    """

    kind: ClassVar[str] = "confirm"
    at_once: ClassVar[bool] = True
    round: int
    seeds: tuple[int, ...]
    winners: Mapping[str, int]
    searches: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Extended(_Event):
    """A job that ended before its last look searches further.

    Args:
        extension: its number, from 1.
        look: number of the last look before it; 0 if there was none.
        until_s: seconds that drivers have worked on the job after which no further search begins; None without a cap.
    """

    kind: ClassVar[str] = "extend"
    at_once: ClassVar[bool] = True
    extension: int
    look: int
    until_s: float | None


@dataclass(frozen=True, slots=True)
class JobStateChanged(_Event):
    """The job's own state changes, with the reason of a failure or an interruption."""

    kind: ClassVar[str] = "state"
    at_once: ClassVar[bool] = True
    state: JobState
    reason: OptionalText = None

    def __post_init__(self) -> None:
        _clean_reason(self)

    def to_json(self) -> dict[str, Any]:
        """As any event; without a reason, only the state."""
        return {"state": self.state} if self.reason is None else {"state": self.state, "reason": self.reason}


def _clean_reason(event: TrialEnded | JobStateChanged) -> None:
    """Remove control codes from a reason, new or read from an older journal: it can be the text of a user's error."""
    if event.reason is not None:
        object.__setattr__(event, "reason", printable(event.reason))


Event: TypeAlias = (
    JobDescribed
    | EarlierTrials
    | TrialBegun
    | AttemptBegun
    | EpochReported
    | EpochRepeated
    | TrialEnded
    | LookTaken
    | RoundBegun
    | Extended
    | JobStateChanged
)


@dataclass(frozen=True, slots=True)
class Entry:
    """An event in a journal.

    Args:
        n: its number, from 0 without a gap: this is the order of events.
        ms: wall clock, Unix milliseconds.
        up: seconds since its driver opened the journal, by a clock that never steps back.
        event: the event.
    """

    n: int
    ms: int
    up: float
    event: Event

    def to_json(self) -> dict[str, Any]:
        """The journal's line, without its checksum."""
        return {"n": self.n, "ms": self.ms, "up": self.up, "kind": self.event.kind, **self.event.to_json()}

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> "Entry":
        """The inverse of ``to_json``.

        Raises:
            ValueError: the line is no event: a field is missing, unknown or of the wrong type.
        """
        values = dict(line)
        try:
            n, ms, up, kind = (values.pop(name) for name in ("n", "ms", "up", "kind"))
        except KeyError as error:
            raise ValueError(f"no field {error}") from None
        if not (isinstance(kind, str) and kind in _ADAPTERS):
            raise ValueError("no event of a known kind")
        if not (isinstance(n, int) and isinstance(ms, int) and isinstance(up, int | float)):
            raise ValueError("its number and its times must be numbers")
        return cls(n, ms, float(up), _ADAPTERS[kind].validate_python(_KINDS[kind].nested(values)))


def plain(value: Any) -> Any:
    """A value as JSON can hold it: numbers that are not finite become text, dataclasses become mappings."""
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if dataclasses.is_dataclass(value):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    return value


_KINDS: Mapping[str, type[Event]] = {kind.kind: kind for kind in get_args(Event)}
_ADAPTERS: Mapping[str, TypeAdapter[Event]] = {name: TypeAdapter(kind) for name, kind in _KINDS.items()}
