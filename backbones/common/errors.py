"""The error class for mistakes that a user can correct."""

from __future__ import annotations


class UserError(Exception):
    """An input that cannot be used. Its message is complete: what is wrong, where (file, image id, key), and the
    remedy.

    Tools print only the message, without a traceback, and exit with status 1. Every other exception is a defect of this
    project's code.
    """
