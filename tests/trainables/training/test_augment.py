"""Augmentation: the possible results for an image, on CPU and GPU alike."""

import itertools

import numpy as np
import pytest
import torch

from trainables.training.augment import draw, flip_crop


def candidates(image_HWC: np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]) -> dict[bytes, tuple[bool, int, int]]:
    """All possible results for an image, computed pixel by pixel: bytes -> (mirrored, rows down, columns right)."""
    height, width, _ = image_HWC.shape
    found = {}
    for mirrored, down, right in itertools.product((False, True), range(-4, 5), range(-4, 5)):
        moved = np.zeros_like(image_HWC)
        for row, column in itertools.product(range(height), range(width)):
            from_row, from_column = row + down, column + right
            if 0 <= from_row < height and 0 <= from_column < width:
                moved[row, column] = image_HWC[from_row, width - 1 - from_column if mirrored else from_column]
        found[moved.tobytes()] = (mirrored, down, right)
    return found


def stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_images_are_mirrored_and_shifted_by_up_to_four_pixels() -> None:
    image = np.random.default_rng(0).integers(1, 256, (9, 7, 3), dtype=np.uint8)
    batch_BHWC = torch.from_numpy(np.repeat(image[None], 3000, axis=0))
    after_BHWC = flip_crop(batch_BHWC, draw(3000, stream(0)))
    assert (after_BHWC.shape, after_BHWC.dtype) == (batch_BHWC.shape, torch.uint8)
    possible = candidates(image)
    seen = [possible[after.numpy().tobytes()] for after in after_BHWC]  # a KeyError means an impossible image
    # With 162 equally likely outcomes and 3,000 draws, the chance to miss a given outcome is 1e-8.
    assert set(seen) == set(possible.values())
    assert len(possible) == 2 * 9 * 9
    assert sum(mirrored for mirrored, _, _ in seen) == pytest.approx(1500, abs=120)
    for shift in range(-4, 5):
        assert sum(down == shift for _, down, _ in seen) == pytest.approx(333, abs=75)
        assert sum(right == shift for _, _, right in seen) == pytest.approx(333, abs=75)


def test_every_augmented_image_comes_from_its_own_original() -> None:
    images = np.random.default_rng(1).integers(1, 256, (12, 6, 6, 3), dtype=np.uint8)
    after = flip_crop(torch.from_numpy(images), draw(12, stream(0))).numpy()
    assert all(one.tobytes() in candidates(image) for one, image in zip(after, images, strict=True))


def test_an_augmented_batch_has_the_channels_last_layout() -> None:
    after_BHWC = flip_crop(torch.zeros(5, 8, 8, 3, dtype=torch.uint8), draw(5, stream(0)))
    assert after_BHWC.permute(0, 3, 1, 2).is_contiguous(memory_format=torch.channels_last)


def test_an_own_generator_draws_the_same_as_the_global_one() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        ours, others = draw(100), draw(100, stream(7))
    assert all(torch.equal(getattr(ours, part), getattr(others, part)) for part in ("flip_B", "top_B", "left_B"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_sees_the_same_images_as_the_cpu() -> None:
    images = torch.randint(0, 256, (50, 32, 32, 3), dtype=torch.uint8, generator=stream(0))
    draws, device = draw(50, stream(0)), torch.device("cuda")
    assert torch.equal(flip_crop(images.to(device), draws.to(device)).cpu(), flip_crop(images, draws))
