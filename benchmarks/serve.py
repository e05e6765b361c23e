"""The server under load: throughput, times of answers, memory, and whether every request gets its answer.

    python -m benchmarks.serve --weights runs/demo/detector.pt --images DIR
        1, 8 and 64 clients, with and without batches of several requests' images
    python -m benchmarks.serve --weights runs/demo/detector.onnx --images DIR --minutes 60
        memory in an hour of images, forms, batches and requests that are refused
    python -m benchmarks.serve --stand-in --requests 100000
        the server alone: a detector that answers at once

The server is tools/serve.py in a process of its own; the clients are threads of this process, on the same cores. Each
sends its next request when it has its answer. The settings take turns within each number of clients. A request counts
as lost if it gets no answer, or one of another status than the right one, or if the server counts another number of
answers than the clients.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from backbones.common.errors import UserError
from benchmarks.common import RESULTS, environment, present, seconds, table
from benchmarks.http_load import Outcome, Request, ServerProcess, answers_counted, load
from detection.command_line import run

SETTINGS = {
    "one image at a time": (),
    "up to 8 that wait": ("--batch-size", "8"),
    "up to 8, waiting 5 ms": ("--batch-size", "8", "--batch-wait", "5"),
}
CLIENTS = (1, 8, 64)
SOAK_CLIENTS = 8
_WARM_UP = 16  # requests that are not counted
_MOST_IMAGES = 100
_PATIENT = ("--timeout", "86400", "--body-timeout", "86400")  # other work may stop the server for a while
_SAMPLES = 200  # of the memory, at most


def main() -> int:
    options = _arguments().parse_args()
    if not options.stand_in and not (options.weights and options.images):
        raise UserError("--weights and --images are needed, or --stand-in")
    about = environment("serve", packages=("fastapi", "uvicorn"))
    if options.stand_in:
        arguments = ["-m", "benchmarks.serve_stand_in"]
        mixed = _mixed(_small_images())
        count = options.requests
        name, title = "serve_stand_in", f"The server alone: {count:,} requests"
        found = _soak(arguments, mixed, lambda number, _: number < count)
    elif options.minutes is not None:
        arguments = ["tools/serve.py", "--weights", str(options.weights[0]), "--port", "0", *_PATIENT]
        name, title = "serve_soak", f"The server for {options.minutes:g} minutes"
        found = _soak(arguments, _mixed(_jpegs(options.images)), lambda _, now: now < 60 * options.minutes)
    else:
        kinds = [path.suffix[1:] for path in options.weights]
        name, title = "_".join(["serve", *kinds]), f"The server under load, weights .{' and .'.join(kinds)}"
        found = _compare(options.weights, _jpegs(options.images), options.seconds, options.rounds)
    present(options.output or RESULTS / f"{name}.json", title, about, **found)
    return 1 if found["lost"] else 0


def _compare(weights: Sequence[Path], images: Sequence[bytes], duration: float, rounds: int) -> dict[str, Any]:
    """Throughput and times for each file, setting and number of clients."""
    requests = [Request("/detect", image) for image in images]
    lost = Counter[str]()
    with ExitStack() as stack:
        servers = {}
        for path, (setting, more) in itertools.product(weights, SETTINGS.items()):
            server = ServerProcess(["tools/serve.py", "--weights", str(path), "--port", "0", *more])
            servers[str(path), setting] = stack.enter_context(server)
            load(server.port, requests, 1, lambda number: number < _WARM_UP)
        before = {name: server.memory() for name, server in servers.items()}
        rows, numbers = [], []
        for clients in CLIENTS:
            outcomes: dict[tuple[str, str], list[tuple[Outcome, float]]] = {name: [] for name in servers}
            order = list(servers)
            for _ in range(rounds):
                for name in order:
                    outcomes[name].append(_one_run(servers[name], requests, clients, duration, lost))
                order.reverse()
            for name, own in outcomes.items():
                row, figures = _throughput(name, clients, own)
                rows.append(row)
                numbers.append(figures)
                print(*row, sep="  ", flush=True)
        after = {name: server.memory() for name, server in servers.items()}
    columns = (
        "weights",
        "images",
        "clients",
        "answers a second (lowest – highest)",
        "p50",
        "p99",
        "images of a batch",
        "answers",
    )
    memory = [[*name, f"{before[name]:.0f} MB", f"{after[name]:.0f} MB"] for name in servers]
    return {
        "tables": [
            table("Throughput, and times from a request to its answer", columns, rows),
            table(
                "Memory of the server's process",
                ("weights", "images", "after the first requests", "at the end"),
                memory,
            ),
            _lost_table(lost, sum(figures["answers"] for figures in numbers)),
        ],
        "runs": numbers,
        "lost": dict(lost),
    }


def _one_run(
    server: ServerProcess, requests: Sequence[Request], clients: int, duration: float, lost: Counter[str]
) -> tuple[Outcome, float]:
    """What clients get for a time, and the mean number of images of a batch."""
    before = server.metrics()
    end = time.perf_counter() + duration
    outcome = load(server.port, requests, clients, lambda _: time.perf_counter() < end)
    after = server.metrics()
    images, batches = (
        after[f"detector_batch_images_{one}"] - before[f"detector_batch_images_{one}"] for one in ("sum", "count")
    )
    lost.update(lost_requests(outcome, before, after))  # `+=` would drop negative differences
    return outcome, images / batches


def _throughput(
    name: tuple[str, str], clients: int, runs: Sequence[tuple[Outcome, float]]
) -> tuple[list[str], dict[str, Any]]:
    rates = [outcome.rate for outcome, _ in runs]
    all_runs = Outcome(latencies=[one for outcome, _ in runs for one in outcome.latencies])
    statuses = sum((outcome.statuses for outcome, _ in runs), Counter[int]())
    figures = {
        "weights": name[0],
        "setting": name[1],
        "clients": clients,
        "rates": rates,
        "p50": all_runs.percentile(50),
        "p99": all_runs.percentile(99),
        "images": statistics.mean(images for _, images in runs),
        "answers": statuses.total(),
    }
    row = [
        *(*name, str(clients), f"{statistics.median(rates):.1f} ({min(rates):.1f} – {max(rates):.1f})"),
        *(seconds(figures["p50"]), seconds(figures["p99"]), f"{figures['images']:.1f}", _by_status(statuses)),
    ]
    return row, figures


def _soak(
    arguments: Sequence[str], requests: Sequence[Request], goes_on: Callable[[int, float], bool]
) -> dict[str, Any]:
    """Memory and losses while clients go on; `goes_on` gets a request's number and the seconds since the begin."""
    with ServerProcess(arguments) as server:
        at_start = server.memory()
        load(server.port, requests, SOAK_CLIENTS, lambda number: number < 2 * len(requests))
        before = server.metrics()
        begin = time.perf_counter()
        samples: list[tuple[float, float, float]] = []  # seconds, MB, answers
        ended = threading.Event()

        def watch() -> None:
            while True:
                answers = answers_counted(server.metrics()).total() - answers_counted(before).total()
                samples.append((time.perf_counter() - begin, server.memory(), answers))
                if ended.wait(1.0):
                    return

        watcher = threading.Thread(target=watch)
        watcher.start()
        outcome = load(server.port, requests, SOAK_CLIENTS, lambda number: goes_on(number, time.perf_counter() - begin))
        ended.set()
        watcher.join()
        samples.append((time.perf_counter() - begin, server.memory(), outcome.statuses.total()))
        lost = lost_requests(outcome, before, server.metrics())
    kept = samples[:: -(-len(samples) // _SAMPLES)]
    return {
        "tables": [
            table("Memory of the server's process", ("after", "answers", "memory"), _memory_rows(at_start, samples)),
            table(
                f"{SOAK_CLIENTS} clients",
                ("minutes", "answers a second", "p50", "p99", "answers"),
                [
                    [
                        *(f"{outcome.seconds / 60:.1f}", f"{outcome.rate:.0f}"),
                        *(seconds(outcome.percentile(one)) for one in (50, 99)),
                        _by_status(outcome.statuses),
                    ]
                ],
            ),
            _lost_table(lost, outcome.statuses.total()),
        ],
        "memory": [dict(zip(("seconds", "mb", "answers"), one, strict=True)) for one in kept],
        "megabytes_an_hour": slope(samples),
        "lost": dict(lost),
    }


def _memory_rows(at_start: float, samples: Sequence[tuple[float, float, float]]) -> list[list[str]]:
    rows = [["the start", "0", f"{at_start:.0f} MB"]]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        took, megabytes, answers = samples[round(share * (len(samples) - 1))]
        rows.append([f"{took / 60:.1f} minutes", f"{answers:,.0f}", f"{megabytes:.1f} MB"])
    rows.append(["most of all", "", f"{max(megabytes for _, megabytes, _ in samples):.1f} MB"])
    rows.append(["slope of the second half", "", f"{slope(samples):+.1f} MB an hour"])
    return rows


def slope(samples: Sequence[tuple[float, float, float]]) -> float:
    """MB an hour, of the line through the second half of the samples."""
    half = samples[len(samples) // 2 :]
    if len(half) < 2:
        return 0.0
    return 3600 * statistics.linear_regression([one[0] for one in half], [one[1] for one in half]).slope


def lost_requests(outcome: Outcome, before: dict[str, float], after: dict[str, float]) -> Counter[str]:
    """What went wrong, by kind, with the number of times."""
    lost = Counter(outcome.wrong)
    counted = answers_counted(after)
    counted.subtract(answers_counted(before))
    for status in counted.keys() | outcome.statuses.keys():
        if difference := counted[status] - outcome.statuses[status]:
            lost[f"{status}: counted by the server, not by clients"] += difference
    if after["detector_requests_pending"]:
        lost["pending at the end"] += int(after["detector_requests_pending"])
    return lost


def _lost_table(lost: Counter[str], answers: int) -> dict[str, Any]:
    rows = [[kind, str(count)] for kind, count in lost.items()]
    return table("Requests without the right answer", ("kind", "requests"), rows or [[f"none of {answers:,}", "0"]])


def _by_status(statuses: Counter[int]) -> str:
    return ", ".join(f"{status}: {count:,}" for status, count in sorted(statuses.items()))


def _mixed(images: Sequence[bytes]) -> list[Request]:
    """A round of requests: mostly images, some forms, and one of each kind that is refused."""
    requests = [Request("/detect", image) for image in images]
    parts = [_form("image", images[:1]), _form("images", images[:3])]
    requests += [
        Request("/detect", parts[0][1], 200, parts[0][0]),
        Request("/detect/batch", parts[1][1], 200, parts[1][0]),
    ]
    requests += [
        Request("/detect", images[0][: len(images[0]) // 2], 422),
        Request("/detect", b"words, not pixels", 422, "text/plain"),
        Request("/detect", b"", 400),
        Request("/detect", parts[0][1][:-20], 400, parts[0][0]),
        Request("/detect", parts[1][1], 413, parts[1][0]),
    ]
    return requests


def _form(name: str, images: Sequence[bytes]) -> tuple[str, bytes]:
    head = f'--edge\r\nContent-Disposition: form-data; name="{name}"; filename="a.jpg"\r\n\r\n'.encode()
    return "multipart/form-data; boundary=edge", b"".join(head + one + b"\r\n" for one in images) + b"--edge--\r\n"


def _jpegs(folder: Path) -> list[bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))[:_MOST_IMAGES]
    if not paths:
        raise UserError(f"{folder}: no JPEGs in it")
    return [path.read_bytes() for path in paths]


def _small_images() -> list[bytes]:
    import cv2
    import numpy as np

    random = np.random.default_rng(0)
    shapes = [(48, 64), (64, 48), (96, 96), (32, 160)]
    return [
        cv2.imencode(".jpg", random.integers(0, 256, (*shape, 3), dtype=np.uint8))[1].tobytes() for shape in shapes * 4
    ]


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, nargs="+", metavar="FILE", help="detector.pt, detector.onnx, or both")
    parser.add_argument("--images", type=Path, metavar="DIR", help=f"JPEGs; the first {_MOST_IMAGES} are sent")
    parser.add_argument("--seconds", type=float, default=4, help="of a run (default: 4)")
    parser.add_argument("--rounds", type=int, default=4, help="runs of each setting (default: 4)")
    parser.add_argument("--minutes", type=float, help="watch the memory of a mixed load for so long")
    parser.add_argument("--stand-in", action="store_true", help="a detector that answers at once, and a mixed load")
    parser.add_argument("--requests", type=int, default=100_000, help="with --stand-in (default: 100000)")
    parser.add_argument("--output", type=Path, help="result file (default: in benchmarks/results/)")
    return parser


if __name__ == "__main__":
    sys.exit(run(main))
