"""Jobs of the user's own trainables: a small spec with several searches per arm, and handwritten searches of it."""

from collections.abc import Mapping, Sequence
from typing import Any

from tests.tuner.events import History
from tests.tuner.spec_texts import spec_of
from tuner.search.trial_request import search_key
from tuner.spec.search_spec import SearchSpec
from tuner.spec.trial_config import SearchSeeds
from tuner.storage.events import LOST, Outcome, Stage, State

SPEC = """\
name: own
metric: {choose: val_loss, judge: test_loss, goal: minimize}
pass: [seed]
baseline: ridge
arms:
  - name: ridge
    trainable: mine:Ridge
    parameters: {alpha: {min: 0.01, max: 10.0, scale: log}}
  - name: trees
    trainable: mine:Trees
    parameters: {depth: {min: 1, max: 8}, loss: {values: [squared, huber]}}
    fixed: {columns: [a, b]}
budget: {trials: 2, epochs: 2}
scheduler: none
sampler: random
searches: {at: [3, 4, 5]}
"""


def own_spec(*edits: tuple[str, str]) -> SearchSpec:
    """The spec, with each old text replaced by the new one."""
    return spec_of(*edits, text=SPEC)


SETTING = ("searches: {at: [3, 4, 5]}\n", "claim: setting\nconfirm: {seeds: 3, top_k: 1, selection_seeds: 1}\n")
"""An edit: the claim is about one setting."""

RESULT = float | State


class OwnHistory(History):
    """Handwritten events of a job of own trainables. A trial reports ``val_loss`` and ``extra`` twice."""

    def __init__(self, spec: SearchSpec, job: str = "own-1") -> None:
        super().__init__(spec, job)
        self.spec = spec
        self.alter_job(classes=0)

    def run(
        self,
        key: str,
        arm: str,
        number: int,
        chosen: float,
        end: RESULT,
        search: int = 0,
        seed: int = 0,
        round_: int = 0,
    ) -> None:
        """One trial or confirm run.

        Args:
            key: its key, which begins with its stage.
            arm: its arm.
            number: of its setting.
            chosen: the last value of the metric that chooses.
            end: the state in which it ends; of a confirm run also the judged value with which it completes.
            search: the search of its setting.
            seed: its seed.
            round_: its round of confirm runs.
        """
        arm_ = self.arms[arm]
        knobs = dict(arm_.default)
        stage, metric = Stage(key.split("/")[0]), self.spec.metric
        self.add(
            "trial",
            trial=key,
            stage=stage,
            arm=arm,
            number=number,
            seed=seed,
            round=round_,
            hyper=dict(arm_.setting(knobs)),
            knobs=knobs if stage == Stage.SEARCH else {},
            search=search,
        )
        self.add("attempt", trial=key, attempt=1, epoch=0)
        for epoch in (1, 2):
            values = {metric.key: chosen * (3 - epoch), "extra": 10.0 * epoch}
            self.add("epoch", trial=key, attempt=1, epoch=epoch, values=values, seconds=1.0)
        state = end if isinstance(end, State) else State.COMPLETE
        result: Mapping[str, Any] = {} if isinstance(end, State) else {"values": {metric.judged: end}, "device": "cpu"}
        self.add("end", trial=key, state=state, reason="wrong" if state in LOST else None, result=result)

    def searched(self, results: Mapping[str, Sequence[RESULT]]) -> None:
        """Whole searches of two trials.

        Args:
            results: arm -> for each search, how the confirm run of its winner ended.
        """
        for arm, ends in results.items():
            for search, end in enumerate(ends, start=1):
                for number in (0, 1):
                    self.run(search_key(arm, search, number), arm, number, 1.0 - number / 10, State.COMPLETE, search)
                [seed] = SearchSeeds.of(self.spec, search).confirm
                self.run(f"confirm/{arm}/{search}/{seed}", arm, 1, 0.9, end, search, seed)

    def lost(self, arm: str, search: int) -> None:
        """A search whose trials all diverged."""
        for number in (0, 1):
            self.run(search_key(arm, search, number), arm, number, 1.0, State.DIVERGED, search)

    def looked(self, number: int, searches: int, outcomes: Mapping[str, Outcome]) -> None:
        """A look that was taken."""
        self.add("look", look=number, searches=searches, outcomes=dict(outcomes))

    def confirmed(self, tests: Mapping[str, Mapping[int, RESULT]], winners: Mapping[str, int], round_: int = 1) -> None:
        """A round of confirm runs: arm -> seed -> judged value, or the state in which the run ended."""
        seeds = sorted({seed for ends in tests.values() for seed in ends})
        searches = dict.fromkeys(winners, 1) if self.spec.searches else {}
        self.add("confirm", round=round_, seeds=seeds, winners=dict(winners), searches=searches)
        for arm, number in winners.items():
            for seed, end in tests[arm].items():
                key = f"confirm/{arm}/{round_}/{seed}" if not searches else f"confirm/{arm}/round{round_}/{seed}"
                self.run(key, arm, number, 0.9, end, searches.get(arm, 0), seed, round_)
