"""libjpeg's messages on stderr → a list. It reports damage in no other way, and without the file's name."""

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
    """Yields a list that is filled with the decoder's messages, one per line, when the block ends.

    It captures stderr of the whole process: messages about images that other threads decode are included, and all other
    output to stderr is written when the block ends.
    """
    complaints: list[str] = []
    try:
        stderr = os.dup(2)
    except OSError:  # stderr is closed
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
