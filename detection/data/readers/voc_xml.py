"""A Pascal VOC XML file → its image's name and size, and its objects. Element names count in any capitals."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import cos, isfinite, sin
from xml.etree import ElementTree

from detection.common.encodings import as_utf8

_FILE_LIMIT = 1 << 26
_DECLARATION = re.compile(rb"^<\?xml[^>]*\?>")
_BARE_AMPERSAND = re.compile(rb"&(?!#?\w+;)")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_ROTATED = ("cx", "cy", "w", "h", "angle")


@dataclass
class VocFile:
    """What a file says. name: `filename`, "" without one. height, width: 0 without one. objects: (class, difficult);
    corners: four numbers for each object, as written. found: (kind of finding, what)."""

    path: str
    name: str = ""
    height: int = 0
    width: int = 0
    objects: list[tuple[str, bool]] = field(default_factory=list)
    corners: list[tuple[float, float, float, float]] = field(default_factory=list)
    found: list[tuple[str, str]] = field(default_factory=list)


def parse_voc(path: str, data: bytes | None) -> VocFile:
    """A file's content; None stands for one that cannot be read."""
    file = VocFile(path)
    root = _root_of(file, data)
    if root is None:
        return file
    for child in root:
        tag = _tag(child)
        if tag == "filename":
            file.name = (child.text or "").strip()
        elif tag == "size":
            sizes = {_tag(side): side.text for side in child}
            file.height, file.width = _side(sizes.get("height")), _side(sizes.get("width"))
    for number, element in enumerate((child for child in root if _tag(child) == "object"), start=1):
        _read_object(file, number, element)
    return file


def _root_of(file: VocFile, data: bytes | None) -> ElementTree.Element | None:
    if data is None or len(data) > _FILE_LIMIT or not data.strip():
        file.found.append(("label_file_malformed", "it is empty" if data is not None and not data.strip() else ""))
        return None
    text = as_utf8(data).lstrip()
    if text != data.lstrip():  # what it declares, such as UTF-16, is true no more
        data = _DECLARATION.sub(b"", text)
    if b"<!ENTITY" in data.replace(b"\0", b""):  # UTF-16 without a mark is read, too
        # No labelling tool writes them, and a few unfold to gigabytes.
        file.found.append(("label_file_malformed", "it declares entities, which are not read"))
        return None
    try:
        root = ElementTree.fromstring(data.lstrip())
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        repaired = _repaired(data)
        if repaired is None:
            file.found.append(("label_file_malformed", str(error)))
            return None
        file.found.append(("label_encoding", str(error)))
        root = repaired
    if _tag(root) != "annotation":
        file.found.append(("label_file_malformed", f"its outermost element is <{root.tag}>, not <annotation>"))
        return None
    return root


def _repaired(data: bytes) -> ElementTree.Element | None:
    """The content if bare `&` or bytes that are not UTF-8 are its only faults, and no class name is affected."""
    if b"\0" in data:  # UTF-16 without a mark, in which bytes cannot be exchanged
        return None
    data = _BARE_AMPERSAND.sub(b"&amp;", data.lstrip())
    try:
        data.decode()
    except UnicodeDecodeError:
        data = _DECLARATION.sub(b"", data).decode("utf-8", "replace").encode()
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError):
        return None
    names = (child.text or "" for element in root for child in element if _tag(child) == "name")
    return None if any("\ufffd" in name for name in names) else root


def _read_object(file: VocFile, number: int, element: ElementTree.Element) -> None:
    name, difficult, corners, kind = "", False, None, None
    for child in element:
        tag = _tag(child)
        if tag == "name":
            name = " ".join((child.text or "").split())
        elif tag == "difficult":
            difficult = (child.text or "").strip().lower() in ("1", "1.0", "true", "yes")
        elif tag == "bndbox":
            corners = _numbers(child, _CORNERS) or corners
            kind = None if corners is not None else kind
        elif tag == "polygon" and corners is None:
            corners, kind = _around(child), "box_from_polygon"
        elif tag == "robndbox" and corners is None:  # roLabelImg
            corners, kind = _around_rotated(child), "box_from_polygon"
    if corners is None:
        polygon = next((child for child in element.iter() if _tag(child) == "polygon"), None)
        corners, kind = (None, None) if polygon is None else (_around(polygon), "box_from_polygon")
    if not name or corners is None or not all(map(isfinite, corners)):
        lacks = "no class name" if not name else "no box of four numbers"
        file.found.append(("object_malformed", f"object {number}{f' ({name})' if name else ''} has {lacks}"))
        return
    if kind is not None:
        file.found.append((kind, f"object {number}"))
    file.objects.append((name, difficult))
    file.corners.append((corners[0], corners[1], corners[2], corners[3]))


def _numbers(element: ElementTree.Element, keys: tuple[str, ...]) -> list[float] | None:
    """The numbers of the child elements `keys`; None if one is missing or is no number."""
    values = {_tag(child): (child.text or "") for child in element}
    try:
        return [float(values[key]) for key in keys]
    except (KeyError, ValueError):
        return None


def _around(polygon: ElementTree.Element) -> list[float] | None:
    """The corners of the box around x1, y1, x2, y2, …, or around points <pt><x/><y/></pt>."""
    xs: list[float] = []
    ys: list[float] = []
    for child in polygon.iter():
        tag, text = _tag(child), child.text or ""
        if re.fullmatch(r"[xy]\d*", tag) and text.strip():
            try:
                (xs if tag[0] == "x" else ys).append(float(text))
            except ValueError:
                return None
    return [min(xs), min(ys), max(xs), max(ys)] if len(xs) == len(ys) >= 2 else None


def _around_rotated(element: ElementTree.Element) -> list[float] | None:
    numbers = _numbers(element, _ROTATED)
    if numbers is None:
        return None
    x, y, width, height, angle = numbers
    half_width = (abs(width * cos(angle)) + abs(height * sin(angle))) / 2
    half_height = (abs(width * sin(angle)) + abs(height * cos(angle))) / 2
    return [x - half_width, y - half_height, x + half_width, y + half_height]


def _side(text: str | None) -> int:
    try:
        side = float(text or 0)
    except ValueError:
        return 0
    return int(side) if 0 < side < 1 << 31 else 0


def _tag(element: ElementTree.Element) -> str:
    """An element's name in lower case, without its name space."""
    return str(element.tag).rpartition("}")[2].lower()


def class_names(files: Iterator[VocFile] | list[VocFile]) -> tuple[str, ...]:
    """All class names of some files, sorted."""
    return tuple(sorted({name for file in files for name, _ in file.objects}))
