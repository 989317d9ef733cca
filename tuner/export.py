"""Exports: a winner's full settings and evidence as one file that ``tuner reproduce`` and ``load_config`` read.

A file holds nothing that depends on when or where it was written: the same search exports to the same bytes. Its
``sha256`` covers everything else in it, as canonical JSON.
"""

import dataclasses
import hashlib
import io
import json
import os
import pprint
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML

from trainables.config import TrialConfig
from trainables.errors import TrainableError
from trainables.hyper import Hyper
from tuner.errors import IntegrityError, NotFound, ServiceError, SpecError
from tuner.leaderboard import Leaderboard, Row
from tuner.record import Record, Stage, State, Trial
from tuner.spec import SearchSpec
from tuner.trials import trial_config
from tuner.yaml import read_text

if TYPE_CHECKING:
    from trainables.training import Training

SCHEMA = 1
MAX_VALUES = 100_000
"""Keys and values of an export with the most confirm seeds, and more."""
WEIGHTS_SUFFIX = ".safetensors"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ConfirmRun(_Strict):
    """One confirm run: what one seed came to, test accuracy in [0, 1]; ``mlflow_run`` is None until tracked."""

    seed: int
    val_acc: float
    test_acc: float
    test_loss: float
    weights_sha256: str
    device: str
    mlflow_run: str | None


class Export(_Strict):
    """A winner: settings, how it was chosen, evidence, and where it comes from."""

    schema_version: int
    job: str
    arm: str
    variant: str
    chosen_by: str
    search_trial: str
    search_value: float
    trial: dict[str, Any]
    confirm_round: int
    confirm_runs: tuple[ConfirmRun, ...]
    test_mean_points: float
    test_sd_points: float | None
    baseline: str
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


def build_export(record: Record, spec: SearchSpec, board: Leaderboard, arm: str, runs: Mapping[str, str]) -> Export:
    """An arm's export; ``runs`` are MLflow's run ids by trial key.

    Raises:
        NotFound: no such arm, or none of its confirm runs has finished.
    """
    row = next((row for row in board.rows if row.arm == arm), None)
    if row is None:
        raise NotFound(f"no arm {arm!r} in job {record.name} (there are: {', '.join(record.arms)})")
    confirmed = _confirmed(record, board, arm)
    if row.winner is None or not confirmed:
        raise NotFound(f"nothing to export: arm {arm} of job {record.name} has no finished confirm run yet")
    winner = record.trials[f"{Stage.SEARCH}/{arm}/{row.winner}"]
    trial = trial_config(spec, Hyper(**winner.hyper), confirmed[0].seed).to_dict()
    # Where the data lies differs from machine to machine; what it is, the fingerprint says.
    trial["data"]["path"] = None
    content = {
        "schema_version": SCHEMA,
        "job": record.name,
        "arm": arm,
        "variant": row.variant,
        "chosen_by": _chosen_by(spec, row),
        "search_trial": winner.key,
        "search_value": row.val,
        "trial": trial,
        "confirm_round": board.round,
        "confirm_runs": [_confirm_run(trial, runs) for trial in confirmed],
        "test_mean_points": row.test_mean,
        "test_sd_points": row.test_sd,
        "baseline": board.baseline,
        "verdict": "baseline" if row.comparison is None else row.comparison.outcome,
        "comparison": None if row.comparison is None else dataclasses.asdict(row.comparison),
        "versions": record.job["versions"],
        "git_commit": record.job["git_commit"],
        "data_fingerprint": record.job["data_fingerprint"],
        "mlflow_parent_run": runs.get(""),
        "mlflow_search_run": runs.get(winner.key),
    }
    content = json.loads(json.dumps(content))
    return Export(**content, sha256=_checksum(content))


def render(export: Export, suffix: str) -> str:
    """The export as text: ``.yaml``, ``.yml``, ``.json`` or ``.py``.

    Raises:
        SpecError: another suffix.
    """
    if suffix not in RENDERERS:
        raise SpecError(
            f"cannot export to {suffix or 'a file without a suffix'}; use {', '.join([*RENDERERS, WEIGHTS_SUFFIX])}"
        )
    return RENDERERS[suffix](export.model_dump(mode="json"))


def write_new(path: Path, content: str | bytes, force: bool) -> None:
    """Write a file whole or not at all; an existing one only with ``force``."""
    check_new(path, force)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        partial.replace(path)
    except OSError as error:
        raise ServiceError(f"cannot write {path}: {error.strerror}") from error


def check_new(path: Path, force: bool) -> None:
    """Refuse a path that is there already.

    Raises:
        SpecError: it exists and ``force`` is off, or it is a folder.
    """
    if path.is_dir():
        raise SpecError(f"{path} is a folder; name a file")
    if path.exists() and not force:
        raise SpecError(f"{path} exists already; give --force to overwrite it")


def read_export(path: Path) -> Export:
    """Read an exported YAML or JSON file.

    Raises:
        NotFound: no such file.
        IntegrityError: it is cut short, altered, of a newer schema, or no export at all.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFound(f"no file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise IntegrityError(f"{path}: cannot be read as an export: {error}") from None
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
        _ = export.config
    except (ValidationError, TrainableError, TypeError, KeyError, ValueError) as error:
        raise IntegrityError(f"{path}: not an export of this version: {_reason(error)}") from None
    return export


def load_config(path: str | Path, data_path: str | None = None, allow_code: bool = False) -> "Training":
    """A winner, ready to train: its model, optimizer and schedule on the CPU or the GPU it was trained on.

    Args:
        path: an exported YAML or JSON file.
        data_path: where the data lies on this machine; needed where the data set has no place of its own.
        allow_code: let the file name a model or data set by dotted path, which runs that code.

    Returns:
        A ``Training`` at epoch 0: ``.model``, ``.optimizer``, ``.schedule``, and ``.run_epoch()``.

    Raises:
        NotFound, IntegrityError: as ``read_export``; or the data is not what the search used.
    """
    from tuner.home import Home
    from tuner.reproduce import start

    export = read_export(Path(path))
    return start(export, export.config, Home.find(), data_path, allow_code)


def _confirmed(record: Record, board: Leaderboard, arm: str) -> list[Trial]:
    trials = record.of(Stage.CONFIRM, arm, board.round)
    return sorted((t for t in trials if t.state == State.COMPLETE), key=lambda trial: trial.seed)


def _confirm_run(trial: Trial, runs: Mapping[str, str]) -> dict[str, Any]:
    return {
        "seed": trial.seed,
        "val_acc": trial.epochs[-1]["val_acc"],
        **trial.result,
        "mlflow_run": runs.get(trial.key),
    }


def _chosen_by(spec: SearchSpec, row: Row) -> str:
    best = "highest" if spec.metric.goal == "maximize" else "lowest"
    how = f"{best} {spec.metric.name} at the last epoch among {row.complete} complete of {row.trials} trials"
    if spec.confirm.top_k > 1:
        how += f", then the best mean of the first {spec.confirm.top_k} over {spec.confirm.selection_seeds} seeds"
    return how


def _checksum(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _yaml(values: Mapping[str, Any]) -> str:
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 110
    stream = io.StringIO()
    yaml.dump(dict(values), stream)
    return stream.getvalue()


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2) + "\n"


def _python(values: Mapping[str, Any]) -> str:
    body = pprint.pformat(dict(values), width=100, sort_dicts=False)
    return (
        f'"""Settings of arm {values["arm"]}, job {values["job"]}."""\n\n'
        "from trainables.config import TrialConfig\n\n"
        f"EXPORT = {body}\n\n"
        'TRIAL = TrialConfig.from_dict(EXPORT["trial"])\n'
    )


RENDERERS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    ".yaml": _yaml,
    ".yml": _yaml,
    ".json": _json,
    ".py": _python,
}
"""Text formats by suffix."""


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        # JSON is YAML 1.2, and one strict reader refuses doubled keys in both.
        return read_text(text, str(path), MAX_VALUES).value
    except SpecError as error:
        raise IntegrityError(f"{error} (not a whole export)") from None


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return str(error)
