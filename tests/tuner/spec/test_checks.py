"""The checks of a spec against data, code, packages and samplers."""

import hashlib
import importlib.util
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.tuner.spec_texts import more, noam, spec_of
from trainables.data.cache import load as load_data
from trainables.data.request import ImageCounts
from trainables.space import Plan
from tuner.errors import SpecError
from tuner.spec.checks import check
from tuner.spec.search_spec import SearchSpec, from_document, load, starter
from tuner.spec.strict_yaml import read_text
from tuner.spec.trial_config import data_request


def error_of(spec: SearchSpec) -> str:
    with pytest.raises(SpecError) as caught:
        check(spec)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_the_starter_spec_passes_without_a_warning() -> None:
    checked = check(from_document(read_text(starter(), "starter.yaml")))
    assert checked.images == ImageCounts(train=1078, val=360, test=359)
    assert checked.plan == Plan(12, 10)
    assert len(checked.arms) == 5
    assert checked.warnings == ()


def test_the_quickstart_spec_passes_without_a_warning() -> None:
    assert check(load("searches/quickstart.yaml")).warnings == ()


def test_data_in_the_current_folder_only_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("project", "data"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path)
    Path("project/spec.yaml").write_text(starter().replace("name: digits", "name: math:sqrt\n  path: data"))
    (warning,) = check(load("project/spec.yaml")).warnings
    assert re.match(
        r"project/spec.yaml:\d+: data.path: data is not in the folder of this file, so .*/data in the current", warning
    )
    Path("project/data").mkdir()
    assert check(load("project/spec.yaml")).warnings == ()
    Path("project/data").rmdir()
    Path("data").rmdir()
    assert error_of(load("project/spec.yaml")).endswith(f"data.path: {tmp_path}/project/data: no such file or folder")


def test_the_sizes_of_subsets_are_used() -> None:
    spec = spec_of(("digits", "digits\n  train_images: 500\n  val_images: 100\n  test_images: 50"))
    assert check(spec).images == ImageCounts(500, 100, 50)


@pytest.mark.parametrize(
    ("edit", "start", "problem"),
    [
        (
            ("digits", "digits\n  train_images: 1079"),
            "job.yaml:4: data.train_images: is 1079;",
            "at most 1078",
        ),
        (("digits", "digits\n  val_images: 361"), "job.yaml:4: data.val_images: is 361;", "at most 360"),
        (("digits", "digits\n  test_images: 360"), "job.yaml:4: data.test_images: is 360;", "at most 359"),
        (
            ("digits", "digits\n  validation: 1e-9"),
            "job.yaml:2: data: ",
            "this split has no val images",
        ),
        (
            ("epochs: 8", "epochs: 8\n  batch_size: 1079"),
            "job.yaml:13: budget.batch_size: is 1079;",
            "(1078)",
        ),
        (("digits", "parquet\n  path: nowhere"), "job.yaml:4: data.path: ", "nowhere"),
        (("digits", "image_folder\n  path: nowhere"), "job.yaml:4: data.path: ", "nowhere"),
        (("digits", "math:sqrt\n  path: nowhere"), "job.yaml:4: data.path: ", "nowhere"),
        (("digits", "no_such_module:read"), "job.yaml:3: data.name: ", "no_such_module"),
        (("elu_net", "math:no_such_name"), "job.yaml:5: model.name: ", "no_such_name"),
        (("elu_net", "math:pi"), "job.yaml:5: model.name: ", "must be a callable"),
    ],
)
def test_a_spec_that_asks_for_missing_data_or_code_is_refused(edit: tuple[str, str], start: str, problem: str) -> None:
    message = error_of(spec_of(edit))
    assert message.startswith(start)
    assert problem in message


def test_a_search_on_the_users_own_data_is_planned_only_if_its_size_is_given() -> None:
    unknown = check(spec_of(("digits", "math:sqrt")))
    assert (unknown.images, unknown.plan, unknown.arms) == (None, None, ())
    assert check(spec_of(("digits", "math:sqrt\n  train_images: 250"))).plan == Plan(8, 2)


def test_checksums_are_compared(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(b"images")
    good = hashlib.sha256(b"images").hexdigest()
    told: list[str] = []

    def spec(name: str, digest: str) -> SearchSpec:
        return spec_of(("digits", f"math:sqrt\n  path: '{tmp_path}'\n  sha256: {{{name}: '{digest}'}}"))

    check(spec("a.bin", good.upper()), told.append)
    assert told == [f"hashing a.bin in {tmp_path}"]
    message = error_of(spec("a.bin", "0" * 64))
    assert message.startswith(f"job.yaml:5: data.sha256.'a.bin': {file}: sha256 is {good}, not 000")
    assert "cannot be read" in error_of(spec("b.bin", good))


CMAES = more("sampler: cmaes\n")


def test_cmaes_accepts_arms_that_search_only_numbers() -> None:
    pytest.importorskip("cmaes")
    assert check(spec_of(CMAES)).warnings == ()


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (("- variant: noam", "- variant: adamw_restarts"), "arm adamw_restarts has choices (restarts)"),
        (noam("parameters: {lr: {values: [0.1, 1]}}"), "arm noam has choices (lr)"),
        (noam("fixed: {lr: 0.1, l2: 0}"), "needs at least 2 knobs, but arm noam has 1"),
    ],
)
def test_cmaes_refuses_arms_with_choices_or_only_one_knob(edit: tuple[str, str], problem: str) -> None:
    pytest.importorskip("cmaes")
    message = error_of(spec_of(CMAES, edit))
    assert ": sampler: " in message
    assert problem in message


def test_the_message_names_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert error_of(spec_of(CMAES)).startswith("job.yaml:13: sampler: needs the package 'cmaes'; run pip install cmaes")


PIXELS = np.random.default_rng(0).integers(0, 256, (1000, 8, 8, 3), dtype=np.uint8)


def folder_of(root: Path, counts: dict[str, int]) -> str:
    """Write so many images, all different, into each of these folders; returns the edit of a spec."""
    images = iter(PIXELS)
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            Image.fromarray(next(images)).save(root / name / f"{index}.png")
    return f"image_folder\n  path: '{root}'"


SMALL_BATCH = ("epochs: 8", "epochs: 8\n  batch_size: 4")


def test_published_validation_images_are_used_and_a_share_beside_them_is_told(tmp_path: Path) -> None:
    counts = {"train/a": 20, "train/b": 20, "val/a": 150, "val/b": 150, "test/a": 5, "test/b": 5}
    edit = folder_of(tmp_path, counts)
    checked = check(spec_of(("digits", edit), SMALL_BATCH))
    assert (checked.images, checked.warnings) == (ImageCounts(40, 300, 10), ())
    checked = check(spec_of(("digits", f"{edit}\n  validation: 0.2"), SMALL_BATCH))
    assert checked.images == ImageCounts(40, 300, 10)
    assert checked.warnings == (
        "job.yaml:5: data.validation: is not used, because the data has 300 validation images of its own",
    )


def test_a_class_of_one_image_keeps_it_and_the_check_counts_as_the_split_does(tmp_path: Path) -> None:
    edit = folder_of(tmp_path, {"train/a": 1, "train/b": 9, "test/a": 1, "test/b": 1})
    spec = spec_of(("digits", f"{edit}\n  validation: 0.95"), ("epochs: 8", "epochs: 8\n  batch_size: 1"))
    splits = load_data(data_request(spec), tmp_path / "cache")
    assert check(spec).images == ImageCounts(2, 8, 2) == ImageCounts(*map(len, (splits.train, splits.val, splits.test)))
    assert splits.train.labels_B.tolist() == [0, 1]


def test_classes_of_one_image_are_refused(tmp_path: Path) -> None:
    edit = folder_of(tmp_path, {f"{part}/{name}": 1 for part in ("train", "test") for name in "abcd"})
    message = error_of(spec_of(("digits", edit)))
    assert message.startswith("job.yaml:2: data: every class has only one training image, so none can be held out")


def test_what_is_left_out_or_shared_is_told(tmp_path: Path) -> None:
    edit = folder_of(tmp_path, {"train/a": 20, "train/b": 20, "test/a": 5, "test/b": 5})
    (tmp_path / "train" / "a" / "x.heic").write_bytes(b"?")
    (tmp_path / "test" / "b" / "0.png").write_bytes((tmp_path / "train" / "b" / "0.png").read_bytes())
    warnings = check(spec_of(("digits", edit), ("name: job", "name: job\nconfirm: {margin: 50}"), SMALL_BATCH)).warnings
    assert warnings == (
        f"job.yaml:3: data: {tmp_path / 'train'}: 1 file is left out, because Pillow does not read this kind of file: "
        "a/x.heic",
        "job.yaml:3: data: 1 of 10 test images are also training images: the test accuracy cannot be trusted",
    )


@pytest.mark.parametrize(
    ("edits", "warned"),
    [
        ([], False),
        ([("digits", "digits\n  val_images: 200")], False),
        ([("digits", "digits\n  val_images: 199")], True),
        ([("digits", "digits\n  val_images: 199"), more("confirm: {margin: 0.6}\n")], False),
        ([("digits", "digits\n  val_images: 199"), more("confirm: {margin: 0}\n")], False),
        ([("digits", "digits\n  val_images: 199"), more("metric: {name: val/loss}\n")], False),
    ],
)
def test_a_validation_image_that_is_worth_more_than_the_margin_is_told(
    edits: list[tuple[str, str]], warned: bool
) -> None:
    found = [warning for warning in check(spec_of(*edits)).warnings if "validation images" in warning]
    assert found == warned * [
        "job.yaml:2: data: one of the 199 validation images is worth 0.5 points, more than confirm.margin (0.5): "
        "chance decides which setting is chosen; use more validation images, or metric val/loss"
    ]


def test_hidden_labels_and_unknown_columns_are_refused_before_training(tmp_path: Path) -> None:
    for name, labels in (("train", [0, 1] * 5), ("test", [-1] * 4)):
        images = [{"bytes": b"?", "path": None} for _ in labels]
        pq.write_table(pa.table({"image": images, "fine_label": labels}), tmp_path / f"{name}.parquet")
    edit = f"parquet\n  path: '{tmp_path}'"
    assert "or set data.label_column" in error_of(spec_of(("digits", edit)))
    message = error_of(spec_of(("digits", f"{edit}\n  label_column: fine_label")))
    assert "the test labels are hidden (-1 in 4 of 4)" in message
