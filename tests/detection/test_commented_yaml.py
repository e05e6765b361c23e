"""Configurations written with a reason at each value, and the comments of the presets."""

from __future__ import annotations

from pathlib import Path

import pytest

from backbones.common.errors import UserError
from detection.commented_yaml import changed_values, commented_yaml
from detection.common.core_yaml import parse_yaml
from detection.config_file import change_config, config_from_dict, load_config
from detection.presets import comments_of, preset_path

SECTIONS = dict.fromkeys(("name", "data", "backbone", "rpn", "fast_rcnn", "runtime", "output"), "a reason")


@pytest.mark.parametrize("name", ["small/base.yaml", "pyramid/resnext50_32x4d.yaml", "demo.yaml", "bccd.yaml"])
def test_every_preset_is_written_and_read_the_same(name: str) -> None:
    config = load_config(preset_path(name))
    text = commented_yaml(changed_values(config, ["data.root", "data.split"]), SECTIONS, "A heading.\n\nMore.")
    assert config_from_dict(parse_yaml(text, "text"), "text") == config
    assert text.startswith("# A heading.\n#\n# More.\n")
    assert max(map(len, text.splitlines())) <= 120


def test_values_that_yaml_would_misread_are_quoted() -> None:
    base = load_config(preset_path("small/base.yaml"))
    root = "C:\\Users\\no: # 'x'"
    config = change_config(base, [f"data.root='{root.replace(chr(39), chr(39) * 2)}'", "name='010'"])
    config = change_config(config, ["data.classes=['yes', 'a, b', '1e3', '[x]']", "output=" + "x/" * 80])
    text = commented_yaml(changed_values(config), SECTIONS | {"data.root": "why # and: more " * 9}, "")
    assert config_from_dict(parse_yaml(text, "text"), "text") == config


def test_a_value_without_a_reason_is_an_error() -> None:
    with pytest.raises(KeyError, match="name has no reason"):
        commented_yaml({"name": "x"}, {}, "")


def test_comments_follow_the_base_and_the_nearest_wins(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        "data:\n  root: x  # base root\nrpn:\n  training:  # all\n    steps: 5  # base steps\n  samples: 3\n"
    )
    path = tmp_path / "own.yaml"
    path.write_text(
        'base: base.yaml\nrpn:\n  training: {steps: 7}  # own\n  channels: 9# no comment\nname: "a # b"  # n\n'
    )
    found = comments_of(path)
    assert found["data.root"] == "base root"
    assert found["rpn.training"] == "own"
    assert found["name"] == "n"
    assert "rpn.samples" not in found
    pyramid = comments_of(preset_path("pyramid/resnext50_32x4d.yaml"))
    assert pyramid["rpn.training.momentum"] == "appendix B"
    assert "FPN.RPN_ANCHOR_START_SIZE" in pyramid["rpn.anchor_sizes"]


def test_a_preset_that_is_missing_is_an_error() -> None:
    with pytest.raises(UserError, match="no such preset"):
        preset_path("none.yaml")
