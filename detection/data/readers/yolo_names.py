"""A YOLO data set's own texts → its class names: `names` of data.yaml, or files such as classes.txt and obj.names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from backbones.common.errors import UserError
from detection.common.label_kinds import is_yolo_yaml, start_of
from detection.data.listing import Listing
from detection.data.readers.yolo_lines import CLASS_LIMIT

SIZE_LIMIT = 1 << 20  # bytes of a data.yaml; LVIS' has 30,000
_MOST = 100_000  # classes
# Files that list one class name a line, the preferred one first. The last is Roboflow's.
_NAME_FILES = ("classes.txt", "obj.names", "data.names", "predefined_classes.txt", "labels.txt", "class_names.txt",
               "names.txt", "_darknet.labels")  # fmt: skip
YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml")

Found = list[tuple[str, int, tuple[str, ...]]]


def read_yaml(path: Path) -> dict[str, Any]:
    """The content of a data.yaml; every value is a text, as written, since `no` or `1` may be a class's name.

    Raises:
        UserError: it is too large, not UTF-8, or no YAML mapping.
    """
    if path.is_file() and path.stat().st_size > SIZE_LIMIT:
        raise UserError(f"{path}: has more than {SIZE_LIMIT} bytes; is it the data.yaml of a YOLO data set?")
    try:
        content = yaml.load(_expanded_tabs(start_of(path, SIZE_LIMIT).decode()), yaml.BaseLoader)
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text; save it as UTF-8") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: is no mapping of `train`, `val` and `names`, as a YOLO data.yaml is")
    return content


def _expanded_tabs(text: str) -> str:
    """The text with tabs at the beginning of a line as blanks, without which YAML refuses it."""
    return "\n".join(
        line[: len(line) - len(line.lstrip())].replace("\t", "    ") + line.lstrip() for line in text.splitlines()
    )


def names_of(path: Path, content: Mapping[str, Any], listing: Listing) -> tuple[dict[int, str] | None, Found]:
    """(class number → name, by `names` as a list or a mapping, or by the file that it names; None if there are none;
    findings).

    Raises:
        UserError: `names` is of another form.
    """
    names = content.get("names")
    found: Found = []
    if isinstance(names, str) and names:
        file = listing.root / names
        tail = listing.folders and [one for one in listing.files if one.endswith("/" + names.rsplit("/", 1)[-1])]
        candidates = [file, path.parent / names, path.parent / names.rsplit("/", 1)[-1]]
        candidates += [listing.root / one for one in tail or []]
        named = next((one for one in candidates if one.is_file()), None)
        names = None if named is None else names_in(named)
    if not names:
        return class_names_near(listing)[0], found
    if isinstance(names, list):
        pairs = list(enumerate(names))
    else:
        try:
            pairs = [(int(number), name) for number, name in names.items()]
        except (TypeError, ValueError, AttributeError):
            raise UserError(f"{path}: the keys of `names` must be the classes' numbers, 0: cat, 1: dog …") from None
    if len(pairs) > _MOST or any(not isinstance(name, str) or not 0 <= number < CLASS_LIMIT for number, name in pairs):
        raise UserError(f"{path}: `names` must be a list of texts, or a mapping of numbers to texts")
    count = content.get("nc", content.get("classes"))
    if isinstance(count, str) and count.isdigit() and int(count) != len(pairs):
        found.append(("class_count", 1, (f"{path}: nc {count}, {len(pairs)} names",)))
    return {number: name.strip() or str(number) for number, name in pairs}, found


def class_names_near(listing: Listing) -> tuple[dict[int, str] | None, str]:
    """(the class names of the file that lists them, None if there is none; that file), the nearest to the root."""
    found = [file for file in listing.files if file.lower().rsplit("/", 1)[-1] in _NAME_FILES]
    found += [file for file in listing.with_ending(".names") if file not in found]
    found.sort(key=lambda file: (file.count("/"), _NAME_FILES.index(name) if (name := file.lower().rsplit("/", 1)[-1])
                                 in _NAME_FILES else len(_NAME_FILES)))  # fmt: skip
    for file in found:
        names = names_in(listing.root / file)
        if names:
            return dict(enumerate(names)), file
    return None, ""


def class_names_above(listing: Listing) -> tuple[dict[int, str] | None, str]:
    """The same as `class_names_near`, from the data.yaml or the list of names in the folder or up to two above it."""
    for folder in _folders_above(listing):
        for path in sorted(folder.glob("*.y*ml")):
            if is_yolo_yaml(start_of(path)):
                names, _ = names_of(path, {**read_yaml(path), "nc": None}, listing)
                if names:
                    return names, str(path)
        for name in _NAME_FILES:
            if (folder / name).is_file() and (lines := names_in(folder / name)):
                return dict(enumerate(lines)), str(folder / name)
    return None, ""


def files_above(listing: Listing) -> list[Path]:
    """The files that `class_names_above` looks at, and those of the usual names that it would look at if they were
    there."""
    found: dict[Path, None] = {}
    for folder in _folders_above(listing):
        usual = [folder / name for name in (*YAML_NAMES, *_NAME_FILES)]
        found |= dict.fromkeys([*sorted(folder.glob("*.y*ml")), *usual])
    return list(found)


def _folders_above(listing: Listing) -> list[Path]:
    root = listing.root.absolute()
    return [root, *root.parents[:2]]


def names_in(path: Path) -> list[str]:
    """The lines of a file of class names; none if it holds anything else, such as numbers of boxes."""
    text = start_of(path, SIZE_LIMIT).decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    numbers = [line for line in lines if line.replace(".", "").replace(" ", "").isdigit() and " " in line]
    return [] if numbers else [line or str(i) for i, line in enumerate(lines)]
