"""The code shared by the command-line tools: arguments → a configuration, and errors → messages and exit status."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from backbones.common.errors import UserError
from backbones.common.files import user_path
from backbones.common.text import printable
from detection.common.environment import environment_number
from detection.common.out_of_memory import is_out_of_memory, out_of_memory_message
from detection.common.tool_names import COMMAND, as_called_here
from detection.config import Config, Runtime
from detection.config_file import Configuration, config_to_yaml, load_config, quoted
from detection.presets import preset_path

if TYPE_CHECKING:  # importing torch takes seconds, which --help should not
    import torch

    from detection.training.loop import Outcome

REPOSITORY = Path(__file__).resolve().parent.parent
DEMO = "demo.yaml"  # the preset


def run(main: Callable[[], int]) -> int:
    """Runs a tool and returns its exit status: a `UserError`, a file that the system refuses, or an allocation that
    failed gives one message on stderr and status 1; Ctrl-C gives status 130. Other exceptions are bugs, and are raised
    with their traceback.

    If the reader of the output ends early (`| head`), the work is still completed and the status is unchanged.
    """
    with _ignore_closed_pipes():
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
        logging.getLogger().handlers[0].setFormatter(_Printable("%(message)s"))
        try:
            status = main()
            if sys.stdout is not None:
                sys.stdout.flush()
        except (UserError, OSError) as error:
            print(f"error: {printable(as_called_here(str(error)), keep_lines=True)}", file=sys.stderr)
            status = 1
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            status = 130
        except Exception as error:
            if is_out_of_memory(error):
                print(f"error: {out_of_memory_message(error)}", file=sys.stderr)
            elif not _is_one_of_several():
                raise
            else:
                traceback.print_exc()
            status = 1
        return leave(status)


class _Printable(logging.Formatter):
    """Formats messages without control characters, which a terminal would execute: a message may contain file names."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(as_called_here(super().format(record)), keep_lines=True)


def leave(status: int) -> int:
    """Returns the exit status, or, if this is one process of several, ends it at once with that status, and its child
    processes too.

    With PyTorch 2.10 about one such process in twenty aborts or hangs while the interpreter shuts down.
    """
    if _is_one_of_several():
        for child in multiprocessing.active_children():
            child.kill()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _is_one_of_several() -> bool:
    try:
        return environment_number("WORLD_SIZE", 1) > 1
    except UserError:  # which was reported when the process group was joined
        return False


@contextlib.contextmanager
def _ignore_closed_pipes() -> Iterator[None]:
    """Context in which output to stdout or stderr is discarded once its reader has closed the pipe."""
    before = sys.stdout, sys.stderr
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: any file's name, in any terminal
        sys.stdout = cast(TextIO, _PipeTolerantStream(sys.stdout))
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = cast(TextIO, _PipeTolerantStream(sys.stderr))
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, _PipeTolerantStream):
                stream.end()
        sys.stdout, sys.stderr = before


class _PipeTolerantStream:
    """A text stream that discards its output once the reader of its pipe has ended."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with self._discard_if_closed():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._discard_if_closed():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _discard_if_closed(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            self._discard()

    def end(self) -> None:
        """Flushes or discards the buffer, so that the interpreter has no error with it when it ends."""
        try:
            self.flush()
        except OSError:  # a full disk, which was already reported
            self._discard()

    def _discard(self) -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())  # what is buffered goes there, too
        os.close(null)


def parser(description: str, epilog: str = "", *, name: str | None = None) -> argparse.ArgumentParser:
    """A parser whose help keeps line breaks, and whose arguments of type `Path` may begin with `~`.

    name: of the program in its help; by default that of the tool, as it was started.
    """
    if name is None and sys.argv[0].startswith(COMMAND):
        name = sys.argv[0]
    made = _Parser(
        prog=name, description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.register("type", Path, user_path)
    return made


class _Parser(argparse.ArgumentParser):
    """Names the tools in its help as they are called here."""

    def format_help(self) -> str:
        return as_called_here(super().format_help())


def whole_number(low: int, high: int | None = None, what: str = "a number") -> Callable[[str], int]:
    """The type of an argument that is a whole number from `low` to `high`, or from `low` on."""

    def parse(text: str) -> int:
        if text.isascii() and text.isdecimal() and len(text) < 19:
            number = int(text)
            if low <= number and (high is None or number <= high):
                return number
        limits = f"from {low} on" if high is None else f"from {low} to {high}"
        raise argparse.ArgumentTypeError(f"{what} {limits}, not {text[:50]!r}")

    return parse


def add_config_arguments(
    arguments: argparse.ArgumentParser,
    *,
    config: bool = True,
    output: str = "folder of the run (output; default: runs/<name>)",
    default: str = "configs/demo.yaml, the demo, which draws its own images",
    example: str = "rpn.training.steps=1000",
) -> None:
    """Adds --config, --data, --output and key=value, which `read_config` turns into a configuration."""
    if config:
        arguments.add_argument(
            "--config",
            type=Path,
            metavar="FILE",
            help=f"the configuration, a YAML file (default: {default})",
        )
    arguments.add_argument("--data", metavar="DIR", help="folder of the data set (data.root)")
    arguments.add_argument("--output", metavar="DIR", help=output)
    arguments.add_argument(
        "overrides",
        nargs="*",
        metavar="key.sub=value",
        help=f"changes a value of the configuration, such as {example}",
    )


def add_fitting_arguments(arguments: argparse.ArgumentParser) -> None:
    """Adds --minutes, --from, --device and key=value, by which a configuration is fitted to data."""
    arguments.add_argument(
        "--minutes", type=float, metavar="N", help="time for both trainings, proposals and evaluation together, on "
        "this machine (default: the number of steps follows from the number of images)",
    )  # fmt: skip
    arguments.add_argument(
        "--from", dest="init_from", type=Path, metavar="FILE", help="detector.pt to start from, also of other classes"
    )
    arguments.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="device to train on (default: a GPU if there is one)",
    )
    arguments.add_argument(
        "overrides", nargs="*", metavar="key.sub=value", help="changes a value of the configuration: data.format=voc"
    )


def add_training_arguments(arguments: argparse.ArgumentParser) -> None:
    """Adds --resume, --dry-run and --print-config, which every training tool has."""
    arguments.add_argument("--resume", action="store_true", help="continue from the newest checkpoint, if there is one")
    arguments.add_argument(
        "--dry-run",
        action="store_true",
        help="measure a few steps and print the plan and the time that the training will take; missing weights are "
        "downloaded, but nothing is written into the run's folder",
    )
    arguments.add_argument("--print-config", action="store_true", help="print the whole configuration and stop")


def printed_config(options: argparse.Namespace, config: Configuration) -> bool:
    """Prints the configuration if --print-config was given, and returns whether it was."""
    if options.print_config:
        print(config_to_yaml(config), end="")
    return bool(options.print_config)


def plan_or_train(
    options: argparse.Namespace,
    runtime: Runtime,
    plan: Callable[[torch.device], str],
    train: Callable[[torch.device, bool], Outcome],
) -> int:
    """Runs the dry run or the training of a tool, as one of the processes that torchrun starts or as a single process.

    Args:
        plan: device → the text of the dry run.
        train: device, and whether to resume → the outcome.

    Returns:
        The exit status.
    """
    from detection.training.distributed import is_main, process_group, was_restarted

    with process_group(runtime.device, time_limit=60 * runtime.timeout_minutes) as device:
        resume = was_restarted() or options.resume
        if options.dry_run:
            text = plan(device)
            if is_main():
                print(text)
            return 0
        return train(device, resume).exit_status


def read_config(options: argparse.Namespace) -> Config:
    """The configuration given by the arguments of `add_config_arguments`."""
    return load_config(options.config or preset_path(DEMO), overrides(options))


def overrides(options: argparse.Namespace) -> Sequence[str]:
    """All changes of the command line as key=value texts; a later one overrides an earlier one."""
    changes = list(options.overrides)
    for key, value in (("data.root", options.data), ("output", options.output)):
        if value is not None:
            changes.append(f"{key}={quoted(value)}")
    return changes
