"""One file with the proposals of a split: image id → boxes and scores, read from disk on access.

Shapes: M images, R proposals of one, T of all. The file (see `tensor_file.py`) holds image_ids int64 (M,), offsets
int64 (M + 1,), boxes float32 (T, 4), in pixels of the original image, and scores float32 (T,), best first within each
image. Its metadata says how it was made. `proposal_writer.py` writes it.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import numpy as np

from backbones.common.errors import UserError
from backbones.common.files import require_plain_file, user_path
from backbones.common.text import first_of
from detection.data.index import DatasetIndex
from detection.data.tensor_file import (
    HEADER_LIMIT,
    NoChecksums,
    fetch,
    find_damage,
    map_array,
    read_header,
    read_sparingly,
)

logger = logging.getLogger(__name__)

KIND = "proposals"
_ROWS = 1 << 20  # proposals that are checked at a time
_ARRAYS = {
    "image_ids": np.dtype("<i8"),
    "offsets": np.dtype("<i8"),
    "boxes": np.dtype("<f4"),
    "scores": np.dtype("<f4"),
}


def resembles_store(path: Path) -> bool:
    """Whether the file at `path` is a store, possibly a damaged one: whether its header has all its names but one."""
    try:
        require_plain_file(path)
        with path.open("rb") as file:
            header = file.read(HEADER_LIMIT)
    except (UserError, OSError):
        return False
    names = (*(f'"{name}"' for name in _ARRAYS), json.dumps(json.dumps(KIND)))
    return sum(name.encode() in header for name in names) >= len(names) - 1


def fault_of(boxes: np.ndarray, scores: np.ndarray) -> str | None:
    """The fault of an image's proposals (R, 4) and their scores (R,), in words; None if there is none."""
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        return "proposals or scores are NaN or infinite"
    if (scores[1:] > scores[:-1]).any():
        return "scores are not in descending order"
    return None


class ProposalStore:
    """An open store. Only the path is pickled, so that loader workers map the file themselves.

    metadata: "kind", "dataset_fingerprint", "rpn_sha256", and any other values that the writer was given (config,
    versions). image_ids int64 (M,), as stored.

    Raises:
        UserError: the file is missing, cut short, damaged, or no proposal store.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = user_path(path)
        self._is_verified = False
        self.metadata, places = read_header(self.path)
        if self.metadata.get("kind") != KIND or {name: place.dtype for name, place in places.items()} != _ARRAYS:
            raise UserError(f"{self.path}: is no proposal store (its kind is {self.metadata.get('kind')!r})")
        images, total = places["image_ids"].size // 8, places["scores"].size // 4
        fit = [places[name].shape for name in _ARRAYS] == [(images,), (images + 1,), (total, 4), (total,)]
        if fit:
            self.image_ids = np.array(map_array(self.path, places["image_ids"]))
            self._offsets = np.array(map_array(self.path, places["offsets"]))
            self._boxes = map_array(self.path, places["boxes"])
            self._scores = map_array(self.path, places["scores"])
            read_sparingly(self._boxes)
            read_sparingly(self._scores)
            self._order = np.argsort(self.image_ids, kind="stable")
            self._sorted_ids = self.image_ids[self._order]
            fit = bool((np.diff(self._sorted_ids) > 0).all() and (np.diff(self._offsets) >= 0).all())
            fit = fit and self._offsets[0] == 0 and self._offsets[-1] == total
        if not fit:
            raise UserError(f"{self.path}: is damaged: its arrays do not fit together; make it anew")

    def __reduce__(self) -> tuple[type[ProposalStore], tuple[Path]]:
        return ProposalStore, (self.path,)

    def __len__(self) -> int:
        return len(self.image_ids)

    def boxes(self, image_id: int, limit: int | None = None) -> np.ndarray:
        """A copy of the image's proposals float32 (R, 4), best first, at most `limit`, in pixels of the original image.

        Raises:
            UserError: the store does not have the image, or its boxes or scores are NaN, infinite or out of order.
        """
        rows = self._rows(image_id, limit)
        for column in (self._boxes, self._scores):
            fetch(column, rows.start, rows.stop)
        boxes = np.array(self._boxes[rows])
        fault = fault_of(boxes, self._scores[rows])
        if fault is not None:
            raise UserError(f"{self.path}: {fault} for image {image_id}; make it anew")
        return boxes

    def check_against(self, index: DatasetIndex, rpn_sha256: str | None = None) -> None:
        """Checks that the store belongs to this data set, that it was made by this RPN if its weights' SHA-256 is
        given, and that it is undamaged (`verify`).

        Raises:
            UserError: a check fails; the message gives the reason and the remedy.
        """
        remedy = "make the proposals anew with tools/propose.py"
        stored = self.metadata.get("rpn_sha256")
        if rpn_sha256 is not None and stored != rpn_sha256:
            raise UserError(
                f"{self.path}: was made by other RPN weights (SHA-256 {str(stored)[:12]}…, not {rpn_sha256[:12]}…); "
                + remedy
            )
        missing = np.setdiff1d(index.image_ids, self.image_ids)
        if len(missing):
            raise UserError(
                f"{self.path}: lacks {len(missing)} of the {len(index)} images of {index.name} (image ids "
                f"{first_of(missing)}); {remedy}"
            )
        if self.metadata.get("dataset_fingerprint") != index.fingerprint:
            raise UserError(
                f"{self.path}: is stale: it was made for other annotations than {index.annotation_file} holds now "
                f"(fingerprint {str(self.metadata.get('dataset_fingerprint'))[:12]}…, not {index.fingerprint[:12]}…); "
                + remedy
            )
        self.verify()

    def verify(self) -> None:
        """Reads the whole store, at the disk's speed, and compares it with the checksums in it; a store that was found
        undamaged is not read again.

        A store of an earlier release has none: only values that no RPN writes are detected, and a warning says so.

        Raises:
            UserError: the store is damaged.
        """
        if not self._is_verified:
            self._verify()
        self._is_verified = True

    def _verify(self) -> None:
        try:
            damaged = find_damage(self.path)
        except NoChecksums:
            logger.warning(
                "%s: was made by an earlier release, without checksums: damage that leaves plausible numbers cannot be "
                "noticed. Make it anew with tools/propose.py to have them",
                self.path,
            )
            self._check_values()
            return
        if damaged is not None:
            self._check_values()  # its message names the image
            raise UserError(
                f"{self.path}: is damaged: its bytes {damaged[0]} to {damaged[1]} are not what was written (by their "
                "CRC-32); delete it and make it anew with tools/propose.py"
            )

    def _check_values(self) -> None:
        """Raises UserError for the first image whose boxes or scores `boxes` refuses. Reads the store in pieces."""
        starts = np.unique(self._offsets[:-1])
        for begin in range(0, len(self._scores), _ROWS):
            end = min(begin + _ROWS, len(self._scores))
            boxes, scores = np.asarray(self._boxes[begin:end]), np.asarray(self._scores[max(0, begin - 1) : end])
            wrong = ~np.isfinite(boxes).all(axis=1)
            own = scores[len(scores) - len(boxes) :]
            wrong |= ~np.isfinite(own)
            rising = np.zeros(len(boxes), dtype=bool)
            rising[len(boxes) - len(scores) + 1 :] = scores[1:] > scores[:-1]
            first_rows = starts[np.searchsorted(starts, begin) : np.searchsorted(starts, end)] - begin
            rising[first_rows] = False
            if (wrong | rising).any():
                row = begin + int(np.argmax(wrong | rising))
                position = int(np.searchsorted(self._offsets, row, side="right")) - 1
                self.boxes(int(self.image_ids[position]))  # raises, with the image's number

    def _rows(self, image_id: int, limit: int | None) -> slice:
        place = int(np.searchsorted(self._sorted_ids, image_id))
        if place == len(self._sorted_ids) or self._sorted_ids[place] != image_id:
            raise UserError(f"{self.path}: has no proposals for image {image_id}; make them anew with tools/propose.py")
        row = int(self._order[place])
        begin, end = int(self._offsets[row]), int(self._offsets[row + 1])
        return slice(begin, end if limit is None else min(end, begin + limit))
