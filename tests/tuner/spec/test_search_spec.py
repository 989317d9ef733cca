"""The spec: values that are refused with their place, values that are accepted, and the schema for editors."""

import copy
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
from pydantic import BaseModel

from tests.tuner.spec_texts import NOAM, SPEC, more, noam, search, spec_of
from trainables.catalog import DATASETS
from trainables.variants import VARIANTS
from tuner.errors import SpecError
from tuner.spec.checks import check
from tuner.spec.json_schema import json_schema
from tuner.spec.search_spec import SearchSpec, fingerprint, from_dict, from_document, load, starter, to_dict
from tuner.spec.strict_yaml import read_text
from tuner.spec.trial_config import data_request

BAD: dict[str, tuple[tuple[str, str], int, str, str]] = {
    # case: (edit, line, key path, part of the message)
    "unknown key": (more("bugdet: 1\n"), 13, "bugdet", "did you mean 'budget'?"),
    "unknown key like an alias": (more("passed: [seed]\n"), 13, "passed", "baseline, arms, pass, parameters,"),
    "unknown nested key": (
        more("sampler: {nam: tpe}\n"),
        13,
        "sampler.nam",
        "allowed keys: name, startup_trials",
    ),
    "unknown arm key": (noam("fix: {}"), 10, "arms[1].fix", "did you mean 'fixed'?"),
    "unknown range key": (search("lr", "{mim: 1}"), 14, "parameters.lr.mim", "did you mean 'min'?"),
    "missing key": (("  epochs: 8\n", ""), 10, "budget.epochs", "is missing"),
    "missing section": (("name: job\n", ""), 1, "name", "is missing"),
    "missing variant": (("variant: noam", "name: noam"), 9, "arms[1]", "has none of them; an arm has one of"),
    "null for a number": (("trials: 4", "trials:"), 11, "budget.trials", "is null; must be a whole number"),
    "text for a number": (
        ("trials: 4", "trials: '4'"),
        11,
        "budget.trials",
        "is '4'; must be a whole number",
    ),
    "yes for a number": (("trials: 4", "trials: yes"), 11, "budget.trials", "is 'yes'"),
    "a date for a number": (("trials: 4", "trials: 2024-01-01"), 11, "budget.trials", "is '2024-01-01'"),
    "a fraction for a whole number": (("trials: 4", "trials: 4.5"), 11, "budget.trials", "whole number"),
    "a bool for a whole number": (("trials: 4", "trials: true"), 11, "budget.trials", "is true"),
    "a bool for a number": (("name: elu_net", "name: elu_net\n  width: true"), 6, "model.width", "is true"),
    "a number for a bool": (
        more("resources: {deterministic: 1}\n"),
        13,
        "resources.deterministic",
        "true or false",
    ),
    "a number for text": (("name: job", "name: 5"), 1, "name", "must be text"),
    "text for a section": (("data:\n  name: digits", "data: digits"), 2, "data", "must be a mapping"),
    "a list for a section": (more("confirm: [1]\n"), 13, "confirm", "must be a mapping"),
    "a mapping for a list": (
        ("arms:\n  - adam_l2\n  - variant: noam", "arms: {}"),
        7,
        "arms",
        "must be a list",
    ),
    "a number for an arm": (("- adam_l2", "- 3"), 8, "arms[0]", "must be a mapping"),
    "one arm": ((NOAM, ""), 7, "arms", "must have at least 2"),
    "no arms": (("arms:\n  - adam_l2\n  - variant: noam", "arms: []"), 7, "arms", "must have at least 2"),
    "negative seed": (more("seed: -1\n"), 13, "seed", "at least 0"),
    "huge seed": (more("seed: 2147483648\n"), 13, "seed", "below 2147483648"),
    # names
    "name with a slash": (("name: job", "name: a/b"), 1, "name", "letters, digits"),
    "name with dots": (("name: job", "name: a..b"), 1, "name", "does not contain '..'"),
    "name of dots": (("name: job", "name: .."), 1, "name", "begins with a letter"),
    "name with a line break": (("name: job", 'name: "a\\nb"'), 1, "name", "letters, digits"),
    "name ending in a line break": (("name: job", 'name: "a\\n"'), 1, "name", "letters, digits"),
    "long name": (("name: job", f"name: {'a' * 300}"), 1, "name", "1 to 64"),
    "empty name": (("name: job", "name: ''"), 1, "name", "1 to 64"),
    "name with a leading dash": (("name: job", "name: -rf"), 1, "name", "begins with a letter"),
    "arm name with a slash": (noam("name: a/b"), 10, "arms[1].name", "letters, digits"),
    # tables
    "unknown data": (("digits", "digit"), 3, "data.name", "did you mean 'digits'?"),
    "unknown model": (("elu_net", "elunet"), 5, "model.name", "did you mean 'elu_net'?"),
    "unknown variant": (("variant: noam", "variant: naom"), 9, "arms[1].variant", "did you mean 'noam'?"),
    "unknown variant as text": (
        ("- adam_l2", "- adam_l3"),
        8,
        "arms[0].variant",
        "there are: adam_l2, adamw",
    ),
    "unknown sampler": (more("sampler: tpo\n"), 13, "sampler.name", "did you mean 'tpe'?"),
    "unknown scheduler": (
        more("scheduler: {name: ash}\n"),
        13,
        "scheduler.name",
        "'asha', 'hyperband' or 'none'",
    ),
    "bad dotted path": (("elu_net", "my-code:build"), 5, "model.name", "package.module:callable"),
    "unknown metric": (more("metric: {name: val/f1}\n"), 13, "metric.name", "there are: val/acc, val/loss"),
    "goal minimum": (more("metric: {goal: minimum}\n"), 13, "metric.goal", "did you mean 'minimize'?"),
    "goal against metric": (more("metric: {goal: minimize}\n"), 13, "metric.goal", "val/acc is maximized"),
    "goal against loss": (
        more("metric: {name: val/loss, goal: maximize}\n"),
        13,
        "metric.goal",
        "val/loss is minimized",
    ),
    # data and model
    "no path": (("digits", "parquet"), 2, "data.path", "--data or in TUNER_DATA"),
    "a path for digits": (("digits", "digits\n  path: x"), 4, "data.path", "remove the path"),
    "flipped digits": (
        ("digits", "digits\n  augment: flip_crop"),
        4,
        "data.augment",
        "a mirrored digit no longer fits its label",
    ),
    "columns of digits": (("digits", "digits\n  label_column: x"), 4, "data.label_column", "for Parquet files only"),
    "columns of folders": (
        ("digits", "image_folder\n  path: x\n  image_column: x"),
        5,
        "data.image_column",
        "'image_folder' has no columns",
    ),
    "validation of all": (("digits", "digits\n  validation: 1.0"), 4, "data.validation", "below 1"),
    "validation of none": (("digits", "digits\n  validation: 0"), 4, "data.validation", "above 0"),
    "no training images": (("digits", "digits\n  train_images: 0"), 4, "data.train_images", "at least 1"),
    "size not of the net": (("digits", "digits\n  size: 40"), 4, "data.size", "multiple of 32"),
    "a bad checksum": (
        ("digits", "cifar10\n  path: x\n  sha256: {f: abc}"),
        5,
        "data.sha256.f",
        "must match",
    ),
    "checksums without a path": (
        ("digits", "cifar10\n  sha256: {f: '" + "0" * 64 + "'}"),
        4,
        "data.sha256",
        "no path",
    ),
    "width 0": (("elu_net", "elu_net\n  width: 0"), 6, "model.width", "above 0"),
    "width 17": (("elu_net", "elu_net\n  width: 17"), 6, "model.width", "at most 16"),
    "unknown setup": (("elu_net", "elu_net\n  setup: good"), 6, "model.setup", "'article' or 'sound'"),
    "options of elu_net": (
        ("elu_net", "elu_net\n  options: {a: 1}"),
        6,
        "model.options",
        "only your own model can have them",
    ),
    "a list as an option": (("elu_net", "m:f\n  options: {a: [1]}"), 6, "model.options.a", "is a list"),
    "width of one's own model": (("elu_net", "m:f\n  width: 2"), 6, "model.width", "model.options"),
    # arms
    "no such baseline": (("baseline: adam_l2", "baseline: adam"), 6, "baseline", "arms: adam_l2, noam"),
    "baseline twice": (("- adam_l2", "- adam_l2\n  - adam_l2"), 9, "arms[1]", "arm 'adam_l2' occurs twice"),
    "unknown knob": (noam("fixed: {lrr: 1}"), 10, "arms[1].fixed.lrr", "did you mean 'lr'?"),
    "unknown searched knob": (search("lrr", "{min: 1, max: 2}"), 14, "parameters.lrr", "did you mean 'lr'?"),
    "knob of no arm": (
        search("beta1", "{min: 0.5, max: 0.9}"),
        14,
        "parameters.beta1",
        "no arm searches beta1",
    ),
    "searched and fixed": (
        noam("parameters: {lr: {min: 0.001, max: 0.1}}\nfixed: {lr: 0.1}"),
        11,
        "arms[1].fixed.lr",
        "keep one",
    ),
    "a knob that defines the variant": (
        noam("fixed: {schedule: cosine}"),
        10,
        "arms[1].fixed.schedule",
        "defines noam",
    ),
    "a searched knob that defines the variant": (
        noam("parameters: {schedule: {values: [noam, cosine]}}"),
        10,
        "arms[1].parameters.schedule",
        "defines noam",
    ),
    "nothing to search": (noam("fixed: {lr: 0.1, l2: 0, warmup: 3}"), 10, "arms[1].fixed", "at least one"),
    "a negative fixed knob": (noam("fixed: {lr: -1}"), 10, "arms[1].fixed.lr", "is -1; must be above 0"),
    "a fixed list": (noam("fixed: {lr: [1]}"), 10, "arms[1].fixed.lr", "is a list"),
    "a bool for a fixed number": (
        noam("fixed: {lr: true}"),
        10,
        "arms[1].fixed.lr",
        "is true; must be above 0",
    ),
    "a fixed fraction": (noam("fixed: {warmup: 1.5}"), 10, "arms[1].fixed.warmup", "whole number"),
    "a fixed unknown schedule": (
        ("- variant: noam", "- variant: adamw\n    fixed: {schedule: cosin}"),
        10,
        "arms[1].fixed.schedule",
        "did you mean 'cosine'?",
    ),
    "restarts in a wrong form": (
        ("- variant: noam", "- variant: adamw_restarts\n    fixed: {restarts: 4by2}"),
        10,
        "arms[1].fixed.restarts",
        "T_0xT_mult",
    ),
    # ranges
    "an empty range": (search("lr", "{}"), 14, "parameters.lr", "min is missing"),
    "half a range": (search("lr", "{min: 0.1}"), 14, "parameters.lr", "max is missing"),
    "a number for a range": (search("lr", "0.1"), 14, "parameters.lr", "must be a mapping"),
    "min as text": (search("lr", "{min: '0.1', max: 1}"), 14, "parameters.lr.min", "must be a number"),
    "min as bool": (search("lr", "{min: true, max: 2}"), 14, "parameters.lr.min", "must be a number"),
    "inverted range": (
        search("lr", "{min: 0.1, max: 0.01}"),
        14,
        "parameters.lr",
        "min 0.1 is above max 0.01",
    ),
    "low = high": (search("lr", "{min: 0.1, max: 0.1}"), 14, "parameters.lr", "both 0.1"),
    "log from 0": (search("l2", "{min: 0, max: 0.1, scale: log}"), 14, "parameters.l2", "min above 0"),
    "log from 0 by default": (
        search("l2", "{min: 0, max: 0.1}"),
        14,
        "parameters.l2",
        "the default scale of l2 is log",
    ),
    "log from below 0": (search("lr", "{min: -1, max: 0.1, scale: log}"), 14, "parameters.lr", "min above 0"),
    "negative lr": (
        search("lr", "{min: -1, max: 0.1, scale: linear}"),
        14,
        "parameters.lr",
        "must be above 0",
    ),
    "a huge bound": (
        search("lr", "{min: 0.1, max: 1e300}"),
        14,
        "parameters.lr.max",
        "its absolute value must be 0, or 1e-100 to 1e+09",
    ),
    "unknown scale": (
        search("lr", "{min: 0.1, max: 1, scale: lg}"),
        14,
        "parameters.lr.scale",
        "'linear', 'log'",
    ),
    "a step of a fraction for updates": (
        search("warmup", "{min: 1, max: 3, step: 0.5}"),
        14,
        "parameters.warmup.step",
        "whole number of updates",
    ),
    "a step on the scale of the variant": (
        search("lr", "{min: 0.1, max: 0.3, scale: log, step: 0.1}"),
        14,
        "parameters.lr",
        "step cannot be combined with scale log",
    ),
    "a step of a fraction that does not divide": (
        search("lr", "{min: 0.1, max: 0.3, step: 0.15}"),
        14,
        "parameters.lr",
        "step 0.15 does not divide the range 0.1 to 0.3",
    ),
    "a step that does not divide": (
        search("warmup", "{min: 1, max: 10, step: 4}"),
        14,
        "parameters.warmup",
        "step 4 does not divide",
    ),
    "a step with log": (
        search("warmup", "{min: 1, max: 9, step: 4, scale: log}"),
        14,
        "parameters.warmup",
        "step cannot be combined",
    ),
    "a step of 0": (
        search("warmup", "{min: 1, max: 9, step: 0}"),
        14,
        "parameters.warmup.step",
        "above 0",
    ),
    "a fraction for updates": (
        search("warmup", "{min: 0.5, max: 3}"),
        14,
        "parameters.warmup.min",
        "whole number",
    ),
    "beta2 of 1": (
        noam("parameters: {beta2: {min: 0.9, max: 1}}"),
        10,
        "arms[1].parameters.beta2",
        "at least 0 and below 1",
    ),
    "one-minus-log to 1": (
        noam("parameters: {beta2: {min: 0.9, max: 1, scale: one-minus-log}}"),
        10,
        "arms[1].parameters.beta2",
        "max below 1",
    ),
    "an interval of words": (
        noam("parameters: {amsgrad: {min: 0, max: 1}}"),
        10,
        "arms[1].parameters.amsgrad",
        "give values",
    ),
    "no choices": (search("lr", "{values: []}"), 14, "parameters.lr.values", "at least 2"),
    "one choice": (search("lr", "{values: [0.1]}"), 14, "parameters.lr.values", "at least 2"),
    "repeated choices": (search("lr", "{values: [0.1, 0.2, 0.1]}"), 14, "parameters.lr.values", "twice"),
    "choices repeated as 1 and 1.0": (
        search("lr", "{values: [1, 1.0]}"),
        14,
        "parameters.lr.values",
        "twice",
    ),
    "a list as a choice": (search("lr", "{values: [[1], 2]}"), 14, "parameters.lr.values[0]", "is a list"),
    "null as a choice": (search("lr", "{values: [null, 2]}"), 14, "parameters.lr.values[0]", "is null"),
    "text as a choice": (search("lr", "{values: [0.1, fast]}"), 14, "parameters.lr.values[1]", "is 'fast'"),
    "values beside min": (
        search("lr", "{values: [0.1, 1], min: 1}"),
        14,
        "parameters.lr.min",
        "used together with values",
    ),
    # limits
    "trials of 0": (("trials: 4", "trials: 0"), 11, "budget.trials", "is 0; must be at least 1"),
    "trials below 0": (("trials: 4", "trials: -3"), 11, "budget.trials", "at least 1"),
    "too many trials": (("trials: 4", "trials: 100001"), 11, "budget.trials", "at most 100000"),
    "epochs of 0": (("epochs: 8", "epochs: 0"), 12, "budget.epochs", "at least 1"),
    "too many epochs": (("epochs: 8", "epochs: 100001"), 12, "budget.epochs", "at most 100000"),
    "batch of 0": (("epochs: 8", "epochs: 8\n  batch_size: 0"), 13, "budget.batch_size", "at least 1"),
    "hours of 0": (("epochs: 8", "epochs: 8\n  max_hours: 0"), 13, "budget.max_hours", "above 0"),
    "GPU hours without GPUs": (
        ("epochs: 8", "epochs: 8\n  max_gpu_hours: 1"),
        13,
        "budget.max_gpu_hours",
        "resources.gpus",
    ),
    "concurrency 0": (more("resources: {concurrent: 0}\n"), 13, "resources.concurrent", "at least 1"),
    "cpus 0": (more("resources: {cpus: 0}\n"), 13, "resources.cpus", "at least 1"),
    "one and a half GPUs": (more("resources: {gpus: 1.5}\n"), 13, "resources.gpus", "whole number"),
    "GPUs beside auto": (more("resources: {auto: true, gpus: 1}\n"), 13, "resources.gpus", "auto chooses it"),
    "a word for resources": (more("resources: most\n"), 13, "resources", "must be a mapping"),
    "negative GPUs": (more("resources: {gpus: -1}\n"), 13, "resources.gpus", "at least 0"),
    "unknown precision": (
        more("resources: {precision: fp16}\n"),
        13,
        "resources.precision",
        "'fp32' or 'bf16'",
    ),
    "first rung beyond the end": (
        more("scheduler: {first_rung: 8}\n"),
        13,
        "scheduler.first_rung",
        "the first rung must be below budget.epochs (8)",
    ),
    "first rung of 0": (more("scheduler: {first_rung: 0}\n"), 13, "scheduler.first_rung", "at least 1"),
    "first rung without a scheduler": (
        more("scheduler: {name: none, first_rung: 2}\n"),
        13,
        "scheduler.first_rung",
        "has no rungs",
    ),
    "factor of 1": (
        more("scheduler: {reduction_factor: 1}\n"),
        13,
        "scheduler.reduction_factor",
        "at least 2",
    ),
    "start-up of random": (
        more("sampler: {name: random, startup_trials: 2}\n"),
        13,
        "sampler.startup_trials",
        "remove this key",
    ),
    "top_k above trials": (more("confirm: {top_k: 5}\n"), 13, "confirm.top_k", "at most budget.trials (4)"),
    "two seeds": (more("confirm: {seeds: 2}\n"), 13, "confirm.seeds", "at least 3"),
    "too many seeds": (more("confirm: {seeds: 1001}\n"), 13, "confirm.seeds", "at most 1000"),
    "margin below 0": (more("confirm: {margin: -0.1}\n"), 13, "confirm.margin", "at least 0"),
    # secrets
    "password in the storage": (
        more("storage: postgresql://u:hunter2@h/db\n"),
        13,
        "storage",
        "password in a URL",
    ),
    "password in the tracker": (
        more("tracking:\n  uri: https://u:hunter2@h\n"),
        14,
        "tracking.uri",
        "MLFLOW_TRACKING_PASSWORD",
    ),
    "password as a parameter": (
        more("storage: postgresql://h/db?password=hunter2\n"),
        13,
        "storage",
        "password",
    ),
    "an experiment's name that MLflow cannot keep": (
        more(f"tracking: {{experiment: {'x' * 247}}}\n"),
        13,
        "tracking.experiment",
        "has 247 characters; MLflow takes at most 246",
    ),
    "password under an unknown key": (more("url: x://u:hunter2@h\n"), 13, "url", "password"),
    "an empty URL": (more("storage: ''\n"), 13, "storage", "must match"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_value_is_refused_with_its_place(case: str) -> None:
    edit, line, key, problem = BAD[case]

    with pytest.raises(SpecError) as caught:
        spec_of(edit)

    message = str(caught.value)
    assert message.startswith(f"job.yaml:{line}: {key}: ")
    assert problem in message
    assert "\n" not in message
    assert "hunter2" not in message
    assert len(message) < 400
    assert caught.value.exit_code == 2


def test_the_message_names_the_first_of_several_mistakes_and_counts_the_rest() -> None:
    with pytest.raises(SpecError, match=re.escape("job.yaml:11: budget.trials")) as caught:
        spec_of(("trials: 4", "trials: 0"), more("seed: x\nextra: 1\n"))
    assert str(caught.value).endswith("(and 2 more)")


GOOD: dict[str, tuple[tuple[str, str], Callable[[SearchSpec], Any], Any]] = {
    "1e-4": (search("lr", "{min: 1e-4, max: 1}"), lambda spec: spec.parameters["lr"].min, 1e-4),
    "a whole number for a float": (("elu_net", "elu_net\n  width: 2"), lambda spec: spec.model.width, 2.0),
    "sampler by name": (more("sampler: gp\n"), lambda spec: spec.sampler.name, "gp"),
    "scheduler by name": (more("scheduler: none\n"), lambda spec: spec.scheduler.name, "none"),
    "arm name by default": (more(""), lambda spec: spec.arms[1].name, "noam"),
    "an arm with its own name": (noam("name: warm"), lambda spec: spec.arms[1].name, "warm"),
    "goal of the loss": (more("metric: {name: val/loss}\n"), lambda spec: spec.metric.goal, "minimize"),
    "key of the metric": (more(""), lambda spec: spec.metric.key, "val_acc"),
    "validation of digits": (more(""), lambda spec: spec.data.validation_share, 0.25),
    "validation of others": (("digits", "cifar10"), lambda spec: spec.data.validation_share, 0.1),
    "first rung by default": (("epochs: 8", "epochs: 81"), lambda spec: spec.first_rung, 3),
    "first rung of short trials": (more(""), lambda spec: spec.first_rung, 2),
    "first rung of one epoch": (("epochs: 8", "epochs: 1"), lambda spec: spec.first_rung, 1),
    "half a GPU": (more("resources: {gpus: 0.5}\n"), lambda spec: spec.resources.gpus, 0.5),
    "measured resources": (more("resources: auto\n"), lambda spec: spec.resources.auto, True),
    "measured resources with other settings": (
        more("resources: {auto: true, precision: bf16, concurrent: 3}\n"),
        lambda spec: (spec.resources.auto, spec.resources.precision, spec.concurrent_on(8, 2)),
        (True, "bf16", 3),
    ),
    "number of trials at once with measured resources": (
        more("resources: auto\n"),
        lambda spec: spec.concurrent_on(4, 2),
        16,
    ),
    "GPU hours with measured resources": (
        ("epochs: 8", "epochs: 8\n  max_gpu_hours: 2\nresources: auto"),
        lambda spec: spec.budget.max_gpu_hours,
        2,
    ),
    "GPU hours": (
        ("epochs: 8", "epochs: 8\n  max_gpu_hours: 2\nresources: {gpus: 1}"),
        lambda spec: spec.budget.max_gpu_hours,
        2,
    ),
    "code of one's own": (
        ("elu_net", "my.code:net\n  options: {depth: 3}"),
        lambda spec: spec.model.options,
        {"depth": 3},
    ),
    "a URL without a password": (
        more("storage: postgresql://u@h:5432/db\n"),
        lambda spec: spec.storage,
        "postgresql://u@h:5432/db",
    ),
}


@pytest.mark.parametrize("case", GOOD)
def test_a_good_value_is_accepted(case: str) -> None:
    edit, get, expected = GOOD[case]
    assert get(spec_of(edit)) == expected


@pytest.mark.parametrize("prefix", ["", "\ufeff"])
def test_crlf_and_a_byte_order_mark_change_nothing(prefix: str) -> None:
    assert spec_of(text=prefix + SPEC.replace("\n", "\r\n")) == spec_of()


def test_the_data_path_comes_from_the_flag_then_the_environment_then_the_spec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_path, without = tmp_path / "with.yaml", tmp_path / "without.yaml"
    with_path.write_text(SPEC.replace("digits", "parquet\n  path: spec"))
    without.write_text(SPEC.replace("digits", "parquet"))
    assert load(with_path).data.path == "spec"
    monkeypatch.setenv("TUNER_DATA", "environment")

    assert load(with_path, "flag").data.path == "flag"
    assert load(with_path).data.path == "environment"
    assert load(without).data.path == "environment"
    assert spec_of().data.path is None


def test_a_relative_data_path_in_a_file_is_relative_to_that_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, here = tmp_path / "project", tmp_path / "here"
    for folder in (project, here):
        folder.mkdir()
        (folder / "spec.yaml").write_text(SPEC.replace("digits", "parquet\n  path: spec"))
    monkeypatch.chdir(here)
    (project / "spec").mkdir()
    (here / "spec").mkdir()
    spec = load(project / "spec.yaml")
    assert (spec.data_path, spec.is_data_elsewhere) == (project / "spec", False)
    assert load("../project/spec.yaml").data_path == here / "../project/spec"
    assert load(project / "spec.yaml", "flag").data_path == here / "flag"
    monkeypatch.setenv("TUNER_DATA", "environment")
    assert load(project / "spec.yaml").data_path == here / "environment"
    # The words of the spec stay, and with them its fingerprint.
    monkeypatch.delenv("TUNER_DATA")
    assert spec.data.path == "spec"
    assert fingerprint(spec) == fingerprint(from_document(read_text((project / "spec.yaml").read_text(), "x")))


def test_data_that_lies_only_in_the_current_folder_is_still_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "spec").mkdir()
    (tmp_path / "project" / "spec.yaml").write_text(SPEC.replace("digits", "parquet\n  path: spec"))
    monkeypatch.chdir(tmp_path)
    spec = load("project/spec.yaml")
    assert (spec.data_path, spec.is_data_elsewhere) == (tmp_path / "spec", True)
    (tmp_path / "spec").rmdir()
    spec = load("project/spec.yaml")
    assert (spec.data_path, spec.is_data_elsewhere) == (tmp_path / "project" / "spec", False)
    (tmp_path / "project" / "spec.yaml").write_text(SPEC)
    assert (load("project/spec.yaml").data_path, load("project/spec.yaml").is_data_elsewhere) == (None, False)


def test_a_spec_is_the_same_after_conversion_to_values_and_back() -> None:
    spec = from_document(read_text(starter(), "starter.yaml"))
    assert from_dict(to_dict(spec)) == spec
    assert fingerprint(from_dict(to_dict(spec))) == fingerprint(spec)


def test_the_fingerprint_depends_on_the_values_and_not_on_how_they_are_written() -> None:
    assert fingerprint(spec_of(("- variant: noam", "- {name: noam, variant: noam}"))) == fingerprint(spec_of())
    assert fingerprint(spec_of(("trials: 4", "trials: 5"))) != fingerprint(spec_of())


def test_columns_that_are_not_named_are_no_part_of_a_spec_or_a_trial() -> None:
    assert not {"image_column", "label_column"} & to_dict(spec_of())["data"].keys()
    named = spec_of(("digits", "parquet\n  path: x\n  label_column: fine_label"))
    assert from_dict(to_dict(named)) == named
    request = data_request(named)
    assert (request.image_column, request.label_column) == (None, "fine_label")


def test_a_spec_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        spec_of().name = "other"


@pytest.mark.parametrize("name", sorted(path.name for path in Path("searches").glob("*.yaml")))
def test_every_search_loads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNER_DATA", "data")
    spec = load(Path("searches") / name)
    assert fingerprint(from_dict(to_dict(spec))) == fingerprint(spec)


def test_the_starter_spec_shows_every_top_level_key() -> None:
    shown = set(re.findall(r"^([a-z]+):", starter(), re.MULTILINE))
    # ``pass`` is for own trainables, which the starter names in a comment.
    assert shown == set(SearchSpec.model_fields) - {"passed"}
    assert "# pass: " in starter()


def test_the_starter_spec_fits_the_schema() -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    validator.check_schema(json_schema())
    document = read_text(starter(), "starter.yaml")
    validator.validate(document.value)
    validator.validate(to_dict(from_document(document)))


@pytest.mark.parametrize("case", GOOD)
def test_the_schema_accepts_the_values_that_load_accepts(case: str) -> None:
    old, new = GOOD[case][0]
    value = read_text(SPEC.replace(old, new, 1), "job").value
    jsonschema.Draft202012Validator(json_schema()).validate(value)


@pytest.mark.parametrize(
    "case",
    ["unknown key", "missing key", "text for a number", "unknown variant", "unknown variant as text",
     "unknown knob", "unknown sampler", "trials of 0", "name with a slash", "half a range", "one choice",
     "goal minimum"],
)  # fmt: skip
def test_the_schema_refuses_mistakes_that_load_refuses(case: str) -> None:
    old, new = BAD[case][0]
    value = read_text(SPEC.replace(old, new, 1), "job").value
    assert not jsonschema.Draft202012Validator(json_schema()).is_valid(value)


def test_every_field_of_the_schema_has_a_description() -> None:
    schema = json_schema()
    for part in [schema, *schema["$defs"].values()]:
        for key, field in part["properties"].items():
            assert field.get("description"), key


def test_the_schema_names_the_same_variants_and_data_sets_as_the_tables() -> None:
    schema = json_schema()
    assert schema["$defs"]["ArmSpec"]["properties"]["variant"]["enum"] == list(VARIANTS)
    assert schema["$defs"]["DataSpec"]["properties"]["name"]["anyOf"][0]["enum"] == list(DATASETS)


def test_every_part_is_frozen_and_refuses_unknown_keys() -> None:
    parts: list[type[BaseModel]] = [SearchSpec]
    for part in parts:
        assert part.model_config["frozen"]
        assert part.model_config["extra"] == "forbid"
        for field in part.model_fields.values():
            kinds = (field.annotation, *get_args(field.annotation))
            parts += [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]


ODD_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 3, 2**31, 10**19, 0.0, -0.5, 0.5, 1e-300, 1e300, "", "x", "adamw", "noam",
    "5x2", "a" * 5000, "é\u2028", "../x", "m:f", "http://a:b@c", [], [1], ["adamw", "adamw"], {}, {"name": "x"},
    {"min": 1, "max": 2}, {"values": [1, 2]}, {"variant": "adamw"}, [[]], [None],
]  # fmt: skip
ODD_KEYS = ["x", "", "name", "lr", "warmup", "restarts", "schedule", "min", "values", "[key]", "a.b", "é\n"]


def _mutate(value: Any, chance: random.Random) -> Any:
    """Replace, delete or add one value at a random place in ``value``."""
    if not isinstance(value, dict | list) or not value or chance.random() < 0.1:
        return copy.deepcopy(chance.choice(ODD_VALUES))
    changed = copy.deepcopy(value)
    key: Any = chance.choice(list(changed)) if isinstance(changed, dict) else chance.randrange(len(changed))
    match chance.randrange(6):
        case 0:
            del changed[key]
        case 1 if isinstance(changed, dict):
            changed[chance.choice(ODD_KEYS)] = copy.deepcopy(chance.choice(ODD_VALUES))
        case _:
            changed[key] = _mutate(changed[key], chance)
    return changed


def _refusal(act: Callable[[], object]) -> str | None:
    """The message of the spec error, or None if there is none. Any other exception fails the test."""
    try:
        act()
    except SpecError as error:
        return str(error)
    return None


@pytest.mark.parametrize("seed", range(5))
def test_a_mutated_starter_spec_raises_only_spec_errors(seed: int) -> None:
    chance = random.Random(seed)
    original = read_text(starter(), "starter.yaml").value
    refusals = []
    for _ in range(200):
        value: Any = original
        for _ in range(chance.randint(1, 3)):
            value = _mutate(value, chance)
        whole = value if isinstance(value, dict) else {"x": value}
        refusals.append(_refusal(lambda whole=whole: check(from_dict(whole))))  # type: ignore[misc]
    told = [text for text in refusals if text is not None]
    assert len(told) > 50
    assert all("\n" not in text and len(text) < 1000 for text in told)


@pytest.mark.parametrize("seed", range(5))
def test_a_starter_spec_with_a_piece_cut_out_raises_only_spec_errors(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(30):
        start, length = chance.randrange(len(starter())), chance.randrange(1, 40)
        put = chance.choice(["", "\t", "  ", "[", "&x ", "- ", ": "])
        text = starter()[:start] + put + starter()[start + length :]
        told = _refusal(lambda text=text: from_document(read_text(text, "starter.yaml")))  # type: ignore[misc]
        assert told is None or told.startswith("starter.yaml:")


def test_reading_a_spec_loads_no_heavy_packages() -> None:
    code = (
        "import sys, tuner.spec.checks, tuner.spec.json_schema\n"
        "heavy = {'torch', 'ray', 'mlflow', 'optuna', 'numpy', 'scipy', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
