"""The streaming reader gives what `json.load` gives, in windows of any size, and tells where a file is broken."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import detection.common.json_stream as json_stream
from backbones.common.errors import UserError
from detection.common.json_stream import read_elements, read_list, read_members


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


@given(
    content=st.dictionaries(st.text(max_size=5), values, max_size=5),
    layout=st.sampled_from([{}, {"indent": 1}, {"separators": (",", ":")}]),
    window=st.integers(1, 40),
)
def test_elements_come_with_their_own_text(
    scratch: Path, content: dict[str, Any], layout: dict[str, Any], window: int
) -> None:
    """The texts, put together again, are the file: nothing of it is changed or lost but the white space between."""
    scratch.write_text(json.dumps(content, **layout, ensure_ascii=False), encoding="utf-8", errors="surrogatepass")
    rebuilt: dict[str, Any] = {name: [] for name, value in content.items() if isinstance(value, list)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "WINDOW", window)
        for name, value, text in read_elements(scratch):
            assert json.loads(text) == value
            assert text == json.dumps(value, **layout, ensure_ascii=False) or "indent" in layout
            if name in rebuilt:
                rebuilt[name].append(value)
            else:
                rebuilt[name] = value
    assert rebuilt == json.loads(json.dumps(content))


def test_the_text_of_an_element_is_the_file_s(scratch: Path) -> None:
    scratch.write_text('{"a": [ {"x":1.50,  "y":[1e2]} , 2.0],"b" : {} , "empty": [], "c":"\\u0041"}')
    assert [(name, text) for name, _, text in read_elements(scratch)] == [
        ("a", '{"x":1.50,  "y":[1e2]}'),
        ("a", "2.0"),
        ("b", "{}"),
        ("c", '"\\u0041"'),
    ]


@given(
    content=st.lists(st.dictionaries(st.text(max_size=5), values, max_size=5) | values, max_size=8),
    indent=st.sampled_from([None, 1]),
    window=st.integers(1, 60),
)
def test_a_list_comes_in_blocks(scratch: Path, content: list[Any], indent: int | None, window: int) -> None:
    scratch.write_text(json.dumps(content, indent=indent), encoding="utf-8-sig")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "WINDOW", window)
        blocks = list(read_list(scratch))
    assert [element for block in blocks for element in block] == json.loads(json.dumps(content))
    assert blocks == [[]] or all(blocks)


def test_objects_with_objects_inside_come_many_at_a_time(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last closing brace of a window may be of an object inside an element, such as an RLE mask."""
    entries = [{"id": number, "segmentation": {"counts": "x" * 20}, "score": 0.5} for number in range(2000)]
    scratch.write_text(json.dumps(entries))
    monkeypatch.setattr(json_stream, "WINDOW", 10_000)
    monkeypatch.setattr(json_stream, "FEW", 1)
    blocks = list(read_list(scratch))
    assert [entry for block in blocks for entry in block] == entries
    assert len(blocks) < 50


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}', "must hold a list, but holds an object"),
        ("", "is empty"),
        ("7", "a list was expected"),
        ("[1, 2", "not a whole JSON file: it ends in the middle, after 5 characters"),
        ('[{"a": 1}', "not a whole JSON file"),
        ('[{"a": 1}] x', "more text follows"),
        ('[{"a": 1} {"a": 2}]', "not valid JSON at character 10"),
    ],
)
def test_faults_of_a_list_are_told_with_their_place(scratch: Path, text: str, message: str) -> None:
    scratch.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        list(read_list(scratch))
    assert str(scratch) in str(caught.value)


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
    with pytest.raises(UserError, match=message):
        list(read_elements(scratch))


def test_no_text_and_no_file(scratch: Path, tmp_path: Path) -> None:
    scratch.write_bytes(b'{"a": "\xff\xfe"}')
    with pytest.raises(UserError, match="not UTF-8"):
        gather(scratch)
    with pytest.raises(UserError, match="No such file"):
        gather(tmp_path / "absent.json")
    with pytest.raises(UserError, match="directory"):
        gather(tmp_path)


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    """A pipe without a writer keeps whoever opens it waiting, and /dev/zero never ends."""
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path / "pipe", "a pipe"), (Path("/dev/zero"), "a device")):
        for read in (read_members, read_elements, read_list):
            with pytest.raises(UserError, match=f"{path} is {kind}, not a file"):
                next(iter(read(path)))


def test_a_value_without_end_is_given_up(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "WINDOW", 100)
    monkeypatch.setattr(json_stream, "VALUE_LIMIT", 10_000)
    scratch.write_text('{"a": "' + "x" * 1_000_000)
    with pytest.raises(UserError, match="longer than 10000 characters"):
        gather(scratch)


@pytest.mark.parametrize("window", [1, 60, 1 << 22])
@pytest.mark.parametrize("space", ["", " "])
def test_keys_that_stand_twice_are_noted(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, window: int, space: str
) -> None:
    monkeypatch.setattr(json_stream, "WINDOW", window)
    entries = [
        '{"id": 1, "box": [1, 2], "box": [1, 3]}',
        '{"id": 2, "box": [1, 2], "nested": {"box": 3, "box": 4, "id": 9}}',
        '{"id": 3, "box": NaN, "box": NaN}',
        '{"id": 4, "name": "a \\": b", "text": "id\\": 7"}',
        '{"id": 5, "id": 6, "id": 7, "outline": [[1, 2]], "more": {"a": 1}}',
        '{"id": 8}',
    ]
    text = ", ".join(entries).replace('":', f'"{space}:')
    scratch.write_text(f'{{"first": [{text}], "then": {{"a": 1, "a": 2}}, "last": [{{"b": 1, "b": 2}}, 3, []]}}')
    found: list[tuple[str, int | None, str]] = []
    repeated: json_stream.Repeated = []
    for name, _ in read_members(scratch, "outline", repeated):
        found += [(name, entry.get("id"), key) for entry, key in repeated]
        repeated.clear()
    assert found[:3] == [("first", 1, "box"), ("first", 7, "id"), ("first", 7, "id")]
    assert gather(scratch, "outline")["first"][0] == {"id": 1, "box": [1, 3]}


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
