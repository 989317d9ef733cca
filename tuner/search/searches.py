"""The trials of several searches per arm, one search after the other, and of the confirm runs of their winners."""

import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence

from trainables.space import Plan
from tuner.jobs.record import Record
from tuner.search.confirm_trials import not_ended, search_confirm_requests
from tuner.search.search_trials import SearchSource
from tuner.search.trial_request import TrialOutcome, TrialRequest
from tuner.search.winners import search_has_ended, search_winner
from tuner.spec.arms import Arm
from tuner.spec.search_spec import SearchSpec
from tuner.storage.events import Stage


class SearchesSource:
    """Gives the trials of the searches up to a look. A search begins when the one before has no trial left to start.

    When a search of an arm has ended, its winner is trained on the fresh seeds of that search.

    Args:
        spec: the job's spec.
        arms: the arms that are still searched, the baseline first.
        plan: planned length of a trial.
        record: what the job's journal says; interrupted searches continue from there.
        searches: number of searches per arm at the look.
        concurrent: trials that run at once.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        spec: SearchSpec,
        arms: Sequence[Arm],
        plan: Plan,
        record: Record,
        searches: int,
        *,
        concurrent: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spec = spec
        self._arms = arms
        self._plan = plan
        self._record = record
        self._concurrent = concurrent
        self._clock = clock
        self._started_at = clock() - record.active_s
        self._open: dict[int, SearchSource] = {}
        self._looked_at = record.looks[-1].searches if record.looks else 0
        self._searches = deque(range(1, searches + 1))
        self._confirm: deque[TrialRequest] = deque()
        for search in range(1, searches + 1):
            for arm in arms:
                self._confirm_if_ended(arm.name, search)

    def next(self) -> TrialRequest | None:
        """The next trial: a confirm run of a search that has ended, else a trial of the earliest search."""
        if self._confirm:
            return self._confirm.popleft()
        while self._searches:
            search = self._searches[0]
            if search not in self._open:
                if self._begins(search) and self._no_time_up_to(max(search, self._looked_at + 1)):
                    self._searches.clear()
                    return None
                self._open[search] = self._begin(search)
            request = self._open[search].next()
            if request is not None:
                return request
            self._searches.popleft()
        return None

    def ended(self, request: TrialRequest, outcome: TrialOutcome) -> None:
        """Tell the study how its setting ended, and have the winner of an ended search confirmed.

        Raises:
            SearchFailed: the first trials of a search all raised.
        """
        if request.stage == Stage.SEARCH:
            self._open[request.search].ended(request, outcome)
            self._confirm_if_ended(request.arm, request.search)

    def _begin(self, search: int) -> SearchSource:
        return SearchSource(
            self._spec,
            self._arms,
            self._plan,
            self._record,
            search=search,
            concurrent=self._concurrent,
            clock=self._clock,
        )

    def _confirm_if_ended(self, arm: str, search: int) -> None:
        if not search_has_ended(self._record, self._spec, arm, search):
            return
        winner = search_winner(self._record, self._spec, arm, search)
        if winner is not None:
            self._confirm.extend(not_ended(search_confirm_requests(self._record, self._spec, winner), self._record))

    def _begins(self, search: int) -> bool:
        """Whether a search would begin now. One that has begun is brought to its end, whatever the time."""
        arms = self._without(search)
        # Before the last look, only an arm that an extension takes up again lacks a search that others have.
        behind = arms if search <= self._looked_at else [arm.name for arm in self._arms]
        return bool(arms) and not any(self._record.group(Stage.SEARCH, arm, search=search).trials for arm in behind)

    def _without(self, search: int) -> list[str]:
        """The arms whose search of this number has not ended."""
        return [arm.name for arm in self._arms if not search_has_ended(self._record, self._spec, arm.name, search)]

    def _no_time_up_to(self, search: int) -> bool:
        """Whether all searches up to this one, each as long as those so far, would end beyond a cap.

        Searches that give no new look are of no use, so an arm catches up only if there is time for one more search.
        An extension has a cap of its own, in place of the spec's.
        """
        budget, gpus = self._spec.budget, self._spec.resources.gpus
        if not self._record.extensions and budget.max_hours is None and budget.max_gpu_hours is None:
            return False
        missing = sum(len(self._without(number)) for number in range(1, search + 1))
        one_s = statistics.fmean(self._costs() or [0.0]) * missing
        clock_s = self._clock() - self._started_at + one_s / self._concurrent
        if self._record.extensions:
            until_s = self._record.extensions[-1].until_s
            return until_s is not None and clock_s > until_s
        trained_s = sum(trial.seconds for trial in self._record.trials.values())
        over = budget.max_hours is not None and clock_s > 3600 * budget.max_hours
        return over or (budget.max_gpu_hours is not None and (trained_s + one_s) * gpus > 3600 * budget.max_gpu_hours)

    def _costs(self) -> list[float]:
        """Seconds of training of each search of an arm that has ended, its confirm runs included."""
        costs: dict[tuple[str, int], float] = {}
        for trial in self._record.trials.values():
            study = trial.arm, trial.search
            costs[study] = costs.get(study, 0.0) + trial.seconds
        return [seconds for study, seconds in costs.items() if search_has_ended(self._record, self._spec, *study)]
