"""Data sets: the readers, the splits and the cache."""

import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from trainables.catalog import DATASETS, MODELS, is_dotted, load_object
from trainables.data import cifar10, digits, image_folder, normalize, parquet
from trainables.data.cache import load
from trainables.data.request import Columns, DataRequest, Survey
from trainables.data.splits import (
    Arrays,
    Raw,
    Splits,
    described,
    doubts,
    fingerprint,
    split,
    stratified_split,
    stratified_subset,
)
from trainables.errors import CodeError, DataError, TrainableError

CLASSES = ("cat", "dog", "eel")


def made_up(count: int, side: int, seed: int) -> Arrays:
    """Uniform noise with the classes 0, 1, 2 in turn."""
    images = np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return Arrays(images, np.arange(count, dtype=np.int64) % len(CLASSES))


def png(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(file: Path, part: Arrays, columns: tuple[str, str] = ("img", "label"), named: bool = True) -> None:
    records = [{"bytes": png(image), "path": None} for image in part.images_BHWC]
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({columns[0]: pa.array(records, struct), columns[1]: pa.array(part.labels_B.tolist(), pa.int64())})
    if named:
        features = {columns[1]: {"names": CLASSES, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, file)


@pytest.fixture
def parquet_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "parquet"
    folder.mkdir()
    write_parquet(folder / "train.parquet", made_up(30, 8, 0))
    write_parquet(folder / "test.parquet", made_up(9, 8, 1))
    return folder


@pytest.fixture
def png_folder(tmp_path: Path) -> Path:
    for part, count in (("train", 12), ("test", 6)):
        arrays = made_up(count, 20, 0)
        for index, (image, label) in enumerate(zip(arrays.images_BHWC, arrays.labels_B, strict=True)):
            file = tmp_path / "pngs" / part / CLASSES[label] / f"{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png(image))
    return tmp_path / "pngs"


def request_for(folder: Path, **changes: object) -> DataRequest:
    return DataRequest(**{"name": "parquet", "path": str(folder), "validation": 0.2} | changes)  # type: ignore[arg-type]


def entry_of(cache_dir: Path) -> Path:
    (entry,) = (path for path in cache_dir.iterdir() if path.is_dir())
    return entry


def spoil_unnoticed(file: Path) -> None:
    """Overwrite a file but keep its size and time, so that only reading it shows the change."""
    before = file.stat()
    file.write_bytes(bytes(before.st_size))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


class TestSplitting:
    def test_every_class_is_held_out_in_its_share(self) -> None:
        labels = np.repeat(np.arange(3), [60, 30, 10])
        train_idx, val_idx = stratified_split(labels, 0.2, seed=0)
        assert np.bincount(labels[val_idx]).tolist() == [12, 6, 2]
        assert np.array_equal(np.sort(np.concatenate([train_idx, val_idx])), np.arange(100))

    def test_remaining_images_go_to_the_largest_remainders(self) -> None:
        # 10 of 7 + 7 + 6 images: the shares are 3.5, 3.5 and 3.0; the lower class of the tie gets the remaining image.
        labels = np.repeat(np.arange(3), [7, 7, 6])
        assert np.bincount(labels[stratified_subset(labels, 10, seed=0)]).tolist() == [4, 3, 3]

    @pytest.mark.parametrize("count", [0, 1, 13, 20])
    def test_a_count_is_met_exactly(self, count: int) -> None:
        labels = np.random.default_rng(0).integers(0, 4, 20)
        assert len(set(stratified_subset(labels, count, seed=1).tolist())) == count
        # Each of the 4 classes keeps an image.
        assert len(stratified_split(labels, count, seed=1)[0]) == max(20 - count, 4)

    @pytest.mark.parametrize(
        ("sizes", "share", "held"),
        [
            ([1, 1, 1, 1], 0.5, [0, 0, 0, 0]),
            ([1, 9], 0.9, [0, 8]),
            ([2, 1, 7], 0.5, [1, 0, 4]),
            ([2, 2, 2], 0.9, [1, 1, 1]),
            ([50, 50], 0.1, [5, 5]),
        ],
    )
    def test_no_class_loses_its_last_image(self, sizes: list[int], share: float, held: list[int]) -> None:
        labels = np.repeat(np.arange(len(sizes)), sizes)
        train_idx, val_idx = stratified_split(labels, share, seed=0)
        assert np.bincount(labels[val_idx], minlength=len(sizes)).tolist() == held
        assert sorted([*train_idx, *val_idx]) == list(range(len(labels)))
        assert Survey(len(labels), None, 1, len(sizes)).held_out(share) == sum(held)

    def test_the_seed_determines_the_split(self) -> None:
        labels = np.arange(100) % 10
        first, again, other = (stratified_split(labels, 30, seed=seed)[1] for seed in (0, 0, 1))
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)

    def test_a_count_above_the_number_of_images_is_an_error(self) -> None:
        with pytest.raises(DataError, match="cannot take 5 images out of 3"):
            stratified_subset(np.zeros(3, np.int64), 5, seed=0)

    def test_the_fingerprint_is_the_sha256_of_the_bytes(self) -> None:
        one, two = made_up(3, 4, 0), made_up(2, 4, 1)
        data = b"".join(a.tobytes() for a in (one.images_BHWC, one.labels_B, two.images_BHWC, two.labels_B))
        assert fingerprint(one, two) == hashlib.sha256(data).hexdigest()


class TestReaders:
    def test_digits_are_upright_rgb_and_do_not_flip(self) -> None:
        raw = digits.read()
        assert digits.survey() == Survey(len(raw.train), None, len(raw.test), len(raw.classes))
        assert raw.train.images_BHWC.shape[1:] == (32, 32, 3)
        assert (raw.train.images_BHWC.min(), raw.train.images_BHWC.max()) == (0, 255)
        assert raw.flips is False
        assert len(raw.classes) == 10

    def test_parquet_returns_the_written_images_and_labels(self, parquet_folder: Path) -> None:
        raw, train = parquet.read(parquet_folder), made_up(30, 8, 0)
        assert np.array_equal(raw.train.images_BHWC, train.images_BHWC)
        assert np.array_equal(raw.train.labels_B, train.labels_B)
        assert raw.classes == CLASSES
        assert parquet.survey(parquet_folder) == Survey(30, None, 9, 3)

    def test_parquet_shards_are_read_in_order(self, tmp_path: Path) -> None:
        parts = [made_up(6, 8, seed) for seed in range(3)]
        names = ["train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"]
        for name, part in zip(names, parts, strict=True):
            write_parquet(tmp_path / f"{name}.parquet", part, columns=("image", "labels"), named=False)
        raw = parquet.read(tmp_path)
        joined = np.concatenate([parts[0].images_BHWC, parts[1].images_BHWC])
        assert np.array_equal(raw.train.images_BHWC, joined)
        assert raw.classes == ("0", "1", "2")

    def test_parquet_of_mixed_sizes_needs_a_size(self, parquet_folder: Path) -> None:
        write_parquet(parquet_folder / "test.parquet", made_up(3, 8, 0))
        (parquet_folder / "train.parquet").rename(parquet_folder / "train-0.parquet")
        write_parquet(parquet_folder / "train-1.parquet", made_up(3, 10, 0))
        with pytest.raises(DataError, match=r"train-1.parquet, row 0: the image is 10x10, but the first one is 8x8"):
            parquet.read(parquet_folder)
        assert parquet.read(parquet_folder, size=16).train.images_BHWC.shape == (33, 16, 16, 3)

    def test_a_missing_folder_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="nowhere: no such folder"):
            parquet.survey(tmp_path / "nowhere")

    def test_a_missing_parquet_is_named(self, parquet_folder: Path) -> None:
        (parquet_folder / "test.parquet").unlink()
        with pytest.raises(DataError, match=r"has no test\.parquet"):
            parquet.survey(parquet_folder)

    def test_a_truncated_parquet_is_named(self, parquet_folder: Path) -> None:
        file = parquet_folder / "train.parquet"
        file.write_bytes(file.read_bytes()[:-100])
        for use in (parquet.survey, parquet.read):
            with pytest.raises(DataError, match=r"train.parquet: truncated"):
                use(parquet_folder)

    def test_a_parquet_without_rows_is_named(self, parquet_folder: Path) -> None:
        write_parquet(parquet_folder / "test.parquet", made_up(0, 8, 0))
        with pytest.raises(DataError, match=r"test.parquet: has no images"):
            parquet.read(parquet_folder)

    def test_a_parquet_with_other_columns_is_an_error(self, parquet_folder: Path) -> None:
        write_parquet(parquet_folder / "train.parquet", made_up(3, 8, 0), columns=("picture", "label"))
        with pytest.raises(DataError, match="needs a column img or image"):
            parquet.read(parquet_folder)

    def test_labels_outside_the_classes_are_an_error(self, parquet_folder: Path, tmp_path: Path) -> None:
        part = made_up(6, 8, 0)
        write_parquet(parquet_folder / "test.parquet", Arrays(part.images_BHWC, part.labels_B + 1))
        with pytest.raises(DataError, match=r"test labels are 1..3, outside 0..2"):
            load(request_for(parquet_folder), tmp_path / "cache")

    def test_image_folders_are_resized_and_labelled_by_name(self, png_folder: Path) -> None:
        raw = image_folder.read(png_folder)
        assert raw.train.images_BHWC.shape == (12, 32, 32, 3)
        assert raw.train.labels_B.tolist() == [0] * 4 + [1] * 4 + [2] * 4
        assert raw.classes == CLASSES
        assert image_folder.survey(png_folder) == Survey(12, None, 6, 3)
        first = Image.open(png_folder / "train" / "cat" / "0.png").resize((32, 32), Image.Resampling.BILINEAR)
        assert np.array_equal(raw.train.images_BHWC[0], np.asarray(first))

    def test_image_folders_must_have_the_same_classes(self, png_folder: Path) -> None:
        (png_folder / "test" / "eel").rename(png_folder / "test" / "fox")
        with pytest.raises(DataError, match="only one of them has eel, fox"):
            image_folder.read(png_folder)

    def test_a_broken_image_is_named(self, png_folder: Path) -> None:
        file = png_folder / "train" / "cat" / "0.png"
        file.write_bytes(file.read_bytes()[:60])
        with pytest.raises(DataError, match=r"0.png: cannot decode"):
            image_folder.read(png_folder)

    def test_cifar10_without_a_usable_folder_is_a_data_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(DataError, match="CIFAR-10 is missing or incomplete"):
            cifar10.read(tmp_path / "file" / "below")

    @pytest.mark.parametrize("path", [None, Path("/nowhere")])
    @pytest.mark.parametrize("columns", [Columns(label="fine_label"), Columns(image="picture")])
    def test_cifar10_without_parquet_files_refuses_columns(self, path: Path | None, columns: Columns) -> None:
        with pytest.raises(DataError, match="has no Parquet files of a training split, so it has no columns"):
            cifar10.survey(path, columns)

    @pytest.mark.parametrize("reader", [cifar10, parquet, image_folder], ids=lambda module: module.__name__)
    def test_readers_that_need_a_path_say_so(self, reader: ModuleType) -> None:
        with pytest.raises(DataError, match="needs a path"):
            reader.read(None)

    def test_reading_does_not_import_torch(self, png_folder: Path, parquet_folder: Path) -> None:
        script = (
            "import sys; from pathlib import Path;"
            "from trainables.data import cifar10, digits, parquet, image_folder;"
            "digits.read(); parquet.read(Path(sys.argv[1])); image_folder.read(Path(sys.argv[2]));"
            "import trainables.catalog, trainables.data.cache, trainables.data.normalize;"
            "assert 'torch' not in sys.modules"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run(
            [sys.executable, "-c", script, str(parquet_folder), str(png_folder)], env=environment, check=True
        )


def raw_of(labels: list[int], images: NDArray[np.uint8] | None = None, val: Arrays | None = None) -> Raw:
    """Noise with these training labels, or these images; 6 other test images of the 3 classes."""
    found = made_up(len(labels), 4, 0).images_BHWC if images is None else images
    return Raw(Arrays(found, np.array(labels, np.int64)), made_up(6, 4, 1), CLASSES, flips=True, val=val)


class TestDoubts:
    def of(self, raw: Raw, **changes: object) -> list[str]:
        request = DataRequest("parquet", **{"validation": 0.25} | changes)  # type: ignore[arg-type]
        return list(doubts(raw, split(raw, request)))

    def test_sound_data_has_none(self) -> None:
        assert self.of(raw_of([0, 1, 2] * 8)) == []

    def test_classes_without_images_are_named(self) -> None:
        assert self.of(raw_of([0, 0, 0, 0, 1])) == [
            "classes without a training image: 1 of 3 (eel)",
            "classes without a validation image: 2 of 3 (dog, eel)",
        ]
        assert self.of(raw_of([0, 1, 2] * 8), test_images=1) == ["classes without a test image: 2 of 3 (dog, eel)"]

    def test_images_of_one_colour_are_counted(self) -> None:
        images = made_up(24, 4, 0).images_BHWC
        images[:, 1:] = images[:, :1] = images[:, :1, :1]
        told = "18 of 18 training images have one colour only"
        assert self.of(raw_of([0, 1, 2] * 8, images)) == [told]

    def test_images_that_splits_share_are_counted_after_decoding(self) -> None:
        raw = raw_of([0, 1, 2] * 8)
        raw.test.images_BHWC[1] = raw.train.images_BHWC[5]
        val = Arrays(np.concatenate([raw.train.images_BHWC[:2], raw.test.images_BHWC[:1]]), np.arange(3))
        assert self.of(Raw(raw.train, raw.test, CLASSES, flips=True, val=val)) == [
            "1 of 6 test images are also training images: the test accuracy cannot be trusted",
            "1 of 6 test images are also validation images: the test accuracy cannot be trusted",
            "2 of 3 validation images are also training images: selection cannot be trusted",
        ]

    def test_a_split_of_single_images_is_refused(self) -> None:
        with pytest.raises(DataError, match="every class has only one training image"):
            self.of(raw_of([0, 1, 2]))

    def test_one_class_is_refused(self) -> None:
        with pytest.raises(DataError, match="all training images have the same label, dog; there is only one class"):
            self.of(raw_of([1] * 8))

    def test_one_line_describes_what_was_read(self) -> None:
        raw = raw_of([0, 0, 0, 0, 1, 1, 2, 2])
        assert described(split(raw, DataRequest("parquet", validation=0.25))) == (
            "6 / 2 / 6 train / val / test images, height 4, width 4, 3 channels, "
            "3 classes (1 to 3 training images each)"
        )


class TestNormalizing:
    def test_minmax_brings_each_position_to_0_1(self) -> None:
        images = made_up(20, 4, 0).images_BHWC
        images[:, 0, 0, 0] = 7
        shift, scale = normalize.constants(images, "minmax")
        normal = (np.moveaxis(images, -1, 1) - shift) * scale
        assert normal.shape == (20, 3, 4, 4)
        assert np.allclose(normal.min(axis=0), 0)
        assert np.allclose(np.delete(normal.max(axis=0), 0), 1)
        assert (shift[0, 0, 0], scale[0, 0, 0]) == (7, np.float32(1 / 255))

    def test_standard_agrees_with_numpy(self) -> None:
        images = made_up(20, 4, 0).images_BHWC
        shift, scale = normalize.constants(images, "standard")
        assert shift.shape == scale.shape == (3, 4, 4)
        assert shift.dtype == scale.dtype == np.float32
        assert np.allclose(shift[:, 1, 2], images.mean(axis=(0, 1, 2)))
        assert np.allclose(1 / scale[:, 1, 2], images.std(axis=(0, 1, 2)))


class TestCache:
    def test_digits_split_60_20_20_and_keep_their_shares(self, tmp_path: Path) -> None:
        splits = load(DataRequest("digits", validation=0.25), tmp_path)
        assert [len(part) for part in (splits.train, splits.val, splits.test)] == [1078, 360, 359]
        shares = [np.bincount(part.labels_B) / len(part) for part in (splits.train, splits.val, splits.test)]
        assert np.ptp(shares, axis=0).max() < 0.005
        assert (splits.num_classes, splits.train.images_BHWC.shape[1:]) == (10, (32, 32, 3))

    def test_the_second_load_does_not_decode(self, parquet_folder: Path, tmp_path: Path) -> None:
        lines: list[str] = []
        first = load(request_for(parquet_folder), tmp_path / "cache", lines.append)
        spoil_unnoticed(parquet_folder / "train.parquet")
        again = load(request_for(parquet_folder), tmp_path / "cache", lines.append)
        assert again.fingerprint == first.fingerprint
        assert np.array_equal(again.train.images_BHWC, first.train.images_BHWC)
        assert [line.split()[0] for line in lines] == ["decoding", "decoded"]

    def test_changed_data_is_decoded_again(self, parquet_folder: Path, tmp_path: Path) -> None:
        first = load(request_for(parquet_folder), tmp_path / "cache")
        write_parquet(parquet_folder / "train.parquet", made_up(30, 8, 5))
        assert load(request_for(parquet_folder), tmp_path / "cache").fingerprint != first.fingerprint

    def test_the_fingerprint_covers_the_split_and_the_subset(self, parquet_folder: Path, tmp_path: Path) -> None:
        prints = {
            load(request_for(parquet_folder, seed=seed, train_images=size), tmp_path / "cache").fingerprint
            for seed in (0, 1)
            for size in (None, 12)
        }
        assert len(prints) == 4
        splits = load(request_for(parquet_folder), tmp_path / "other cache")
        assert splits.fingerprint == fingerprint(splits.train, splits.val, splits.test)
        assert splits.fingerprint in prints

    def test_subsets_have_the_requested_counts(self, parquet_folder: Path, tmp_path: Path) -> None:
        whole = load(request_for(parquet_folder), tmp_path / "cache")
        request = request_for(parquet_folder, train_images=9, val_images=3, test_images=6)
        splits = load(request, tmp_path / "cache")
        parts = (splits.train, splits.val, splits.test)
        assert [np.bincount(part.labels_B).tolist() for part in parts] == [[3] * 3, [1] * 3, [2] * 3]
        assert set(map(bytes, splits.val.images_BHWC)) <= set(map(bytes, whole.val.images_BHWC))

    @pytest.mark.parametrize("change", [{"train_images": 25}, {"test_images": 0}, {"validation": 0.0}])
    def test_an_impossible_split_is_an_error(
        self, parquet_folder: Path, tmp_path: Path, change: dict[str, object]
    ) -> None:
        with pytest.raises(DataError, match=r"training images are requested|split has no images"):
            load(request_for(parquet_folder, **change), tmp_path / "cache")

    @pytest.mark.parametrize("damage", ["shorter", "gone", "no meta", "half a meta", "zeros"])
    def test_a_damaged_entry_is_decoded_again(self, parquet_folder: Path, tmp_path: Path, damage: str) -> None:
        first = load(request_for(parquet_folder), tmp_path / "cache")
        entry = entry_of(tmp_path / "cache")
        images, meta = entry / "train_images.npy", entry / "meta.json"
        match damage:
            case "shorter":
                images.write_bytes(images.read_bytes()[:-1])
            case "gone":
                images.unlink()
            case "no meta":
                meta.unlink()
            case "half a meta":
                meta.write_text(meta.read_text()[:50])
            case "zeros":
                images.write_bytes(bytes(images.stat().st_size))
        again = load(request_for(parquet_folder), tmp_path / "cache")
        assert fingerprint(again.train, again.val, again.test) == first.fingerprint

    def test_a_failed_decoding_leaves_no_entry(self, parquet_folder: Path, tmp_path: Path) -> None:
        spoil_unnoticed(parquet_folder / "test.parquet")
        with pytest.raises(DataError, match=r"test.parquet: truncated, or not a Parquet file"):
            load(request_for(parquet_folder), tmp_path / "cache")
        assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]

    def test_checksums_are_checked_before_decoding(self, parquet_folder: Path, tmp_path: Path) -> None:
        file = parquet_folder / "train.parquet"
        good, bad = hashlib.sha256(file.read_bytes()).hexdigest(), "0" * 64
        load(request_for(parquet_folder, sha256=((file.name, good),)), tmp_path / "cache")
        with pytest.raises(DataError, match=f"{file}: sha256 is {good}, not {bad}; fetch the file again"):
            load(request_for(parquet_folder, sha256=((file.name, bad),)), tmp_path / "cache")

    def test_arrays_are_maps_that_torch_accepts_without_a_warning(self, parquet_folder: Path, tmp_path: Path) -> None:
        first, second = (load(request_for(parquet_folder), tmp_path / "cache") for _ in range(2))
        assert isinstance(first.train.images_BHWC, np.memmap)
        before = second.train.images_BHWC.copy()
        torch.from_numpy(first.train.images_BHWC).zero_()
        assert torch.from_numpy(first.train.labels_B).dtype == torch.int64
        assert np.array_equal(second.train.images_BHWC, before)

    def test_an_unknown_name_and_an_unusable_cache_are_errors(self, tmp_path: Path) -> None:
        with pytest.raises(TrainableError, match="no data set named 'digit'"):
            load(DataRequest("digit"), tmp_path)
        (tmp_path / "file").touch()
        with pytest.raises(DataError, match="cannot write the data cache"):
            load(DataRequest("digits"), tmp_path / "file")


OWN_CODE = """
import time
from pathlib import Path

import numpy as np

from trainables.data.splits import Arrays, Raw


def slow(path: Path | None) -> Raw:
    assert path is not None
    with (path.parent / "calls").open("a") as calls:
        calls.write("called\\n")
    time.sleep(1)
    part = Arrays(np.zeros((20, 4, 4, 3), np.uint8), np.arange(20) % 2)
    return Raw(part, part, ("a", "b"), flips=True, val=part)


def nothing(path): ...


def broken(path):
    raise KeyError("oh")
"""


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = "own_" + hashlib.sha256(str(tmp_path).encode()).hexdigest()[:8]
    (tmp_path / f"{name}.py").write_text(OWN_CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


class TestOwnCode:
    def test_two_processes_at_once_decode_once(self, own_code: str, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        script = (
            "import sys; from pathlib import Path; from trainables.data.cache import *;"
            "splits = load(DataRequest(sys.argv[1], path=sys.argv[2]), Path(sys.argv[3]));"
            "assert 'torch' not in sys.modules; print(splits.fingerprint)"
        )
        command = [
            sys.executable,
            "-c",
            script,
            f"{own_code}:slow",
            str(tmp_path / "data"),
            str(tmp_path / "c"),
        ]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        racers = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        outputs = {racer.communicate(timeout=60)[0] for racer in racers}
        assert [racer.returncode for racer in racers] == [0, 0]
        assert len(outputs) == 1
        assert (tmp_path / "calls").read_text() == "called\n"

    def test_a_published_validation_split_is_kept(self, own_code: str, tmp_path: Path) -> None:
        splits: Splits = load(DataRequest(f"{own_code}:slow", path=str(tmp_path)), tmp_path / "cache")
        assert [len(part) for part in (splits.train, splits.val, splits.test)] == [20, 20, 20]

    @pytest.mark.parametrize(
        ("attribute", "message"),
        [
            ("nothing", "must return trainables.data.splits.Raw, not NoneType"),
            ("broken", "raised KeyError: 'oh'"),
            ("absent", "has no attribute 'absent'"),
            ("np", "must be a function"),
        ],
    )
    def test_code_that_is_not_a_reader_is_an_error(
        self, own_code: str, tmp_path: Path, attribute: str, message: str
    ) -> None:
        with pytest.raises(CodeError, match=message):
            load(DataRequest(f"{own_code}:{attribute}"), tmp_path / "cache")


class TestCatalog:
    @pytest.mark.parametrize("module", DATASETS.values())
    def test_every_data_set_has_the_functions_read_survey_and_sources(self, module: str) -> None:
        assert all(callable(load_object(f"{module}:{name}")) for name in ("read", "survey", "sources"))

    @pytest.mark.parametrize("path", MODELS.values())
    def test_every_model_can_be_imported(self, path: str) -> None:
        assert is_dotted(path)
        assert callable(load_object(path))

    @pytest.mark.parametrize(
        ("path", "message"),
        [
            ("json", "not of the form"),
            ("json:", "not of the form"),
            ("../x:y", "not of the form"),
            ("no_such_package.part:x", "there is no module 'no_such_package'"),
            ("json:absent", "module 'json' has no attribute 'absent'"),
        ],
    )
    def test_a_bad_dotted_path_gives_an_error_of_one_line(self, path: str, message: str) -> None:
        with pytest.raises(CodeError, match=message) as caught:
            load_object(path)
        assert "\n" not in str(caught.value)

    def test_an_exception_on_import_is_reported(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "own_raising.py").write_text("1 / 0")
        monkeypatch.syspath_prepend(str(tmp_path))
        with pytest.raises(CodeError, match="raised ZeroDivisionError: division by zero"):
            load_object("own_raising:x")
