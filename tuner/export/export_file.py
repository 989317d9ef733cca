"""Exports: a winner's full settings and evidence as one file that ``tuner reproduce`` and ``load_config`` read.

A file contains nothing that depends on the time or place of writing: the same search exports to the same bytes. Its
``sha256`` covers all its other content, as canonical JSON, so it is the same in every format. A file must also have
exactly the bytes that this module writes for its content, so a changed byte never passes, even if it changes no value.
A new way to write the same content therefore needs a new ``SCHEMA``.
"""

import hashlib
import json
import re
import statistics
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trainables.catalog import is_dotted
from trainables.config import TrialConfig
from trainables.errors import TrainableError
from trainables.own.trial import OwnTrial
from trainables.report import OwnResult
from tuner.errors import IntegrityError, NotFound, SpecError
from tuner.export.formats import RENDERERS
from tuner.export.trial_check import check_image_trial, check_own_trial
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.record import Record, Trial
from tuner.jobs.workspace import Workspace
from tuner.search.trial_request import search_key
from tuner.spec.experiment import MetricSpec
from tuner.spec.search_spec import SearchSpec
from tuner.spec.strict_yaml import read_text
from tuner.spec.trial_config import trial_config
from tuner.spec.user_code import arm_code
from tuner.storage.events import Stage, State
from tuner.verdict.leaderboard import Leaderboard, Row
from tuner.verdict.numbers import choose_name

SCHEMA = 2
"""Version of the format. Version 1 has no ``claim``: its verdicts are about settings."""
NEWEST = 3
"""Version of exports with the user's own trainable or optimizer, or with a setting that version 2 does not know."""
MAX_VALUES = 30_000
MAX_BYTES = 2 * 2**20
"""Limits of a file: its keys and values, and its bytes. An export with the most confirm seeds stays below both."""
POINTS = 100.0
WEIGHTS_SUFFIX = ".safetensors"
_TORCH_OPTIMIZER = re.compile(r"torch\.optim:[A-Za-z]\w*")
"""The name of an optimizer that comes with torch: it is no code of a stranger's."""
_OF_OWN = {"metric", "own_runs", "judged_mean", "judged_sd"}
_OF_IMAGES = {"confirm_runs", "test_mean_points", "test_sd_points"}
"""Keys of an export of the user's own trainable only, and of the built-in training only."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ConfirmRun(_Strict):
    """The result of one confirm run. Accuracies are in [0, 1]. ``mlflow_run`` is None until MLflow has the run."""

    seed: int = Field(ge=0)
    val_acc: float = Field(ge=0, le=1)
    test_acc: float = Field(ge=0, le=1)
    test_loss: float
    weights_sha256: str
    device: str
    mlflow_run: str | None


class OwnRun(_Strict):
    """The result of one confirm run of the user's own trainable.

    Args:
        seed: the run's seed.
        chosen: the last value of the metric that chooses.
        judged: the value of the metric that judges.
        device: what the run was given.
        mlflow_run: None until MLflow has the run.
    """

    seed: int = Field(ge=0)
    chosen: float
    judged: float
    device: str
    mlflow_run: str | None


class OwnMetric(_Strict):
    """The metrics of the user's own trainables, as in the spec; ``judge`` may equal ``choose``."""

    choose: str
    judge: str
    goal: Literal["maximize", "minimize"]
    unit: Literal["points", ""]

    @property
    def spec(self) -> MetricSpec:
        """The metrics as a spec has them."""
        return MetricSpec(choose=self.choose, judge=self.judge, goal=self.goal, unit=self.unit or None)


class Export(_Strict):
    """A winner: its settings, how it was chosen, its evidence, and its origin.

    ``metric``, ``own_runs`` and what is named ``judged`` are of the user's own trainables; ``confirm_runs`` and the
    values in points are of the built-in training.
    """

    schema_version: int
    job: str
    arm: str
    variant: str
    chosen_by: str
    search_trial: str
    search_value: float
    trial: dict[str, Any]
    confirm_round: int
    confirm_runs: tuple[ConfirmRun, ...] = ()
    test_mean_points: float | None = None
    test_sd_points: float | None = None
    metric: OwnMetric | None = None
    own_runs: tuple[OwnRun, ...] = ()
    judged_mean: float | None = None
    judged_sd: float | None = None
    baseline: str
    claim: str = "setting"
    verdict: str
    comparison: dict[str, Any] | None
    versions: dict[str, str]
    git_commit: str
    data_fingerprint: str
    mlflow_parent_run: str | None
    mlflow_search_run: str | None
    sha256: str

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        needed = _OF_OWN - {"judged_sd"} if self.metric is not None else _OF_IMAGES - {"test_sd_points"}
        for key in sorted(needed):
            if getattr(self, key) in (None, ()):
                raise ValueError(f"{key}: is missing")
        for key in _OF_IMAGES if self.metric is not None else _OF_OWN:
            if getattr(self, key) not in (None, ()):
                raise ValueError(f"{key}: does not fit the kind of the export")
        return self

    @property
    def config(self) -> TrialConfig:
        """The trial, with the first confirm seed.

        Raises:
            SpecError: it is one of the user's own trainable; see ``own_trial``.
        """
        if self.metric is not None:
            raise SpecError(
                f"arm {self.arm} of job {self.job} is the trainable {self.variant}, which builds its model itself: its "
                "settings are under trial.config in the export"
            )
        return TrialConfig.from_dict(self.trial)

    @property
    def own_trial(self) -> OwnTrial | None:
        """The trial of the user's own trainable, with the first confirm seed; None for the built-in training."""
        return None if self.metric is None else OwnTrial.from_dict(self.trial)

    @property
    def seeds(self) -> list[int]:
        """The seeds of the confirm runs, of either kind."""
        return [run.seed for run in self.confirm_runs] + [run.seed for run in self.own_runs]

    @classmethod
    def sealed(cls, content: Mapping[str, Any]) -> Self:
        """The export with this content and its checksum."""
        bare = cls(**json.loads(json.dumps(content)), sha256="")
        return bare.model_copy(update={"sha256": _checksum(bare.plain(exclude={"sha256"}))})

    def plain(self, exclude: Set[str] = frozenset()) -> dict[str, Any]:
        """The content as plain values, in the order of the file, without the keys to exclude."""
        unknown = {"claim"} if self.schema_version == 1 else set()
        unknown |= _OF_OWN if self.metric is None else _OF_IMAGES
        return self.model_dump(mode="json", exclude={*exclude, *unknown})


def build_export(record: Record, spec: SearchSpec, board: Leaderboard, arm: str, runs: Mapping[str, str]) -> Export:
    """Build the export of an arm's winner.

    Args:
        record: the job's record.
        spec: the job's spec.
        board: the job's leaderboard.
        arm: the arm's name.
        runs: trial key to MLflow run id.

    Raises:
        NotFound: no such arm, or none of its confirm runs has finished.
    """
    row = next((row for row in board.rows if row.arm == arm), None)
    if row is None:
        raise NotFound(f"no arm {arm!r} in job {record.name} (there are: {', '.join(record.arms)})")
    confirmed = _confirmed(record, board, arm)
    if row.winner is None or not confirmed:
        raise NotFound(
            f"nothing to export: the best setting of arm {arm} of job {record.name} has no finished confirm run yet"
            + (f"; run: tuner confirm {record.name} --seeds 5" if board.looks else "")
        )
    winner = record.trials[search_key(arm, row.search, row.winner)]
    config = trial_config(spec, winner.arm, winner.hyper, confirmed[0].seed, contiguous=record.contiguous)
    trial = config.to_dict()
    if isinstance(config, TrialConfig):
        # The path of the data differs between machines. The fingerprint identifies the data.
        trial["data"]["path"] = None
    content = {
        "schema_version": NEWEST if spec.own_trainable or trial.keys() & {"optimizer", "shift"} else SCHEMA,
        "job": record.name,
        "arm": arm,
        "variant": row.variant,
        "chosen_by": _chosen_by(spec, row, len(record.of(Stage.SELECT, arm)) > 0),
        "search_trial": winner.key,
        "search_value": row.val,
        "trial": trial,
        "confirm_round": board.round,
        "own_runs" if spec.own_trainable else "confirm_runs": [
            _confirm_run(trial, spec.metric, runs) for trial in confirmed
        ],
        **_summary(spec.metric, confirmed),
        "baseline": row.baseline,
        "claim": spec.claim,
        "verdict": "baseline" if row.comparison is None else row.comparison.outcome,
        "comparison": row.evidence,
        "versions": dict(record.job.versions),
        "git_commit": record.job.git_commit,
        "data_fingerprint": record.job.data_fingerprint,
        "mlflow_parent_run": runs.get(""),
        "mlflow_search_run": runs.get(winner.key),
    }
    return Export.sealed(content)


def render(export: Export, suffix: str) -> str:
    """The export as text: ``.yaml``, ``.yml``, ``.json`` or ``.py``.

    Raises:
        SpecError: another suffix.
    """
    if suffix not in RENDERERS:
        raise SpecError(
            f"cannot export to {suffix or 'a file without a suffix'}; use {', '.join([*RENDERERS, WEIGHTS_SUFFIX])}"
        )
    return RENDERERS[suffix](export.plain())


def check_allowed(export: Export, fresh_seed: int | None, allow_code: bool) -> None:
    """Refuse an export that must not be trained.

    Raises:
        SpecError: the export names code and ``allow_code`` is off, or the fresh seed is a recorded one.
    """
    code = code_in(export)
    if code and not allow_code:
        raise SpecError(f"the export names code to run ({', '.join(code)}); give --allow-code if you trust it")
    if fresh_seed in export.seeds:
        raise SpecError(f"seed {fresh_seed} is one of the recorded seeds; name another")


def read_export(path: Path) -> Export:
    """Read an exported YAML or JSON file.

    Raises:
        NotFound: no such file.
        IntegrityError: it is cut short, was changed, has a newer schema, or is not an export.
    """
    text = _read(path)
    values = _parse(path, text)
    version = values.get("schema_version")
    if isinstance(version, int) and version > NEWEST:
        raise IntegrityError(f"{path}: written by a newer tuner (schema {version}; this one reads up to {NEWEST})")
    found = values.get("sha256")
    content = {key: value for key, value in values.items() if key != "sha256"}
    if found != _checksum(content):
        raise IntegrityError(f"{path}: altered or cut short: its sha256 is not that of its content")
    try:
        export = Export(**values)
        _check_trial(export)
    except (ValidationError, TrainableError, TypeError, KeyError, ValueError) as error:
        raise IntegrityError(f"{path}: not an export of this version: {_reason(error)}") from None
    if text not in (render(export, ".yaml"), render(export, ".json")):
        raise IntegrityError(f"{path}: altered: it says what was exported, but not in the same bytes; export it again")
    return export


def job_of(export: Export, workspace: Workspace, file: Path | None = None) -> JobFolder | None:
    """The folder of the job that an export is from: around the export's file, or in the workspace.

    None if it is gone or its ``start.json`` is damaged: data and code can be given.

    Args:
        export: the export.
        workspace: the workspace.
        file: where the export was read, if it was a file.
    """
    around = [] if file is None else [JobFolder(file.absolute().parent.parent)]
    folders = [*around, JobFolder(workspace.path / "jobs" / export.job)]
    return next((folder for folder in folders if folder.id == export.job and _can_start(folder)), None)


def _can_start(folder: JobFolder) -> bool:
    try:
        return bool(folder.started())
    except (IntegrityError, OSError):
        return False


def _confirmed(record: Record, board: Leaderboard, arm: str) -> list[Trial]:
    trials = record.of(Stage.CONFIRM, arm, round_number=board.round) if board.round else []
    # The first seed of the round is the one whose weights are kept.
    return sorted((t for t in trials if t.state == State.COMPLETE), key=lambda trial: board.seeds.index(trial.seed))


def code_in(export: Export) -> list[str]:
    """The dotted paths of the code that training an export would run, without the optimizers of torch itself."""
    if (own := export.own_trial) is not None:
        return [own.trainable]
    config, optimizer = export.config, export.config.optimizer
    names = [config.model.name, config.data.name, config.hyper.schedule]
    if optimizer is not None:
        names += [optimizer.name, optimizer.groups or ""]
    return [name for name in names if _is_code(name)]


def must_allow_code(spec: SearchSpec) -> bool:
    """Whether the exports of a job name code: ``tuner reproduce`` then needs ``--allow-code``."""
    return any(map(_is_code, (spec.model.name, spec.data.name, *(path for _, path in arm_code(spec)))))


def _is_code(name: str) -> bool:
    return is_dotted(name) and not _TORCH_OPTIMIZER.fullmatch(name)


def _summary(metric: MetricSpec, confirmed: Sequence[Trial]) -> dict[str, Any]:
    """Mean and standard deviation over the confirm runs, and for a metric of the user's what it is."""
    values = [run.result.metric(metric.judged) for run in confirmed if run.result is not None]
    if not metric.own:
        values = [POINTS * value for value in values]
    mean, sd = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None
    if not metric.own:
        return {"test_mean_points": mean, "test_sd_points": sd}
    about = {"choose": metric.key, "judge": metric.judged, "goal": metric.goal, "unit": metric.unit or ""}
    return {"metric": about, "judged_mean": mean, "judged_sd": sd}


def _confirm_run(trial: Trial, metric: MetricSpec, runs: Mapping[str, str]) -> dict[str, Any]:
    last, result = trial.epochs[-1], trial.result
    if isinstance(result, OwnResult):
        return {
            "seed": trial.seed,
            "chosen": last.metric(metric.key),
            "judged": result.metric(metric.judged),
            "device": result.device,
            "mlflow_run": runs.get(trial.key),
        }
    assert result is not None, "a complete confirm run has a result"
    return {
        "seed": trial.seed,
        "val_acc": last.metric("val_acc"),
        "test_acc": result.test_acc,
        "test_loss": result.test_loss,
        "weights_sha256": result.weights_sha256,
        "device": result.device,
        "mlflow_run": runs.get(trial.key),
    }


def _chosen_by(spec: SearchSpec, row: Row, compared: bool) -> str:
    best = "highest" if spec.metric.maximize else "lowest"
    how = f"{best} {choose_name(spec.metric)} at the last epoch among {row.complete} complete of {row.trials} trials"
    if compared:
        which = "best winners of searches" if spec.searches else "first"
        how += f", then the best mean of the {spec.confirm.top_k} {which} over {spec.confirm.selection_seeds} seeds"
    return how


def _check_trial(export: Export) -> None:
    """Refuse a trial of the wrong form, or one that no spec could give. It raises many kinds of error."""
    seeds, metric = export.seeds, export.metric
    if export.trial["seed"] != seeds[0] or len(set(seeds)) < len(seeds):
        raise ValueError("trial.seed: must be that of the first confirm run, and no seed may be there twice")
    if metric is not None:
        check_own_trial(export.trial, metric.choose, metric.judge)
    else:
        check_image_trial(export.trial)


def _checksum(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise NotFound(f"no file {path}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise IntegrityError(f"{path}: cannot be read as an export: {reason}") from None
    if len(data) > MAX_BYTES:
        raise IntegrityError(f"{path}: larger than {MAX_BYTES // 2**20} MiB; no export is")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise IntegrityError(f"{path}: cannot be read as an export: {error}") from None


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        # JSON is YAML 1.2, so one strict reader refuses repeated keys in both.
        return read_text(text, str(path), MAX_VALUES).value
    except SpecError as error:
        raise IntegrityError(f"{error} (not a whole export)") from None


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return str(error)
