"""Context in which what the stages of a chain say about the data, which each of them opens, is logged once."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

_LOGGERS = ("detection.data.discovery", "detection.experiment.datasets", "detection.experiment.class_matching")


@contextlib.contextmanager
def said_once() -> Iterator[None]:
    """Within the block, a line about the data that was logged before is left out."""
    said: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if text in said:
            return False
        said.add(text)
        return True

    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for one in loggers:
        one.addFilter(is_new)
    try:
        yield
    finally:
        for one in loggers:
            one.removeFilter(is_new)
