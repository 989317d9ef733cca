"""The built-in trainable under Ray Tune's own ``Tuner``: the promise that it is an ordinary ``Trainable``."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.trainables.small import TOY, smallest_trial
from trainables.data.splits import Splits
from trainables.training.ray_trainable import TrialTrainable

RATES = (1e-3, 1e-2)
CODE = """
import json, sys
from pathlib import Path
from cluster.runtime import embedded_ray
from ray import tune
from trainables.training.ray_trainable import TrialTrainable

folder, config, rates = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
config["trial"]["hyper"]["lr"] = tune.grid_search(rates)
config["checkpoints"] = str(folder / "checkpoints")
with embedded_ray(2, 0, folder / "r"):
    tuner = tune.Tuner(
        TrialTrainable,
        param_space=config,
        tune_config=tune.TuneConfig(metric="val_acc", mode="max", reuse_actors=True, max_concurrent_trials=1),
        run_config=tune.RunConfig(storage_path=str(folder / "results"), name="ours", verbose=0),
    )
    results = tuner.fit()
    assert not results.errors
    best = results.get_best_result()
    found = {result.config["trial"]["hyper"]["lr"]: result.metrics for result in results}
    print(json.dumps({
        "best": best.config["trial"]["hyper"]["lr"],
        "found": [[rate, found[rate]["training_iteration"], found[rate]["val_loss"]] for rate in rates],
    }))
"""


@pytest.mark.slow
def test_it_searches_under_a_tuner_of_tunes(cache_dir: Path, tiny: Splits, tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "trial": smallest_trial("adam_l2", model=TOY, epochs=2).to_dict(),
        "cache_dir": str(cache_dir),
        "read_test": False,
        "weights_path": None,
        "attempt": 1,
        "accepted": [],
        "checkpoint_s": 3600.0,
        "lonely_s": 3600.0,
    }
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HOME": str(tmp_path)}
    with tempfile.TemporaryDirectory(prefix="tr", dir="/tmp") as folder:
        command = [sys.executable, "-c", CODE, folder, json.dumps(config), json.dumps(RATES)]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)
        assert ended.returncode == 0, ended.stderr
    answer = json.loads(ended.stdout.splitlines()[-1])
    expected = []
    for rate in RATES:
        trial = smallest_trial("adam_l2", {"lr": rate}, model=TOY, epochs=2).to_dict()
        direct = TrialTrainable({**config, "trial": trial, "checkpoints": str(tmp_path / "unused")})
        last = [direct.train() for _ in range(2)][-1]  # type: ignore[no-untyped-call]
        expected.append((rate, last["val_loss"], last["val_acc"]))
    assert answer["found"] == [[rate, 2, loss] for rate, loss, _ in expected]
    assert answer["best"] in [rate for rate, _, acc in expected if acc == max(acc for *_, acc in expected)]
