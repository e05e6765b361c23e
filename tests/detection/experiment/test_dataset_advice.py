"""The page of the checker, on a set that was broken on purpose, and in a real browser."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backbones.common.errors import UserError
from detection import config as settings
from detection.config_file import load_config_of
from detection.data.findings import KINDS
from detection.data.index import DatasetIndex
from detection.experiment.anchor_check import fitted_anchors, reach, scaled_objects, strides_of
from detection.experiment.checking import DataConfig, check_splits
from detection.experiment.dataset_advice import page_path, write_page
from detection.experiment.datasets import open_split
from detection.report.dataset_page import MARK
from detection.report.seen import RarerLabels
from tests.detection.pipeline import MINIATURE, tool
from tests.detection.report.browser import Tab, find_browser


def write_set(root: Path) -> None:
    """Smooth images of 120 × 90, each its own, but test/1.png, which is a brighter train/2.png. In train, image 0 has
    40 objects of 12 × 12, image 1 a box over the edge and one without a width, image 3 none."""
    boxes = {
        "train": [
            [[2 + 14 * (k % 8), 2 + 14 * (k // 8), 12, 12] for k in range(40)],
            [[100, 60, 40, 20], [5, 5, 0, 9]],
            [[20, 20, 30, 30]],
            [],
        ],
        "test": [[[20, 20, 30, 30]], [[20, 20, 30, 30]]],
    }
    (root / "annotations").mkdir(parents=True)
    for split, images in boxes.items():
        (root / split).mkdir()
        for i in range(len(images)):
            seed = 2 if (split, i) == ("test", 1) else i + 10 * (split == "test")
            colors = np.random.default_rng(seed).integers(0, 200, (5, 6, 3), dtype=np.uint8)
            pixels = np.asarray(Image.fromarray(colors).resize((120, 90), Image.Resampling.BICUBIC)) + 9
            Image.fromarray(pixels + 20 * (split == "test")).save(root / split / f"{i}.png")
        annotations = [
            {"image_id": i, "bbox": box, "category_id": 1 + (i == 2), "area": box[2] * box[3], "iscrowd": 0}
            for i, own in enumerate(images)
            for box in own
        ]
        content = {
            "images": [{"id": i, "file_name": f"{i}.png", "height": 90, "width": 120} for i in range(len(images))],
            "annotations": [{"id": number, **one} for number, one in enumerate(annotations, start=1)],
            "categories": [{"id": 1, "name": "<b>cat</b>"}, {"id": 2, "name": "dog"}],
        }
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> settings.Config:
    root = tmp_path_factory.mktemp("broken")
    write_set(root)
    (root / "mine.yaml").write_text(MINIATURE)
    changes = [f"data.root={root}", f"output={root / 'run'}", "fast_rcnn.detections=30", "rpn.allowed_border=0"]
    return load_config_of(DataConfig, root / "mine.yaml", changes)


@pytest.fixture(scope="module")
def page(config: settings.Config) -> Path:
    write_page(config, list(check_splits(config.data)), page_path(config))
    return page_path(config)


def sections_of(page: Path) -> dict[str, str]:
    """Heading → the section's HTML."""
    parts = re.findall(r"<section><h2>(.*?)</h2>(.*?)</section>", page.read_text(), re.DOTALL)
    return {unescape(heading): body for heading, body in parts}


def test_everything_that_was_broken_is_on_the_page(page: Path) -> None:
    sections = sections_of(page)
    advice = unescape(sections["What to do next"])
    for sentence in (
        "dog: fewer than 30 objects to train on",
        "has 41 times as many objects as dog; data.repeat_threshold",
        "take the fitted anchors below",
        "1 of the 2 images of data.test equal or nearly equal one of data.train",
        "1 training images have no object",
        "1 of the 4 images of data.train have more objects than fast_rcnn.detections=30: raise it to at least 40",
    ):
        assert sentence in advice
    for which, kind in (
        ("train", "box_overhanging"),
        ("train", "box_zero_size"),
        ("test", "image_nearly_in_both_splits"),
    ):
        section = sections[f"data.{which}: 1 {KINDS[kind].found}"]
        assert section.count("<img ") == 1
    for heading, images in (
        ("Equal or nearly equal images in both splits", 2),
        ("Training images as annotated", 3),
        ("Training images as augmented", 3),
        ("data.train: images without objects", 1),
        ("data.train: the most crowded images", 3),
    ):
        assert sections[heading].count("<img ") == images, heading
    assert re.search(
        r"rpn:\n  anchor_sizes: \[[\d., ]+\]\n  anchor_ratios: \[[\d., ]+\]\n", sections["Boxes and anchors"]
    )
    counts = re.findall(r">([^<>]+)</td>", sections["Splits"])
    assert counts[:7] == ["data.train", "4", "1", "42", "0", "10.5", "40"]


def test_no_file_of_somebody_else_is_replaced(config: settings.Config, page: Path, tmp_path: Path) -> None:
    assert page.name == "dataset.html"
    before = page.read_text()
    write_page(config, list(check_splits(config.data)), page)  # its own is
    assert page.read_text() == before
    for name, content in (("page.html", "mine"), ("other.html", f"<p>{'x' * 2000}{MARK}")):
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError, match="exists already, and is no page of an earlier check"):
            write_page(config, [], tmp_path / name)
        assert (tmp_path / name).read_text() == content


def test_what_is_refused_is_shown_with_its_image(tmp_path: Path) -> None:
    write_set(tmp_path / "set")
    path = tmp_path / "set" / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    content["annotations"][3]["category_id"] = 9
    path.write_text(json.dumps(content))
    result = tool(
        "check_dataset", "--data", tmp_path / "set", "--output", tmp_path / "page.html", "data.layout=auto", check=False
    )
    assert result.returncode == 1
    assert f"page: {tmp_path / 'page.html'}" in result.stderr
    sections = sections_of(tmp_path / "page.html")
    assert "data.train is refused: 1 annotations of categories that are not listed" in sections["What to do next"]
    assert sections[f"data.train: 1 {KINDS['category_unknown'].found}"].count("<img ") == 1
    assert "data.test: the most crowded images" in sections


def test_a_set_without_objects_has_a_page(tmp_path: Path) -> None:
    write_set(tmp_path / "set")
    for path in (tmp_path / "set" / "annotations").iterdir():
        path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    changes = [f"data.root={tmp_path / 'set'}", "data.keep_empty=true", f"output={tmp_path}"]
    config = load_config_of(DataConfig, None, changes)
    write_page(config, list(check_splits(config.data)), page_path(config))
    sections = sections_of(page_path(config))
    assert sections["data.train: images without objects"].count("<img ") == 4
    assert "Boxes and anchors" not in sections
    assert "are trained on as background" in sections["data.train: images without objects"]


def test_the_anchors_are_compared_at_the_network_s_scale(config: settings.Config) -> None:
    """Images of 90 × 120 are scaled to a shorter side of 96: a box of 12 becomes one of 12.8."""
    objects = scaled_objects(config.data, open_split(config.data, "train"))
    np.testing.assert_allclose(objects.sides[:40], 12.8, rtol=1e-5)
    strides = strides_of(config)
    assert strides == [16]
    own, better = reach(config, objects, strides), fitted_anchors(config, objects, strides)
    assert own.missed(0.5) > 0.9  # the anchors are 24 and 48
    assert better.mean_iou > own.mean_iou
    assert min(better.sizes) < 20


def test_it_is_drawn_in_a_browser(page: Path, tmp_path: Path) -> None:
    with Tab(find_browser(), page, tmp_path) as tab:
        assert tab.evaluate(
            "[...document.querySelectorAll('figure img')].every(one => one.complete && one.naturalWidth > 0)"
        )
        assert tab.evaluate("document.querySelector('#classes b')") is None  # a class's name is no HTML
        for width in (400, 1600):
            for dark in (False, True):
                tab.resize(width, dark=dark)
                assert tab.evaluate("document.documentElement.scrollWidth") <= width
                shown = "[...document.querySelectorAll('img, svg, p, td:not(.bar)')]"
                shown += ".filter(one => !one.closest('dialog'))"
                assert tab.evaluate(f"{shown}.every(one => one.getBoundingClientRect().height > 0)")
                back = tab.evaluate("getComputedStyle(document.body).backgroundColor")
                assert (max(map(int, re.findall(r"\d+", back))) < 60) == dark
        tab.click("#classes th:nth-child(2) button")
        tab.click("#classes th:nth-child(2) button")  # ascending
        assert tab.evaluate("document.querySelector('#classes tbody td').textContent") == "dog"


def test_a_class_that_is_rarer_in_train_is_told(
    config: settings.Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The splits of `write_set` are too small to show one."""
    seen = []

    def rarer(train: DatasetIndex, test: DatasetIndex) -> list[RarerLabels]:
        seen.append((len(train), len(test)))
        return [RarerLabels("dog", 0.5, 1.0)]

    monkeypatch.setattr("detection.experiment.dataset_advice.rarer_labels", rarer)
    write_page(config, list(check_splits(config.data)), tmp_path / "page.html")
    assert seen == [(4, 2)]
    assert "labels of dog are probably missing in train" in (tmp_path / "page.html").read_text()
