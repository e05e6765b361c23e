"""Environment variables that a launcher such as torchrun sets → whole numbers."""

from __future__ import annotations

import os

from backbones.common.errors import UserError


def environment_number(name: str, default: int) -> int:
    """The value of the environment variable `name`; `default` where it is not set.

    Raises:
        UserError: it is set to something else than a whole number from 0 on.
    """
    text = os.environ.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal()):
        raise UserError(
            f"the environment variable {name} is {text!r} and should be a whole number: unset it to run one process, "
            "or start several with torchrun, which sets it"
        )
    return int(text)
