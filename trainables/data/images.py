"""Decodes image files to pixels, and resizes images.

Legend: B images, H W pixels, C channels (RGB).
"""

import io
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from trainables.errors import DataError

Pixels = NDArray[np.uint8]

GROUND = (255, 255, 255, 255)
"""Transparent images are laid on white, as a browser shows them."""
EIGHT_BIT = frozenset({"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV"})
"""Pillow's modes without transparency that convert to RGB as they are."""
NO_PIXELS = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
"""Formats that Pillow recognises, but cannot decode by itself."""
BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262
"""Tags of a TIFF file."""
WHITE_IS_ZERO = 0
"""The value of ``PHOTOMETRIC`` in a file with inverted values."""


def decode(source: Path | bytes, size: int | None, where: str) -> Pixels:
    """Decode one image to RGB, upright as its EXIF orientation says, with transparency laid on ``GROUND``.

    A grey image of 16 bits keeps its upper 8 bits, as Pillow does with colour images of 16 bits. Of several frames, the
    first is read.

    Args:
        source: a file, or a file's bytes.
        size: side in pixels of the square that the image is resized to (bilinear); None keeps the image's size.
        where: the image's name in error messages.

    Returns:
        (H, W, 3), uint8.

    Raises:
        DataError: the source is not an image, it is broken, or its pixels are of another kind, such as float.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            image.load()
            _turn_upright(image)
            return np.asarray(_fit(_rgb(image, where), size))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # Pillow raises SyntaxError and ValueError for some broken files.
        raise DataError(f"{where}: cannot decode the image ({error})") from error


@cache
def suffixes() -> frozenset[str]:
    """The suffixes of files that Pillow decodes, in lower case and with the dot."""
    return frozenset(
        suffix for suffix, name in Image.registered_extensions().items() if name in Image.OPEN and name not in NO_PIXELS
    )


def stack(images: Iterable[tuple[str, Pixels]], count: int) -> Pixels:
    """Join the images of ``count`` (where, image) pairs into one array (B, H, W, C).

    Raises:
        DataError: there is no image, or an image differs in size from the first one.
    """
    stacked: Pixels | None = None
    for row, (where, image) in enumerate(images):
        if stacked is None:
            stacked = np.empty((count, *image.shape), np.uint8)
        if image.shape != stacked.shape[1:]:
            raise DataError(
                f"{where}: the image is {_sides(image.shape)}, but the first one is "
                f"{_sides(stacked.shape[1:])}; set `size` to resize all images"
            )
        stacked[row] = image
    if stacked is None:
        raise DataError("there are no images")
    return stacked


def resize(images_BHWC: Pixels, size: int | None) -> Pixels:
    """Resize RGB images to squares with a side of ``size`` pixels (bilinear); None returns them unchanged."""
    if size is None or images_BHWC.shape[1:3] == (size, size):
        return images_BHWC
    return np.stack([np.asarray(_fit(Image.fromarray(image), size)) for image in images_BHWC])


def _turn_upright(image: Image.Image) -> None:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:
        # The pixels are decoded already. A broken EXIF block says nothing about them, and can raise anything.
        return


def _rgb(image: Image.Image, where: str) -> Image.Image:
    if (values_HW := _sixteen_bits(image)) is not None:
        grey = Image.fromarray((values_HW >> 8).astype(np.uint8))
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            grey.paste(GROUND[0], mask=Image.fromarray(values_HW == transparent))
        return grey.convert("RGB")
    if image.has_transparency_data:
        above = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, GROUND), above).convert("RGB")
    if image.mode not in EIGHT_BIT:
        raise DataError(
            f"{where}: the image has the mode {image.mode} of Pillow, whose range of values is not fixed; "
            "save it with 8 or 16 bits per channel"
        )
    return image.convert("RGB")


def _sixteen_bits(image: Image.Image) -> NDArray[np.uint16] | None:
    """The values of a grey image of 16 bits, 0..65535; None for other images."""
    if image.mode.startswith("I;16"):
        tags = getattr(image, "tag_v2", {})
        factor = 16 if tags.get(BITS_PER_SAMPLE) == (12,) else 1  # Pillow does not scale the 12 bits of a TIFF file
        values_HW = np.asarray(image).astype(np.uint16) * np.uint16(factor)
        # Pillow inverts 8 bits itself, and decodes no inverted 12 bits.
        return ~values_HW if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else values_HW
    if image.mode == "I" and image.format == "PPM":  # Pillow scales the greatest value of a .pgm file to 65535
        return np.asarray(image).astype(np.uint16)
    return None


def _fit(image: Image.Image, size: int | None) -> Image.Image:
    if size is None or image.size == (size, size):
        return image
    return image.resize((size, size), Image.Resampling.BILINEAR)


def _sides(shape: tuple[int, ...]) -> str:
    height, width = shape[:2]
    return f"{width}x{height}"
