"""`resnext-detect COMMAND …`, also `python -m detection COMMAND …`: the tools of an installed package.

A command is a file of tools/, which are installed as `detection.tools`.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from backbones.common.errors import UserError
from backbones.common.names import did_you_mean
from detection.command_line import parser, run
from detection.common.tool_names import COMMAND

_TOOLS = "detection.tools"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a sub-command as its file in tools/ would run; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    return run(lambda: _run(arguments))


def _run(arguments: Sequence[str]) -> int:
    tools = _tools()
    options_parser = parser(
        "Object detection with an RPN and a Fast R-CNN that are trained separately.", _epilog(tools), name=COMMAND
    )
    options_parser.add_argument(
        "--version", action="version", version=f"%(prog)s {importlib.metadata.version('resnext-detection')}"
    )
    options_parser.add_argument("command", metavar="COMMAND", help="one of the commands below")
    options_parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, metavar="…", help="options of the command; `COMMAND --help` lists them"
    )
    options = options_parser.parse_args(arguments)
    name = options.command.replace("-", "_")
    if name not in tools:
        options_parser.error(
            f"there is no command {options.command!r}{did_you_mean(options.command, map(_spelled, tools))}"
        )
    sys.argv = [f"{COMMAND} {_spelled(name)}", *options.arguments]  # the tool's parser takes its name from there
    status: int = importlib.import_module(f"{_TOOLS}.{name}").main()
    return status


def _tools() -> dict[str, Path]:
    """The name of each tool (train_rpn) → its file.

    Raises:
        UserError: the package is not installed.
    """
    found = importlib.util.find_spec(_TOOLS)
    if found is None or not found.submodule_search_locations:
        raise UserError("the package is not installed; in a checkout, run the files in tools/: python tools/train.py …")
    files = sorted(Path(found.submodule_search_locations[0]).glob("*.py"))
    return {path.stem: path for path in files if path.stem != "__init__"}


def _spelled(name: str) -> str:
    return name.replace("_", "-")


def _epilog(tools: dict[str, Path]) -> str:
    width = max(map(len, tools))
    lines = [f"  {_spelled(name):{width}}  {_summary(path)}" for name, path in tools.items()]
    return "\n".join(
        [
            "commands:",
            *lines,
            "",
            "to begin, with a folder DIR of images and labels in COCO, YOLO, Pascal VOC or CSV format:",
            f"  {COMMAND} train --data DIR --minutes 30",
            f"  {COMMAND} predict --weights runs/NAME/detector.pt images/",
            "",
            "A path that begins with configs/ names a configuration that is installed with the project, unless the",
            "current folder has a file of that name: --config configs/modern/resnext50_32x4d.yaml.",
        ]
    )


def _summary(path: Path) -> str:
    """The first line of a tool's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main())
