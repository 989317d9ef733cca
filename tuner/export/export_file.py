"""Exports: a winner's full settings and evidence as one file that ``tuner reproduce`` and ``load_config`` read.

A file contains nothing that depends on the time or place of writing: the same search exports to the same bytes. Its
``sha256`` covers all its other content, as canonical JSON, so it is the same in every format. A file must also have
exactly the bytes that this module writes for its content, so a changed byte never passes, even if it changes no value.
A new way to write the same content therefore needs a new ``SCHEMA``.
"""

import dataclasses
import hashlib
import json
import statistics
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from trainables.catalog import is_dotted
from trainables.config import TrialConfig
from trainables.errors import TrainableError
from trainables.hyper import Hyper
from trainables.schedules import Schedule
from trainables.space import Plan
from tuner.errors import IntegrityError, NotFound, SpecError
from tuner.export.formats import RENDERERS
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.record import Record, Trial
from tuner.jobs.workspace import Workspace
from tuner.search.trial_request import search_key
from tuner.spec.experiment import DataSpec, ModelSpec
from tuner.spec.search_spec import SearchSpec
from tuner.spec.settings import BudgetSpec, ResourcesSpec
from tuner.spec.strict_yaml import read_text
from tuner.spec.trial_config import image_trial
from tuner.storage.events import Stage, State
from tuner.verdict.leaderboard import Leaderboard, Row

SCHEMA = 2
"""Version of the format. Version 1 has no ``claim``: its verdicts are about settings."""
MAX_VALUES = 30_000
MAX_BYTES = 2 * 2**20
"""Limits of a file: its keys and values, and its bytes. An export with the most confirm seeds stays below both."""
POINTS = 100.0
LONGEST = 10**9
"""Most updates in an epoch, because only the data tells how many there are."""
WEIGHTS_SUFFIX = ".safetensors"
_TRIAL: TypeAdapter[TrialConfig] = TypeAdapter(TrialConfig)


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


class Export(_Strict):
    """A winner: its settings, how it was chosen, its evidence, and its origin."""

    schema_version: int
    job: str
    arm: str
    variant: str
    chosen_by: str
    search_trial: str
    search_value: float
    trial: dict[str, Any]
    confirm_round: int
    confirm_runs: tuple[ConfirmRun, ...] = Field(min_length=1)
    test_mean_points: float
    test_sd_points: float | None
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

    @property
    def config(self) -> TrialConfig:
        """The trial, with the first confirm seed."""
        return TrialConfig.from_dict(self.trial)

    @classmethod
    def sealed(cls, content: Mapping[str, Any]) -> Self:
        """The export with this content and its checksum."""
        bare = cls(**json.loads(json.dumps(content)), sha256="")
        return bare.model_copy(update={"sha256": _checksum(bare.plain(exclude={"sha256"}))})

    def plain(self, exclude: Set[str] = frozenset()) -> dict[str, Any]:
        """The content as plain values, in the order of the file, without the keys to exclude."""
        unknown = {"claim"} if self.schema_version == 1 else set()
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
    accuracies = [POINTS * run.result.test_acc for run in confirmed if run.result is not None]
    config = image_trial(spec, winner.arm, winner.hyper, confirmed[0].seed, contiguous=record.contiguous)
    trial = config.to_dict()
    # The path of the data differs between machines. The fingerprint identifies the data.
    trial["data"]["path"] = None
    content = {
        "schema_version": SCHEMA,
        "job": record.name,
        "arm": arm,
        "variant": row.variant,
        "chosen_by": _chosen_by(spec, row, len(record.of(Stage.SELECT, arm)) > 0),
        "search_trial": winner.key,
        "search_value": row.val,
        "trial": trial,
        "confirm_round": board.round,
        "confirm_runs": [_confirm_run(trial, runs) for trial in confirmed],
        "test_mean_points": statistics.fmean(accuracies),
        "test_sd_points": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        "baseline": row.baseline,
        "claim": spec.claim,
        "verdict": "baseline" if row.comparison is None else row.comparison.outcome,
        "comparison": None if row.comparison is None else dataclasses.asdict(row.comparison),
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
    code = [name for name in (export.config.model.name, export.config.data.name) if is_dotted(name)]
    if code and not allow_code:
        raise SpecError(f"the export names code to run ({', '.join(code)}); give --allow-code if you trust it")
    if fresh_seed in [run.seed for run in export.confirm_runs]:
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
    if isinstance(version, int) and version > SCHEMA:
        raise IntegrityError(f"{path}: written by a newer tuner (schema {version}; this one reads up to {SCHEMA})")
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


def _confirm_run(trial: Trial, runs: Mapping[str, str]) -> dict[str, Any]:
    assert trial.result is not None, "a complete confirm run has a result"
    return {
        "seed": trial.seed,
        "val_acc": trial.epochs[-1].val_acc,
        "test_acc": trial.result.test_acc,
        "test_loss": trial.result.test_loss,
        "weights_sha256": trial.result.weights_sha256,
        "device": trial.result.device,
        "mlflow_run": runs.get(trial.key),
    }


def _chosen_by(spec: SearchSpec, row: Row, compared: bool) -> str:
    best = "highest" if spec.metric.goal == "maximize" else "lowest"
    how = f"{best} {spec.metric.name} at the last epoch among {row.complete} complete of {row.trials} trials"
    if compared:
        which = "best winners of searches" if spec.searches else "first"
        how += f", then the best mean of the {spec.confirm.top_k} {which} over {spec.confirm.selection_seeds} seeds"
    return how


def _check_trial(export: Export) -> None:
    """Refuse a trial of the wrong form, or one that no spec could give. It raises many kinds of error."""
    trial, data, model = export.trial, dict(export.trial["data"]), export.trial["model"]
    _ = export.config  # refuses unknown keys
    _TRIAL.validate_json(json.dumps(trial), strict=True)
    Schedule(Hyper.of(trial["hyper"]), Plan(trial["epochs"], LONGEST))
    path, seed, sums = (data.pop(key) for key in ("path", "seed", "sha256"))
    if path is not None:
        raise ValueError("trial.data.path: an export names no path")
    place = None if data["name"] == "digits" else "."
    DataSpec(**data, path=place, sha256=dict(sums) or None, augment=trial["augment"])
    own = is_dotted(model["name"])
    ModelSpec(name=model["name"], **({"options": model["options"]} if own else model["options"]))
    BudgetSpec(trials=1, epochs=trial["epochs"], batch_size=trial["batch_size"])
    ResourcesSpec(
        cpus=trial["threads"],
        precision=trial["precision"],
        deterministic=trial["deterministic"],
        cuda_graph=export.config.cuda_graph,
    )
    seeds = [run.seed for run in export.confirm_runs]
    if seed < 0 or trial["seed"] != seeds[0] or len(set(seeds)) < len(seeds):
        raise ValueError("trial.seed: must be that of the first confirm run, and no seed may be there twice")


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
