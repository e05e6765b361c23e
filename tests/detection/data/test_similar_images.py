"""Nearly equal images, as people's sets have them."""

from __future__ import annotations

import cv2
import numpy as np

from detection.data.similar_images import BITS, MOST_BITS, difference_hashes, similar_groups, thumbnail


def scene(seed: int, height: int = 240, width: int = 320) -> np.ndarray:
    """A smooth image with some objects."""
    random = np.random.default_rng(seed)
    image = cv2.resize(
        random.integers(0, 256, (5, 6, 3), dtype=np.uint8), (width, height), interpolation=cv2.INTER_CUBIC
    )
    for _ in range(6):
        centre = int(random.integers(width)), int(random.integers(height))
        cv2.circle(image, centre, int(random.integers(8, 50)), random.integers(0, 256, 3).tolist(), -1)
    return image


def test_altered_copies_are_found_and_other_images_are_not() -> None:
    images = [scene(seed) for seed in range(40)]
    _, compressed = cv2.imencode(".jpg", images[0], [cv2.IMWRITE_JPEG_QUALITY, 30])
    copies = [
        cv2.imdecode(compressed, cv2.IMREAD_COLOR),
        cv2.resize(images[1], (200, 150), interpolation=cv2.INTER_LINEAR),
        (images[2] * 0.7 + 20).astype(np.uint8),
        np.roll(images[3], 1, axis=1),
        images[4],
        images[4],
    ]
    flat = [np.full((60, 60, 3), level, dtype=np.uint8) for level in (0, 90, 91)]
    groups = similar_groups(np.stack([thumbnail(image) for image in images + copies + flat]))
    assert similar_groups(np.stack([thumbnail(image) for image in flat])) == []
    assert groups == [[4, 44, 45], [0, 40], [1, 41], [2, 42], [3, 43]]


def test_all_pairs_within_the_distance_are_found() -> None:
    """The bands miss none: compared with all pairs of thumbnails whose hashes are close and which correlate."""
    random = np.random.default_rng(0)
    base = random.integers(0, 256, (60, 16, 16)).astype(np.float64)
    noisy = base + random.normal(0, 1, base.shape) * np.linspace(1, 40, 60)[:, None, None]
    thumbnails = np.concatenate([base, noisy]).clip(0, 255).astype(np.uint8)
    hashes = difference_hashes(thumbnails)
    assert hashes.shape == (120, BITS // 16)
    distance = np.bitwise_count(hashes[:, None] ^ hashes[None]).sum(axis=2)
    alike = np.corrcoef(thumbnails.reshape(120, -1)) >= 0.98
    wanted = {(i, j) for i, j in np.argwhere((distance <= MOST_BITS) & alike).tolist() if i < j}
    assert 5 < len(wanted) < 60
    assert {tuple(group) for group in similar_groups(thumbnails)} == wanted
