"""A COCO of eight images in the official archives' formats, and a server for it that can misbehave."""

from __future__ import annotations

import hashlib
import http.server
import json
import random
import re
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from detection.data.coco.derived_splits import TRAIN2014, VAL2014, VAL2017, Counts
from detection.data.coco.layout import MINIVAL, TRAINVAL35K
from detection.data.coco.parts import Archive, Part

TRAIN_IDS, VAL_IDS, MINIVAL_IDS = (9, 25, 30, 34), (42, 73, 74, 133), (73, 133)


def image(image_id: int) -> bytes:
    """Not an image, but as incompressible as one; the same in both layouts."""
    return random.Random(image_id).randbytes(250_000 + image_id)


def annotation_file(ids: tuple[int, ...], prefix: str) -> str:
    """COCO's annotations: image k has k % 3 objects, the last of which is a crowd."""
    images = [{"id": i, "file_name": f"{prefix}{i:012}.jpg", "height": 480, "width": 640, "license": 1} for i in ids]
    annotations = [
        {
            "segmentation": {"counts": [0, 4, 307196], "size": [480, 640]} if n else [[1.5, 2, 3, 4.25, 5, 6]],
            "area": 12.25,
            "iscrowd": n,
            "image_id": i,
            "bbox": [1.5, 2.0, 3.5, 4.25],
            "category_id": 90,
            "id": 10 * i + n,
        }
        for i in ids
        for n in range(i % 3)
    ]
    head = {"info": {"year": 2014}, "licenses": [{"id": 1, "name": "BY"}]}
    tail = {"categories": [{"supercategory": "indoor", "id": 90, "name": "toothbrush"}]}
    return json.dumps({**head, "images": images, "annotations": annotations, **tail})


@dataclass
class Miniature:
    """`folder` is laid out as images.cocodataset.org; `layouts` and `counts` replace the official tables."""

    folder: Path
    layouts: dict[str, tuple[Part, ...]]
    counts: dict[str, Counts]


@pytest.fixture(scope="session")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Miniature:
    folder = tmp_path_factory.mktemp("cocodataset")

    def archive(path: str, members: dict[str, bytes | str]) -> Archive:
        file = folder / path
        file.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(file, "w") as opened:
            opened.writestr(next(iter(members)).split("/")[0] + "/", "")
            for name, content in members.items():
                method = zipfile.ZIP_STORED if name.endswith(".jpg") else zipfile.ZIP_DEFLATED
                opened.writestr(name, content, method)
        return Archive(path, file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest())

    def images(name: str, ids: tuple[int, ...], prefix: str) -> Part:
        members: dict[str, bytes | str] = {f"{name}/{prefix}{i:012}.jpg": image(i) for i in ids}
        return Part(name, archive(f"zips/{name}.zip", members), sum(map(len, members.values())), len(ids))

    train2017_ids = tuple(sorted({*TRAIN_IDS, *VAL_IDS} - {*MINIVAL_IDS}))
    contents = {
        "annotations/instances_train2017.json": annotation_file(train2017_ids, ""),
        VAL2017: annotation_file(MINIVAL_IDS, ""),
        TRAIN2014: annotation_file(TRAIN_IDS, "COCO_train2014_"),
        VAL2014: annotation_file(VAL_IDS, "COCO_val2014_"),
    }
    annotations = {}
    for year in ("2017", "2014"):
        members: dict[str, bytes | str] = {name: text for name, text in contents.items() if year in name}
        members |= {f"annotations/captions_val{year}.json": "{}", f"annotations/person_keypoints_val{year}.json": "{}"}
        its_archive = archive(f"annotations/annotations_trainval{year}.zip", members)
        annotations |= {name: Part(name, its_archive, len(contents[name])) for name in members if name in contents}
    layouts = {
        "2017": (
            annotations[VAL2017],
            annotations["annotations/instances_train2017.json"],
            images("val2017", MINIVAL_IDS, ""),
            images("train2017", train2017_ids, ""),
        ),
        "2014": (
            annotations[VAL2017],
            annotations[VAL2014],
            annotations[TRAIN2014],
            images("val2014", VAL_IDS, "COCO_val2014_"),
            images("train2014", TRAIN_IDS, "COCO_train2014_"),
        ),
    }
    counts = {
        TRAINVAL35K: Counts(len(train2017_ids), sum(i % 3 for i in train2017_ids)),
        MINIVAL: Counts(len(MINIVAL_IDS), sum(i % 3 for i in MINIVAL_IDS)),
    }
    return Miniature(folder, layouts, counts)


@dataclass
class Server:
    """A web server on this machine.

    Attributes:
        requests: path and Range header of every request so far.
        ranges: whether it knows ranges.
        drop_after: path → bytes after which the connection is dropped, once.
        stall_after: path → bytes after which it sends no more, but holds the connection for some seconds.
    """

    url: str = ""
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    ranges: bool = True
    drop_after: dict[str, int] = field(default_factory=dict)
    stall_after: dict[str, int] = field(default_factory=dict)


@pytest.fixture
def server(miniature: Miniature) -> Iterator[Server]:
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.removeprefix("/")
            state.requests.append((path, self.headers.get("Range")))
            if not (miniature.folder / path).is_file():
                self.send_error(404)
                return
            content = (miniature.folder / path).read_bytes()
            start = 0
            if state.ranges and (match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))):
                start = int(match[1])
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            else:
                self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            stop = min(state.drop_after.pop(path, len(content)), state.stall_after.get(path, len(content)))
            self.wfile.write(content[start:stop])
            self.wfile.flush()
            if path in state.stall_after:
                time.sleep(5)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        listener.block_on_close = False
        state.url = f"http://127.0.0.1:{listener.server_port}"
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield state
        listener.shutdown()
        thread.join()
