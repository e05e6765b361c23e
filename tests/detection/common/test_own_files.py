"""Only files whose content says that they are ours are replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from backbones.common.errors import UserError
from detection.common.own_files import require_own


def is_own(path: Path) -> bool:
    return path.read_text(encoding="ascii") == "ours"


def test_nothing_and_a_file_of_our_own_are_replaced(tmp_path: Path) -> None:
    require_own(tmp_path / "absent", is_own, "is another")
    (tmp_path / "own").write_text("ours")
    require_own(tmp_path / "own", is_own, "is another")


@pytest.mark.parametrize("what", ["another file", "a link to our own", "a broken link", "a folder", "unreadable text"])
def test_all_else_is_refused(tmp_path: Path, what: str) -> None:
    own, path = tmp_path / "own", tmp_path / "there"
    own.write_text("ours")
    if what == "another file":
        path.write_text("theirs")
    elif what == "a folder":
        path.mkdir()
    elif what == "unreadable text":
        path.write_bytes(b"\xff")
    else:
        path.symlink_to(own if "own" in what else tmp_path / "absent")
    with pytest.raises(UserError, match=r"there: exists already, and is another; name another output \(--output\)"):
        require_own(path, is_own, "is another")
