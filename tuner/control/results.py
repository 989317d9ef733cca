"""Writes a job's report and its winners to files of the user."""

from pathlib import Path

from tuner.errors import NotFound, SpecError
from tuner.export.job_winner import export_arm
from tuner.jobs.job_folder import JobFolder
from tuner.report.publish import FORMS, report_of
from tuner.storage.atomic_files import check_new, write_new
from tuner.verdict.ranking import job_results


def check_form(file: Path) -> None:
    """Raise ``SpecError`` unless a report can be written to a file with this name."""
    if file.suffix not in FORMS:
        endings = ", ".join(FORMS)
        raise SpecError(f"cannot write a report to {str(file)!r}; give a file that ends in {endings}, or md or json")


def write_report(folder: JobFolder, file: Path | None = None, force: bool = False) -> Path:
    """Write the report of a job, finished or not.

    Args:
        folder: the job's folder.
        file: the file to write, .html, .md or .json. Without it, JOB.html in the current folder is written or
            overwritten: a report under the job's own name is updated as the job continues.
        force: overwrite an existing file.

    Returns:
        The file.

    Raises:
        NotFound: the job has done nothing yet.
        SpecError: the file exists, or its suffix is unknown.
    """
    overwrites = force or file is None
    file = file or Path(f"{folder.id}.html")
    check_form(file)
    check_new(file, overwrites)
    write_new(file, report_of(job_results(folder), file.suffix), overwrites)
    return file


def write_export(folder: JobFolder, file: Path, arm: str | None = None, force: bool = False) -> Path:
    """Write the winning setting of an arm and its evidence to a file.

    Args:
        folder: the job's folder.
        file: the file to write: .yaml, .json, .py, or .safetensors for the weights.
        arm: the arm; by default the best one that beats the baseline, or the baseline if none does.
        force: overwrite an existing file.

    Returns:
        The file.

    Raises:
        NotFound: no such arm, or nothing to export yet.
        SpecError: the file exists, its suffix is unknown, or the job is a simulation.
    """
    results = job_results(folder)
    return export_arm(results, arm or results.board.best(), file, force)


def write_all_exports(folder: JobFolder, into: Path, force: bool = False) -> list[Path]:
    """Write the winner of every arm that has finished confirm runs to ``ARM.yaml`` in a folder. Raises as above."""
    results = job_results(folder)
    tested = [row.arm for row in results.board.rows if row.confirmed]
    if not tested:
        raise NotFound(f"nothing to export: job {folder.id} has no finished confirm run yet")
    return [export_arm(results, arm, into / f"{arm}.yaml", force) for arm in tested]
