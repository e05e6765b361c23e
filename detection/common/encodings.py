"""The content of a text file → UTF-8, whatever its byte order mark says."""

from __future__ import annotations

import codecs

# UTF-32's little-endian mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def as_utf8(data: bytes) -> bytes:
    r"""The content without its byte order mark, in UTF-8; content without a mark, which may be no text, as it is.

    Windows' editors write a mark, and PowerShell's `>` writes UTF-16. What cannot be decoded becomes U+FFFD.

    >>> as_utf8("\ufeffcat".encode("utf-16-le")), as_utf8(b"cat")
    (b'cat', b'cat')
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            content = data[len(mark) :]
            return content if encoding == "utf-8" else content.decode(encoding, "replace").encode()
    return data
