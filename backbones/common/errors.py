"""The error that is meant for the person at the keyboard."""

from __future__ import annotations


class UserError(Exception):
    """An input that cannot be used. Its message is complete: what is wrong, where (file, image id, key), and the
    remedy.

    Tools print the message alone, without a traceback, and exit with status 1. Anything else that is raised is a defect
    of this project.
    """
