"""docs/configuration.md and the JSON Schema: complete, commented, and what the source says now."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from detection.common.core_yaml import parse_yaml
from detection.config import Config
from detection.config_file import config_to_dict, load_config
from detection.config_reference import FILES, keys_of, main, schema

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def leaves(values: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in values.items():
        found += leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]
    return found


def faults(value: Any, rule: dict[str, Any], where: str = "") -> list[str]:
    """What a value breaks of the part of JSON Schema that the schema uses."""
    if "anyOf" in rule:
        return [] if any(not faults(value, one, where) for one in rule["anyOf"]) else [f"{where}: {value!r}"]
    if "enum" in rule:
        return [] if value in rule["enum"] else [f"{where}: {value!r}"]
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None), "integer": int}
    kind = rule["type"]
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    right = numeric if kind in ("number", "integer") else isinstance(value, kinds[kind])
    right = right and (kind != "integer" or isinstance(value, int))
    found = [] if right else [f"{where}: {value!r} is no {kind}"]
    if right and "minimum" in rule and not rule["minimum"] <= value <= rule["maximum"]:
        found.append(f"{where}: {value!r} is out of range")
    if right and kind == "array":
        if not rule.get("minItems", 0) <= len(value) <= rule["maxItems"]:
            found.append(f"{where}: {len(value)} items")
        found += [fault for i, item in enumerate(value) for fault in faults(item, rule["items"], f"{where}[{i}]")]
    if right and kind == "object":
        for key, item in value.items():
            if key in rule.get("properties", {}):
                found += faults(item, rule["properties"][key], f"{where}.{key}")
            elif rule.get("additionalProperties") is False:
                found.append(f"{where}.{key}: unknown")
    return found


def test_every_key_is_listed_with_a_comment() -> None:
    keys = list(keys_of(Config))
    assert [key.name for key in keys] == leaves(config_to_dict(Config()))
    assert [key.name for key in keys if len(key.comment) < 4] == [], "comment these in detection/config.py"


def test_the_files_are_what_would_be_written() -> None:
    assert main(["--check"]) == 0, "run: python -m detection.config_reference"


def test_a_stale_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detection.config_reference.DOCS", tmp_path)
    assert main(["--check"]) == 1
    assert main([]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
    page = tmp_path / "configuration.md"
    assert "| `rpn.training.steps` | `180000` | whole number, 1 to 1,000,000,000 |" in page.read_text()
    assert main(["--check"]) == 0
    page.write_text(page.read_text() + " ")
    assert main(["--check"]) == 1


@pytest.mark.parametrize("name", ["demo.yaml", "bccd.yaml", "small/base.yaml", "pyramid/base.yaml", "paper/base.yaml"])
def test_the_schema_accepts_our_files(name: str) -> None:
    assert faults(parse_yaml((CONFIGS / name).read_text(encoding="utf-8"), name), schema()) == []


def test_the_schema_accepts_the_defaults_and_refuses_what_the_reader_refuses() -> None:
    rule = schema()
    assert json.loads(json.dumps(rule)) == rule
    assert faults(config_to_dict(Config()), rule) == []
    assert faults(config_to_dict(load_config(CONFIGS / "demo.yaml")), rule) == []
    for wrong in (
        {"rpn": {"samples": 0}},
        {"rpn": {"samples": 1.5}},
        {"rpn": {"sample": 1}},
        {"data": {"layout": "x"}},
        {"fast_rcnn": {"box_stds": [1, 2]}},
        {"rpn": {"training": {"evaluate_every": "often"}}},
        {"backbone": {"freeze": True}},
    ):
        assert faults(wrong, rule), wrong
    assert not faults({"rpn": {"training": {"evaluate_every": None}}}, rule)
    assert not faults({"rpn": {"training": {"evaluate_every": 5}}}, rule)
