"""Exports of a job about methods: the best setting with its evidence, the claim, and files of the schema before."""

import json
from pathlib import Path

import pytest

from tests.tuner.method_jobs import PLACEBO, Searches, method_spec
from tuner.errors import IntegrityError, NotFound
from tuner.export.export_file import NEWEST, SCHEMA, Export, build_export, read_export, render
from tuner.spec.search_spec import SearchSpec
from tuner.storage.events import Outcome
from tuner.verdict.method import take_look
from tuner.verdict.ranking import build

OLDER = Path(__file__).parents[2] / "fixtures" / "version_0_1" / "finished"
SPEC = method_spec(PLACEBO)
FAMILIES = """\
families:
  annealing: {baseline: adam_l2, arms: [noam], alpha: 0.03}
  optimizer: {baseline: noam, arms: [adamw], alpha: 0.02}
"""
BASE = [0.70, 0.71, 0.69]
BETTER = [0.76, 0.772, 0.745]
BEST = [0.83, 0.841, 0.818]


def finished(spec: SearchSpec = SPEC, best: str = "noam") -> Searches:
    """noam beats the baseline, and adamw beats noam; the setting 2.1 of the best arm is confirmed on three seeds."""
    history = Searches(spec)
    history.searched({"adam_l2": BASE, "noam": BETTER, "adamw": BEST})
    if spec.placebo:
        history.searched({"placebo": [0.71, 0.70, 0.70]})
    look = take_look(history.record(), spec, 3)
    assert look is not None
    history.look(look.look, look.searches, look.outcomes)
    history.trained(f"select/{best}/2.1/10000", best, 2, 1, seed=10_000)
    history.add("confirm", round=1, seeds=[72, 70, 71], winners={best: 1}, searches={best: 2})
    for seed, test in ((72, 0.75), (70, 0.77), (71, 0.76)):
        history.trained(f"confirm/round/{best}/1/{seed}", best, 2, 1, seed=seed, test=test, round_number=1)
    history.add("state", state="finished")
    return history


def export_of(history: Searches, arm: str, spec: SearchSpec = SPEC) -> Export:
    record = history.record()
    runs = {"": "parent", f"search/{arm}/2.1": "found", f"confirm/round/{arm}/1/70": "tested"}
    return build_export(record, spec, build(record, spec), arm, runs)


def test_the_best_setting_has_its_own_evidence_and_the_verdict_on_its_method() -> None:
    found = export_of(finished(), "noam")
    assert (found.schema_version, found.claim, found.search_trial) == (SCHEMA, "method", "search/noam/2.1")
    # The evidence of the setting is its fresh seeds, and not the searches of the verdict.
    assert [(run.seed, run.test_acc) for run in found.confirm_runs] == [(72, 0.75), (70, 0.77), (71, 0.76)]
    assert found.test_mean_points == pytest.approx(76)
    assert (found.mlflow_parent_run, found.mlflow_search_run) == ("parent", "found")
    assert [run.mlflow_run for run in found.confirm_runs] == [None, "tested", None]
    assert (found.verdict, found.baseline) == (Outcome.BEATS, "adam_l2")
    assert found.comparison is not None
    assert (found.comparison["n"], found.comparison["look"]) == (3, 1)
    assert found.chosen_by.endswith("then the best mean of the 3 best winners of searches over 3 seeds")
    assert found.config.seed == 72
    assert found.config.data.seed == SPEC.seed


def test_in_families_the_export_names_the_baseline_that_its_verdict_is_about() -> None:
    spec = method_spec(FAMILIES)
    found = export_of(finished(spec, "adamw"), "adamw", spec)
    assert (found.verdict, found.baseline) == (Outcome.BEATS, "noam")
    assert found.comparison is not None
    assert found.comparison["mean_diff"] == pytest.approx(
        100 * sum(b - a for a, b in zip(BETTER, BEST, strict=True)) / 3
    )


def test_only_the_arm_whose_setting_was_confirmed_can_be_exported_and_the_message_names_the_way_out() -> None:
    with pytest.raises(NotFound, match=r"nothing to export.*arm adamw.*tuner confirm job-1 --seeds 5"):
        export_of(finished(), "adamw")
    with pytest.raises(NotFound, match=r"no arm 'adam' in job job-1 \(there are: adam_l2, noam, adamw, placebo\)"):
        export_of(finished(), "adam")


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_an_export_is_read_as_it_was_written_and_an_altered_claim_is_refused(tmp_path: Path, suffix: str) -> None:
    found, file = export_of(finished(), "noam"), tmp_path / f"noam{suffix}"
    file.write_text(render(found, suffix))
    assert read_export(file) == found
    altered = file.read_text().replace("method", "setting")
    assert altered != file.read_text()
    file.write_text(altered)
    with pytest.raises(IntegrityError, match="altered"):
        read_export(file)


@pytest.mark.parametrize("name", ["best.yaml", "best.json"])
def test_an_export_of_the_first_schema_is_read_and_its_claim_is_about_a_setting(name: str) -> None:
    found = read_export(OLDER / name)
    assert (found.schema_version, found.claim) == (1, "setting")
    assert "claim" not in found.plain()
    assert render(found, Path(name).suffix) == (OLDER / name).read_text()


def test_the_first_schema_has_no_claim(tmp_path: Path) -> None:
    values = export_of(finished(), "noam").plain(exclude={"sha256"})
    forged = Export.sealed({**values, "schema_version": 1, "claim": "method"})
    assert json.loads(render(forged, ".json")).keys() == values.keys() - {"claim"} | {"sha256"}


def test_a_newer_schema_is_refused_by_its_number(tmp_path: Path) -> None:
    values = export_of(finished(), "noam").plain(exclude={"sha256"})
    file = tmp_path / "newer.json"
    file.write_text(render(Export.sealed({**values, "schema_version": NEWEST + 1}), ".json"))
    with pytest.raises(IntegrityError, match=rf"newer tuner \(schema {NEWEST + 1}; this one reads up to {NEWEST}\)"):
        read_export(file)
