"""Reports on the user's own trainables and optimizers: their names, directions and units."""

import json
import re
from collections.abc import Sequence

import pytest

from tests.tuner.events import History, report
from tests.tuner.own_jobs import OwnHistory, own_spec
from tests.tuner.spec_texts import NOAM, spec_of
from tuner.report.findings import Findings, findings
from tuner.report.html import html
from tuner.report.markdown import markdown
from tuner.spec.search_spec import SearchSpec
from tuner.storage.events import State
from tuner.verdict.method import take_look
from tuner.verdict.ranking import build

JUDGED = "choose: val_loss, judge: test_loss, goal: minimize"


def found_of(spec: SearchSpec, ridge: Sequence[float | State], trees: Sequence[float | State]) -> Findings:
    history = OwnHistory(spec)
    history.searched({"ridge": ridge, "trees": trees})
    look = take_look(history.record(), spec, 3)
    assert look is not None
    history.looked(look.look, look.searches, look.outcomes)
    history.confirmed({"ridge": {1: 0.50, 2: 0.52}, "trees": {1: 0.40, 2: 0.42}}, {"ridge": 1, "trees": 1})
    record = history.record()
    return findings(record, spec, build(record, spec))


@pytest.fixture(scope="module")
def found() -> Findings:
    return found_of(own_spec(), [0.5, 0.52, 0.49], [0.4, 0.421, 0.389])


def test_the_report_says_in_the_users_words_who_won_and_what_a_gain_is(found: Findings) -> None:
    text = markdown(found)
    assert "**trees beats ridge.**" in text
    assert "| arm | val_loss | test_loss | verdict |" in text
    assert re.search(r"beats ridge by 0\.100\d? ± 0\.00\d+ in test_loss \(3 searches, look 1\)", text)
    assert "A lower test_loss is better, so a positive gain is a lower test_loss." in text
    assert "Won: searches in which the test_loss of an arm was below that of its baseline" in text
    assert "| trees | 3 | 3 of 3 " in text
    assert "The best setting is trial 1.1 of trees: test_loss 0.410 ± 0.014 (mean ± sd) over 2 fresh seeds." in text
    assert "- trees is the trainable mine:Trees; fixed: columns ['a', 'b']" in text
    assert "`tuner export own-1 --best -o best.yaml && tuner reproduce best.yaml --allow-code`" in text
    for word in ("accuracy", "test %", "points", "images", "data none", "batches", "earlier version"):
        assert word not in text


def test_the_page_draws_the_users_numbers(found: Findings) -> None:
    page = html(found)
    for part in (
        "val_loss by epoch",
        "extra of the winners",
        "gain in test_loss (positive: lower)",
        "test_loss of each search",
        "Forest plot. trees +0.100",
    ):
        assert part in page
    assert "Training loss of the winners" not in page
    assert "Learning rate of the winners" not in page
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert values["arms"][0]["numbers"]["extra"]["mean"] == [10.0, 20.0]
    assert (values["board"]["judge"], values["arms"][0]["rates"]) == ("test_loss", None)


def test_without_a_judge_metric_the_report_says_what_judges() -> None:
    text = markdown(found_of(own_spec((JUDGED, "choose: score, goal: maximize")), [0.5, 0.5, 0.6], [0.6, 0.7, 0.8]))
    assert "There is no judge metric: score, which chose the winners, judges them on fresh seeds." in text
    assert "- score chooses the settings, and judges them on fresh seeds; higher is better" in text
    assert "positive gain" not in text


def test_a_share_is_shown_in_percent() -> None:
    spec = own_spec((JUDGED, "choose: f1, goal: maximize, unit: points"))
    text = markdown(found_of(spec, [0.5, 0.52, 0.49], [0.6, 0.621, 0.589]))
    assert "| arm | f1 | f1 % | verdict |" in text
    assert re.search(r"beats ridge by 10\.00 ± \d\.\d\d points \(3", text)


def test_an_own_optimizers_arguments_and_learning_rates_are_shown() -> None:
    sgd = """\
  - name: sgd
    optimizer: torch.optim:SGD
    parameters: {lr: {min: 1e-3, max: 1.0, scale: log}, momentum: {min: 0.5, max: 0.99}}
    fixed: {nesterov: true, weight_decay: 0.001, schedule: cosine}
"""
    for schedule, planned in (("cosine", 80), ("mine:factor", 2)):
        spec = spec_of((NOAM, sgd))
        history = History(spec)
        arm = history.arms["sgd"]
        key = "search/sgd/0"
        begun = {"trial": key, "stage": "search", "arm": "sgd", "number": 0, "seed": 0, "round": 0}
        history.add("trial", **begun, hyper={**arm.setting(arm.default), "schedule": schedule}, knobs=dict(arm.default))
        history.add("attempt", trial=key, attempt=1, epoch=0)
        for epoch in (1, 2):
            history.add("epoch", trial=key, attempt=1, **report(epoch, 0.5, 0.5) | {"weight_decay": 0.001})
        history.add("end", trial=key, state="complete", reason=None, result={})
        record = history.record()
        found = findings(record, spec, build(record, spec))
        [ours] = [one for one in found.arms if one.row.arm == "sgd"]
        assert ours.settings.keys() == {"lr", "momentum", "nesterov", "weight_decay", "schedule"}
        assert ours.rates is not None
        assert (len(ours.rates.lr), ours.rates.reported_lr) == (planned, (0.001, 0.001))
        # The decay is an argument of the class: there is no plan to compare it with.
        assert not any((*ours.rates.weight_decay, *ours.rates.reported_weight_decay))
        text = markdown(found)
        assert "- sgd is the optimizer torch.optim:SGD; fixed: nesterov True, weight_decay 0.001" in text
        assert "`tuner export job-1 --best -o best.yaml && tuner reproduce best.yaml`" in text
        assert "Learning rate of the winners" in html(found)
