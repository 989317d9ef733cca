"""Goes on with a cluster's jobs that nobody runs any more: their head was lost, or their driver was killed with it."""

import time
from collections.abc import Callable

from cluster.errors import ClusterError
from cluster.jobs import JOB, JobsApi
from tuner.errors import ServiceError
from tuner.remote.client import submit_again
from tuner.storage.postgres import Database, JobRow

EVERY_S = 10.0
FRUITLESS = 3
"""So many drivers of a job in a row that wrote nothing more than the one before are the last."""
UNFINISHED = ("new", "running")


class Watchdog:
    """Looks after the jobs of one database and one cluster.

    Args:
        database: of the jobs' records.
        address: of the cluster's dashboard.
        announce: told what was done, and what is in the way.
    """

    def __init__(self, database: Database, address: str | None, announce: Callable[[str], None]) -> None:
        self._database = database
        self._address = address
        self._announce = announce
        self._announced = ""
        self._lengths: dict[str, list[int]] = {}

    def watch(self) -> None:
        """Look again and again, for ever; what is away is waited for."""
        while True:
            try:
                self.poll()
                self._announce_once("")
            except (ClusterError, ServiceError) as error:
                self._announce_once(f"waiting: {error}")
            time.sleep(EVERY_S)

    def poll(self) -> list[str]:
        """Have every job go on that was left; returns the submissions made.

        Raises:
            ClusterError: the cluster is away.
            ServiceError: the database is.
        """
        left = [row for row in self._database.jobs() if self._is_left(row)]
        if not left:
            return []
        api = JobsApi.connect(self._address)
        live = {one.metadata[JOB] for one in api.submissions() if not one.status.ended}
        return [self._go_on(api, row.id) for row in left if row.id not in live and self._gets_further(row.id)]

    def _is_left(self, row: JobRow) -> bool:
        # What was started on somebody's own machine is theirs to go on with.
        submitted = row.start.get("folder") == ""
        return submitted and row.summary.state in UNFINISHED and row.holder is None

    def _gets_further(self, job: str) -> bool:
        lengths = self._lengths.setdefault(job, [])
        length = self._database.journal_length(job)
        if lengths[-FRUITLESS:] == [length] * FRUITLESS:
            return False
        lengths.append(length)
        if lengths[-FRUITLESS:] == [length] * FRUITLESS:
            self._announce(f"{job}: its drivers get no further; after this one it is left to: tuner resume {job}")
        return True

    def _go_on(self, api: JobsApi, job: str) -> str:
        submission = submit_again(api, job)
        self._announce(f"{job}: nobody ran it; it goes on as {submission}")
        return submission

    def _announce_once(self, text: str) -> None:
        if text and text != self._announced:
            self._announce(text)
        self._announced = text
