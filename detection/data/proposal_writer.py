"""Proposals, image by image in any order → one proposal store. After a kill, the next run resumes.

Added proposals are written to small files in `<path>.partial/`, each complete or absent; `finish` joins them into the
store atomically and removes them. At most one such file is held in memory. While the files are joined, twice the
store's size is needed on the disk.

Several ranks may write together: rank 0 creates its writer first (which may clear the folder), the others after a
barrier; each adds its own images and flushes; after another barrier, only rank 0 calls `finish`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from backbones.common.errors import UserError
from backbones.common.files import atomic_write
from detection.data.proposal_store import KIND, fault_of, resembles_store
from detection.data.tensor_file import (
    NoChecksums,
    find_damage,
    make_header,
    map_array,
    read_header,
    seal,
    write_arrays,
)

_CHUNK = {"positions": np.dtype("<i8"), "counts": np.dtype("<i8"), "boxes": np.dtype("<f4"), "scores": np.dtype("<f4")}
_PARTS = re.compile(r"\d+\.chunk|manifest\.json|\..*\.tmp")  # the names in the partial folder
CHUNK_BYTES = 1 << 24  # added proposals that are collected before they are written


class ProposalWriter:
    """Writes a store.

    metadata: JSON-able, says how the store is made: "dataset_fingerprint", "rpn_sha256", config, versions.
    image_ids: all images of the store, each once, in its order.
    essential: the keys of `metadata` that decide what the proposals are; None: all. If `<path>.partial/` is of a run
    with the same essential metadata and images, its proposals are kept; otherwise it is emptied.

    Raises:
        ValueError: an image id twice.
        UserError: there is a file at `path` that is no proposal store, or the folder cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        metadata: Mapping[str, Any],
        image_ids: Sequence[int] | np.ndarray,
        *,
        essential: Collection[str] | None = None,
    ) -> None:
        self.path = Path(path)
        if self.path.exists() and not resembles_store(self.path):
            raise UserError(
                f"{self.path}: exists already, and is no proposal store, or damaged beyond recognition; name another "
                "file (--store), or move it away"
            )
        self.metadata = {**metadata, "kind": KIND}
        self.image_ids = np.asarray(image_ids, dtype=np.int64)
        self._order = np.argsort(self.image_ids, kind="stable")
        self._sorted_ids = self.image_ids[self._order]
        if not (np.diff(self._sorted_ids) > 0).all():
            raise ValueError("an image id occurs twice among the images of a proposal store")
        self.folder = self.path.with_name(self.path.name + ".partial")
        self._gathered: list[tuple[int, np.ndarray, np.ndarray]] = []
        self._gathered_bytes = 0
        self._done = np.zeros(len(self.image_ids), dtype=bool)
        self._open_folder({key: metadata[key] for key in (metadata if essential is None else essential)})

    @property
    def pending(self) -> np.ndarray:
        """Ids (int64) of the images without proposals so far, in the store's order."""
        return self.image_ids[~self._done]

    def add(self, image_id: int, boxes: np.ndarray, scores: np.ndarray) -> None:
        """Adds an image: boxes (R, 4) in pixels of the original image, scores (R,) descending.

        Adding an image again changes nothing.

        Raises:
            ValueError: the image is not in `image_ids`, or boxes or scores have the wrong shape, are NaN or infinite,
                or are not in order.
        """
        boxes = np.asarray(boxes, dtype=np.float32)
        scores = np.asarray(scores, dtype=np.float32)
        if boxes.shape != (len(scores), 4) or scores.ndim != 1:
            raise ValueError(f"image {image_id}: boxes {boxes.shape} and scores {scores.shape} are not (R, 4) and (R,)")
        fault = fault_of(boxes, scores)
        if fault is not None:
            raise ValueError(f"image {image_id}: {fault}")
        place = int(np.searchsorted(self._sorted_ids, image_id))
        if place == len(self._sorted_ids) or self._sorted_ids[place] != image_id:
            raise ValueError(f"image {image_id} is none of the images of {self.path}")
        position = int(self._order[place])
        if self._done[position]:
            return
        self._done[position] = True
        self._gathered.append((position, boxes, scores))
        self._gathered_bytes += boxes.nbytes + scores.nbytes
        if self._gathered_bytes >= CHUNK_BYTES:
            self.flush()

    def flush(self) -> None:
        """Writes the added proposals to the disk, where a later writer finds them."""
        if not self._gathered:
            return
        positions = np.array([position for position, _, _ in self._gathered], dtype=np.int64)
        arrays = {
            "positions": positions,
            "counts": np.array([len(scores) for _, _, scores in self._gathered], dtype=np.int64),
            "boxes": np.concatenate([boxes for _, boxes, _ in self._gathered]),
            "scores": np.concatenate([scores for _, _, scores in self._gathered]),
        }
        with atomic_write(self.folder / f"{positions[0]:010d}.chunk") as temporary:
            write_arrays(temporary, arrays, {})
        self._gathered = []
        self._gathered_bytes = 0

    def finish(self) -> None:
        """Joins everything into the store at `path` and removes the partial folder.

        Raises:
            UserError: images are still missing.
        """
        self.flush()
        counts = np.full(len(self.image_ids), -1, dtype=np.int64)
        for positions, chunk_counts, _, _ in self._chunks():
            counts[positions] = chunk_counts
        lacking = self.image_ids[counts < 0]
        if len(lacking):
            raise UserError(
                f"{self.path}: proposals of {len(lacking)} images are still missing, first image id {lacking[0]}"
            )
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        total = int(offsets[-1])
        header, places = make_header(
            {
                "image_ids": (np.int64, self.image_ids.shape),
                "offsets": (np.int64, offsets.shape),
                "boxes": (np.float32, (total, 4)),
                "scores": (np.float32, (total,)),
            },
            self.metadata,
        )
        with atomic_write(self.path) as temporary, temporary.open("wb") as file:
            file.write(header)
            file.write(self.image_ids.tobytes())
            file.write(offsets.tobytes())
            for positions, chunk_counts, boxes, scores in self._chunks():
                end = 0
                for position, count in zip(positions.tolist(), chunk_counts.tolist(), strict=True):
                    begin, end = end, end + count
                    for name, rows in (("boxes", boxes[begin:end]), ("scores", scores[begin:end])):
                        row_bytes = rows.itemsize * (4 if name == "boxes" else 1)
                        file.seek(places[name].start + row_bytes * int(offsets[position]))
                        file.write(rows.tobytes())
            file.flush()
            seal(temporary)
        self._remove_folder()

    def _open_folder(self, made_of: Mapping[str, Any]) -> None:
        """Opens a partial folder that was made with the same metadata, or creates an empty one."""
        manifest = self.folder / "manifest.json"
        content = {"metadata": made_of, "image_ids": self.image_ids.tolist()}
        ours = json.dumps(content, sort_keys=True).encode()
        if manifest.is_file() and manifest.read_bytes() == ours:
            for positions, _, _, _ in self._chunks():
                self._done[positions] = True
            return
        self._remove_folder()
        with atomic_write(manifest) as temporary:
            temporary.write_bytes(ours)

    def _remove_folder(self) -> None:
        """Removes the partial folder, but for files that no writer wrote."""
        for path in list(self.folder.glob("*")):
            if _PARTS.fullmatch(path.name):
                path.unlink()
        with contextlib.suppress(OSError):  # it is missing or not empty
            self.folder.rmdir()

    def _chunks(self) -> Iterator[tuple[np.ndarray, ...]]:
        """(positions, counts, boxes, scores) of each file in the partial folder; a damaged one is removed."""
        for path in sorted(self.folder.glob("*.chunk")):
            try:
                _, places = read_header(path)
                chunk = tuple(map_array(path, places[name]) for name in _CHUNK)
                with contextlib.suppress(NoChecksums):  # of an earlier release
                    chunk = () if find_damage(path) is not None else chunk
            except (UserError, KeyError):
                chunk = ()
            if chunk and self._fits(*chunk):
                yield chunk
            else:
                path.unlink()

    def _fits(self, positions: np.ndarray, counts: np.ndarray, boxes: np.ndarray, scores: np.ndarray) -> bool:
        """Whether a chunk's arrays could have been written by `flush` for images of this store."""
        arrays = (positions, counts, boxes, scores)
        if tuple(array.dtype for array in arrays) != tuple(_CHUNK.values()) or scores.ndim != 1:
            return False
        if positions.ndim != 1 or counts.shape != positions.shape or boxes.shape != (len(scores), 4):
            return False
        known = (positions >= 0) & (positions < len(self.image_ids))
        return bool(known.all() and (counts >= 0).all() and counts.sum() == len(scores))
