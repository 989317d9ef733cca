"""Syne Tune as in its guide: a training script, a launching script, its local backend, one worker per CPU.

Syne Tune writes its results to its own files, because it has no callback for MLflow. The trials of the task are its
``points_to_evaluate``, and the searcher proposes no others. Syne Tune drops duplicate points, so all points are made
different in the ninth digit.

It is installed into its own folder, without the packages for its other searchers. XGBoost would bring NCCL for another
CUDA version, which overwrites torch's files.
"""

import os
import sys
from pathlib import Path
from typing import Any

from benchmarks.peers.task import KNOBS, Done, Task

REQUIREMENTS = ("syne-tune==0.16.0", "dill==0.4.1")


def main(file: Path, folder: Path) -> Done:
    """Run the search."""
    from syne_tune import StoppingCriterion, Tuner
    from syne_tune.backend import LocalBackend
    from syne_tune.config_space import loguniform
    from syne_tune.optimizer.schedulers.searchers.random_searcher import RandomSearcher
    from syne_tune.optimizer.schedulers.single_fidelity_scheduler import SingleFidelityScheduler

    task = Task.read(file)
    points = [
        {knob: value * (1 + 1e-9 * number) for knob, value in point.items()}
        for number, point in enumerate(task.settings)
    ]
    space: dict[str, Any] = {knob: loguniform(low, high * 1.001) for knob, (low, high) in KNOBS.items()}

    class Listed(RandomSearcher):  # type: ignore[misc]
        def suggest(self) -> dict[str, Any] | None:
            point: dict[str, Any] | None = self._next_points_to_evaluate()
            return point

    tuner = Tuner(
        trial_backend=LocalBackend(entry_point=str(Path(__file__).with_name("syne_tune_trial.py"))),
        scheduler=SingleFidelityScheduler(
            space | {"task": str(file)},
            metrics=["loss"],
            searcher=Listed(space | {"task": str(file)}, points_to_evaluate=points),
        ),
        stop_criterion=StoppingCriterion(max_num_trials_finished=len(points)),
        n_workers=max(1, len(os.sched_getaffinity(0)) // task.cpus),
        tuner_name="peer",
    )
    tuner.run()
    status = tuner.tuning_status
    return Done(status.num_trials_completed, status.overall_metric_statistics.count)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2])).tell()
