"""The report: complete, self-contained, safe to open."""

from __future__ import annotations

import base64
import doctest
import hashlib
import html
import re
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

from backbones.common.errors import UserError
from detection.report import advice_on_proposals, earlier_analysis, kinds, sections, seen, template
from detection.report.earlier_analysis import PAGE_KEYS
from detection.report.page import ShownImage, ShownSuspicions, embed_image, read_curves, write_report

FIGURES = ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"]
FIGURES += ["AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large"]
AVERAGE_PRECISION: dict[str, Any] = {
    "figures": {name: None if name == "AP_large" else 0.5 for name in FIGURES},
    "classes": [
        {"category_id": 1, "name": "<b>cat</b> & co", "objects": 1, "AP": 0.7, "AP50": 1.0},
        {"category_id": 2, "name": 'do"g\x1b[2J\u202e', "objects": 0, "AP": None, "AP50": None},
    ],
    "images": 1,
    "detections": 1,
    "notes": ["<i>one</i> was left out"],
}
BINS = [{"name": name, "objects": 1, "recall": 0.5, "AP50": 0.25} for name in ("below 16", "16–32")]
ANALYSIS: dict[str, Any] = {
    "errors": {
        "score_threshold": 0.25,
        "counts": {"correct": 3, "localisation": 1, "confusion": 0, "duplicate": 0, "both": 0, "background": 0},
        "ignored": 2,
        "objects": 4,
        "missed": 1,
        "confusions": [("<b>cat</b> & co", "猫", 2)],
        "precision": 0.75,
        "recall": None,
        "average_precision": 0.5,
        "costs": {
            "localisation": 0.125,
            "confusion": 0.0,
            "duplicate": 0.0,
            "both": 0.0,
            "background": 0,
            "missed": 0.25,
        },
    },
    "thresholds": {
        "overall": 0.25,
        "by_class": [0.25, 0.5],
        "f1_by_class": [0.75, None],
        "best_f1": 0.8,
        "f1": [i / 100 for i in range(101)],
        "precision": [0.5] * 100 + [None],
        "recall": [1 - i / 100 for i in range(101)],
    },
    "calibration": {
        "counts": [2] + [0] * 8 + [2],
        "scores": [0.05] + [None] * 8 + [0.95],
        "correct": [0.0] + [None] * 8 + [1.0],
        "error": 0.05,
        "bias": 0.0,
    },
    "calibration_from": 0.05,
    "confusion_matrix": [[3, 1, 1], [0, 0, 0], [2, 0, 0]],
    "attributes": {name: {"meaning": f"the {name}", "bins": BINS} for name in ("size", "aspect", "crowding")},
    "precision": {"0.5": [1.0] * 101},
    "precision_of_classes": {"<b>cat</b> & co": [0.5] * 101},
    "label_checks": {
        "classes": [{"confident_correct": 1, "missing": 0, "other": 0}] * 2,
        "unfound": 0,
        "boxes_classified": True,
    },
    "proposal_share": {
        "proposals": 300,
        "objects": {"all": 4, "below 16": 0},
        "recall": {"all": [0.75] * 10, "below 16": None},
        "figures": {"AP": 0.3, "AP50": 0.5},
        "with_ground_truth": {"AP": 0.4, "AP50": 0.875},
    },
}
RECALL: dict[str, Any] = {
    "figures": {
        "AR_100": 0.25,
        "AR_300": 0.375,
        "AR_100_small": None,
        "AR_300_small": None,
        "recall50_100": 0.5,
        "recall50_300": 0.625,
    },
    "objects": {"all": 7, "small": 0},
    "images": 1,
}


class Page(HTMLParser):
    """Collects the page's links, its text and its unclosed tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attributes if name in ("src", "href", "srcset", "data", "poster")]
        if tag not in ("meta", "img", "input", "wbr"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def pixels_of(link: str) -> np.ndarray:
    start = "data:image/jpeg;base64,"
    assert link.startswith(start)
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(link[len(start) :]), dtype=np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    return decoded[:, :, ::-1]


def write_whole(folder: Path, images: list[ShownImage]) -> Path:
    return write_report(
        folder,
        title="Evaluation <1>",
        average_precision=AVERAGE_PRECISION,
        analysis=ANALYSIS,
        recall=RECALL,
        advice=["take <larger> images"],
        tables=["COCO's figures", "the kinds\nof error\x1b[2J"],
        facts={"weights": "detector.pt"},
        curves={"loss": [(1, 3.0), (2, 2.0)], "AP": [(2, 0.5)]},
        images=images,
    )


def test_holds_everything(tmp_path: Path) -> None:
    image = np.zeros((60, 90, 3), dtype=np.uint8)
    image[:, 30:, 0] = 250
    page = write_whole(tmp_path / "report", [ShownImage(embed_image(image), 'image "1"', ["missed"])])
    text = page.read_text(encoding="utf-8")
    parsed = Page(text)
    assert parsed.open == []
    assert parsed.tags.isdisjoint({"link", "iframe", "a", "object"})
    (link,) = parsed.links
    assert np.abs(pixels_of(link).astype(int) - image).mean() < 4
    (script,) = re.findall("<script>(.*)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert policy in html.unescape(text)
    without_names = text.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert "http://" not in without_names
    assert "https://" not in without_names
    assert "url(" not in text
    assert all(f"<span>{name}</span>" in text for name in FIGURES)
    assert "IoU 0.75, 100 detections an image" in text
    assert "&lt;b&gt;cat&lt;/b&gt; &amp; co" in text
    assert "&lt;i&gt;one&lt;/i&gt; was left out" in text
    assert "<li>take &lt;larger&gt; images</li>" in text
    assert "<b>cat" not in text
    assert "taken for 猫: 2" in text
    assert ["missed", kinds.KINDS["missed"].meaning, "1", "25.0% of objects", "0.250", ""] in parsed.rows
    assert ["<b>cat</b> & co", "1", "0.700", "1.000", "0.250", "0.750", r'do"g\x1b[2J\u202e (1)', ""] in parsed.rows
    assert ["object ↓ detected as →", "<b>cat</b> & co", r'do"g\x1b[2J\u202e', "missed"] in parsed.rows
    assert ["background", "2", "", ""] in parsed.rows
    assert ["below 16", "0", "—", "—", "—", ""] in parsed.rows
    assert "AP at IoU 0.5 0.875 instead of 0.500" in text
    assert text.count("<svg") == 4  # precision and recall, F1, reliability, and the loss; one point makes no curve
    assert 'data-kind="missed"' in text
    assert 'data-kind="background"' not in text  # no image shows any
    plain = (page.parent / "report.txt").read_text(encoding="utf-8")
    assert plain == (
        "Evaluation <1>\n\nweights: detector.pt\n\nWhat to do next:\n1. take <larger> images\n\n"
        "COCO's figures\n\nthe kinds\nof error\\x1b[2J\n"
    )
    assert sorted(path.name for path in page.parent.iterdir()) == ["report.html", "report.txt"]


def test_suspicious_labels_are_shown_by_kind(tmp_path: Path) -> None:
    crop = ShownImage(embed_image(np.zeros((8, 8, 3), dtype=np.uint8)), "a.jpg: <cat>")
    page = write_report(tmp_path, title="x", suspicions=ShownSuspicions("look", [("nothing annotated", [crop, crop])]))
    text = page.read_text(encoding="utf-8")
    assert "<h3>nothing annotated</h3>" in text
    assert text.count("<figcaption>a.jpg: &lt;cat&gt;</figcaption>") == 2


def test_of_many_classes_the_matrix_shows_those_with_mistakes() -> None:
    counts = np.diag([9] * 40 + [0])
    counts[7, 31] = 2
    counts[40, 11] = 1
    shown = sections.confusion_matrix([f"class {k}" for k in range(40)], counts.tolist())
    assert shown is not None
    assert shown["columns"] == ["class 7", "class 11", "class 31", "missed"]
    assert [cell["count"] for cell in shown["rows"][0]["cells"]] == ["9", "", "2", ""]


def test_recall_is_a_table_of_sizes_by_proposals(tmp_path: Path) -> None:
    rows = Page(write_report(tmp_path, title="Recall", recall=RECALL).read_text(encoding="utf-8")).rows
    assert rows == [
        ["proposals an image", "objects", "100", "300"],
        ["AR all", "7", "0.250", "0.375"],
        ["AR small", "0", "—", "—"],
        ["recall at IoU 0.5", "7", "0.500", "0.625"],
    ]


def test_control_characters_are_escaped(tmp_path: Path) -> None:
    text = write_whole(tmp_path, []).read_text(encoding="utf-8")
    assert r"do&#34;g\x1b[2J\u202e" in text
    assert (
        re.sub(r"<script>.*</script>", "", text, flags=re.DOTALL).replace("\n", "").replace("\u2002", "").isprintable()
    )


@pytest.mark.parametrize("size", [(1500, 4116), (900, 1286), (9000, 300), (40, 30), (1, 1)])
def test_images_are_scaled_to_what_a_page_shows(size: tuple[int, int]) -> None:
    height, width = size
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=2).astype(np.uint8)
    shown = pixels_of(embed_image(image))
    assert shown.shape[1] <= 1200
    assert shown.shape[0] <= 1600
    assert abs(shown.shape[0] / shown.shape[1] * width / height - 1) < 0.01
    if max(size) <= 1200:
        assert shown.shape == image.shape
    middle = image[height // 2, width // 2, :2].astype(int)
    assert np.abs(shown[shown.shape[0] // 2, shown.shape[1] // 2, :2] - middle).max() < 12


def test_a_dozen_photographs_take_a_few_megabytes(tmp_path: Path, shared_data: Path) -> None:
    from detection.data.images import read_image
    from detection.report.drawing import side_by_side

    photographs = [read_image(path) for path in sorted((shared_data / "coco_tiny/images").iterdir())[:12]]
    large = [cv2.resize(image, None, fx=3, fy=3) for image in photographs]
    page = write_report(
        tmp_path, title="x", images=[ShownImage(embed_image(side_by_side(one, one)), "x") for one in large]
    )
    assert len(Page(page.read_text(encoding="utf-8")).links) == 12
    assert page.stat().st_size < 4_000_000


def test_what_is_not_given_is_left_out(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path, title="Nothing").read_text(encoding="utf-8"))
    assert "section" not in page.tags
    assert page.open == []
    assert (tmp_path / "report.txt").read_text() == "Nothing\n"


def test_a_flat_curve_and_a_long_one(tmp_path: Path) -> None:
    long = [(float(step), 1.0) for step in range(100_000)]
    page = write_report(tmp_path, title="Curves", curves={"flat": long})
    assert page.stat().st_size < 40_000
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


def test_an_analysis_of_an_earlier_version_is_left_out_in_a_sentence(tmp_path: Path) -> None:
    """Whichever part is missing: the figures are shown, and what renews the rest."""
    for part in PAGE_KEYS:
        earlier = {key: value for key, value in ANALYSIS.items() if key != part}
        page = write_report(tmp_path, title="x", average_precision=AVERAGE_PRECISION, analysis=earlier)
        text = page.read_text(encoding="utf-8")
        assert f"written by an earlier version and lacks {part}; this page goes without it" in text
        assert "tools/eval_coco.py --weights FILE" in text
        assert "Kinds of mistake" not in text
        assert '<table id="classes"' in text
    older = {key: ANALYSIS[key] for key in PAGE_KEYS}  # of the first version: all that the page shows
    page = write_report(tmp_path, title="x", average_precision=AVERAGE_PRECISION, analysis=older)
    assert "Kinds of mistake" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("module", [sections, kinds, seen, advice_on_proposals, earlier_analysis, template])
def test_worked_examples(module: ModuleType) -> None:
    outcome = doctest.testmod(module)
    assert outcome.attempted > 0
    assert outcome.failed == 0
