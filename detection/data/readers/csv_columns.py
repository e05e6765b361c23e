"""The header of a CSV file → which column is what."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

# Names in lower case without blanks, "_", "-" and "."; the first that is there counts.
_IMAGE = ("filename", "imagefilename", "imagefile", "imagename", "imagepath", "imgpath", "filepath", "path", "file",
          "imageid", "image", "imgname", "img", "frame", "id")  # fmt: skip
_CLASS = ("class", "classname", "label", "labelname", "category", "categoryname", "objectclass", "object", "name",
          "classid", "categoryid", "labelid", "annotationtag")  # fmt: skip
_SPLIT = ("split", "set", "subset", "partition", "usage")
_HEIGHT, _WIDTH = ("imageheight", "imgheight", "height", "imgh"), ("imagewidth", "imgwidth", "width", "imgw")
_BOX = ("bbox", "box", "boundingbox", "bndbox")

Kind = Literal["voc", "edges", "corner_size", "centre_size"]
# Four columns and what they are. voc: corners as Pascal VOC counts them, from whose files this header comes; edges;
# upper left corner and size; centre and size.
_COORDINATES: tuple[tuple[Kind, tuple[tuple[str, ...], ...]], ...] = (
    ("voc", (("xmin", "bboxxmin"), ("ymin", "bboxymin"), ("xmax", "bboxxmax"), ("ymax", "bboxymax"))),
    ("edges", (("minx",), ("miny",), ("maxx",), ("maxy",))),
    ("edges", (("x0",), ("y0",), ("x1",), ("y1",))),
    ("edges", (("x1", "bboxx1"), ("y1", "bboxy1"), ("x2", "bboxx2"), ("y2", "bboxy2"))),
    ("edges", (("left",), ("top",), ("right",), ("bottom",))),
    ("edges", (("xtl",), ("ytl",), ("xbr",), ("ybr",))),
    ("edges", (("upperleftcornerx",), ("upperleftcornery",), ("lowerrightcornerx",), ("lowerrightcornery",))),  # LISA
    ("edges", (("roix1",), ("roiy1",), ("roix2",), ("roiy2",))),
    ("centre_size", (("xcenter", "xcentre", "centerx", "cx", "xc"), ("ycenter", "ycentre", "centery", "cy", "yc"),
                     ("bboxwidth", "boxwidth", "w", "width"), ("bboxheight", "boxheight", "h", "height"))),
    ("corner_size", (("bboxx", "x", "left"), ("bboxy", "y", "top"), ("bboxwidth", "boxwidth", "bboxw", "w", "width"),
                     ("bboxheight", "boxheight", "bboxh", "h", "height"))),
)  # fmt: skip


@dataclass(frozen=True)
class Columns:
    """Positions of the columns. kind: what the four `coordinates` are. boxes: the one column that holds all four as
    `[x, y, width, height]`, in place of `coordinates`. None: there is no such column."""

    image: int
    kind: Kind
    coordinates: tuple[int, ...]
    box: int | None = None
    category: int | None = None
    split: int | None = None
    height: int | None = None
    width: int | None = None
    difficult: int | None = None
    header: bool = True


def columns_of(header: Sequence[str]) -> Columns | None:
    """The columns that a header names; None if it names no image or no box.

    >>> columns_of(["filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"]).coordinates
    (4, 5, 6, 7)
    """
    keys = [re.sub(r"[\s_.\-]", "", name.strip().lower().removeprefix("\ufeff")) for name in header]

    def position(names: Sequence[str], taken: Sequence[int] = ()) -> int | None:
        return next((keys.index(name) for name in names if name in keys and keys.index(name) not in taken), None)

    image = position(_IMAGE)
    if image is None:
        return None
    box = position(_BOX)
    kind, found = ("corner_size", ()) if box is not None else _coordinates(position)
    if box is None and not found:
        return None
    taken = (*found, image)
    return Columns(
        image=image,
        kind=kind,
        coordinates=found,
        box=box,
        category=position(_CLASS, taken),
        split=position(_SPLIT, taken),
        height=position(_HEIGHT, taken),
        width=position(_WIDTH, taken),
        difficult=position(("difficult",), taken),
    )


def _coordinates(position: object) -> tuple[Kind, tuple[int, ...]]:
    assert callable(position)
    for kind, columns in _COORDINATES:
        found = [position(names) for names in columns]
        if None not in found:
            return kind, tuple(found)
    return "edges", ()


def columns_of_row(row: Sequence[str]) -> Columns | None:
    """The columns of a file without header, by its first row: keras-retinanet's `path,x1,y1,x2,y2,class` or
    makesense.ai's `class,x,y,width,height,image,image width,image height`; None if it is of another form."""
    is_number = [bool(re.fullmatch(r"\s*-?[0-9.]+\s*", cell)) for cell in row]
    if len(row) == 6 and "." in row[0] and (all(is_number[1:5]) or not "".join(row[1:]).strip()):
        return Columns(image=0, kind="edges", coordinates=(1, 2, 3, 4), category=5, header=False)
    if len(row) == 8 and "." in row[5] and is_number == [is_number[0], *(4 * [True]), False, True, True]:
        return Columns(
            image=5, kind="corner_size", coordinates=(1, 2, 3, 4), category=0, width=6, height=7, header=False
        )
    return None
