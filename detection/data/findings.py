"""The defects of a label file: each kind → its count, the first examples, what is done about it.

A kind is one row of `KINDS`. Where the intent is clear, the defect is repaired, counted and listed in a summary. Where
it is not, the file is refused, and the error lists all such kinds at once, so that a user can correct them together.
Training, evaluation and `tools/check_dataset.py` share these rules. Where an evaluation differs, the row says so,
because its figures must equal those that pycocotools gives for the same file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from backbones.common.errors import UserError
from backbones.common.text import printable

EXAMPLES_KEPT = 5

Purpose = Literal["training", "evaluation"]


@dataclass(frozen=True)
class Kind:
    """One kind of defect.

    found: the defect, in the plural: "boxes without width or height".
    then: what is done about it, or, for a refusal, what the user can do.
    refuse: whether the file is refused.
    evaluation: what an evaluation does about it if that differs; it never refuses then.
    """

    found: str
    then: str
    refuse: bool = False
    evaluation: str | None = None

    def outcome(self, purpose: Purpose) -> tuple[str, bool]:
        """(what is done about it, whether the file is refused)."""
        if purpose == "evaluation" and self.evaluation is not None:
            return self.evaluation, False
        return self.then, self.refuse


_UNMATCHED = "AP keeps them as targets that nothing can match, as pycocotools does"

KINDS: dict[str, Kind] = {
    # Repaired, and counted.
    "box_zero_size": Kind("boxes without width or height", "left out: they are no targets", evaluation=_UNMATCHED),
    "box_negative_size": Kind(
        "boxes with negative width or height", "left out: they are no targets", evaluation=_UNMATCHED
    ),
    "box_overhanging": Kind(
        "boxes that reach over the image's edge",
        "clipped to the image",
        evaluation="AP takes them as stated, as pycocotools does",
    ),
    "box_outside": Kind(
        "boxes wholly outside their image",
        "left out: they are no targets",
        evaluation="AP takes them as stated, as pycocotools does",
    ),
    "box_as_text": Kind("boxes whose numbers are written as text", "read as numbers"),
    "area_as_text": Kind("areas that are written as text", "read as numbers"),
    "id_as_text": Kind("ids, sizes or `iscrowd` written as text", "read as whole numbers"),
    "id_as_float": Kind("ids, sizes or `iscrowd` written with a decimal point", "read as whole numbers"),
    "annotation_id_missing": Kind("annotations without id", "numbered after the last id"),
    "annotation_id_malformed": Kind(
        "annotations whose id is no whole number of 64 bits", "numbered after the last id; nothing depends on it"
    ),
    "annotation_id_zero": Kind(
        "annotations with id 0", "kept; pycocotools never matches such an object, which lowers its figures"
    ),
    "annotation_id_twice": Kind("annotations whose id was used before", "all kept"),
    "object_twice": Kind("objects annotated more than once (same image, category and box)", "all kept"),
    "annotation_without_image": Kind("annotations of images that are not listed", "left out"),
    "crowd_missing": Kind("annotations without `iscrowd`", "taken as 0, a single object"),
    "crowd_as_boolean": Kind("annotations whose `iscrowd` is true or false", "taken as 1 or 0"),
    "area_missing": Kind("annotations without a usable `area`", "width × height taken"),
    "ignore_flag": Kind("annotations with a true `ignore`", "the flag has no effect, as in pycocotools; use `iscrowd`"),
    "image_twice": Kind("images listed again with the same file and size", "taken once"),
    "size_missing": Kind("images without `width` and `height`", "read from the files' headers"),
    "image_doubtful": Kind(
        "images in which the decoder finds corrupt data and reads on", "used as they are; look at them"
    ),
    "category_twice": Kind("categories listed again with the same name", "taken once"),
    "category_name_missing": Kind("categories without a name", "named by their id"),
    "category_name_twice": Kind("category names used for two ids", "kept apart by id"),
    "box_from_outline": Kind("annotations with polygons and without `bbox`", "the box around the polygons taken"),
    "image_respelled": Kind("images whose files are spelled in another way than `file_name`", "the files are used"),
    "annotations_missing": Kind("files without a list of annotations", "taken as images without objects"),
    # Of other formats than COCO's, or of files from another disk.
    "image_left_out": Kind("listed images without a file", "left out, as data.skip_missing says"),
    "image_unreadable_left_out": Kind(
        "images whose size cannot be read from the file", "left out, as data.skip_unreadable says"
    ),
    "image_elsewhere": Kind("images that are named by their path on another disk", "the files of that name here used"),
    "image_ending": Kind("images named without the ending of their file, or with another", "the files are used"),
    "image_of_label_file": Kind(
        "label files that name another image than the one named like themselves",
        "the image named like the label file is used",
    ),
    "image_name_from_url": Kind("images without `file_name`, as LVIS has them", "the end of `coco_url` taken"),
    "folder_elsewhere": Kind("folders and lists given by their path on another disk", "those of that name here used"),
    "image_unlabelled": Kind(
        "images that no label names",
        "left out: nobody says whether they are without objects",
    ),
    "row_without_split": Kind(
        "rows whose split is empty or none that is known (train, val, test, trainval)",
        "left out of every split; write one of these, or remove the column",
    ),
    "label_file_missing": Kind("images without a label file", "taken as images without objects, as Ultralytics does"),
    "label_file_without_image": Kind("label files without an image", "left out"),
    "label_encoding": Kind("label files in another encoding than UTF-8, or with stray characters", "read"),
    "label_with_score": Kind("label lines with a sixth number, the score of a prediction", "read without it"),
    "class_as_name": Kind("label lines that give the class by its name", "read"),
    "classes_unnamed": Kind("classes without a name", "named by their number; data.classes=[…] names them"),
    "class_count": Kind("data.yaml files whose `nc` is not the number of `names`", "`names` counts"),
    "class_names_alike": Kind("class names that differ only in capitals or blanks", "kept apart; write one of them"),
    "category_placeholder": Kind(
        "categories with id 0 and without objects that some exporters add (the data set's name, or the background)",
        "left out of the classes",
    ),
    "box_from_polygon": Kind("polygons and rotated boxes in place of boxes", "the box around them taken"),
    "box_corners_swapped": Kind("boxes whose corners are given in another order", "put in order"),
    "corners_are_edges": Kind(
        "files of corners that count pixels from 0 or in fractions, where VOC counts them from 1",
        "taken as the boxes' edges, as CVAT and Label Studio write them; data.first_pixel=1 takes them as VOC's",
    ),
    "corners_are_edges_elsewhere": Kind(
        "boxes whose corners may be VOC's, but those of another split of the set are not",
        "taken as the boxes' edges, as in the other split; data.first_pixel=1 takes both as VOC's",
    ),
    "difficult": Kind(
        "objects marked as difficult",
        "taken as crowd regions: neither trained on nor to be found, as in VOC's own evaluation",
    ),
    "size_corrected": Kind(
        "images whose labels state another size than the file has, with boxes that fit the file", "the file's taken"
    ),
    # Well formed but implausible: used as they are, and reported.
    "boxes_as_fractions": Kind(
        "boxes that lie within one pixel, as fractions of the image would",
        "taken as pixels; if they are fractions, multiply them by the image's width and height",
    ),
    "boxes_as_corners": Kind(
        "boxes over the edge, where all would lie inside if their numbers were x0, y0, x1, y1",
        "taken as x, y, width, height; if they are corners, write x1 − x0 and y1 − y0 in place of x1 and y1",
    ),
    "crowds_mostly": Kind(
        "crowd regions (`iscrowd` 1), more than half of all objects",
        "no targets: they are neither trained on nor to be found; write 0 for single objects",
    ),
    "areas_far": Kind(
        "objects whose `area` is below a tenth of their box's, or above the whole",
        "AP by size (small, medium, large) goes by it; without `area`, width × height is taken",
    ),
    "class_without_object": Kind("classes without objects", "never learnt", evaluation="not part of AP"),
    "class_crowded": Kind(
        "images with more than 100 objects of one class",
        "AP looks at the 100 best detections of a class in an image: not even a perfect detector could reach 1",
    ),
    "image_name_twice": Kind(
        "file names that several image ids share",
        "used as different images, in each of which the objects annotated under the other ids are background; give an "
        "image one id",
    ),
    "image_content_twice": Kind(
        "images with the same pixels as another one",
        "used as different images, in each of which the objects annotated in the other are background; remove one",
    ),
    "image_nearly_twice": Kind(
        "images that are nearly equal to another one (resized, compressed again, or taken a moment later)",
        "used as different images; they add little to a training",
    ),
    "image_nearly_in_both_splits": Kind(
        "images of data.test that are nearly equal to one of data.train",
        "used in both; AP on them is too high, because they are almost known from the training: keep what belongs "
        "together (a video, a place, a patient) in one split",
    ),
    "image_in_both_splits": Kind(
        "images of data.test with the same pixels as one of data.train",
        "used in both; AP on them is too high, because they are known from the training: remove them from one split",
    ),
    "image_nearly_black": Kind(
        "images that are nearly black, as 12-bit data in 16 bits are",
        "used as they are; scale them to the whole range",
    ),
    "orientation_doubtful": Kind(
        "images that are turned as their EXIF says, where other images' sizes say that the annotations were made on "
        "the pixels as stored",
        "turned; if the boxes of these do not fit, remove the orientation from the files",
    ),
    # Refused: the intent is not clear.
    "category_unknown": Kind(
        "annotations of categories that are not listed",
        "add the category to `categories`, or remove the annotations",
        refuse=True,
        evaluation="left out, as pycocotools does",
    ),
    "entry_not_object": Kind("entries that are not JSON objects", "each must be {…}", refuse=True),
    "key_twice": Kind(
        "keys that stand twice in an entry, with different values", "keep the one that is meant", refuse=True
    ),
    "box_malformed": Kind(
        "boxes that are not four numbers", "write [x, y, width, height], or remove the annotation", refuse=True
    ),
    "box_not_finite": Kind("boxes with NaN or infinity", "correct the numbers, or remove the annotation", refuse=True),
    "annotation_image_malformed": Kind(
        "annotations whose `image_id` is no whole number", "name the image by its id", refuse=True
    ),
    "annotation_category_malformed": Kind(
        "annotations whose `category_id` is no whole number", "name the category by its id", refuse=True
    ),
    "id_too_large": Kind(
        "ids of images or categories beyond 2^53",
        "number images and categories from 1 on: detections are stored as float64, which does not tell ids of that "
        "size apart",
        refuse=True,
    ),
    "crowd_malformed": Kind("annotations whose `iscrowd` is neither 0 nor 1", "write 0 or 1", refuse=True),
    "all_without_image": Kind(
        "files none of whose annotations belongs to a listed image",
        "check that annotations and images are of one set",
        refuse=True,
    ),
    "image_id_malformed": Kind("image ids that are not whole numbers", "number the images", refuse=True),
    "image_id_twice": Kind("image ids used for two different images", "give each image an id of its own", refuse=True),
    "image_name_malformed": Kind(
        "images without a usable `file_name`", "name the file, relative to the image folder", refuse=True
    ),
    "image_name_outside": Kind(
        "images whose `file_name` is absolute, or leads out of the image folder",
        "name the file relative to the image folder",
        refuse=True,
    ),
    "size_malformed": Kind(
        "images whose `width` or `height` is no usable number", "correct it, or leave both out", refuse=True
    ),
    "size_unreadable": Kind(
        "images without size whose file cannot be read", "add `width` and `height`, or the file", refuse=True
    ),
    "image_member_twice": Kind(
        "images that are in the tar files more than once", "which one is meant? Leave one in", refuse=True
    ),
    "image_missing": Kind("images without a file", "give the folder that holds them, or take them out", refuse=True),
    "image_unreadable": Kind(
        "images that cannot be read, or are of another size", "replace them, or take them out", refuse=True
    ),
    "images_missing": Kind("files without images", "`images` must list at least one", refuse=True),
    "categories_missing": Kind("files without categories", "`categories` must list at least one", refuse=True),
    "category_id_malformed": Kind("category ids that are not whole numbers", "number the categories", refuse=True),
    "category_id_twice": Kind("category ids used twice", "give each category an id of its own", refuse=True),
    "label_line_malformed": Kind(
        "label lines that are not `class x y width height`, nor a polygon, with numbers from 0 to 1",
        "correct them, or remove the lines",
        refuse=True,
    ),
    "label_in_pixels": Kind(
        "label lines whose numbers are far above 1, where YOLO has fractions of the image",
        "divide x and width by the image's width, y and height by its height",
        refuse=True,
    ),
    "class_beyond_names": Kind(
        "label lines of a class that `names` does not list",
        "add its name to `names` (data.yaml), or remove the lines",
        refuse=True,
    ),
    "label_file_malformed": Kind(
        "label files that cannot be read", "correct them, or take them out with their images", refuse=True
    ),
    "object_malformed": Kind(
        "objects without a class name, or without a box of four numbers", "complete them, or remove them", refuse=True
    ),
    "row_in_pixels": Kind(
        "rows whose numbers are far above 1, where most rows of the set have fractions of the image",
        "divide x and width by the image's width, y and height by its height, or remove the rows",
        refuse=True,
    ),
    "row_malformed": Kind("rows that cannot be read", "correct them, or remove them", refuse=True),
}


class Example(str):
    """A defect's place in words, which may also name it for a drawing.

    image: the image's file, relative to the image folder, or as the labels name it. box: x, y, width, height as stated,
    in pixels.
    """

    __slots__ = ("box", "image")
    image: str | None
    box: tuple[float, ...] | None

    def __new__(cls, text: str, image: str | None = None, box: Iterable[float] | None = None) -> Example:
        made = super().__new__(cls, text)
        made.image = image
        made.box = None if box is None else tuple(box)
        return made


@dataclass
class Finding:
    """The count of one kind and its first examples."""

    count: int = 0
    examples: list[Example] = field(default_factory=list)


class UnusableLabels(UserError):
    """Labels or images with defects that are refused. findings: all that were found. root: the image folder, or None"""

    def __init__(self, message: str, findings: Findings, root: Path | None) -> None:
        super().__init__(message)
        self.findings = findings
        self.root = root


class Findings:
    """Counts and first examples of each kind of defect, in the order of first occurrence.

    purpose: the use of the file; it decides what is done about some kinds.
    """

    def __init__(self, purpose: Purpose = "training") -> None:
        self.purpose: Purpose = purpose
        self.by_kind: dict[str, Finding] = {}

    def add(self, kind: str, count: int, examples: Iterable[str] = ()) -> None:
        """Adds `count` defects of `kind`. Only as many `examples` are read as needed. A count of 0 has no effect."""
        if kind not in KINDS:
            raise KeyError(kind)
        if count == 0:
            return
        finding = self.by_kind.setdefault(kind, Finding())
        finding.count += count
        wanted = EXAMPLES_KEPT - len(finding.examples)
        if wanted > 0:
            for _, example in zip(range(wanted), examples, strict=False):
                place = example if isinstance(example, Example) else Example(example)
                finding.examples.append(Example(printable(example), place.image, place.box))

    def extend(self, others: Findings) -> None:
        """Adds other findings after these."""
        for kind, finding in others.by_kind.items():
            self.add(kind, finding.count, finding.examples)

    def count(self, kind: str) -> int:
        """The number of defects of `kind`."""
        return self.by_kind[kind].count if kind in self.by_kind else 0

    @property
    def refused(self) -> bool:
        """True if some finding is of a kind that is refused."""
        return any(KINDS[kind].outcome(self.purpose)[1] for kind in self.by_kind)

    def repairs(self) -> list[str]:
        """One line per kind that is not refused: count, defect, what is done, first examples."""
        return self._lines(refuse=False)

    def summary(self) -> str:
        """The lines of `repairs` as one text. Empty if nothing was found."""
        return "\n".join(self.repairs())

    def refusal(self) -> str:
        """The same for the kinds that are refused, followed by those that would have been repaired."""
        repaired = self.summary()
        return "\n".join(self._lines(refuse=True)) + (f"\nwhat could be repaired:\n{repaired}" if repaired else "")

    def _lines(self, refuse: bool) -> list[str]:
        lines = []
        for kind, finding in self.by_kind.items():
            then, refused = KINDS[kind].outcome(self.purpose)
            if refused == refuse:
                more = ", …" if finding.count > len(finding.examples) else ""
                where = f" ({'; '.join(finding.examples)}{more})" if finding.examples else ""
                lines.append(f"{finding.count} {KINDS[kind].found}: {then}{where}")
        return lines
