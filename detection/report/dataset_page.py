"""What was found in a data set → one self-contained HTML page.

The parts of the page are built by `detection.experiment.dataset_advice`; what is empty is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from backbones.common.files import write_text
from detection.common.own_files import require_own
from detection.report.page import ShownImage
from detection.report.sections import Table
from detection.report.template import render

MARK = "Written by tools/check_dataset.py; the next check replaces it."


@dataclass(frozen=True)
class Block:
    """A section: its heading, and below it, in this order: paragraphs, tables, charts, lines to copy, images in a
    grid. charts: (SVG, what it shows)."""

    heading: str
    texts: Sequence[str] = ()
    tables: Sequence[Table] = ()
    charts: Sequence[tuple[str, str]] = ()
    code: Sequence[str] = ()
    images: Sequence[ShownImage] = ()


def write_dataset_page(
    path: Path, *, title: str, facts: Mapping[str, str], advice: Sequence[str], blocks: Sequence[Block]
) -> None:
    """Writes the page.

    Args:
        facts: what was checked, name to value. advice: sentences on what to do next.

    Raises:
        UserError: there is a file of that name that no earlier check has written. CannotWrite: it cannot be written.
    """
    require_replaceable_page(path)
    page = render("dataset.html.j2", title=title, mark=MARK, facts=facts, advice=advice, blocks=blocks)
    write_text(path, page)


def require_replaceable_page(path: Path) -> None:
    """Raises a UserError if there is something at `path` that no earlier check has written."""
    require_own(path, lambda file: MARK.encode() in file.read_bytes()[:1000], "is no page of an earlier check")
