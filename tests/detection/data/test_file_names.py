"""File names of annotations that differ from the disk's by their spelling alone."""

from __future__ import annotations

import doctest
import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detection.data import file_names as module
from detection.data.file_names import leads_out, match_file_names, present_files

NFD = unicodedata.normalize("NFD", "Käfer.jpg")


@pytest.mark.parametrize(
    ("name", "file", "difference"),
    [
        ("sub\\a.jpg", "sub/a.jpg", "backslashes"),
        (".\\sub\\a.jpg", "sub/a.jpg", "backslashes"),
        ("A.JPG", "a.jpg", "capitals"),
        ("Train/a.jpg", "train/a.jpg", "capitals"),
        ("STRASSE.png", "straße.png", "capitals"),
        ("my%20cat.jpg", "my cat.jpg", "percent-encoding"),
        ("K%C3%A4fer.jpg", "Käfer.jpg", "percent-encoding"),
        (NFD, "Käfer.jpg", "Unicode normal form"),
        ("Käfer.jpg", NFD, "Unicode normal form"),
        ("Sub\\My%20Cat.JPG", "sub/my cat.jpg", "backslashes and percent-encoding and capitals"),
        ("./a.jpg", "a.jpg", "the path's spelling"),
        ("sub//a.jpg", "sub/a.jpg", "the path's spelling"),
    ],
)
def test_plain_cases_are_found(name: str, file: str, difference: str) -> None:
    matched = match_file_names(["other.jpg", name], {"other.jpg", file, "unlike.jpg"})
    assert matched.files == ["other.jpg", file]
    assert matched.respelled == [(name, file, difference)]
    assert matched.absent == []


@pytest.mark.parametrize("name", ["a.jpg", "100%.png", "a%20b.jpg", "x\\y.jpg", "A.jpg"])
def test_a_file_of_that_very_name_is_meant(name: str) -> None:
    present = {name, name.lower() + "x", "a b.jpg", "x/y.jpg", "a.JPG"}
    assert match_file_names([name], present).files == [name]
    assert match_file_names([name], present).respelled == []


def test_of_two_files_the_one_that_differs_least_is_meant() -> None:
    assert match_file_names(["sub\\A.jpg"], {"sub/A.jpg", "sub/a.jpg"}).files == ["sub/A.jpg"]
    assert match_file_names([NFD], {"Käfer.jpg", "käfer.jpg"}).files == ["Käfer.jpg"]


def test_nothing_is_guessed() -> None:
    matched = match_file_names(["A.jpg"], {"a.jpg", "a.JPG"})
    assert matched.files == ["A.jpg"]
    assert matched.absent == [("A.jpg", "a.JPG and a.jpg are there; which one is meant?")]
    # one file, two names: the same image would come under two ids
    matched = match_file_names(["A.jpg", "a.JPG"], {"a.jpg"})
    assert matched.respelled == []
    assert [remark for _, remark in matched.absent] == ["a.jpg is there, but more than one name could mean it"] * 2
    matched = match_file_names(["a.jpg", "A.jpg"], {"a.jpg"})
    assert matched.files == ["a.jpg", "A.jpg"]
    assert [name for name, _ in matched.absent] == ["A.jpg"]


@pytest.mark.parametrize(
    ("name", "present", "remark"),
    [
        ("images/a.jpg", {"a.jpg"}, "a.jpg is there: is the image folder the right one?"),
        ("C:\\Users\\me\\A.jpg", {"train/a.jpg"}, "train/a.jpg is there: is the image folder the right one?"),
        ("a.jpg", {"a.png"}, "a.png is there, with another ending"),
        ("a.jpg", {"a.jpeg"}, "a.jpeg is there, with another ending"),
        ("0001", {"0001.jpg"}, "0001.jpg is there, with another ending"),
        ("a.jpg", {"b.jpg"}, ""),
        ("a.jpg", set(), ""),
    ],
)
def test_the_remark_names_what_is_there(name: str, present: set[str], remark: str) -> None:
    assert match_file_names([name], present).absent == [(name, remark)]


def test_all_files_below_a_folder(tmp_path: Path) -> None:
    for name in ("a.jpg", "sub/b c.jpg", "sub/deep/é.jpg", ".hidden/c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "a.jpg")
    (tmp_path / "sub" / "circle").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_text("")
    expected = {"a.jpg", "sub/b c.jpg", "sub/deep/é.jpg", ".hidden/c.jpg", "link.jpg", os.fsdecode(b"caf\xe9.jpg")}
    assert present_files(tmp_path) == expected
    assert present_files(tmp_path / "absent") == set()
    linked = tmp_path / "elsewhere"
    linked.mkdir()
    (linked / "images").symlink_to(tmp_path / "sub")
    assert present_files(linked) == {"images/b c.jpg", "images/deep/é.jpg"} | {
        f"images/circle/{name}" for name in expected if not name.startswith("sub/")
    }


def test_a_folder_counts_by_its_own_name_and_a_link_to_itself_hides_no_file(tmp_path: Path) -> None:
    for folder in ("raw", "images"):
        (tmp_path / folder).mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "raw" / name).write_text("")
    (tmp_path / "images" / "train").symlink_to(tmp_path / "raw")
    (tmp_path / "raw" / "0.jpg").symlink_to(tmp_path / "raw" / "0.jpg")
    assert present_files(tmp_path) == {"raw/a.jpg", "raw/b.jpg"}


def test_names_that_lead_out() -> None:
    for name in (
        "/etc/passwd",
        "../a.jpg",
        "sub/../../a.jpg",
        "..\\a.jpg",
        "C:\\a.jpg",
        "C:a.jpg",
        "\\a.jpg",
        "\\\\s\\a",
    ):
        assert leads_out(name), name
    for name in ("a.jpg", "sub/../a.jpg", "./a.jpg", "..a.jpg", "a..jpg", "sub\\a.jpg", ""):
        assert not leads_out(name), name


@given(st.lists(st.text(st.sampled_from("aAé%20/\\.ß"), max_size=6)), st.sets(st.text("aAe\u0301%20/.s", max_size=6)))
def test_names_go_to_files_that_are_there_and_to_different_ones(names: list[str], present: set[str]) -> None:
    matched = match_file_names(names, present)
    assert len(matched.files) == len(names)
    found = {name: file for name, file, _ in matched.respelled}
    assert set(found.values()) <= present - set(names)
    assert len(set(found.values())) == len(found)
    assert {name for name, _ in matched.absent} == set(names) - present - set(found)
    assert matched.files == [found.get(name, name) for name in names]


def test_worked_example() -> None:
    outcome = doctest.testmod(module)
    assert outcome.attempted > 0
    assert outcome.failed == 0
