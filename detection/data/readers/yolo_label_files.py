"""YOLO images → their label files.

The label file of `images/train/a.jpg` is `labels/train/a.txt` (Ultralytics); beside the image (Darknet, CVAT's YOLO
1.1), in a folder within or beside the images' are accepted, too. For each folder of images the place that has most of
the files counts.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from detection.common.label_kinds import start_of, what_labels_are
from detection.data.listing import Listing
from detection.data.split_words import split_of

_IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages")
_LABEL_FOLDERS = ("labels", "label", "annotations", "txt", "labels_txt", "yolo", "bbox")


def is_yolo_text(path: Path) -> bool | None:
    """Whether a text is a YOLO file; None for an empty one."""
    start = start_of(path)
    return None if not start.strip() else what_labels_are(start).startswith("a YOLO file")


class LabelFiles:
    """The label files of images. Image names are relative to the root, or absolute for images elsewhere."""

    def __init__(self, listing: Listing) -> None:
        self.listing = listing
        self._texts: dict[str, dict[str, str]] = {}

    def of_images(self, names: Iterable[str]) -> dict[str, str]:
        """Image name → the path of its label file, "" without one; in the order of the names."""
        by_folder: dict[str, list[str]] = defaultdict(list)
        found: dict[str, str] = dict.fromkeys(names, "")
        for name in found:
            folder, _, file = name.rpartition("/")
            by_folder[folder].append(file)
        for folder, files in by_folder.items():
            for file, label in self.of_folder(folder, files).items():
                found[f"{folder}/{file}" if folder else file] = str(self.listing.root / label)
        return found

    def of_folder(self, folder: str, images: Iterable[str]) -> dict[str, str]:
        """The label files of images of a folder, from the place that has most of them."""
        images = list(images)
        best: dict[str, str] = {}
        real = os.path.realpath(self.listing.root / folder)
        is_link = real != os.path.normpath(os.path.join(os.path.realpath(self.listing.root), folder))
        behind = self._places(Path(real).as_posix()) if is_link and not self.listing.is_part else []
        for place in [*self._places(folder), *behind]:
            texts = self._texts_in(place)
            found = {name: texts[stem] for name in images if (stem := name.rpartition(".")[0].lower()) in texts}
            if len(found) > len(best):
                best = found
        return best

    def without_image(self, pairs: Mapping[str, str]) -> list[str]:
        """The texts in the label folders of some images that belong to no image of the data set."""
        used = set(pairs.values())
        folders = {os.path.dirname(path) for path in used if path}
        stems = {PurePosixPath(name).stem.lower() for name in (*self.listing.images, *pairs)}
        found = []
        for folder in sorted(folders):
            for name in _text_names(Path(folder)):
                path = os.path.join(folder, name)
                is_label = path not in used and name.rpartition(".")[0].lower() not in stems
                if is_label and is_yolo_text(Path(path)):
                    found.append(path)
        return found

    def _places(self, folder: str) -> list[str]:
        """Folders where the labels of a folder's images may be, the usual ones first."""
        parts = folder.split("/") if folder else []
        places = []
        for i in reversed(range(len(parts))):
            if parts[i].lower() in _IMAGE_FOLDERS:
                places += ["/".join([*parts[:i], label, *parts[i + 1 :]]) for label in _LABEL_FOLDERS]
        places.append(folder)
        for end in (len(parts), len(parts) - 1, 0):
            above, rest = parts[: max(0, end)], parts[max(0, end) :]
            places += ["/".join([*above, label, *rest]) for label in _LABEL_FOLDERS]
            places += ["/".join([*above, label]) for label in _LABEL_FOLDERS]
        own_split = split_of(f"{folder}/x")
        places += [  # makesense.ai's `labels_my-project-name_2024-11-28`
            place
            for place in self.listing.names_in
            if place.rpartition("/")[2].lower().startswith("label") and split_of(f"{place}/x") in (None, own_split)
        ]
        if self.listing.is_part:  # the user has named the folder of the labels
            places += [place for place in self.listing.names_in if place not in places]
        return list(dict.fromkeys(places))

    def _texts_in(self, folder: str) -> dict[str, str]:
        """Stem in lower case → text file, of a folder."""
        if folder not in self._texts:
            own = self.listing.folders.get(folder.lower())
            names = self.listing.names_in.get(folder if own is None else own, [])
            # Outside the data set, or a link to another folder of it; where the user has named the folders, these alone
            if not names and (os.path.isabs(folder) or not self.listing.is_part):
                own, names = folder, _text_names(self.listing.root / folder)
            self._texts[folder] = {
                name.rpartition(".")[0].lower(): f"{own}/{name}" if own else name
                for name in names
                if name.lower().endswith(".txt")
            }
        return self._texts[folder]


def _text_names(folder: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if name.lower().endswith(".txt") and name[0] != ".")
    except OSError:
        return []
