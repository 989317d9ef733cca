"""Measures how many trials a GPU should run at once, for a job with ``resources: auto``.

Trials that share a GPU use each other's idle times, until they slow each other down. The best number depends on the
device, the net, the batch and the precision. So a trial of the job runs in 1, 2, 4 and 8 processes at once, for a few
seconds each. The result is kept in the job's folder.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from cluster.runtime import gpu_model, usable_cpus, usable_gpus
from trainables.config import TrialConfig
from tuner.errors import SpecError
from tuner.jobs.job_folder import JobFolder
from tuner.spec.search_spec import MOST_PER_GPU, SearchSpec
from tuner.storage.atomic_files import write_atomically

AT_ONCE = (1, 2, 4, MOST_PER_GPU)
SECONDS = 4.0
GAIN = 1.03
"""More trials at once must raise the rate by this factor, because a sampler learns less from concurrent trials."""

Rates = Mapping[int, float | None]
"""Trials at once on one GPU to images per second of all of them; None if they ran out of memory."""
Measure = Callable[[int], float | None]


def best(rates: Rates) -> int:
    """The number of trials to run at once: the fewest whose rate is close to the highest.

    Raises:
        SpecError: one trial alone does not fit.
    """
    fitting = {trials: rate for trials, rate in rates.items() if rate is not None}
    if not fitting:
        raise SpecError("resources: auto: one trial alone runs out of the GPU's memory; take a smaller batch or net")
    most = max(fitting.values())
    return min(trials for trials, rate in fitting.items() if rate * GAIN >= most)


def measured(measure: Measure, asked: Callable[[], bool] = lambda: False) -> dict[int, float | None]:
    """Try more and more trials at once, until they run out of memory or their total rate falls.

    Args:
        measure: images per second of a number of trials at once; None if they ran out of memory.
        asked: whether to stop before the next try.
    """
    rates: dict[int, float | None] = {}
    for trials in AT_ONCE:
        if asked():
            break
        rates[trials] = rate = measure(trials)
        before = max((known for known in rates.values() if known is not None), default=0.0)
        if rate is None or rate < before:
            break
    return rates


def with_measured_packing(
    spec: SearchSpec,
    trial: TrialConfig,
    folder: JobFolder,
    measure: Callable[[TrialConfig, int], float | None],
    announce: Callable[[str], None],
    asked: Callable[[], bool],
) -> SearchSpec:
    """Replace ``auto`` in a spec by figures. They are measured unless the job was measured on such a device before.

    Args:
        spec: the job's spec.
        trial: one of its trials.
        folder: the folder that keeps the result.
        measure: images per second of a number of trials at once on a GPU; None if they ran out of memory.
        announce: called with the result in one line.
        asked: whether the job was asked to stop.

    Raises:
        SpecError: the trial does not fit.
        TrainableError: the trial fails.
    """
    if not usable_gpus():
        announce(f"resources: auto: {expected(spec)}")
        return with_packing(spec, None)
    on_gpu, of = dataclasses.replace(trial, gpu=True), _measured_of(trial)
    rates = _kept(folder.packing, of)
    if rates is None:
        announce(
            f"resources: auto: measuring {', '.join(map(str, AT_ONCE))} trials at once on a GPU ({of['device']}) ..."
        )
        rates = measured(partial(measure, on_gpu), asked)
        if asked():
            return with_packing(spec, 1)
        kept = {"of": of, "rates": rates, "trials_per_gpu": best(rates)}
        write_atomically(folder.packing, json.dumps(kept, indent=1).encode())
    announce(f"resources: auto: {described(rates)}")
    return with_packing(spec, best(rates))


def expected(spec: SearchSpec) -> str | None:
    """What ``auto`` will become on this machine, as far as is known before a run; None if the spec gives figures."""
    if not spec.resources.auto:
        return None
    if not usable_gpus():
        return f"no GPU here: one thread a trial, {spec.concurrent_on(usable_cpus(), 0)} at once"
    return f"a run begins by measuring 1 to {MOST_PER_GPU} trials at once on a GPU ({gpu_model()})"


def described(rates: Rates) -> str:
    """The measured rates and the chosen number, in one line."""
    found = ", ".join(
        f"{trials} at once {'out of memory' if rate is None else f'{rate:,.0f} images/s'}"
        for trials, rate in rates.items()
    )
    return f"{best(rates)} trials at once on a GPU ({found})"


def as_packed(spec: SearchSpec, folder: JobFolder) -> SearchSpec:
    """The spec with the figures that replaced ``auto`` when the job last ran on a GPU."""
    kept = _read(folder.packing) if spec.resources.auto else None
    return spec if kept is None else with_packing(spec, int(kept["trials_per_gpu"]))


def with_packing(spec: SearchSpec, trials_per_gpu: int | None) -> SearchSpec:
    """The spec with a number of trials on each GPU; with None, one thread per trial and no GPU."""
    gpus = 1 / trials_per_gpu if trials_per_gpu else 0.0
    resources = spec.resources.model_copy(update={"auto": False, "cpus": 1, "gpus": gpus})
    budget = spec.budget if gpus else spec.budget.model_copy(update={"max_gpu_hours": None})
    return spec.model_copy(update={"resources": resources, "budget": budget}).from_origin(spec.origin)


def _measured_of(trial: TrialConfig) -> dict[str, Any]:
    """Everything that the result depends on."""
    return {
        "device": gpu_model(),
        "model": [trial.model.name, dict(trial.model.options)],
        "batch_size": trial.batch_size,
        "precision": trial.precision,
        "deterministic": trial.deterministic,
        "cuda_graph": trial.cuda_graph,
    }


def _kept(path: Path, of: Mapping[str, Any]) -> dict[int, float | None] | None:
    kept = _read(path)
    if kept is None or kept["of"] != of:
        return None
    return {int(trials): rate for trials, rate in kept["rates"].items()}


def _read(path: Path) -> dict[str, Any] | None:
    with suppress(OSError, ValueError):
        kept = json.loads(path.read_bytes())
        if isinstance(kept, dict) and kept.keys() == {"of", "rates", "trials_per_gpu"}:
            return kept
    return None  # measured again
