"""Image files as people have them: 16 bits, transparency, EXIF orientation, sub-folders, other suffixes."""

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainables.data import image_folder
from trainables.data.images import decode, suffixes
from trainables.errors import DataError

RAMP_HW = np.arange(65536, dtype=np.uint16).reshape(256, 256)
"""Every value of 16 bits once."""
UPRIGHT = np.zeros((8, 12, 3), np.uint8)
UPRIGHT[0, 0] = 255
"""Wider than high, with a white corner at the top left."""

Save = Callable[[Path], None]


def drawing(mode: str) -> Image.Image:
    """A black square on a transparent ground, in one of Pillow's modes."""
    alpha_HW = np.zeros((16, 16), np.uint8)
    alpha_HW[4:12, 4:12] = 255
    if mode == "P":
        image = Image.fromarray((alpha_HW == 0).astype(np.uint8)).convert("P")
        image.putpalette([0, 0, 0] * 256)
        image.info["transparency"] = 1
        return image
    black = Image.new("L" if mode == "LA" else "RGB", (16, 16))
    black.putalpha(Image.fromarray(alpha_HW))
    return black


def class_folder(root: Path, images: dict[str, int]) -> Path:
    """Write images into folders: name of a folder, such as ``train/cat``, to its number of images. No two are equal."""
    generator = np.random.default_rng(len(images))
    for name, count in images.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(root / name / f"{index}.png")
    return root


TWO = {"train/cat": 3, "train/dog": 3, "test/cat": 2, "test/dog": 2}


class TestDepth:
    @pytest.mark.parametrize("name", ["ramp.png", "ramp.tif", "ramp.pgm"])
    def test_grey_of_16_bits_uses_all_256_levels(self, tmp_path: Path, name: str) -> None:
        file = tmp_path / name
        if name.endswith(".pgm"):
            file.write_bytes(b"P5 256 256 65535\n" + RAMP_HW.astype(">u2").tobytes())
        else:
            Image.fromarray(RAMP_HW).save(file)
        pixels = decode(file, None, "ramp")
        assert np.array_equal(pixels[..., 0], RAMP_HW >> 8)
        assert np.array_equal(pixels[..., 0], pixels[..., 2])

    def test_grey_of_12_bits_in_a_tiff_uses_all_256_levels(self, tmp_path: Path) -> None:
        values = np.arange(4096).reshape(64, 64)
        pairs = values.reshape(-1, 2)
        packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], axis=1)
        tags = [(256, 64), (257, 64), (258, 12), (259, 1), (262, 1), (273, 200), (277, 1), (278, 64), (279, 6144)]
        entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
        head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
        (tmp_path / "twelve.tif").write_bytes(head.ljust(200, b"\0") + packed.astype(np.uint8).tobytes())
        assert np.array_equal(decode(tmp_path / "twelve.tif", None, "twelve")[..., 0], values >> 4)

    @pytest.mark.parametrize("kind", [np.uint8, np.uint16])
    def test_a_tiff_whose_zero_is_white_is_no_negative(self, kind: type) -> None:
        values = np.arange(256).reshape(16, 16) * (np.iinfo(kind).max // 255)
        buffer = io.BytesIO()
        Image.fromarray(values.astype(kind)).save(buffer, "TIFF")
        black, white = (struct.pack("<HHIHH", 262, 3, 1, value, 0) for value in (1, 0))
        assert buffer.getvalue().count(black) == 1
        pixels = decode(buffer.getvalue().replace(black, white), None, "white")
        assert pixels[..., 0].ravel().tolist() == list(range(255, -1, -1))

    def test_grey_of_16_bits_with_a_transparent_value_is_laid_on_white(self, tmp_path: Path) -> None:
        values = np.array([[0, 300], [40_000, 300]], np.uint16)
        Image.fromarray(values).save(tmp_path / "a.png", transparency=300)
        assert decode(tmp_path / "a.png", None, "a")[..., 1].tolist() == [[0, 255], [156, 255]]

    @pytest.mark.parametrize(("kind", "mode"), [(np.float32, "F"), (np.int32, "I")])
    def test_values_without_a_fixed_range_are_refused(self, tmp_path: Path, kind: type, mode: str) -> None:
        Image.fromarray(np.ones((4, 4), kind)).save(tmp_path / "values.tif")
        with pytest.raises(DataError, match=f"values.tif: the image has the mode {mode} of Pillow"):
            decode(tmp_path / "values.tif", None, str(tmp_path / "values.tif"))


class TestTransparency:
    @pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
    @pytest.mark.parametrize("size", [None, 8])
    def test_a_black_drawing_on_a_transparent_ground_is_black_on_white(
        self, tmp_path: Path, mode: str, size: int | None
    ) -> None:
        drawing(mode).save(tmp_path / "a.png")
        with Image.open(tmp_path / "a.png") as saved:
            assert saved.mode == mode
        pixels = decode(tmp_path / "a.png", size, "a")
        side = size or 16
        assert pixels.shape == (side, side, 3)
        assert (pixels[side // 2, side // 2].tolist(), pixels[0, 0].tolist()) == ([0, 0, 0], [255, 255, 255])

    def test_half_transparent_pixels_are_mixed_and_opaque_ones_kept(self, tmp_path: Path) -> None:
        pixels = np.array([[[10, 20, 30, 255], [0, 100, 200, 51]]], np.uint8)
        Image.fromarray(pixels).save(tmp_path / "a.png")
        assert decode(tmp_path / "a.png", None, "a").tolist() == [[[10, 20, 30], [204, 224, 244]]]


class TestOrientation:
    @pytest.mark.parametrize(
        ("orientation", "stored"),
        [
            (1, UPRIGHT),
            (2, UPRIGHT[:, ::-1]),
            (3, UPRIGHT[::-1, ::-1]),
            (6, np.rot90(UPRIGHT)),
            (8, np.rot90(UPRIGHT, 3)),
        ],
    )
    @pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif"])
    def test_the_orientation_of_exif_is_applied(
        self, tmp_path: Path, name: str, orientation: int, stored: np.ndarray
    ) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / name, exif=exif)
        pixels = decode(tmp_path / name, None, name)
        assert pixels.shape == UPRIGHT.shape
        assert pixels[..., 0].argmax() == 0

    def test_a_broken_exif_block_does_not_matter(self, tmp_path: Path) -> None:
        Image.fromarray(UPRIGHT).save(tmp_path / "a.jpg", exif=b"Exif\0\0XX*\0broken")
        assert decode(tmp_path / "a.jpg", None, "a").shape == UPRIGHT.shape


class TestLayout:
    def test_folders_are_read_upright_and_opaque(self, tmp_path: Path) -> None:
        class_folder(tmp_path, TWO)
        drawing("RGBA").save(tmp_path / "train" / "cat" / "0.png")
        exif = Image.Exif()
        exif[0x0112] = 6
        tall = np.ascontiguousarray(np.rot90(np.repeat(np.repeat(UPRIGHT, 8, 0), 8, 1)))
        Image.fromarray(tall).save(tmp_path / "train" / "cat" / "1.jpg", exif=exif)
        (tmp_path / "train" / "cat" / "1.png").unlink()
        images = image_folder.read(tmp_path).train.images_BHWC
        assert images[0, 0, 0].tolist() == [255, 255, 255]
        assert images[0, 16, 16].tolist() == [0, 0, 0]
        assert images[1, 0, 0, 0] > 150 > images[1, -1, 0, 0]

    @pytest.mark.parametrize("name", ["val", "valid", "validation", "dev"])
    def test_a_published_validation_folder_is_used(self, tmp_path: Path, name: str) -> None:
        class_folder(tmp_path, TWO | {f"{name}/cat": 1, f"{name}/dog": 2})
        raw, survey = image_folder.read(tmp_path), image_folder.survey(tmp_path)
        assert raw.val is not None
        assert raw.val.labels_B.tolist() == [0, 1, 1]
        assert (survey.train, survey.val, survey.test, survey.notes) == (6, 3, 4, ())
        assert len(image_folder.sources(tmp_path)) == 13

    def test_two_validation_folders_are_refused(self, tmp_path: Path) -> None:
        class_folder(tmp_path, TWO | {"val/cat": 1, "val/dog": 1, "valid/cat": 1, "valid/dog": 1})
        with pytest.raises(DataError, match="val and valid are both the val split"):
            image_folder.survey(tmp_path)

    def test_other_classes_for_validation_are_refused(self, tmp_path: Path) -> None:
        class_folder(tmp_path, TWO | {"val/cat": 1})
        with pytest.raises(DataError, match="train and val must have the same classes; only one of them has dog"):
            image_folder.survey(tmp_path)

    def test_images_in_subfolders_of_a_class_are_read_and_told(self, tmp_path: Path) -> None:
        class_folder(tmp_path, TWO | {"train/cat/day": 2, "train/cat/night/late": 1})
        survey = image_folder.survey(tmp_path)
        assert survey.train == len(image_folder.read(tmp_path).train) == 9
        assert survey.notes == (
            f"{tmp_path / 'train'}: images in sub-folders of a class count as images of the class: cat 3",
        )

    def test_a_linked_folder_is_read_once(self, tmp_path: Path) -> None:
        class_folder(tmp_path, TWO)
        class_folder(tmp_path / "elsewhere", {"more": 2})
        (tmp_path / "train" / "cat" / "more").symlink_to(tmp_path / "elsewhere" / "more")
        (tmp_path / "train" / "cat" / "circle").symlink_to(tmp_path / "train" / "cat")
        assert image_folder.survey(tmp_path).train == 8

    def test_what_pillow_reads_is_read_and_the_rest_is_named(self, tmp_path: Path) -> None:
        class_folder(tmp_path, TWO)
        cat = tmp_path / "train" / "cat"
        Image.fromarray(UPRIGHT).save(cat / "a.jfif", "JPEG")
        Image.fromarray(UPRIGHT).save(cat / "B.TGA")
        for name in ("c.heic", "notes.txt"):
            (cat / name).write_bytes(b"?")
        (cat / ".DS_Store").write_bytes(b"?")
        Image.fromarray(UPRIGHT).save(tmp_path / "train" / "stray.png")
        survey = image_folder.survey(tmp_path)
        assert survey.train == len(image_folder.read(tmp_path).train) == 8
        assert survey.notes == (
            f"{tmp_path / 'train'}: 3 files are left out, because Pillow does not read this kind of file or no "
            "folder of a class contains it: stray.png, cat/c.heic, cat/notes.txt",
        )

    def test_a_class_with_nothing_to_read_names_what_is_there(self, tmp_path: Path) -> None:
        class_folder(tmp_path, TWO | {"train/eel": 0, "test/eel": 1})
        (tmp_path / "train" / "eel" / "a.heic").write_bytes(b"?")
        with pytest.raises(DataError, match=r"eel: has no images that Pillow reads; there are: a\.heic"):
            image_folder.survey(tmp_path)

    def test_folders_that_are_no_splits_are_named(self, tmp_path: Path) -> None:
        class_folder(tmp_path, TWO | {"extra/cat": 1})
        assert image_folder.survey(tmp_path).notes == (
            f"{tmp_path}: these folders are no splits and are not read: extra",
        )

    def test_classes_without_splits_are_refused_with_what_is_there(self, tmp_path: Path) -> None:
        class_folder(tmp_path, {"cat": 1, "dog": 1})
        with pytest.raises(DataError, match=r"train: no such folder; .* has: cat, dog"):
            image_folder.survey(tmp_path)

    def test_one_class_is_refused(self, tmp_path: Path) -> None:
        class_folder(tmp_path, {"train/images": 4, "test/images": 2})
        with pytest.raises(DataError, match="train has only one class, images; put the images of each class into a"):
            image_folder.survey(tmp_path)

    def test_images_that_train_and_test_share_are_counted(self, tmp_path: Path) -> None:
        class_folder(tmp_path, TWO | {"val/cat": 1, "val/dog": 1})
        for source, copy in (("train/cat/0", "test/cat/7"), ("train/dog/1", "test/dog/0"), ("test/cat/1", "val/cat/0")):
            (tmp_path / f"{copy}.png").write_bytes((tmp_path / f"{source}.png").read_bytes())
        assert image_folder.survey(tmp_path).notes == ()
        assert image_folder.survey(tmp_path, compare=True).notes == (
            "2 of 5 test images are also training images: the test accuracy cannot be trusted",
            "1 of 5 test images are also validation images: the test accuracy cannot be trusted",
        )

    def test_the_suffixes_are_those_of_formats_with_pixels(self) -> None:
        assert {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".ppm", ".tif", ".tiff", ".jfif"} <= suffixes()
        assert not {".pdf", ".eps", ".h5", ".mpg", ".txt"} & suffixes()
