"""What libjpeg writes to the process's stderr → a list: it has no other way to tell of damage, and names no file."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator

_COMPLAINT = re.compile(rb"(?:Corrupt JPEG data|Premature end of JPEG|Invalid SOS|Inconsistent progression)[^\n]*\n?")


@contextlib.contextmanager
def decoder_complaints() -> Iterator[list[str]]:
    """Yields a list that holds the decoder's complaints, a line each, once the block has ended.

    For the whole process: what other threads decode meanwhile is among them, and what they write to stderr otherwise
    comes out at the end of the block.
    """
    complaints: list[str] = []
    try:
        stderr = os.dup(2)
    except OSError:  # closed: nobody is there to complain to
        yield complaints
        return
    with tempfile.TemporaryFile() as said:
        sys.stderr.flush()
        os.dup2(said.fileno(), 2)
        try:
            yield complaints
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            said.seek(0)
            text = said.read()
            complaints += [line.decode("ascii", "replace").strip() for line in _COMPLAINT.findall(text)]
            with contextlib.suppress(OSError):
                os.write(2, _COMPLAINT.sub(b"", text))
