"""What a job leaves for people: leaderboard, report and exports, made from its journal whenever they are asked for."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tuner import tracked
from tuner.errors import NotFound, SpecError
from tuner.export import WEIGHTS_SUFFIX, build_export, check_new, render, write_new
from tuner.home import JobFolder
from tuner.leaderboard import Leaderboard, build
from tuner.record import Record
from tuner.report import markdown
from tuner.spec import SearchSpec, from_dict


@dataclass(frozen=True)
class _Results:
    """What a job's journal comes to, read once."""

    folder: JobFolder
    record: Record
    spec: SearchSpec
    board: Leaderboard


def _results(folder: JobFolder) -> _Results:
    record = folder.record()
    spec = from_dict(record.job["spec"])
    return _Results(folder, record, spec, build(record, spec))


def board_of(folder: JobFolder) -> Leaderboard:
    """A job's leaderboard as it stands."""
    return _results(folder).board


def report_of(folder: JobFolder) -> str:
    """A job's report in Markdown as it stands."""
    results = _results(folder)
    return markdown(results.record, results.spec, results.board)


def publish(folder: JobFolder) -> dict[str, Path]:
    """Write a job's leaderboard, report and exports into its folder; returns the files by artifact name."""
    results = _results(folder)
    board = results.board
    write_new(folder.report, markdown(results.record, results.spec, board), force=True)
    write_new(folder.leaderboard, json.dumps(board.to_dict(), indent=2) + "\n", force=True)
    files = {"spec.yaml": folder.spec, "report.md": folder.report, "leaderboard.json": folder.leaderboard}
    for row in board.rows:
        if row.winner is not None and row.tests and not results.record.simulated:
            files[f"exports/{row.arm}.yaml"] = _export_arm(results, row.arm, folder.export(row.arm), force=True)
    return files


def export_arm(folder: JobFolder, arm: str, file: Path, force: bool) -> Path:
    """Write an arm's winner to ``file`` in the format of its suffix, ``.safetensors`` for the weights; returns it.

    Raises:
        NotFound: no such arm, or nothing to export yet.
        SpecError: the file is there already and ``force`` is off, or the suffix is not known.
    """
    return _export_arm(_results(folder), arm, file, force)


def _export_arm(results: _Results, arm: str, file: Path, force: bool) -> Path:
    check_new(file, force)
    folder = results.folder
    if results.record.simulated:
        raise SpecError(f"job {folder.id} is a simulation: nothing was trained that could be exported")
    export = build_export(results.record, results.spec, results.board, arm, _runs(folder))
    if file.suffix != WEIGHTS_SUFFIX:
        write_new(file, render(export, file.suffix), force)
        return file
    weights = folder.weights(arm, export.confirm_round)
    if not weights.exists():
        raise NotFound(f"job {folder.id} kept no weights of arm {arm}: its first confirm run did not finish")
    write_new(file, weights.read_bytes(), force)
    return file


def _runs(folder: JobFolder) -> Mapping[str, str]:
    """MLflow's run ids by trial key, as far as the journal has been sent."""
    return tracked.load(folder.tracked).runs
