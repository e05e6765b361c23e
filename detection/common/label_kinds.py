"""The first bytes of a label file → what kind of label file it is, in words, with the remedy.

For files that were given where another kind is expected, or that no reader takes.
"""

from __future__ import annotations

import re
from pathlib import Path

from detection.common.encodings import as_utf8

START = 1 << 16  # bytes of a file that are looked at

_CONVERT = "export the labels as COCO, YOLO, Pascal VOC or CSV from the tool that made them"
_NUMBER = rb"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_YOLO_LINE = re.compile(rb"\s*\d+(?:\.0*)?(?:[ \t]+" + _NUMBER + rb"){4,}[ \t]*\r?$", re.MULTILINE)
_DOTA_LINE = re.compile(rb"\s*(?:" + _NUMBER + rb"[ \t]+){8}[A-Za-z][\w-]*(?:[ \t]+[0-2])?[ \t]*\r?$", re.MULTILINE)
_KITTI_LINE = re.compile(rb"[A-Za-z_]\w*(?:[ \t]+" + _NUMBER + rb"){14,15}[ \t]*\r?$", re.MULTILINE)
_VISDRONE_LINE = re.compile(rb"\s*(?:-?\d+,){7}-?\d+,?[ \t]*\r?$", re.MULTILINE)
_MOT_LINE = re.compile(rb"\s*\d+,-?\d+(?:,[ \t]*" + _NUMBER + rb"){5,8},?[ \t]*\r?$", re.MULTILINE)
_CLASS_FIRST = re.compile(rb"[A-Za-z][\w -]*?(?:[ \t]+" + _NUMBER + rb"){4}[ \t]*\r?$", re.MULTILINE)
_WIDER_START = re.compile(rb"[^\r\n]+\.jpe?g[ \t]*\r?\n\d+[ \t]*\r?\n(?:\d+ ){4}", re.IGNORECASE)
_NAMELESS_ROW = re.compile(rb"[^\s;,|]+\.\w{3,4}[;,|](?:[ \t]*" + _NUMBER + rb"[;,|]){4}[^;,|\r\n]+\r?$", re.MULTILINE)
_CSV_LINE = re.compile(rb"[^\r\n{}<>\[\]]*\b(?:x_?min|bbox|class|label)\b[^\r\n{}<>\[\]]*[,;\t|]", re.IGNORECASE)

# Keys that tell the JSON formats of labelling tools apart, and what they are; the first row that fits is taken.
_JSON_KEYS: tuple[tuple[tuple[bytes, ...], str], ...] = (
    ((b'"shapes"', b'"imagePath"'), f"a LabelMe file of one image; {_CONVERT}"),
    ((b'"_via_img_metadata"',), "a project of the VGG Image Annotator; use its export in COCO format"),
    ((b'"shape_attributes"',), "the VGG Image Annotator's own export; use its export in COCO format"),
    ((b'"classTitle"',), f"a Supervisely file; {_CONVERT}"),
    ((b'"from_name"', b'"to_name"'), "Label Studio's own export; use its export in COCO, YOLO or Pascal VOC format"),
    ((b'"box2d"',), f"a BDD100K file; {_CONVERT}"),
    ((b'"coordinates"', b'"label"'), f"a CreateML file; {_CONVERT}"),
    ((b'"type"', b'"FeatureCollection"'), f"a GeoJSON file; {_CONVERT}"),
    ((b'"samples"', b'"ground_truth"'), "FiftyOne's own export; export it as fiftyone.types.COCODetectionDataset"),
    ((b'"file_name"', b'"objects"'), f"a metadata.jsonl of Hugging Face; {_CONVERT}"),
    ((b'"image_id"', b'"score"'), "a file of detections (COCO's results format), not of labels; it counts with "
     "tools/eval_coco.py --results"),
)  # fmt: skip


def what_labels_are(start: bytes) -> str:
    """The first bytes of a file → "a Pascal VOC file of one image; give …", or "" if they are not recognised.

    >>> what_labels_are(b"<annotation><folder>images</folder>").split(";")[0]
    'a Pascal VOC file of one image'
    """
    text = as_utf8(start).lstrip()
    if text.startswith(b"<"):
        return _what_xml_is(text)
    if text[:1] in (b"{", b"["):
        if text[:1] == b"{" and re.search(rb'"images"\s*:\s*\[\s*[{\]]', text):
            return "a COCO file"
        return next((kind for keys, kind in _JSON_KEYS if all(key in text for key in keys)), "")
    if is_yolo_yaml(text):
        return "the data.yaml of a YOLO data set; give its folder as data.root (--data), without a file"
    for magic, kind in (
        (b"PK\x03\x04", "a ZIP archive (or an Excel table); unpack it, or save the table as CSV"),
        (b"\x1f\x8b", "a gzip archive; unpack it"),
        (b"PAR1", "a Parquet table; save it as CSV"),
        (b"Rar!", "a RAR archive; unpack it"),
        (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive; unpack it"),
        (b"version https://git-lfs", "a pointer of Git LFS; fetch the file by `git lfs pull`"),
    ):
        if text.startswith(magic):
            return kind
    if text[257:262] == b"ustar":
        return "a tar archive; unpack it"
    if _WIDER_START.match(text):
        return f"a WIDER FACE list; {_CONVERT}"
    first = text.split(b"\n", 1)[0]
    for line, kind in (
        (_DOTA_LINE, f"a DOTA file of one image; {_CONVERT}"),
        (_KITTI_LINE, f"a KITTI file of one image; {_CONVERT}"),
        (_VISDRONE_LINE, f"a VisDrone file of one image, or MOT's of a video; {_CONVERT}"),
        (_MOT_LINE, f"a MOT file of a video; {_CONVERT}"),
        (_CLASS_FIRST, f"a text of a class and a box in each line (OIDv4's); {_CONVERT}"),
        (
            _NAMELESS_ROW,
            "a table of boxes; end its name in .csv, with a first line such as filename,xmin,ymin,xmax,ymax,class",
        ),
        (_YOLO_LINE, "a YOLO file of one image; give the folder of such files"),
    ):
        if line.match(first):
            return kind
    return "a CSV table" if _CSV_LINE.match(first) else ""


def _what_xml_is(text: bytes) -> str:
    lower = text.lower()
    if b"<annotations>" in lower and (b"<image " in lower or b"<meta>" in lower):
        return f"a CVAT file of all images; {_CONVERT}"
    if b"<annotation" in lower:
        return "a Pascal VOC file of one image; give the folder of such files"
    if b"<dataset" in lower and b"<images>" in lower:
        return f"a dlib file (imglab); {_CONVERT}"
    if b"<html" in lower or b"<!doctype html" in lower:
        return "a web page; was it the answer to a failed download?"
    return ""


def is_yolo_yaml(text: bytes) -> bool:
    """Whether a YAML text is the `data.yaml` of a YOLO data set: it names classes and where images are."""
    keys = set(re.findall(rb"^(names|nc|train|val|test|path)[ \t]*:", text, re.MULTILINE))
    return b"names" in keys and bool(keys & {b"train", b"val", b"test", b"nc"})


def start_of(path: Path, size: int = START) -> bytes:
    """The first bytes of a file, a text with a byte order mark in UTF-8 without it; none if it cannot be read."""
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return as_utf8(file.read(size))
    except OSError:
        return b""
