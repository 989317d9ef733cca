"""The measure of ``benchmarks.search_quality`` on curves that others recorded: 12 tasks of TaskSet.

Syne Tune is left out. It needs 0.3 s for each proposal, and a lost search here has a thousand of them.
"""

from benchmarks import search_quality
from benchmarks.measuring import Result
from benchmarks.peers.searchers import SYNE_TUNE
from benchmarks.tables import taskset

WAYS = tuple(way for way in search_quality.WAYS if way != SYNE_TUNE)


def measure(pairs: int) -> Result:
    """Search every task in every way but Syne Tune's."""
    return search_quality.measure(pairs, taskset.TASKS, ways=WAYS)
