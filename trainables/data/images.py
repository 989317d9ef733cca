"""Decodes image files to pixels, and resizes images.

Legend: B images, H W pixels, C channels (RGB).
"""

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainables.errors import DataError

Pixels = NDArray[np.uint8]


def decode(source: Path | bytes, size: int | None, where: str) -> Pixels:
    """Decode one image to RGB.

    Args:
        source: a file, or a file's bytes.
        size: side in pixels of the square that the image is resized to (bilinear); None keeps the image's size.
        where: the image's name in error messages.

    Returns:
        (H, W, 3), uint8.

    Raises:
        DataError: the source is not an image, or it is broken.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return np.asarray(_fit(image.convert("RGB"), size))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # Pillow raises SyntaxError and ValueError for some broken files.
        raise DataError(f"{where}: cannot decode the image ({error})") from error


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


def _fit(image: Image.Image, size: int | None) -> Image.Image:
    if size is None or image.size == (size, size):
        return image
    return image.resize((size, size), Image.Resampling.BILINEAR)


def _sides(shape: tuple[int, ...]) -> str:
    height, width = shape[:2]
    return f"{width}x{height}"
