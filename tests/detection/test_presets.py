"""Paths in configs/ are the project's own configurations wherever there is no such file."""

from __future__ import annotations

from pathlib import Path

import pytest

from backbones.common.errors import UserError
from detection.config_file import load_config
from detection.presets import comments_of, find_config, preset_names, preset_path


def test_a_path_in_configs_is_a_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = Path("configs/modern/resnext50_32x4d.yaml")
    assert find_config(name) == preset_path("modern/resnext50_32x4d.yaml")
    Path("mine.yaml").write_text(f"base: {name}\nseed: 5\n")
    assert load_config("mine.yaml").name == load_config(name).name == "modern_resnext50_32x4d"
    assert "rpn.anchor_sizes" in comments_of(Path("mine.yaml"))


def test_the_users_own_file_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = Path("configs/demo.yaml")
    own.parent.mkdir()
    own.write_text("seed: 7\nbackbone: {freeze: null, norm: group}\n")
    assert load_config(own).seed == 7
    beside = tmp_path / "elsewhere" / "mine.yaml"
    beside.parent.mkdir()
    beside.write_text("base: configs/demo.yaml\n")
    assert load_config(beside).name == "demo"  # relative to the file that names it, not to the current folder


@pytest.mark.parametrize("name", ["configs/modern/resnext50_32x4.yaml", "other/demo.yaml"])
def test_what_is_neither_is_told(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hint = "did you mean 'modern/resnext50_32x4d.yaml'" if name.startswith("configs") else "No such file"
    with pytest.raises(UserError, match=hint):
        load_config(name)


def test_all_presets_are_listed() -> None:
    names = preset_names()
    assert {"demo.yaml", "paper/base.yaml", "pyramid/resnext101_64x4d.yaml"} < set(names)
    assert all(preset_path(name).is_file() for name in names)
