"""Warm starts: the ended trials of an earlier job, from which an arm's sampler learns.

They are written into the job's own journal, so that the job needs the earlier one only once.
"""

from collections.abc import Iterator, Sequence

from trainables.space import Plan
from tuner.errors import IntegrityError, NotFound
from tuner.jobs.record import Record, Trial
from tuner.jobs.workspace import LATEST, Workspace
from tuner.spec.arms import Arm, recorded_arms
from tuner.spec.messages import InvalidValue
from tuner.spec.search_spec import SearchSpec
from tuner.storage.events import EarlierTrial, EarlierTrials, Stage, State

THERE = "; the earlier job must lie in the workspace in which this job runs"


def earlier_trials(
    workspace: Workspace,
    job: str,
    record: Record,
    spec: SearchSpec,
    arms: Sequence[Arm],
    plan: Plan,
    data_fingerprint: str,
    *,
    simulated: bool,
) -> Iterator[EarlierTrials]:
    """The trials from which the samplers of a job's arms learn: for each arm with ``warm_start`` that lacks them.

    Args:
        workspace: the workspace of the job.
        job: its id.
        record: what its journal says.
        spec, arms, plan: its spec, its arms, and the length of its trials.
        data_fingerprint: fingerprint of its data.
        simulated: whether it trains nothing.

    Raises:
        SpecError: the earlier job cannot be read, or its trials are not comparable.
    """
    for index, given in enumerate(spec.arms):
        if given.warm_start is None or given.name in record.earlier:
            continue
        try:
            earlier = _record(workspace, job, given.warm_start)
            problem = _difference(earlier, spec, plan, data_fingerprint, simulated)
            arm = next(arm for arm in arms if arm.name == given.name)
            problem = problem or _arm_difference(earlier, arm)
            trials = [trial for trial in earlier.of(Stage.SEARCH, arm.name) if trial.state != State.RUNNING]
            if problem or not trials:
                raise InvalidValue(f"job {earlier.name} {problem or f'has no ended trials of arm {arm.name}'}")
        except InvalidValue as wrong:
            raise spec.origin.error(wrong.under("arms", index, "warm_start")) from None
        ended = sorted(trials, key=lambda trial: trial.ended_n or 0)
        key = spec.metric.key
        yield EarlierTrials(arm.name, earlier.name, tuple(_as_earlier(trial, key) for trial in ended))


def check_earlier_jobs(workspace: Workspace, spec: SearchSpec) -> None:
    """Refuse a spec whose warm starts name a job that is not in the workspace.

    Raises:
        NotFound: there is no such job, or several fit.
    """
    for index, given in enumerate(spec.arms):
        # The name of the latest job is refused for a better reason, when the job begins.
        if given.warm_start is not None and given.warm_start != LATEST:
            try:
                workspace.job(given.warm_start)
            except NotFound as error:
                raise NotFound(spec.origin.tell(("arms", index, "warm_start"), f"{error}{THERE}")) from None


def _record(workspace: Workspace, job: str, wanted: str) -> Record:
    if wanted == LATEST:
        raise InvalidValue("is 'latest', which soon is another job; write the id of the earlier job")
    try:
        folder = workspace.job(wanted)
        if folder.id == job:
            raise InvalidValue(f"{wanted!r} is this job itself; write the id of an earlier job")
        return folder.record()
    except NotFound as error:
        raise InvalidValue(f"{error}{THERE}") from None
    except IntegrityError as error:
        raise InvalidValue(str(error)) from None


def _difference(earlier: Record, spec: SearchSpec, plan: Plan, fingerprint: str, simulated: bool) -> str | None:
    """Why the trials of an earlier job cannot be compared with those of this one; None if they can."""
    then, metric = earlier.spec, spec.metric
    if earlier.simulated != simulated:
        return "is a simulation, and this one is not" if earlier.simulated else "is not a simulation, as this one is"
    if (then.metric.key, then.metric.maximize) != (metric.key, metric.maximize):
        return f"has the metric {then.metric.choose_label}, and this one has {metric.choose_label}"
    if then.searches:
        return "has claim: method, where each search has its own split and seeds; it must have claim: setting"
    if earlier.job.data_fingerprint != fingerprint:
        return (
            f"has other data, or another split of them: its fingerprint is {earlier.job.data_fingerprint[:16]}…, not "
            f"{fingerprint[:16]}…; the data and the seed of the split must be the same (seed was {then.seed}, and is "
            f"{spec.seed})"
        )
    if then.seed != spec.seed:
        return f"has seed: {then.seed}, and this one seed: {spec.seed}; it must be the same, with the same split"
    if earlier.plan != plan:
        lengths = [f"{one.epochs} epochs of {one.steps_per_epoch} updates" for one in (earlier.plan, plan)]
        return f"has trials of {lengths[0]}, and this one of {lengths[1]}"
    if then.model != spec.model:
        return "has another model; it must be the same one"
    others = {
        "data.augment": (then.data.augment, spec.data.augment),
        "resources.precision": (then.resources.precision, spec.resources.precision),
        "pass": (list(then.passed), list(spec.passed)),
    }
    for key, (old, new) in others.items():
        if old != new:
            return f"has {key}: {old}, and this one has {new}; it must be the same"
    return None


def _arm_difference(earlier: Record, arm: Arm) -> str | None:
    known = recorded_arms(earlier.spec, earlier.plan, earlier.job.ranges)
    then = next((other for other in known if other.name == arm.name), None)
    if then is None:
        return f"has no arm {arm.name}; its arms are {', '.join(earlier.arms)}"
    if (then.kind, then.variant) != (arm.kind, arm.variant):
        return f"has {then.variant} in the arm {arm.name}, and this one has {arm.variant}"
    if dict(then.fixed) != dict(arm.fixed):
        return f"has other fixed values in the arm {arm.name}; they must be the same"
    for knob in {**then.space, **arm.space}:
        ranges = [one.searched(knob) if knob in one.space else "no range" for one in (then, arm)]
        if then.space.get(knob) != arm.space.get(knob) or ranges[0] != ranges[1]:
            return f"has {ranges[0]} for {knob} in the arm {arm.name}, and this one has {ranges[1]}"
    return None


def _as_earlier(trial: Trial, key: str) -> EarlierTrial:
    if not trial.epochs:
        return EarlierTrial(trial.knobs, trial.state, 0, None)
    last = trial.epochs[-1]
    return EarlierTrial(trial.knobs, trial.state, last.epoch, last.metric(key))
