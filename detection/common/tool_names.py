"""How the tools are called here: `python tools/train.py` in a checkout, `resnext-detect train` where it is installed.

Messages, help texts and pages are written with the names of the checkout; `as_called_here` turns them into the others.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

COMMAND = "resnext-detect"
_PACKAGE = Path(__file__).resolve().parents[1]
# Not within another path, such as that of a user's own tools/train.py.
_SCRIPT = re.compile(r"(?<![\w/\\.-])(?:python )?tools/(\w+)\.py\b")


def is_installed() -> bool:
    """Whether the tools are called as `resnext-detect`: that started this process, or they lie in the package."""
    return sys.argv[0].startswith(COMMAND) or (_PACKAGE / "tools").is_dir()


def as_called_here(text: str) -> str:
    """The text with the tools' names as they are called here.

    In an installation, "python tools/eval_coco.py --weights …" becomes "resnext-detect eval-coco --weights …", and
    after torchrun, which starts modules, "-m detection.tools.eval_coco --weights …".
    """
    return "\n".join(map(_line, text.split("\n"))) if is_installed() else text


def _line(line: str) -> str:
    if "torchrun" in line:
        return _SCRIPT.sub(r"-m detection.tools.\1", line)
    return _SCRIPT.sub(lambda match: f"{COMMAND} {match[1].replace('_', '-')}", line)
