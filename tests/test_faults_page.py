"""docs/faults.md: every test that it names is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "faults.md"


def test_every_test_named_exists() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE.read_text(encoding="utf-8"))
    assert len(named) > 100
    there: dict[str, set[str]] = {}
    for file in {file for file, _ in named}:
        tree = ast.parse((Path(__file__).parent / file).read_text(encoding="utf-8"))
        there[file] = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert [f"{file}::{name}" for file, name in named if name not in there[file]] == []
