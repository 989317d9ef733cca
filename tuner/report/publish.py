"""The files that a job leaves for people: leaderboard, report and exports, written from its results."""

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from trainables.file_store import files_at, inside
from tuner.errors import ServiceError
from tuner.export.job_winner import export_arm
from tuner.jobs.job_folder import JobFolder
from tuner.storage.atomic_files import write_new
from tuner.storage.events import Stage
from tuner.storage.shared_files import store_errors
from tuner.verdict.ranking import JobResults

if TYPE_CHECKING:
    from tuner.report.findings import Findings

FORMS = (".html", ".md", ".json")
"""Forms of a report, by the suffix of its file."""

_log = logging.getLogger(__name__)


def report_of(results: JobResults, form: str) -> str:
    """The report of a job as it stands, in one of ``FORMS``."""
    return _rendered(_findings(results), form)


def _findings(results: JobResults) -> "Findings":
    from tuner.report.findings import findings

    return findings(results.record, results.spec, results.board)


def _rendered(found: "Findings", form: str) -> str:
    if form == ".json":
        return json.dumps(found.to_dict(), indent=2, allow_nan=False) + "\n"
    if form == ".md":
        from tuner.report.markdown import markdown

        return markdown(found)
    from tuner.report.html import html

    return html(found)


def publish(results: JobResults) -> dict[str, Path]:
    """Write the leaderboard, the report and the exports of a job into its folder.

    Exports are also copied to the store of the job's weights, if that is another place.

    Returns:
        Artifact name to file.
    """
    folder, board = results.folder, results.board
    found = _findings(results)
    write_new(folder.report, _rendered(found, ".html"), force=True)
    write_new(folder.summary, _rendered(found, ".md"), force=True)
    write_new(folder.leaderboard, json.dumps(board.to_dict(), indent=2) + "\n", force=True)
    files = {
        "spec.yaml": folder.spec,
        "report.html": folder.report,
        "report.md": folder.summary,
        "leaderboard.json": folder.leaderboard,
    }
    for row in board.rows if not results.record.simulated else ():
        if row.winner is not None and row.confirmed:
            files[f"exports/{row.arm}.yaml"] = export_arm(results, row.arm, folder.export(row.arm), force=True)
        elif board.round and results.record.group(Stage.CONFIRM, row.arm, round_number=board.round).trials:
            _log.warning("warning: no export of %s: none of its confirm runs trained to the end", row.arm)
    # An arm's export of an earlier round would have an earlier verdict.
    for stale in set((folder.path / "exports").glob("*.yaml")) - set(files.values()):
        stale.unlink()
    _share(folder, [file for name, file in files.items() if name.startswith("exports/")])
    return files


def _share(folder: JobFolder, exports: Iterable[Path]) -> None:
    """Copy exports where other nodes can read them. If that fails, only a warning follows: the job has its own copy."""
    if folder.shared == str(folder.path):
        return
    try:
        with store_errors():
            for file in exports:
                files_at(inside(folder.shared, "exports")).write(file.name, file.read_bytes(), writer=0)
    except ServiceError as error:
        _log.warning("warning: the exports are in %s only: %s", folder.path, error)
