"""Made-up jobs: handwritten events of a search and its confirm runs, and the record that follows from them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from trainables.space import Plan
from tuner.jobs.record import Record, replay
from tuner.spec.arms import arms
from tuner.spec.search_spec import SearchSpec, fingerprint, to_dict
from tuner.storage.events import Entry, Event, JobDescribed, Stage, State

NAN = float("nan")


class History:
    """Events in the order in which they are added. The event of the job comes first."""

    def __init__(self, spec: SearchSpec, job: str = "job-1") -> None:
        self.entries: list[Entry] = []
        self.arms = {arm.name: arm for arm in arms(spec, Plan(spec.budget.epochs, 10))}
        self.add(
            "job",
            job=job,
            spec=to_dict(spec),
            spec_sha256=fingerprint(spec),
            arms=[
                {
                    "name": arm.name,
                    "variant": arm.variant,
                    "space": {knob: str(domain) for knob, domain in arm.space.items()},
                    "fixed": dict(arm.fixed),
                    "default": dict(arm.default),
                }
                for arm in self.arms.values()
            ],
            plan={"epochs": spec.budget.epochs, "steps_per_epoch": 10},
            data_fingerprint="f" * 64,
            data_images={"train": 200, "val": 100, "test": 100},
            simulated=False,
            concurrent=2,
            versions={"python": "3.11.0", "torch": "2.15.0"},
            machine={"system": "Linux", "cpus": "2"},
            git_commit="none",
            folder=".",
            classes=10,
        )

    def add(self, kind: str, **fields: Any) -> None:
        """One event, with the fields of its line; its time is its number in seconds."""
        number = len(self.entries)
        self.entries.append(Entry.from_json({"n": number, "ms": 1000 * number, "up": number, "kind": kind, **fields}))

    def alter_job(self, **fields: Any) -> None:
        """Change fields of the job's own event, the first one."""
        first = self.entries[0]
        assert isinstance(first.event, JobDescribed)
        self.entries[0] = replace(first, event=replace(first.event, **fields))

    def trial(
        self,
        arm: str,
        number: int,
        vals: Sequence[float],
        state: State | None = State.COMPLETE,
        stage: Stage = Stage.SEARCH,
        seed: int = 0,
        round_number: int = 0,
        test: float | None = None,
        losses: Sequence[float] | None = None,
    ) -> None:
        """Add the events of one trial.

        Args:
            arm: the arm of the trial.
            number: the number of the trial.
            vals: validation accuracy of each epoch.
            state: the state in which the trial ends; None: it is still running.
            stage: search, selection or confirm run.
            seed: the seed of the trial.
            round_number: the round of a confirm run.
            test: the test accuracy, if the trial has one.
            losses: validation loss of each epoch; by default 1 - accuracy.
        """
        key = f"{stage}/{arm}/{number}"
        if stage == Stage.SELECT:
            key += f"/{seed}"
        elif stage == Stage.CONFIRM:
            key = f"{stage}/{arm}/{round_number}/{seed}"
        sampled = dict(self.arms[arm].default) | {"lr": 0.001 + 0.0001 * number}
        hyper = self.arms[arm].hyper(sampled)
        self.add(
            "trial",
            trial=key,
            stage=stage,
            arm=arm,
            number=number,
            seed=seed,
            round=round_number,
            hyper=vars(hyper),
            knobs=sampled if stage == Stage.SEARCH else {},
        )
        self.add("attempt", trial=key, attempt=1, epoch=0)
        for epoch, val in enumerate(vals, start=1):
            loss = 1 - val if losses is None else losses[epoch - 1]
            self.add("epoch", trial=key, attempt=1, **report(epoch, val, loss))
        if state is not None:
            result: Mapping[str, Any] = {}
            if test is not None:
                result = {"test_acc": test, "test_loss": 1 - test, "weights_sha256": "a" * 64, "device": "cpu made up"}
            reason = f"{key} went wrong" if state in (State.FAILED, State.DIVERGED) else None
            self.add("end", trial=key, state=state, reason=reason, result=result)

    def confirm(self, round_number: int, winners: Mapping[str, int], tests: Mapping[str, Mapping[int, float]]) -> None:
        """Add a round of confirm runs.

        Args:
            round_number: the number of the round.
            winners: arm -> number of its best trial.
            tests: arm -> seed -> test accuracy. A seed that is missing in one arm failed there.
        """
        seeds = sorted({seed for results in tests.values() for seed in results})
        self.add("confirm", round=round_number, seeds=seeds, winners=dict(winners))
        for seed in seeds:
            for arm, number in winners.items():
                test = tests[arm].get(seed)
                state = State.FAILED if test is None else State.COMPLETE
                self.trial(arm, number, [0.5], state, Stage.CONFIRM, seed, round_number, test)

    def record(self) -> Record:
        """What the events so far come to."""
        return replay(self.entries)


def report(epoch: int, val_acc: float, val_loss: float) -> dict[str, Any]:
    """One epoch's report, of one second."""
    return {
        "epoch": epoch,
        "train_loss": val_loss,
        "train_acc": val_acc,
        "val_loss": val_loss,
        "val_acc": val_acc,
        "lr": 0.001,
        "weight_decay": 0.0,
        "seconds": 1.0,
    }


def event_of(kind: str, **fields: Any) -> Event:
    """An event of a kind, with the fields of its line."""
    return Entry.from_json({"n": 0, "ms": 0, "up": 0, "kind": kind, **fields}).event
