"""An output folder, or a file being made → at most one run writing it."""

from __future__ import annotations

import contextlib
import os
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from backbones.common.errors import UserError
from detection.training.distributed import is_main, on_main

try:
    import fcntl
except ImportError:  # Windows has no record locks; two runs are then not kept apart
    fcntl = None  # type: ignore[assignment]

_held: Counter[Path] = Counter()  # how often this process holds each; closing the file once would let go of all


@contextlib.contextmanager
def run_lock(folder: str | os.PathLike[str], name: str = "run.lock") -> Iterator[None]:
    """Holds `folder` (made if missing) for the length of the block; of several ranks, rank 0 holds it for all.

    A block within a block may hold the same folder again: `train` holds its own, and a caller may hold it for longer.
    Where several may write into one folder, each file of its own, `name` is the lock's file of one of them.

    The system frees the lock when the process ends in whatever way, so a killed run leaves nothing to clean up. It is a
    record lock (`lockf`), which forked loader workers do not inherit: one that outlives its killed parent by seconds
    does not keep the restarted run out.

    Raises:
        UserError: another run holds the folder (its process and machine are named), or the folder cannot be written.
    """
    path = (Path(folder) / name).resolve()
    files: list[IO[bytes]] = []

    def take() -> None:
        if not _held[path]:
            files.append(_take(path))
        _held[path] += 1

    on_main(take)
    try:
        yield
    finally:
        _held[path] -= is_main()
        for file in files:
            file.close()


def _take(path: Path) -> IO[bytes]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "ab+", buffering=0)  # noqa: SIM115 - it stays open as long as the lock is held
    except OSError as error:
        raise UserError(f"{path.parent} cannot be written: {error.strerror}. Choose another output folder.") from error
    if fcntl is not None:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            holder = file.read().decode("utf-8", "replace").strip()
            file.close()
            raise UserError(
                f"another run is writing into {path.parent} ({holder or 'unknown'} holds {path.name}): "
                "wait for it, stop it, or choose another output folder"
            ) from error
        except OSError:
            pass  # a file system without locks: better no protection than no training
    with contextlib.suppress(OSError):  # a full disk; the note is a courtesy
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    return file
