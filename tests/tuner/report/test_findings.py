"""Findings of a report: they agree with the record, exist for jobs in any state, and are plain values."""

import json
import math
from dataclasses import replace

import pytest

from tests.tuner.events import History
from tests.tuner.spec_texts import spec_of
from trainables.space import Choice, Float
from tuner.report.figures.one_arm import searching
from tuner.report.figures.style import looks
from tuner.report.findings import ArmFindings, Findings, findings
from tuner.report.knob import Knob
from tuner.storage.events import Stage, State, TrialBegun
from tuner.verdict.ranking import build

SPEC = spec_of(("  epochs: 8", "  epochs: 2"))


def found_in(history: History) -> Findings:
    record = history.record()
    return findings(record, SPEC, build(record, SPEC))


def noam_of(history: History) -> ArmFindings:
    return found_in(history).arms[1]


def searched() -> History:
    history = History(SPEC)
    history.trial("adam_l2", 0, [0.4, 0.5])
    history.trial("noam", 0, [0.4, 0.6])
    history.trial("noam", 1, [0.3], State.PRUNED)
    history.trial("noam", 2, [math.nan], State.DIVERGED)
    history.trial("noam", 3, [0.2], state=None)
    return history


def test_a_conditional_knob_is_shown_only_where_it_applies() -> None:
    arm = (
        "  - variant: adam_l2\n    name: any\n    parameters:\n      schedule: {values: [constant, noam]}\n"
        "      warmup: {min: 1, max: 9, when: {schedule: noam}}\n"
    )
    spec = spec_of(("  epochs: 8", "  epochs: 2"), ("  - variant: noam\n", arm))
    history = History(spec)
    history.trial("adam_l2", 0, [0.4, 0.5])
    noam: dict[str, str | int] = {"schedule": "noam"}
    for number, (value, knobs) in enumerate(
        [(0.6, noam | {"warmup": 3}), (0.7, {}), (0.695, noam | {"warmup": 4}), (0.1, {})]
    ):
        history.trial("any", number, [0.1, value])
        places = [place for place, entry in enumerate(history.entries) if isinstance(entry.event, TrialBegun)]
        begun = history.entries[places[-1]].event
        assert isinstance(begun, TrialBegun)
        changed = replace(begun, knobs={**begun.knobs, **knobs}, hyper={**begun.hyper, **knobs})
        history.entries[places[-1]] = replace(history.entries[places[-1]], event=changed)
    record = history.record()
    found = findings(record, spec, build(record, spec))
    found_arm = found.arms[1]
    assert list(found_arm.settings) == ["lr", "l2", "schedule"]
    assert [(near.knob, near.trials) for near in found_arm.near] == [("lr", 2), ("l2", 2), ("schedule", 2)]
    assert found_arm.knobs[-1].searched == "1 to 9, linear (if schedule is noam)"
    figures = {figure.name: figure for figure in searching(found, found_arm, looks(2)[1])}
    assert "winner: lr 0.0011, l2 0.0001, schedule constant." in figures["parallel-any"].alt
    assert "val/acc by warmup over 2 trials of any; searched 1 to 9, linear (if schedule is noam)" in (
        figures["slice-any-warmup"].alt
    )


def test_training_seconds_are_split_by_outcome() -> None:
    history = searched()
    history.confirm(1, {"adam_l2": 0, "noam": 0}, {"adam_l2": {1: 0.5}, "noam": {1: 0.6}})
    spent = noam_of(history).spent
    assert (spent.useful, spent.pruned, spent.failed, spent.confirm) == (3.0, 1.0, 1.0, 1.0)


def test_a_trial_has_its_curve_and_its_last_value() -> None:
    whole, pruned, diverged, running = noam_of(searched()).trials
    assert (whole.value, whole.curve) == (0.6, (0.4, 0.6))
    assert (pruned.state, pruned.value) == ("pruned", 0.3)
    assert (diverged.value, diverged.curve) == (None, (None,))
    assert (running.state, running.value) == ("running", 0.2)


def test_the_band_uses_only_finished_confirm_runs() -> None:
    history = searched()
    history.add("confirm", round=1, seeds=[1, 2, 3], winners={"adam_l2": 0, "noam": 0})
    for arm in ("adam_l2", "noam"):
        for seed, vals in enumerate(([0.4, 0.6], [0.5, 0.8]), start=1):
            history.trial(arm, 0, vals, State.COMPLETE, Stage.CONFIRM, seed, 1, test=0.5)
        history.trial(arm, 0, [0.1], State.FAILED, Stage.CONFIRM, 3, 1)
    band = noam_of(history).val
    assert band is not None
    assert band.seeds == 2
    assert band.mean == pytest.approx((0.45, 0.7))
    assert band.sd == pytest.approx((0.1 / 2**0.5, 0.2 / 2**0.5), rel=1e-5)


def test_the_rates_come_from_the_winners_schedule() -> None:
    rates = noam_of(searched()).rates
    assert rates is not None
    assert len(rates.epoch) == 2 * 10
    warmup = int(noam_of(searched()).settings["warmup"])
    assert max(rates.lr) == rates.lr[warmup - 1] == 0.001
    assert rates.reported_epoch == (0.9, 1.9)
    assert rates.reported_lr == (0.001, 0.001)


def test_one_trial_gives_no_anytime_curve() -> None:
    found = found_in(searched())
    assert found.arms[0].after_trials is None
    curve = found.arms[1].after_trials
    assert curve is not None
    # The running trial does not count yet. The diverged trial counts as the worst one.
    assert curve.cost == (1.0, 2.0, 3.0)
    assert curve.mean == pytest.approx(((0.6 + 0.3 + 0.3) / 3, (0.6 + 0.6 + 0.3) / 3, 0.6))


@pytest.mark.parametrize("history", [History(SPEC), searched()], ids=["nothing has begun", "searched"])
def test_findings_are_valid_json_without_nan(history: History) -> None:
    values = json.loads(json.dumps(found_in(history).to_dict(), allow_nan=False))
    assert values["board"]["job"] == "job-1"
    assert values["statements"]["headline"].startswith("State: new.")
    assert [arm["row"]["arm"] for arm in values["arms"]] == ["adam_l2", "noam"]


def test_the_position_of_a_value_uses_the_scale_of_the_search() -> None:
    assert Knob.of("lr", Float(1e-4, 1e-2, "log")).share(1e-3) == pytest.approx(0.5)
    assert Knob.of("beta2", Float(0.9, 0.999, "one-minus-log")).share(0.99) == pytest.approx(0.5)
    assert [Knob.of("restarts", Choice(("2x1", "4x1", "6x1"))).share(value) for value in ("2x1", "6x1")] == [0, 1]
