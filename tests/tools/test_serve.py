"""serve.py's token, from a file of any editor or from the environment. The server itself: tests/detection/serve."""

from __future__ import annotations

from pathlib import Path

import pytest

from backbones.common.errors import UserError
from tools.serve import TOKEN_VARIABLE, read_token


@pytest.mark.parametrize(
    "content", [b"s\xc3\xa9same", b"s\xc3\xa9same\r\n", b"\xef\xbb\xbfs\xc3\xa9same\n", b" s\xc3\xa9same\n\n"]
)
def test_a_token_is_read_without_blanks_and_byte_order_mark(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "token.txt").write_bytes(content)
    assert read_token(tmp_path / "token.txt") == "sésame"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("secret\n".encode("utf-16"), "in UTF-8"),
        ("secret\n".encode("utf-16-le"), "in UTF-8"),
        (b"s\xe9same", "in UTF-8"),
        (b"two\nlines", "one line"),
        (b"\xef\xbb\xbf \n", "it is empty"),
    ],
)
def test_what_no_client_could_send_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "token.txt").write_bytes(content)
    with pytest.raises(UserError, match=f"token.txt has no token: .*{said}"):
        read_token(tmp_path / "token.txt")


def test_a_token_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert read_token(None) is None
    monkeypatch.setenv(TOKEN_VARIABLE, " secret\n")
    assert read_token(None) == "secret"
    for content in ("", "two\nlines"):
        monkeypatch.setenv(TOKEN_VARIABLE, content)
        with pytest.raises(UserError, match=f"the variable {TOKEN_VARIABLE} has no token"):
            read_token(None)
