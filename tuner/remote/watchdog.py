"""Resumes a cluster's jobs whose driver is gone, because the head was lost or the driver was killed."""

import time
from collections.abc import Callable

from cluster.errors import ClusterError
from cluster.jobs import JOB, JobsApi
from tuner.errors import ServiceError
from tuner.remote.client import submit_again
from tuner.storage.postgres import Database, JobRow

EVERY_S = 10.0
FRUITLESS = 3
"""Give a job up after this many drivers in a row without progress."""
UNFINISHED = ("new", "running")


class Watchdog:
    """Resumes the jobs of one database on one cluster.

    Args:
        database: the database with the jobs' records.
        address: URL of the cluster's dashboard.
        announce: called with a message when a job is resumed or given up, or when polling fails.
    """

    def __init__(self, database: Database, address: str | None, announce: Callable[[str], None]) -> None:
        self._database = database
        self._address = address
        self._announce = announce
        self._announced = ""
        self._lengths: dict[str, list[int]] = {}

    def watch(self) -> None:
        """Poll forever. If the cluster or the database is unreachable, wait for it."""
        while True:
            try:
                self.poll()
                self._announce_once("")
            except (ClusterError, ServiceError) as error:
                self._announce_once(f"waiting: {error}")
            time.sleep(EVERY_S)

    def poll(self) -> list[str]:
        """Resume every submitted job that has no driver.

        Returns:
            The ids of the new submissions.

        Raises:
            ClusterError: the cluster is unreachable.
            ServiceError: the database is unreachable.
        """
        abandoned = [row for row in self._database.jobs() if self._is_abandoned(row)]
        if not abandoned:
            return []
        api = JobsApi.connect(self._address)
        live = {one.metadata[JOB] for one in api.submissions() if not one.status.ended}
        return [self._resume(api, row.id) for row in abandoned if row.id not in live and self._progresses(row.id)]

    def _is_abandoned(self, row: JobRow) -> bool:
        # A job that was started on a user's own machine is resumed by that user.
        submitted = row.start.get("folder") == ""
        return submitted and row.summary.state in UNFINISHED and row.holder is None

    def _progresses(self, job: str) -> bool:
        lengths = self._lengths.setdefault(job, [])
        length = self._database.journal_length(job)
        if lengths[-FRUITLESS:] == [length] * FRUITLESS:
            return False
        lengths.append(length)
        if lengths[-FRUITLESS:] == [length] * FRUITLESS:
            self._announce(f"{job}: its drivers make no progress; after this last one, use: tuner resume {job}")
        return True

    def _resume(self, api: JobsApi, job: str) -> str:
        submission = submit_again(api, job)
        self._announce(f"{job}: it had no driver; resumed as {submission}")
        return submission

    def _announce_once(self, text: str) -> None:
        if text and text != self._announced:
            self._announce(text)
        self._announced = text
