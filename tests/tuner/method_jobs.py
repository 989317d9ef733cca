"""Jobs about methods: a small spec with several searches per arm, and handwritten searches of it."""

from collections.abc import Mapping, Sequence

from tests.tuner.events import History, report
from tests.tuner.spec_texts import more, spec_of
from tuner.search.trial_request import search_key
from tuner.spec.search_spec import SearchSpec
from tuner.spec.trial_config import SearchSeeds
from tuner.storage.events import LOST, Outcome, Stage, State

EPOCHS = 2
TRIALS = 2
CLASSES = 10
CHANCE = 1 / CLASSES


def method_spec(
    sections: str = "",
    budget: str = "",
    looks: str = "[3, 4, 5]",
    scheduler: str = "none",
    trials: int = TRIALS,
) -> SearchSpec:
    """Three arms and a placebo, two trials of two epochs per search, looks at 3, 4 and 5 searches.

    Args:
        sections: further sections of the spec; ``searches``, ``scheduler`` and ``sampler`` are there already.
        budget: further lines of the budget.
        looks: the looks, as a list; further keys of ``searches`` may follow.
        scheduler: the scheduler.
        trials: trials per arm and search.
    """
    fixed = f"searches: {{at: {looks}}}\nscheduler: {scheduler}\nsampler: random\n"
    return spec_of(
        ("  - variant: noam\n", "  - noam\n  - adamw\n"),
        ("trials: 4", f"trials: {trials}"),
        more(budget + fixed + sections),
        ("epochs: 8", f"epochs: {EPOCHS}"),
    )


PLACEBO = "placebo: true\n"


class Searches(History):
    """Handwritten searches of a job about methods, whose data has ten classes."""

    def __init__(self, spec: SearchSpec, job: str = "job-1") -> None:
        super().__init__(spec, job)
        self.alter_job(classes=CLASSES)
        self._spec = spec

    def trained(
        self,
        key: str,
        arm: str,
        search: int,
        number: int = 0,
        *,
        state: State | None = State.COMPLETE,
        vals: Sequence[float] = (0.4, 0.5),
        seed: int = 0,
        test: float | None = None,
        round_number: int = 0,
    ) -> None:
        """One trial or confirm run, with the stage that its key begins with; state None: it still runs."""
        knobs = dict(self.arms[arm].default) | {"lr": 0.001 + 0.0001 * number}
        stage = Stage(key.split("/")[0])
        self.add(
            "trial",
            trial=key,
            stage=stage,
            arm=arm,
            number=number,
            seed=seed,
            round=round_number,
            hyper=vars(self.arms[arm].hyper(knobs)),
            knobs=knobs if stage == Stage.SEARCH else {},
            search=search,
        )
        self.add("attempt", trial=key, attempt=1, epoch=0)
        for epoch, val in enumerate(vals, start=1):
            self.add("epoch", trial=key, attempt=1, **report(epoch, val, 1 - val))
        if state is not None:
            result = {"test_acc": test, "test_loss": 1.0, "weights_sha256": "a" * 64, "device": "made up"}
            reason = "it went wrong" if state in LOST else None
            self.add("end", trial=key, state=state, reason=reason, result={} if test is None else result)

    def trials(
        self, arm: str, search: int, states: Sequence[State | None] = (State.COMPLETE,) * TRIALS, val: float = 0.5
    ) -> None:
        """The trials of one search of an arm, with these states; the later of two complete ones is the better."""
        for number, state in enumerate(states):
            last = val + number / 100
            self.trained(search_key(arm, search, number), arm, search, number, state=state, vals=(0.4, last))

    def confirmed(self, arm: str, search: int, tests: Sequence[float | State | None], number: int = TRIALS - 1) -> None:
        """The confirm runs of a search's winner: a test accuracy, or the state in which a run was lost or is."""
        seeds = SearchSeeds.of(self._spec, search).confirm
        for seed, test in zip(seeds, tests, strict=True):
            key = f"{Stage.CONFIRM}/{arm}/{search}/{seed}"
            if isinstance(test, float):
                self.trained(key, arm, search, number, seed=seed, test=test)
            else:
                self.trained(key, arm, search, number, seed=seed, state=test)

    def searched(self, results: Mapping[str, Sequence[float | State | None]], first: int = 1) -> None:
        """Whole searches from number ``first``.

        Args:
            results: arm -> for each search, the test accuracy of its winner, or the state in which its confirm run
                was lost.
            first: number of the first of these searches.
        """
        for arm, tests in results.items():
            for search, test in enumerate(tests, start=first):
                self.trials(arm, search)
                self.confirmed(arm, search, [test])

    def look(self, number: int, searches: int, outcomes: Mapping[str, Outcome]) -> None:
        """A look that was taken."""
        self.add("look", look=number, searches=searches, outcomes=dict(outcomes))
