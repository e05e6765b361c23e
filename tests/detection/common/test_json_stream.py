"""The streaming reader gives what `json.load` gives, in windows of any size, and tells where a file is broken."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import detection.common.json_stream as json_stream
from backbones.common.errors import UserError
from detection.common.json_stream import read_members


def gather(path: Path, outlines: str | None = None) -> dict[str, Any]:
    """The members put together again."""
    members: dict[str, Any] = {}
    for name, value in read_members(path, outlines):
        if isinstance(value, list):
            members.setdefault(name, []).extend(value)
        else:
            members[name] = value
    return members


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("json") / "file.json"


@given(
    content=st.dictionaries(st.text(max_size=5), values, max_size=5),
    indent=st.sampled_from([None, 1]),
    window=st.integers(1, 40),
)
def test_same_as_json_load(scratch: Path, content: dict[str, Any], indent: int | None, window: int) -> None:
    scratch.write_text(json.dumps(content, indent=indent, ensure_ascii=False), encoding="utf-8", errors="surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "WINDOW", window)
        assert gather(scratch) == json.loads(json.dumps(content))


outline = st.lists(st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.integers(), max_size=5), max_size=4)
other = st.sampled_from(
    ['"]]', "[[", [[[1]]], [[1, {"a": [[2]]}]], {"counts": [1, 2], "size": [3, 4]}, [], [[]], [["]]"]]]
)


@given(
    entries=st.lists(st.fixed_dictionaries({"outline": outline | other, "id": st.integers()}), max_size=8),
    indent=st.sampled_from([None, 1]),
    window=st.integers(1, 200),
)
def test_outlines_are_left_out_and_nothing_else(
    scratch: Path, entries: list[dict[str, Any]], indent: int | None, window: int
) -> None:
    scratch.write_text(json.dumps({"a": entries, "b": 1}, indent=indent))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "WINDOW", window)
        members = gather(scratch, outlines="outline")
    assert members["b"] == 1
    assert [entry["id"] for entry in members["a"]] == [entry["id"] for entry in entries]
    for entry, expected in zip(members["a"], entries, strict=True):
        assert entry["outline"] in (0, expected["outline"])


def test_outlines_of_a_compact_file_are_left_out(scratch: Path) -> None:
    scratch.write_text('{"a": [{"outline": [[1, 2], [3.5]], "id": 1}, {"outline":[[1,2]],"id":2}]}')
    assert gather(scratch, outlines="outline") == {"a": [{"outline": 0, "id": 1}, {"outline": 0, "id": 2}]}


def test_byte_order_mark_and_nan(scratch: Path) -> None:
    scratch.write_bytes(b'\xef\xbb\xbf{"a": [NaN, Infinity, -Infinity]}')
    first, second, third = gather(scratch)["a"]
    assert math.isnan(first)
    assert (second, third) == (math.inf, -math.inf)


@pytest.mark.parametrize("outlines", [None, "s"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": [{"id": 1}, {"id": ', "ends in the middle, after 25 characters"),
        ('{"a": [{"id": 1}, {"na', "ends in the middle"),
        ('{"a": [{"id": 1}', "ends in the middle"),
        ('{"a": [{"s": [[1, 2', "ends in the middle, after 19 characters"),
        ('{"a": [{"s": [[1, 2]], "id": 1 "b": 2}]}', "not valid JSON at character 31"),
        ('{"a": [1 2]}', "not valid JSON at character 9"),
        ('{"a": [1,]}', "not valid JSON at character 9"),
        ('{"a": 1,}', "not valid JSON"),
        ('{"a": 1} {', "more text follows"),
        ('{"a": 1, "a": 2}', "member 'a' twice"),
        ("{a: 1}", "not valid JSON at character 1"),
        ("[1, 2]", "results file"),
        ("", "is empty"),
        ("<html>", "not valid JSON at character 0"),
        ('{"a": ' + "9" * 5000 + "}", "not valid JSON at character 6"),
        ('{"a": ' + "[" * 100_000, "nested too deeply"),
        ('{"a": ' + '{"b": ' * 100_000, "nested too deeply"),
    ],
)
def test_faults_are_told_with_their_place(scratch: Path, text: str, message: str, outlines: str | None) -> None:
    scratch.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        gather(scratch, outlines)
    assert str(scratch) in str(caught.value)


def test_no_text_and_no_file(scratch: Path, tmp_path: Path) -> None:
    scratch.write_bytes(b'{"a": "\xff\xfe"}')
    with pytest.raises(UserError, match="not UTF-8"):
        gather(scratch)
    with pytest.raises(UserError, match="No such file"):
        gather(tmp_path / "absent.json")
    with pytest.raises(UserError, match="directory"):
        gather(tmp_path)


def test_a_value_without_end_is_given_up(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "WINDOW", 100)
    monkeypatch.setattr(json_stream, "VALUE_LIMIT", 10_000)
    scratch.write_text('{"a": "' + "x" * 1_000_000)
    with pytest.raises(UserError, match="longer than 10000 characters"):
        gather(scratch)


def test_a_text_of_hundreds_of_megabytes_is_given_up_within_half_a_gigabyte(scratch: Path) -> None:
    with scratch.open("wb") as file:
        file.write(b'{"a": "')
        for _ in range(300):
            file.write(b"x" * (1 << 20))
        file.write(b'"}')
    code = """
import resource, sys
from pathlib import Path
from detection.common.json_stream import read_members
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + (1 << 29),) * 2)
list(read_members(Path(sys.argv[1])))
"""
    done = subprocess.run([sys.executable, "-c", code, str(scratch)], capture_output=True, text=True, check=False)
    assert "one value is longer than 67108864 characters" in done.stderr
