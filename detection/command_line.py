"""What the command-line tools share: how a configuration is named and changed, and how errors are told."""

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
from detection.config import Config, Runtime
from detection.config_file import Configuration, config_to_yaml, load_config

if TYPE_CHECKING:  # torch takes seconds, which --help need not
    import torch

    from detection.training.loop import Outcome

REPOSITORY = Path(__file__).resolve().parent.parent
DEMO_CONFIG = REPOSITORY / "configs" / "demo.yaml"


def run(main: Callable[[], int]) -> int:
    """Runs a tool and returns its exit status: a `UserError`, a file that the system refuses, or an allocation that
    failed is one message on stderr and status 1, Ctrl-C is status 130. Other exceptions are mistakes of ours and keep
    their traceback.

    A reader of the output that has seen enough (`| head`) changes nothing: the work is done and the status is its own.
    """
    with _readers_may_leave():
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
        logging.getLogger().handlers[0].setFormatter(_Printable("%(message)s"))
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: any file's name, in any terminal
        try:
            status = main()
            if sys.stdout is not None:
                sys.stdout.flush()
        except (UserError, OSError) as error:
            print(f"error: {printable(str(error), keep_lines=True)}", file=sys.stderr)
            status = 1
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            status = 130
        except Exception as error:
            from detection.common.out_of_memory import is_out_of_memory, out_of_memory_message  # torch takes seconds

            if is_out_of_memory(error):
                print(f"error: {out_of_memory_message(error)}", file=sys.stderr)
            elif not _is_one_of_several():
                raise
            else:
                traceback.print_exc()
            status = 1
        return leave(status)


class _Printable(logging.Formatter):
    """Messages without control characters, which a terminal would carry out: they may tell of any file's name."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), keep_lines=True)


def leave(status: int) -> int:
    """The exit status, unless this is one process of several: that ends here and now, with the processes that it
    started.

    With PyTorch 2.10 one such process in some twenty aborts, or waits for ever, while the interpreter shuts down.
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
    except UserError:  # which was told when the processes were to be joined
        return False


@contextlib.contextmanager
def _readers_may_leave() -> Iterator[None]:
    """Within it, stdout and stderr whose readers have gone swallow what is written to them."""
    before = sys.stdout, sys.stderr
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: any file's name, in any terminal
        sys.stdout = cast(TextIO, _PatientStream(sys.stdout))
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = cast(TextIO, _PatientStream(sys.stderr))
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, _PatientStream):
                stream.end()
        sys.stdout, sys.stderr = before


class _PatientStream:
    """A text stream that goes on as the null device once nobody reads it any more."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with self._unread():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._unread():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _unread(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            self._discard()

    def end(self) -> None:
        """Nothing is left in its buffer that the interpreter would stumble over when it ends."""
        try:
            self.flush()
        except OSError:  # a full disk, which has been told
            self._discard()

    def _discard(self) -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())  # what is buffered goes there, too
        os.close(null)


def parser(description: str, epilog: str = "") -> argparse.ArgumentParser:
    """A parser whose help keeps line breaks, and whose arguments of type `Path` may begin with `~`."""
    made = argparse.ArgumentParser(
        description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.register("type", Path, user_path)
    return made


def add_config_arguments(
    arguments: argparse.ArgumentParser,
    *,
    config: bool = True,
    output: str = "folder of the run (output); runs/<name> by default",
    default: str = "the demo (configs/demo.yaml), which draws its own images",
    example: str = "rpn.training.steps=1000",
) -> None:
    """--config, --data, --output and key=value, which `read_config` turns into a configuration."""
    if config:
        arguments.add_argument(
            "--config",
            type=Path,
            help=f"YAML file; without it, {default}",
        )
    arguments.add_argument("--data", metavar="DIR", help="root of the data set (data.root)")
    arguments.add_argument("--output", metavar="DIR", help=output)
    arguments.add_argument(
        "overrides",
        nargs="*",
        metavar="key.sub=value",
        help=f"any value of the configuration, such as {example}; checked like the file",
    )


def add_training_arguments(arguments: argparse.ArgumentParser) -> None:
    """--resume, --dry-run and --print-config, which every training tool offers."""
    arguments.add_argument("--resume", action="store_true", help="go on from the newest checkpoint, if there is one")
    arguments.add_argument(
        "--dry-run",
        action="store_true",
        help="build everything (the demo's images and named weights are got where missing), measure a few steps, "
        "print the plan; nothing is written into the run's folder",
    )
    arguments.add_argument("--print-config", action="store_true", help="print the whole configuration and stop")


def printed_config(options: argparse.Namespace, config: Configuration) -> bool:
    """Whether --print-config asked for the configuration alone; it is then printed."""
    if options.print_config:
        print(config_to_yaml(config), end="")
    return bool(options.print_config)


def plan_or_train(
    options: argparse.Namespace,
    runtime: Runtime,
    plan: Callable[[torch.device], str],
    train: Callable[[torch.device, bool], Outcome],
) -> int:
    """Does what a training tool was asked for, as one of the processes that torchrun starts or alone.

    Args:
        plan: device → the text of the dry run.
        train: device, and whether to resume → how it ended.

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
    """The configuration that the arguments of `add_config_arguments` name."""
    return load_config(options.config or DEMO_CONFIG, overrides(options))


def overrides(options: argparse.Namespace) -> Sequence[str]:
    """All that the command line changes, as key=value texts; what is named later wins."""
    changes = list(options.overrides)
    for key, value in (("data.root", options.data), ("output", options.output)):
        if value is not None:
            changes.append(f"{key}={_quoted(value)}")
    return changes


def _quoted(text: str) -> str:
    """A YAML text that stands for itself, whatever it looks like."""
    return "'" + text.replace("'", "''") + "'"
