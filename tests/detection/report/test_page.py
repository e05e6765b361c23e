"""The report: complete, self-contained, safe to open."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from backbones.common.errors import UserError
from detection.evaluation.average_precision import FIGURES, average_precision
from detection.evaluation.error_analysis import analyse_errors
from detection.evaluation.recall import RecallAccumulator
from detection.experiment.ground_truth_loading import load_ground_truth
from detection.report.page import read_curves, write_report

TRUTH = load_ground_truth(
    {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "<b>cat</b> & co"}, {"id": 2, "name": "dog"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 50, 50]}],
    }
)
DETECTIONS = np.array([[1, 0, 0, 50, 40, 0.9, 1]])


class Page(HTMLParser):
    """Collects the page's links and its unclosed tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def write_whole(folder: Path, images: list[tuple[Path, str]]) -> Path:
    accumulator = RecallAccumulator()
    accumulator.add(1, np.array([[0.0, 0.0, 50.0, 40.0]]), np.array([[0.0, 0.0, 50.0, 50.0]]))
    return write_report(
        folder,
        title="Evaluation <1>",
        average_precision=average_precision(TRUTH, DETECTIONS),
        errors=analyse_errors(TRUTH, DETECTIONS),
        recall=accumulator.result(),
        facts={"weights": "detector.pt"},
        curves={"loss": [(1, 3.0), (2, 2.0)], "AP": [(2, 0.5)]},
        images=images,
    )


def test_holds_everything(tmp_path: Path) -> None:
    image = tmp_path / "images" / "größe & 1.jpg"
    image.parent.mkdir()
    image.write_bytes(b"")
    page = write_whole(tmp_path / "report", [(image, 'image "1"')])
    text = page.read_text(encoding="utf-8")
    parsed = Page(text)
    assert parsed.open == []
    assert parsed.tags.isdisjoint({"script", "link", "iframe"})
    assert {(page.parent / unquote(link)).resolve() for link in parsed.links} == {image.resolve()}
    assert all(f"<span>{name}</span>" in text for name in FIGURES)
    assert "&lt;b&gt;cat&lt;/b&gt; &amp; co" in text
    assert "<b>cat" not in text
    assert text.count("<svg") == 1  # one point makes no curve
    plain = (page.parent / "report.txt").read_text(encoding="utf-8")
    for expected in (
        "Evaluation <1>",
        "weights: detector.pt",
        "Average Precision",
        "localisation",
        "proposals an image",
    ):
        assert expected in plain
    assert sorted(path.name for path in page.parent.iterdir()) == ["report.html", "report.txt"]


def test_what_is_not_given_is_left_out(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path, title="Nothing").read_text(encoding="utf-8"))
    assert "section" not in page.tags
    assert page.open == []
    assert (tmp_path / "report.txt").read_text() == "Nothing\n"


def test_a_flat_curve_and_a_long_one(tmp_path: Path) -> None:
    long = [(float(step), 1.0) for step in range(100_000)]
    page = write_report(tmp_path, title="Curves", curves={"flat": long})
    assert page.stat().st_size < 30_000
    assert "nan" not in page.read_text(encoding="utf-8")


def test_curves_of_a_log_that_was_cut_short(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(
        '{"kind": "train", "step": 1, "loss": 3, "lr": 0.1, "memory_mib": 5, "time_left": 9}\n'
        '{"kind": "train", "step": 2, "loss": null, "lr": 0.2}\n'
        '{"kind": "evaluation", "step": 2, "AP": 0.25}\n'
        "[1]\n{}\n"
        '{"kind": "train", "step": 3, "lo'
    )
    assert read_curves(log) == {"loss": [(1.0, 3.0)], "lr": [(1.0, 0.1), (2.0, 0.2)], "AP": [(2.0, 0.25)]}
    with pytest.raises(UserError, match=r"absent\.jsonl"):
        read_curves(tmp_path / "absent.jsonl")
