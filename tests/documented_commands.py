"""The shell commands of the README and the pages of docs/, and what a tool's own parser makes of one."""

from __future__ import annotations

import argparse
import functools
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
_BEGINS = r"(?:python3?|pip|make|torchrun|resnext-detect|git|source|du|jupyter)\b"
_INLINE = re.compile(r"`((?:python tools/|python -m |torchrun .*tools/|resnext-detect |make )[^`]*)`")


class Command(NamedTuple):
    """One command as it stands in a page; `text` without comments, in one line."""

    page: str
    text: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text, comments=True)

    @property
    def module(self) -> str | None:
        """What it runs: tools.train, or the module after `python -m`; None for other programs."""
        words = self.words
        if words[0] == "resnext-detect" and not words[1].startswith("-"):
            return f"tools.{words[1].replace('-', '_')}"
        if words[:2] == ["python", "-m"]:
            return words[2]
        file = next((word for word in words if word.startswith("tools/")), None)
        return None if file is None else f"tools.{Path(file).stem}"

    @property
    def arguments(self) -> list[str]:
        """Those of the module, without "…", which stands for others that the page leaves out."""
        words = self.words
        name = (self.module or "").removeprefix("tools.")
        place = next(i for i, word in enumerate(words) if name in (Path(word).stem.replace("-", "_"), word))
        return [word for word in words[place + 1 :] if word != "…"]


def commands() -> list[Command]:
    """Every command of every page, each once a page: those in indented and fenced blocks, and those of our own tools
    that stand in a sentence or a table."""
    found: dict[Command, None] = {}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for line in [*_block_lines(text), *(" ".join(one.split()) for one in _INLINE.findall(_prose(text)))]:
            found[Command(page.name, line)] = None
    return list(found)


def _prose(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def _block_lines(text: str) -> Iterator[str]:
    """The lines of shell blocks. A block whose first line begins no command is another text, such as a folder."""
    fenced = re.findall(r"^```(?:sh|bash|shell|console)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"(?:^|\n)\n((?: {4,}\S.*\n)+)", _prose(text))
    for block in [*fenced, *indented]:
        lines = [line.strip() for line in block.replace("\\\n", " ").splitlines()]
        if re.match(_BEGINS, lines[0]):
            yield from lines


class _Parsed(Exception):
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options


def parsed(command: Command) -> argparse.Namespace:
    """The options of a command, by the parser of its module, which is stopped before it does anything.

    Raises:
        SystemExit: the parser refuses them.
    """
    name = command.module or ""
    if importlib.import_module(name).__file__.endswith("__init__.py"):  # type: ignore[union-attr]
        name += ".__main__"
    module, arguments = importlib.import_module(name), command.arguments
    originals = {name: getattr(argparse.ArgumentParser, name) for name in ("parse_args", "parse_intermixed_args")}

    def stop(original: Any, self: argparse.ArgumentParser, *given: Any, **named: Any) -> None:
        with mock.patch.multiple(argparse.ArgumentParser, **originals):
            raise _Parsed(original(self, *given, **named))

    patched = {name: functools.partialmethod(_call, stop, original) for name, original in originals.items()}
    with mock.patch.multiple(argparse.ArgumentParser, **patched):
        try:
            module.main(arguments)
        except _Parsed as end:
            return end.options
    raise AssertionError(f"{command.text}: the tool parsed nothing")


def _call(self: argparse.ArgumentParser, stop: Any, original: Any, *given: Any, **named: Any) -> None:
    stop(original, self, *given, **named)
