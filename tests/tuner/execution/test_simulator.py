"""``tuner run --simulate``: a whole job without training, told apart from a real one wherever it is shown."""

import json
from pathlib import Path

from tests.tuner.whole_jobs import SPEC, place
from tuner.storage.events import Stage, State


def test_a_simulated_search_goes_all_the_way_and_is_not_taken_for_a_real_one(tmp_path: Path) -> None:
    with place(tmp_path, SPEC.replace("trials: 3", "trials: 40")) as where:
        ended = where.tuner("run", "spec.yaml", "--simulate", "-q", "-o", "json")
        assert ended.code == 0, ended.err
        first = json.loads(ended.out)
        assert first["job"].startswith("tiny-simulated-")
        record = where.job.record()
        assert len(record.of(Stage.SEARCH)) == 3 * 40
        assert {trial.state for trial in record.trials.values()} == {State.COMPLETE, State.PRUNED}
        assert "**Simulated:" in where.job.summary.read_text()
        assert not where.job.export("adam_l2").exists()
        refused = where.tuner("export", "--best", "-o", "best.yaml")
        assert (refused.code, refused.err.count("\n")) == (2, 1)
        assert "is a simulation: nothing was trained" in refused.err
        again = json.loads(where.tuner("run", "spec.yaml", "--simulate", "-q", "-o", "json").out)
        assert {**again, "job": ""} == {**first, "job": ""}
