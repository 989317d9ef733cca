"""Parquet files as people have them: shards, names of classes, texts, identifiers, hidden labels, other columns."""

import io
import json
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from trainables.data import cifar10, parquet
from trainables.data.cache import load
from trainables.data.request import USUAL_COLUMNS, Columns, DataRequest
from trainables.errors import DataError

_fresh = count(1)
HUB = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def some_png(seed: int | None = None) -> bytes:
    """A small image; without a seed, one that no other call returns."""
    generator = np.random.default_rng((0, seed) if seed is not None else (1, next(_fresh)))
    buffer = io.BytesIO()
    Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write(
    file: Path,
    labels: Sequence[object],
    names: Sequence[str] | None = None,
    columns: tuple[str, str] = ("image", "label"),
    images: Sequence[bytes] | None = None,
    kind: pa.DataType | None = None,
) -> None:
    """Write one file with an image per label.

    Args:
        file: the file; its folder is made.
        labels: the labels.
        names: names of the classes for the metadata.
        columns: names of the two columns.
        images: the encoded images; default: all different.
        kind: type of the labels.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    encoded = [{"bytes": image, "path": None} for image in images or [some_png() for _ in labels]]
    table = pa.table({columns[0]: pa.array(encoded, HUB), columns[1]: pa.array(labels, kind)})
    if names is not None:
        features = {columns[1]: {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, file)


TWO = [0, 1] * 5


def error_of(folder: Path, columns: Columns = USUAL_COLUMNS) -> str:
    """The message of both the survey and the reading."""
    with pytest.raises(DataError) as surveyed:
        parquet.survey(folder, columns)
    with pytest.raises(DataError) as read:
        parquet.read(folder, columns=columns)
    assert str(surveyed.value) == str(read.value)
    assert "\n" not in str(read.value)
    return str(read.value)


class TestShards:
    def test_a_missing_shard_is_named(self, tmp_path: Path) -> None:
        for index in (0, 2):
            write(tmp_path / f"train-{index:05d}-of-00003.parquet", TWO)
        write(tmp_path / "test.parquet", TWO)
        message = error_of(tmp_path)
        assert message.endswith("the set of 3 shards is incomplete; missing: train-00001-of-00003.parquet")

    def test_a_missing_last_shard_with_checksums_in_the_names_is_named(self, tmp_path: Path) -> None:
        write(tmp_path / "train.parquet", TWO)
        write(tmp_path / "test-00000-of-00002-b42b03f1.parquet", TWO)
        assert error_of(tmp_path).endswith("missing: test-00001-of-00002.parquet")

    @pytest.mark.parametrize("width", [1, 5])
    def test_a_missing_shard_of_a_set_without_a_size_is_named_as_the_others(self, tmp_path: Path, width: int) -> None:
        for index in (1, 3):
            write(tmp_path / f"train-{index:0{width}d}.parquet", TWO)
        write(tmp_path / "test.parquet", TWO)
        assert error_of(tmp_path).endswith(f"the shards are incomplete; missing: train-{2:0{width}d}.parquet")

    @pytest.mark.parametrize("kind", [None, pa.int64()])
    def test_a_shard_without_rows_is_skipped(self, tmp_path: Path, kind: pa.DataType | None) -> None:
        pq.write_table(
            pa.table({"image": pa.array([], kind), "label": pa.array([], kind)}),
            tmp_path / "train-00000-of-00002.parquet",
        )
        write(tmp_path / "train-00001-of-00002.parquet", ["cat", "dog"])
        write(tmp_path / "test.parquet", ["cat"])
        raw = parquet.read(tmp_path)
        assert (raw.train.labels_B.tolist(), raw.classes) == ([0, 1], ("cat", "dog"))
        assert parquet.survey(tmp_path, compare=True).train == 2

    def test_a_split_without_rows_is_refused(self, tmp_path: Path) -> None:
        write(tmp_path / "train.parquet", TWO)
        pq.write_table(pa.table({"image": pa.array([]), "label": pa.array([])}), tmp_path / "test.parquet")
        assert error_of(tmp_path).endswith("test.parquet: has no images")

    def test_whole_sets_are_read_in_order(self, tmp_path: Path) -> None:
        for index in range(12):
            write(tmp_path / f"train-{index:05d}-of-00012-0a1b.parquet", [index % 2] * 3)
        write(tmp_path / "test-00001-of-00001.parquet", TWO)
        raw = parquet.read(tmp_path)
        assert raw.train.labels_B.tolist() == [label for index in range(12) for label in [index % 2] * 3]
        assert len(raw.test) == 10

    @pytest.mark.parametrize(
        ("names", "problem"),
        [
            (["train", "train-00000-of-00001"], "has train.parquet and shards (train-00000-of-00001.parquet)"),
            (["train-00000-of-00002", "train-00001-of-00003"], "these are not shards of one set"),
            (["train-00000-of-00001", "train-more"], "these are not shards of one set"),
            (["train-00000-of-00001-aa", "train-00000-of-00001-bb"], "there are 2 shards of 1"),
            (["train-0", "train-1", "train-3"], "missing: train-2.parquet"),
            (["train", "data/train"], "has files of a split here and in data"),
            (["train", "val", "validation"], "val and validation are both names of the val split"),
        ],
    )
    def test_files_that_contradict_each_other_are_refused(self, tmp_path: Path, names: list[str], problem: str) -> None:
        for name in [*names, "test"]:
            write(tmp_path / f"{name}.parquet", TWO)
        assert problem in error_of(tmp_path)

    @pytest.mark.parametrize("reader", [parquet, cifar10])
    def test_the_layout_of_the_hub_is_read(self, tmp_path: Path, reader: object) -> None:
        write(tmp_path / "data" / "train-00000-of-00001.parquet", TWO)
        write(tmp_path / "data" / "test-00000-of-00001.parquet", TWO[:4])
        raw = reader.read(tmp_path)  # type: ignore[attr-defined]
        assert (len(raw.train), len(raw.test)) == (10, 4)
        assert [file.parent.name for file in reader.sources(tmp_path)] == ["data", "data"]  # type: ignore[attr-defined]

    def test_a_folder_one_level_deeper_is_named(self, tmp_path: Path) -> None:
        write(tmp_path / "plain_text" / "train-00000-of-00001.parquet", TWO)
        assert error_of(tmp_path).endswith(f"; set the path to {tmp_path / 'plain_text'}")

    @pytest.mark.parametrize("name", ["validation-00000-of-00001", "val", "valid-0", "dev"])
    def test_published_validation_files_are_used(self, tmp_path: Path, name: str) -> None:
        write(tmp_path / "train.parquet", TWO)
        write(tmp_path / "test.parquet", TWO)
        write(tmp_path / f"{name}.parquet", [1, 1, 0])
        raw, survey = parquet.read(tmp_path), parquet.survey(tmp_path)
        assert raw.val is not None
        assert raw.val.labels_B.tolist() == [1, 1, 0]
        assert (survey.train, survey.val, survey.test) == (10, 3, 10)
        splits = load(DataRequest("parquet", str(tmp_path)), tmp_path / "cache")
        assert [len(part) for part in (splits.train, splits.val, splits.test)] == [10, 3, 10]

    def test_files_of_no_split_are_named(self, tmp_path: Path) -> None:
        for name in ("train", "test", "unsupervised", "train_old"):
            write(tmp_path / f"{name}.parquet", TWO)
        assert parquet.survey(tmp_path).notes == (
            f"{tmp_path}: files of no split are not read: train_old.parquet, unsupervised.parquet",
        )


class TestLabels:
    def test_labels_are_mapped_by_name_over_splits_and_shards(self, tmp_path: Path) -> None:
        write(tmp_path / "train-0.parquet", [0, 1, 2], ["cat", "dog", "eel"])
        write(tmp_path / "train-1.parquet", [0, 1, 2], ["eel", "cat", "dog"])
        write(tmp_path / "test.parquet", [0, 1, 1], ["dog", "cat", "eel"])
        raw = parquet.read(tmp_path)
        assert raw.classes == ("cat", "dog", "eel")
        assert raw.train.labels_B.tolist() == [0, 1, 2, 2, 0, 1]
        assert raw.test.labels_B.tolist() == [1, 0, 0]

    def test_other_names_in_another_split_are_refused_with_both_lists(self, tmp_path: Path) -> None:
        write(tmp_path / "train.parquet", TWO, ["cat", "dog"])
        write(tmp_path / "test.parquet", TWO, ["cat", "wolf"])
        message = error_of(tmp_path)
        assert "train.parquet names the classes cat, dog, but" in message
        assert "test.parquet names cat, wolf; the files must have the same classes" in message

    def test_a_file_without_names_beside_one_with_names_is_told(self, tmp_path: Path) -> None:
        write(tmp_path / "train.parquet", TWO, ["cat", "dog"])
        write(tmp_path / "test.parquet", TWO)
        assert parquet.survey(tmp_path).notes == (
            "test.parquet: does not name its classes; the labels are taken as those of train.parquet",
        )

    @pytest.mark.parametrize(
        ("labels", "names"),
        [
            ([1440764, 1443537, 1440764, 2110341] * 3, ("1440764", "1443537", "2110341")),
            ([1, 2, 3] * 4, ("1", "2", "3")),
            ([0, 1, 5] * 4, ("0", "1", "5")),
        ],
    )
    def test_numbers_without_names_are_classes_by_value(
        self, tmp_path: Path, labels: list[int], names: tuple[str, ...]
    ) -> None:
        write(tmp_path / "train.parquet", labels)
        write(tmp_path / "test.parquet", labels[1:4])
        raw, survey = parquet.read(tmp_path), parquet.survey(tmp_path)
        assert raw.classes == names
        assert [int(names[label]) for label in raw.train.labels_B] == labels
        assert [int(names[label]) for label in raw.test.labels_B] == labels[1:4]
        assert survey.classes == 3
        assert survey.notes == (
            f"{tmp_path / 'train.parquet'}: the labels are 3 different numbers, {names[0]} to {names[-1]}; they are "
            "taken as the names of 3 classes",
        )
        lines: list[str] = []
        load(DataRequest("parquet", str(tmp_path), validation=0.25), tmp_path / "cache", lines.append)
        assert f"warning: {survey.notes[0]}" in lines
        assert "height 8, width 8, 3 channels, 3 classes (" in lines[1]

    def test_a_test_label_that_no_training_image_has_is_refused(self, tmp_path: Path) -> None:
        write(tmp_path / "train.parquet", [0, 2] * 4)
        write(tmp_path / "test.parquet", [0, 1])
        assert error_of(tmp_path).endswith("test.parquet: the test labels 1 occur in no training image")

    def test_a_named_class_without_a_training_image_is_told(self, tmp_path: Path) -> None:
        write(tmp_path / "train.parquet", [1, 2] * 4, ["background", "cat", "dog"])
        write(tmp_path / "test.parquet", [1, 2], ["background", "cat", "dog"])
        survey = parquet.survey(tmp_path, compare=True)
        assert survey.classes == 2
        assert survey.notes == (f"{tmp_path / 'train.parquet'}: classes without a training image: background",)

    def test_a_named_class_without_a_training_image_is_told_once_after_decoding(self, tmp_path: Path) -> None:
        write(tmp_path / "train.parquet", [1, 2] * 20, ["background", "cat", "dog"])
        write(tmp_path / "test.parquet", [1, 2], ["background", "cat", "dog"])
        lines: list[str] = []
        load(DataRequest("parquet", path=str(tmp_path)), tmp_path / "cache", lines.append)
        assert sum("classes without a training image" in line for line in lines) == 1

    @pytest.mark.parametrize("names", [None, ["cat", "dog"]])
    def test_hidden_test_labels_are_refused_with_a_way_on(self, tmp_path: Path, names: list[str] | None) -> None:
        write(tmp_path / "train.parquet", TWO, names)
        write(tmp_path / "test.parquet", [-1] * 4, names)
        message = error_of(tmp_path)
        assert (
            "test.parquet: the test labels are hidden (-1 in 4 of 4); use a split with labels as the test set"
            in message
        )

    def test_hidden_training_labels_are_refused(self, tmp_path: Path) -> None:
        write(tmp_path / "train.parquet", [*TWO, -1])
        write(tmp_path / "test.parquet", TWO)
        assert "the train labels are hidden (-1 in 1 of 11); remove these images" in error_of(tmp_path)

    @pytest.mark.parametrize(
        "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
    )
    def test_texts_are_classes(self, tmp_path: Path, kind: pa.DataType) -> None:
        write(tmp_path / "train.parquet", ["eel", "cat", "dog"] * 3, kind=kind)
        write(tmp_path / "test.parquet", ["dog", "cat"], kind=kind)
        raw = parquet.read(tmp_path)
        assert raw.classes == ("cat", "dog", "eel")
        assert raw.train.labels_B.tolist() == [2, 0, 1] * 3
        assert raw.test.labels_B.tolist() == [1, 0]

    def test_truth_values_are_classes(self, tmp_path: Path) -> None:
        write(tmp_path / "train.parquet", [True, False] * 3)
        write(tmp_path / "test.parquet", [True])
        raw = parquet.read(tmp_path)
        assert (raw.classes, raw.test.labels_B.tolist()) == (("false", "true"), [1])

    def test_a_text_that_no_training_image_has_is_refused(self, tmp_path: Path) -> None:
        write(tmp_path / "train.parquet", ["cat", "dog"])
        write(tmp_path / "test.parquet", ["wolf"])
        assert error_of(tmp_path).endswith("the test labels wolf occur in no training image")

    def test_texts_beside_integers_are_refused(self, tmp_path: Path) -> None:
        write(tmp_path / "train.parquet", ["cat", "dog"])
        write(tmp_path / "test.parquet", [0, 1])
        assert "train.parquet has texts as labels, but" in error_of(tmp_path)

    @pytest.mark.parametrize(("labels", "kind"), [([0.5, 1.0], "double"), ([[0], [1]], "list<")])
    def test_labels_of_another_type_are_refused(self, tmp_path: Path, labels: list[object], kind: str) -> None:
        write(tmp_path / "train.parquet", labels)
        write(tmp_path / "test.parquet", labels)
        assert f"column 'label' must hold integers or texts, not {kind}" in error_of(tmp_path)

    def test_a_missing_label_is_named(self, tmp_path: Path) -> None:
        write(tmp_path / "train.parquet", [0, None, 1])
        write(tmp_path / "test.parquet", TWO)
        assert error_of(tmp_path).endswith("train.parquet, row 1: the label is missing")

    @pytest.mark.parametrize(("labels", "names"), [([0] * 4, ["cat", "dog"]), ([7] * 4, None), (["cat"] * 4, None)])
    def test_one_class_is_refused(self, tmp_path: Path, labels: list[object], names: list[str] | None) -> None:
        write(tmp_path / "train.parquet", labels, names)
        write(tmp_path / "test.parquet", labels, names)
        only = names[0] if names else labels[0]
        assert error_of(tmp_path).endswith(f"all training images have the same label, {only}; there is only one class")


class TestColumns:
    def test_other_columns_can_be_named(self, tmp_path: Path) -> None:
        for name in ("train", "test"):
            write(tmp_path / f"{name}.parquet", TWO, ["cat", "dog"], columns=("picture", "fine_label"))
        assert "needs a column img or image; has picture, fine_label; or set data.image_column" in error_of(tmp_path)
        message = error_of(tmp_path, Columns("picture"))
        assert "needs a column label or labels; has picture, fine_label; or set data.label_column" in message
        assert error_of(tmp_path, Columns("picture", "coarse")).endswith(
            "needs a column coarse; has picture, fine_label"
        )
        raw = parquet.read(tmp_path, columns=Columns("picture", "fine_label"))
        assert (raw.classes, raw.train.labels_B.tolist()) == (("cat", "dog"), TWO)
        request = DataRequest("parquet", str(tmp_path), image_column="picture", label_column="fine_label")
        assert load(request, tmp_path / "cache").classes == ("cat", "dog")

    def test_a_named_column_is_taken_before_a_usual_one(self, tmp_path: Path) -> None:
        for name in ("train", "test"):
            table = pa.table(
                {
                    "image": pa.array([{"bytes": some_png(), "path": None} for _ in TWO], HUB),
                    "label": TWO,
                    "coarse_label": TWO[::-1],
                }
            )
            pq.write_table(table, tmp_path / f"{name}.parquet")
        assert parquet.read(tmp_path, columns=Columns(label="coarse_label")).train.labels_B.tolist() == TWO[::-1]

    def test_a_column_of_bytes_is_read(self, tmp_path: Path) -> None:
        for name in ("train", "test"):
            table = pa.table({"image": pa.array([some_png(seed) for seed in range(10)], pa.binary()), "label": TWO})
            pq.write_table(table, tmp_path / f"{name}.parquet")
        pixels = np.asarray(Image.open(io.BytesIO(some_png(3))))
        assert np.array_equal(parquet.read(tmp_path).train.images_BHWC[3], pixels)

    def test_a_column_without_images_is_refused(self, tmp_path: Path) -> None:
        for name in ("train", "test"):
            pq.write_table(pa.table({"image": ["a.png"] * 10, "label": TWO}), tmp_path / f"{name}.parquet")
        assert "column 'image' must hold encoded images, or a struct with 'bytes', not string" in error_of(tmp_path)

    def test_a_path_without_bytes_is_refused(self, tmp_path: Path) -> None:
        write(tmp_path / "train.parquet", TWO)
        table = pa.table({"image": pa.array([{"bytes": None, "path": "a.png"}], HUB), "label": [0]})
        pq.write_table(table, tmp_path / "test.parquet")
        with pytest.raises(DataError, match=r"test.parquet, row 0: the image bytes are missing"):
            parquet.read(tmp_path)


class TestImages:
    def test_images_are_read_upright_and_opaque(self, tmp_path: Path) -> None:
        exif, wide, drawing = Image.Exif(), np.zeros((8, 16, 3), np.uint8), Image.new("RGBA", (16, 8))
        exif[0x0112] = 6
        wide[:, :8] = 255
        lying, clear = io.BytesIO(), io.BytesIO()
        Image.fromarray(np.ascontiguousarray(np.rot90(wide))).save(lying, "JPEG", exif=exif)
        drawing.save(clear, "PNG")
        write(tmp_path / "train.parquet", [0, 1], images=[lying.getvalue(), clear.getvalue()])
        write(tmp_path / "test.parquet", [0, 1])
        images = parquet.read(tmp_path, size=16).train.images_BHWC
        assert images[0, 8, 2].min() > 200 > 50 > images[0, 8, 13].max()
        assert images[1].min() == 255

    def test_images_that_splits_share_are_counted(self, tmp_path: Path) -> None:
        write(tmp_path / "train.parquet", TWO, images=[some_png(seed) for seed in range(10)])
        write(tmp_path / "test.parquet", TWO, images=[some_png(seed) for seed in range(7, 17)])
        told = "3 of 10 test images are also training images: the test accuracy cannot be trusted"
        assert parquet.survey(tmp_path, compare=True).notes == (told,)
        lines: list[str] = []
        load(DataRequest("parquet", str(tmp_path), validation=0.2), tmp_path / "cache", lines.append)
        assert lines[2:] == [f"warning: {told}"]
