"""Serves a detector over HTTP: images in, detections in JSON out."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from a checkout, without installation

from backbones.common.errors import UserError
from backbones.common.files import require_plain_file, user_path
from detection.command_line import parser, run

TOKEN_VARIABLE = "DETECTOR_TOKEN"

EPILOG = f"""examples:
  python tools/serve.py --weights runs/demo/detector.pt
  python tools/serve.py --weights detector.onnx --port 9000 --token-file token.txt
  curl --data-binary @street.jpg http://127.0.0.1:8000/detect
  curl -F image=@street.jpg http://127.0.0.1:8000/detect
  curl -F images=@a.jpg -F images=@b.jpg http://127.0.0.1:8000/detect/batch

/ is a page that takes an image and draws its detections. /detect answers with {{"width": …, "height": …, "boxes": [[x0,
y0, x1, y1], …], "scores": […], "labels": […], "names": […], "seconds": …}}, boxes in pixels. /health says that the
server runs, /metrics has figures for Prometheus, and /docs describes the interface (for programs: /openapi.json).

With a token, in a file or in the variable {TOKEN_VARIABLE}, /detect and /metrics need "Authorization: Bearer TOKEN".
SIGTERM and Ctrl-C end the server after the accepted requests are answered. An exported file is run without PyTorch."""


def main(arguments: list[str] | None = None) -> int:
    options_parser = parser(__doc__ or "", EPILOG)
    add = options_parser.add_argument
    add(
        "--weights",
        type=Path,
        required=True,
        metavar="FILE",
        help="detector.pt, or a .onnx or .xml file of tools/export.py",
    )
    add("--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: auto)")
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all (default: 127.0.0.1)")
    add("--port", type=int, default=8000, help="0: a free one (default: 8000)")
    add("--token-file", type=Path, metavar="FILE", help=f"file with the bearer token; or set {TOKEN_VARIABLE}")
    add("--batch-size", type=int, default=1, metavar="N", help="images detected at once (default: 1, best on a CPU)")
    add("--batch-wait", type=float, default=0.0, metavar="MS", help="a batch waits so long for images (default: 0)")
    add("--max-body", type=float, default=32, metavar="MIB", help="of one request (default: 32)")
    add("--max-total", type=float, default=256, metavar="MIB", help="of all requests; more get 429 (default: 256)")
    add("--max-pixels", type=float, default=50, metavar="MILLIONS", help="of one image (default: 50)")
    add("--max-files", type=int, default=32, metavar="N", help="images of one batch request (default: 32)")
    add("--max-requests", type=int, default=64, metavar="N", help="requests under way; more get 429 (default: 64)")
    add("--body-timeout", type=float, default=30, metavar="S", help="for head and body to arrive (default: 30)")
    add("--timeout", type=float, default=60, metavar="S", help="from the body to the answer (default: 60)")
    options = options_parser.parse_args(arguments)

    for name in ("max_body", "max_total", "max_pixels", "max_files", "max_requests", "body_timeout", "timeout"):
        if not getattr(options, name) > 0:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(options, name)}; it must be more than 0")
    if options.max_total < options.max_body:
        raise UserError(f"--max-total is {options.max_total:g} MiB, less than --max-body, {options.max_body:g} MiB")
    try:
        import python_multipart  # noqa: F401

        from detection.detector_file import load_detector_file
        from detection.serve.application import create_application
        from detection.serve.connections import Server
        from detection.serve.requests import Limits
    except ImportError as error:
        raise UserError(f"{error.name} is not installed, which the server needs; run: pip install '.[serve]'") from None
    application = create_application(
        load_detector_file(options.weights, options.device),
        limits=Limits(
            body_bytes=int(options.max_body * (1 << 20)),
            total_bytes=int(options.max_total * (1 << 20)),
            pixels=int(options.max_pixels * 1e6),
            files=options.max_files,
            requests=options.max_requests,
            body_seconds=options.body_timeout,
            answer_seconds=options.timeout,
        ),
        token=read_token(options.token_file),
        batch_size=options.batch_size,
        wait=options.batch_wait / 1000,
    )
    Server(
        application,
        host=options.host,
        port=options.port,
        seconds=options.body_timeout,
        on_start=lambda url: print(f"listening on {url}; Ctrl-C ends it", flush=True),
    ).run()
    return 0


def read_token(path: Path | None) -> str | None:
    """The token in a file, or without one in the environment; None if there is neither.

    Raises:
        UserError: it is empty, or nothing that a client could send.
    """
    if path is None:
        token, source = os.environ.get(TOKEN_VARIABLE), f"the variable {TOKEN_VARIABLE}"
        if token is None:
            return None
    else:
        path = user_path(path)
        require_plain_file(path)
        token, source = path.read_bytes().decode("utf-8-sig", "surrogateescape"), str(path)
    token = token.strip()
    if not token:
        raise UserError(f"{source} has no token: it is empty")
    if not token.isprintable():  # surrogates are bytes that are no UTF-8
        raise UserError(f"{source} has no token: it must be one line of printable characters, in UTF-8")
    return token


if __name__ == "__main__":
    sys.exit(run(main))
