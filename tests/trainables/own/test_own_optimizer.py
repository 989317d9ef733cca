"""A user's own optimizer: every class trains and resumes bit for bit, or one line says why it cannot."""

import inspect
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.trainables.own.user_optimizers import Still
from tests.trainables.small import TOY, smallest_trial
from trainables.config import ModelConfig, OptimizerConfig, TrialConfig
from trainables.data.device import DeviceSplits
from trainables.data.splits import Splits
from trainables.errors import CodeError, TrainableError
from trainables.hyper import Hyper
from trainables.own.optimizer import REQUIRED, arguments_of, check_argument, optimizer_class
from trainables.own.updates import OwnUpdates
from trainables.report import EpochReport
from trainables.training import checkpoints
from trainables.training.optimizer_check import check_optimizer, check_setting
from trainables.training.ray_trainable import continued
from trainables.training.trainer import Training, digest
from trainables.training.updates import Eager, Static

OWN = "tests.trainables.own.user_optimizers"
RESUMED, LAST = 2, 4

TORCH = [
    name for name, kind in inspect.getmembers(torch.optim, inspect.isclass) if issubclass(kind, torch.optim.Optimizer)
]
MISFITS: Mapping[str, str] = {
    "Optimizer": "torch.optim:Optimizer has no method `step` of its own; name an optimizer",
    "LBFGS": "torch.optim:LBFGS cannot be used: its step needs a closure, because it computes the loss several times",
    "SparseAdam": "torch.optim:SparseAdam: .* RuntimeError: SparseAdam does not support dense gradients",
    "Muon": "torch.optim:Muon raised ValueError: Muon only supports 2D parameters .*; it trains matrices only: choose",
}
"""The classes of ``torch.optim`` that cannot train elu_net, and what the user reads about each."""
MORE: Mapping[str, Mapping[str, Any]] = {
    "torch.optim:SGD": {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-3},
    "torch.optim:RMSprop": {"centered": True, "momentum": 0.5},
    "torch.optim:AdamW": {"amsgrad": True, "betas.1": 0.99, "foreach": True},
    "lion_pytorch:Lion": {"betas": [0.9, 0.95], "weight_decay": 0.1},
    "schedulefree:AdamWScheduleFree": {"warmup_steps": 3, "weight_decay": 0.01},
    "prodigyopt:Prodigy": {"weight_decay": 0.01, "slice_p": 11, "use_bias_correction": True},
}
"""Arguments, beside the defaults, that give an optimizer a further state."""
OTHERS = ("lion_pytorch:Lion", "schedulefree:AdamWScheduleFree", "prodigyopt:Prodigy", f"{OWN}:Plain", f"{OWN}:Kinds")
ALL = [
    *((f"torch.optim:{name}", {}) for name in TORCH if name not in MISFITS),
    *((name, {}) for name in (*OTHERS, f"{OWN}:TensorRate")),
    *MORE.items(),
]


def own(
    name: str, arguments: Mapping[str, Any] | None = None, groups: str | None = None, **changes: Any
) -> TrialConfig:
    """A tiny trial of elu_net with an own optimizer; ``hyper`` in changes replaces its rate and schedule."""
    hyper = Hyper(lr=1e-2, schedule="cosine")
    optimizer = OptimizerConfig(name, arguments or {}, groups and f"{OWN}:{groups}")
    return smallest_trial(
        "adam_l2", **{"hyper": hyper, "optimizer": optimizer, "epochs": LAST, "batch_size": 25, **changes}
    )


def few(splits: Splits, count: int = 50) -> Splits:
    return replace(splits, **{part: getattr(splits, part).take(np.arange(count)) for part in ("train", "val", "test")})


def epochs(training: Training, count: int) -> list[EpochReport]:
    return [replace(training.run_epoch(), seconds=0.0) for _ in range(count)]


def assert_resumes(trial: TrialConfig, splits: Splits, folder: Path, device: str = "cpu") -> Training:
    """Train straight, and with a checkpoint file and a new training in the middle; all bits are equal."""
    data = DeviceSplits(splits, torch.device(device))
    whole = Training(trial, data)
    start = digest(whole.weights())
    epochs(whole, RESUMED)
    checkpoints.save(str(folder), whole.state(), RESUMED, 1)
    expected = epochs(whole, LAST - RESUMED)
    resumed = continued(trial, data, checkpoints.newest(str(folder), [(RESUMED, 1)]))
    assert resumed.epoch == RESUMED
    assert epochs(resumed, LAST - RESUMED) == expected
    assert digest(resumed.state()) == digest(whole.state())
    assert resumed.evaluate("test") == whole.evaluate("test")
    assert digest(whole.weights()) != start
    return whole


# Every class.


@pytest.mark.parametrize(("name", "arguments"), ALL)
def test_an_optimizer_resumes_bit_for_bit(
    name: str, arguments: Mapping[str, Any], tiny: Splits, tmp_path: Path
) -> None:
    assert_resumes(own(name, arguments), few(tiny), tmp_path)


@pytest.mark.parametrize("name", MISFITS)
def test_a_class_of_torch_that_cannot_train_the_net_is_refused_in_one_line(name: str, tiny: Splits) -> None:
    with pytest.raises(CodeError, match=MISFITS[name]) as refused:
        check_optimizer(own(f"torch.optim:{name}"), tiny)
    assert "\n" not in str(refused.value)


def test_muon_trains_the_matrices_that_a_function_of_groups_gives_it(tiny: Splits, tmp_path: Path) -> None:
    trial = own("torch.optim:Muon", {"ns_steps": 2}, groups="matrices", model=TOY)
    said: list[str] = []
    check_optimizer(trial, tiny, said.append)
    assert said[0] == "checking the optimizer: torch.optim:Muon takes 2 updates on the CPU"
    assert said[1:] == ["note: 130 of 770 weights are in no parameter group, so they are never trained"]
    assert_resumes(trial, few(tiny), tmp_path)


def test_the_muon_of_the_study_of_optimizers_trains_hidden_layers_and_the_others_with_adam(
    tiny: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "searches"))
    trial = replace(own("optimizers:Muon"), optimizer=OptimizerConfig("optimizers:Muon", {}, "optimizers:hidden"))
    said: list[str] = []
    check_optimizer(trial, tiny, said.append)
    assert len(said) == 1
    training = assert_resumes(trial, few(tiny), tmp_path)
    assert [len(group["params"]) for group in training.optimizer.param_groups] == [9, 2]
    # Its first update is that of torch's Muon on the filters as the rows of a matrix.
    training = Training(replace(trial, hyper=Hyper(lr=1e-2, schedule="constant")), few(tiny, 25))
    weight = training.optimizer.param_groups[0]["params"][1]
    matrix = nn.Parameter(weight.detach().flatten(1).clone())
    training.optimizer.register_step_pre_hook(lambda *_: setattr(matrix, "grad", weight.grad.flatten(1).clone()))
    training.run_epoch()
    torch.optim.Muon([matrix], lr=1e-2, weight_decay=0.01, adjust_lr_fn="match_rms_adamw").step()  # type: ignore[no-untyped-call]
    assert weight.ndim == 4
    assert torch.equal(weight.detach().flatten(1), matrix)


@pytest.mark.parametrize("name", [*OTHERS, "torch.optim:SGD", "torch.optim:Adafactor", f"{OWN}:Anything"])
def test_a_good_optimizer_passes_the_check(name: str, tiny: Splits) -> None:
    said: list[str] = []
    check_optimizer(own(name, model=TOY), tiny, said.append)
    assert said == [f"checking the optimizer: {name} takes 2 updates on the CPU"]


def test_a_warm_up_that_is_longer_than_the_check_is_no_mistake(tiny: Splits) -> None:
    check_optimizer(own("torch.optim:SGD", model=TOY, hyper=Hyper(lr=1e-2, schedule="noam", warmup=100)), few(tiny, 25))


# Mistakes.


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_package_:Lion", "there is no module 'no_such_package_' to import"),
        (f"{OWN}:Plane", "has no attribute 'Plane'"),
        (f"{OWN}:built", ":built is an optimizer that is built already; name its class, SGD$"),
        (f"{OWN}:function", ":function is a function; name a subclass of torch.optim.Optimizer, for example torch.o"),
        (f"{OWN}:RATE", "has no attribute"),
        ("math:pi", "math:pi is an object of type float; name a subclass"),
        ("torch.optim.lr_scheduler:StepLR", ":StepLR is a class, but no subclass of torch.optim.Optimizer$"),
        (f"{OWN}:WithoutRate", ":WithoutRate cannot be used: it has no argument `lr` for the learning rate$"),
    ],
)
def test_what_is_no_optimizer_class_is_refused(name: str, message: str) -> None:
    with pytest.raises(CodeError, match=message):
        optimizer_class(name)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("Still", {}, ":Still does not move the weights: 2 updates changed none of them$"),
        ("Exploding", {}, ":Exploding: the loss is not finite after one update with the learning rate 0.01$"),
        ("Failing", {}, r":Failing: training it raised ZeroDivisionError: no such luck \(.*user_optimizers.py:\d+\)$"),
        ("Functions", {}, r":Functions: its state has state_dict\(\).param_groups\[0\].rule of type builtin_func"),
        ("Later", {}, ":Later does not resume from a checkpoint: it continues in another way than without one; keep"),
        ("Kept", {}, ":Kept does not resume from a checkpoint: it continues in another way than without one; keep"),
        ("Hidden", {}, ":Hidden keeps no `lr` in its parameter groups, so no schedule can set it$"),
        ("Plain", {"momentum": 0.9}, r":Plain has no argument 'momentum' \(there are: lr, weight_decay\)$"),
        ("Plain", {"weight_deca": 0.9}, "no argument 'weight_deca'; did you mean 'weight_decay'?"),
        ("Plain", {"weight_decay": "much"}, ":Plain: training it raised TypeError: "),
        ("Anything", {"momentum": -1.0}, ":Anything raised ValueError: Invalid momentum value: -1.0 "),
    ],
)
def test_a_mistake_is_told_in_one_line(name: str, arguments: Mapping[str, Any], message: str, tiny: Splits) -> None:
    with pytest.raises(CodeError, match=message) as refused:
        check_optimizer(own(f"{OWN}:{name}", arguments, model=TOY), tiny)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ("strangers", ":strangers: a parameter group holds something other than parameters of the model$"),
        (
            "no_groups",
            r":no_groups returned an empty list, not a list of parameter groups such as \[\{'params'",
        ),
        ("parameters", ":parameters: making the parameter groups raised "),
        ("built", ":built is no function"),
    ],
)
def test_a_mistake_in_parameter_groups_is_told_in_one_line(groups: str, message: str, tiny: Splits) -> None:
    with pytest.raises(CodeError, match=message):
        Training(own("torch.optim:SGD", groups=groups, model=TOY), tiny)


def test_the_check_tells_of_random_numbers_that_no_seed_determines(
    tiny: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng()

    def noisy(self: torch.optim.Optimizer, closure: None = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.data += float(generator.normal(0, 1e-3))

    monkeypatch.setattr(Still, "step", noisy)
    said: list[str] = []
    check_optimizer(own(f"{OWN}:Still", model=TOY), tiny, said.append)
    assert "two trainings of the same seed differ" in said[-1]


# Arguments.


def test_the_arguments_of_a_class_and_their_defaults() -> None:
    assert dict(arguments_of(f"{OWN}:Plain") or {}) == {"lr": 0.1, "weight_decay": 0.0}
    assert (arguments_of("lion_pytorch:Lion") or {})["betas"] == (0.9, 0.99)
    assert (arguments_of(f"{OWN}:Hidden") or {})["lr"] is REQUIRED
    assert arguments_of(f"{OWN}:Anything") is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("beta2", "no argument 'beta2'; did you mean 'betas.1'?"),
        ("betas.2", "no argument 'betas.2': its numbers are counted from 0 to 1"),
        ("betas.x", "no argument 'betas.x'"),
        ("eps.0", "no argument 'eps.0': the default of 'eps' is no tuple"),
        ("params", "no argument 'params'"),
    ],
)
def test_a_wrong_name_of_an_argument(name: str, message: str) -> None:
    with pytest.raises(CodeError, match=message):
        check_argument("torch.optim:Adam", name)
    check_argument("torch.optim:Adam", "betas.1")
    check_argument(f"{OWN}:Anything", name)


def test_one_number_of_a_tuple_is_an_argument_too(tiny: Splits) -> None:
    trial = own("torch.optim:Adam", {"betas.1": 0.5, "betas": [0.8, 0.9]}, model=TOY)
    assert Training(TrialConfig.from_dict(trial.to_dict()), tiny).optimizer.param_groups[0]["betas"] == (0.8, 0.5)
    trial = own("torch.optim:Adam", {"betas.0": 0.7}, model=TOY)
    assert Training(trial, tiny).optimizer.param_groups[0]["betas"] == (0.7, 0.999)


def test_a_value_that_the_class_refuses_at_the_end_of_a_range_is_told(tiny: Splits) -> None:
    check_setting(own("torch.optim:SGD", {"momentum": 0.9}, model=TOY), tiny)
    with pytest.raises(CodeError, match=r"^torch.optim:SGD raised ValueError: Invalid momentum value: -0.1$"):
        check_setting(own("torch.optim:SGD", {"momentum": -0.1}, model=TOY), tiny)
    scheduled = own("torch.optim:SGD", model=TOY, hyper=Hyper(lr=1e-2, schedule=f"{OWN}:failing"))
    with pytest.raises(CodeError, match=":failing"):
        check_setting(replace(scheduled, optimizer=None), tiny)


# The learning rate.


def test_adam_as_an_own_optimizer_gives_the_bits_of_the_built_in_one(tiny: Splits) -> None:
    hyper = Hyper(lr=1e-2, schedule="cosine")
    built_in = Training(smallest_trial("adam_l2", hyper=hyper), tiny, updates=Eager)
    as_own = Training(own("torch.optim:Adam", {"fused": True}, batch_size=50, epochs=6), tiny)
    assert epochs(built_in, 2) == epochs(as_own, 2)
    assert digest(built_in.weights()) == digest(as_own.weights())


def rates(training: Training) -> list[list[float]]:
    """The learning rates of all groups at every update of the next epoch."""
    seen: list[list[float]] = []
    training.optimizer.register_step_post_hook(
        lambda *_: seen.append([float(group["lr"]) for group in training.optimizer.param_groups])
    )
    training.run_epoch()
    return seen


def test_groups_keep_the_ratio_of_their_rates_through_the_schedule_and_a_resume(tiny: Splits, tmp_path: Path) -> None:
    hyper = Hyper(lr=1e-2, schedule=f"{OWN}:linear")
    trial = own("torch.optim:SGD", {"momentum": 0.9}, groups="two_rates", hyper=hyper, model=TOY)
    data = few(tiny)
    assert_resumes(trial, data, tmp_path)
    training = Training(trial, data)
    # Four epochs of two updates.
    assert [pytest.approx([0.02 * (1 - step / 8), 0.01 * (1 - step / 8)]) for step in range(2)] == rates(training)
    resumed = Training(trial, data)
    resumed.load_state(training.state())
    assert rates(resumed)[0] == pytest.approx([0.02 * 6 / 8, 0.01 * 6 / 8])
    assert training.run_epoch().lr == pytest.approx(0.01 * 5 / 8)
    assert [group["weight_decay"] for group in training.optimizer.param_groups] == [0, 0.1]


def test_a_rate_that_is_a_tensor_follows_the_schedule(tiny: Splits) -> None:
    trial = own(f"{OWN}:TensorRate", hyper=Hyper(lr=1e-2, schedule=f"{OWN}:linear"), model=TOY)
    assert rates(Training(trial, few(tiny))) == [pytest.approx([0.01]), pytest.approx([0.01 * 7 / 8])]


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("negative", r":negative\(5, 8\) returned -0.25; a factor is a finite number, at least 0$"),
        ("a_text", r":a_text\(0, 8\) returned 'fast'; a factor is"),
        ("failing", r":failing\(0, 8\) raised ZeroDivisionError: division by zero \(.*user_optimizers.py:\d+\)$"),
        ("one_argument", r":one_argument\(0, 8\) raised TypeError: .*takes 1 positional argument"),
        ("zero", ":zero is 0 at every update: the training would not change any weight$"),
        ("Plain", r":Plain is no function: a schedule is a function \(step, total\) -> factor"),
    ],
)
def test_a_mistake_in_a_schedule_is_told_in_one_line(schedule: str, message: str, tiny: Splits) -> None:
    hyper = Hyper(lr=1e-2, schedule=f"{OWN}:{schedule}")
    with pytest.raises(TrainableError, match=message) as refused:
        check_optimizer(replace(own("torch.optim:SGD", model=TOY, hyper=hyper), optimizer=None), few(tiny))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", [Eager, Static])
def test_an_own_schedule_serves_the_built_in_optimizer_too(kind: type[Eager] | type[Static], tiny: Splits) -> None:
    hyper = Hyper(lr=1e-2, schedule=f"{OWN}:linear")
    training = Training(smallest_trial("adam_l2", hyper=hyper, model=TOY), tiny, updates=kind)
    assert [training.run_epoch().lr for _ in range(6)] == pytest.approx(
        [0.01 * (1 - (4 * e - 1) / 24) for e in range(1, 7)]
    )


# Optimizers that evaluate other weights than they train.


def with_norm(classes: int, shape: tuple[int, int, int]) -> nn.Module:
    return nn.Sequential(nn.AvgPool2d(8), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, classes))


NORM = ModelConfig("tests.trainables.own.test_own_optimizer:with_norm")
SCHEDULE_FREE = "schedulefree:AdamWScheduleFree"


def test_evaluation_export_and_checkpoint_have_the_averaged_weights(tiny: Splits) -> None:
    training = Training(own(SCHEDULE_FREE, model=TOY, hyper=Hyper(lr=1e-2, schedule="constant")), few(tiny))
    epochs(training, 2)
    optimizer: Any = training.optimizer
    averaged, evaluated = training.weights(), training.evaluate("val")
    assert optimizer.param_groups[0]["train_mode"] is False
    optimizer.train()
    trained = training.weights()
    assert digest(trained) != digest(averaged)
    assert training.evaluate("val") != evaluated
    # x = y + (z - y) * (1 - 1 / beta1), equation of the paper solved for the averaged weights.
    for index, (name, _) in enumerate(training.model.named_parameters()):
        z = optimizer.state_dict()["state"][index]["z"]
        assert torch.allclose(averaged[name], trained[name] + (z - trained[name]) * (1 - 1 / 0.9), atol=1e-6)


def test_the_statistics_of_batch_normalisation_belong_to_the_averaged_weights(tiny: Splits, tmp_path: Path) -> None:
    trial = own(SCHEDULE_FREE, model=NORM, hyper=Hyper(lr=0.1, schedule="constant"))
    training = assert_resumes(trial, few(tiny), tmp_path)
    seen: list[Tensor] = []
    norm = training.model.get_submodule("2")
    norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    # All training images stand in the batches of the update, without augmentation.
    data = training.data.train
    training.model.eval()
    with torch.no_grad():
        training.updates.net.logits(data.images_BHWC)
    assert torch.allclose(norm.get_buffer("running_mean"), seen[0].mean((0, 2, 3)), atol=1e-5)
    plain = Training(replace(trial, optimizer=OptimizerConfig("torch.optim:SGD")), few(tiny))
    plain.run_epoch()
    assert plain.model.get_submodule("2").get_buffer("num_batches_tracked") == 2  # nothing is computed anew


# Checkpoints of other trials.


@pytest.mark.parametrize("own_first", [True, False])
def test_a_checkpoint_of_another_kind_of_optimizer_is_refused(
    own_first: bool, tiny: Splits, caplog: pytest.LogCaptureFixture
) -> None:
    data = DeviceSplits(few(tiny), torch.device("cpu"))
    trial = own("torch.optim:Adam", model=TOY)
    first, second = (trial, replace(trial, optimizer=None))[:: 1 if own_first else -1]
    training = Training(first, data)
    training.run_epoch()
    assert continued(second, data, [training.state()]).epoch == 0
    assert "does not fit the model" in caplog.text


def test_a_job_of_an_older_version_gives_the_same_plain_values() -> None:
    assert {"optimizer", "shift"}.isdisjoint(smallest_trial("adam_l2").to_dict())
    changed = own("torch.optim:SGD", {"momentum": 0.5}, groups="matrices", shift=2)
    assert changed.to_dict()["optimizer"] == {
        "name": "torch.optim:SGD",
        "arguments": {"momentum": 0.5},
        "groups": f"{OWN}:matrices",
    }
    assert TrialConfig.from_dict(changed.to_dict()) == changed


# The strength of the augmentation.


@pytest.mark.parametrize("shift", [0, 1, 16])
def test_both_forms_of_the_updates_shift_by_the_trials_pixels(shift: int, tiny: Splits) -> None:
    trial = smallest_trial("adam_l2", model=TOY, augment="flip_crop", shift=shift)
    eager, static = (Training(trial, few(tiny), updates=kind) for kind in (Eager, Static))
    losses = [[report.val_loss for report in epochs(training, 2)] for training in (eager, static)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    usual = Training(replace(trial, shift=4), few(tiny))
    assert epochs(usual, 2) != epochs(Training(trial, few(tiny)), 2)


# On a GPU.


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", [*OTHERS, "torch.optim:SGD", "torch.optim:Adam", "torch.optim:Adafactor"])
def test_an_optimizer_runs_uncaptured_on_cuda_and_resumes_bit_for_bit(name: str, tiny: Splits, tmp_path: Path) -> None:
    trial = own(name, MORE.get(name), deterministic=True, gpu=True)
    training = assert_resumes(trial, few(tiny), tmp_path, "cuda")
    assert isinstance(training.updates, OwnUpdates)
