"""Whole files with pieces cut out, doubled or overwritten → each reader raises a `UserError` or reads something.

No other error, no crash, no hang, no more than `MEMORY` bytes beyond what the process has, and no more than `SECONDS`.
A bounded run in the suite; `FUZZ_EXAMPLES=100000 python -m pytest tests/test_fuzzed_files.py` is a long one.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import pickle
import re
import resource
import signal
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, features

hypothesis = pytest.importorskip("hypothesis", reason="HYPOTHESIS MISSING: no file was fuzzed; pip install hypothesis")

from hypothesis import strategies as st  # noqa: E402

from backbones import create_backbone  # noqa: E402
from backbones.classification.cifar_archives import read_archive  # noqa: E402
from backbones.common.errors import UserError  # noqa: E402
from backbones.weights.formats import read_checkpoint, restricted_pickle, torch7  # noqa: E402
from detection.classifier.top_errors import read_class_list  # noqa: E402
from detection.config import Config  # noqa: E402
from detection.config_file import change_config, config_to_yaml, load_config  # noqa: E402
from detection.data.coco.archives import unpack  # noqa: E402
from detection.data.coco.derived_splits import TRAIN2014, VAL2014, VAL2017, build_splits  # noqa: E402
from detection.data.demo import make_demo_dataset  # noqa: E402
from detection.data.images import read_image  # noqa: E402
from detection.data.index import load_index  # noqa: E402
from detection.data.proposal_store import ProposalStore  # noqa: E402
from detection.data.proposal_writer import ProposalWriter  # noqa: E402
from detection.evaluation.average_precision import average_precision  # noqa: E402
from detection.experiment.ground_truth_loading import load_ground_truth  # noqa: E402
from detection.experiment.resizes import training_augmentation  # noqa: E402
from detection.experiment.results_file import read_results  # noqa: E402
from detection.report.page import read_curves  # noqa: E402
from detection.training.artifacts import FORMAT, VERSION, load_artifact, save_artifact  # noqa: E402
from detection.training.checkpoints import Checkpointer, TrainingState  # noqa: E402
from detection.training.logging import TrainingLog  # noqa: E402
from detection.training.optimizer import build_optimizer  # noqa: E402
from tests.backbones.weights.formats.test_checkpoint import grouped_rename  # noqa: E402
from tests.backbones.weights.formats.test_restricted_pickle import python2_pickle, sample  # noqa: E402
from tests.backbones.weights.formats.test_torch7 import Torch7Writer, lua_norm, sequential  # noqa: E402
from tests.detection.training.test_artifacts import sealed  # noqa: E402

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))
MEMORY = 1 << 30
SECONDS = 5.0

COCO = json.dumps(
    {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 40, "width": 60} for i in (1, 2)],
        "annotations": [
            {"id": i, "image_id": 1 + i % 2, "category_id": 5, "bbox": [1, 2, 10 + i, 20], "area": 200, "iscrowd": 0}
            for i in range(1, 5)
        ],
        "categories": [{"id": 5, "name": "thing"}],
    }
).encode()
OUTLINES = COCO.replace(b'"bbox": [1, 2', b'"segmentation": [[1, 2, 9, 9, 3, 5], [1, 2')
RESULTS = json.dumps([{"image_id": 1, "category_id": 5, "bbox": [1, 2, 11, 20], "score": 0.5}] * 3).encode()
STATE = {"conv1.weight": torch.ones(2, 3, 1, 1), "layer1.0.conv1.weight": torch.ones(2, 2, 1, 1)}
SCENE = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def torch7_file() -> bytes:
    return Torch7Writer().write(sequential(lua_norm(torch.nn.BatchNorm2d(4))))


def torch_file(zipped: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": STATE}, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def safetensors_file() -> bytes:
    from safetensors.torch import save

    return save(STATE)


EXIF = Image.Exif()
EXIF[0x0112] = 6


def image_file(kind: str, mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(SCENE).convert("L" if mode == "I;16" else mode).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def zip_file() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a/1.jpg", "a/2.jpg"):
            archive.writestr(name, name * 50)
    return buffer.getvalue()


def read_annotations(path: Path) -> None:
    """For both purposes: what a training takes an evaluation takes, too."""
    try:
        load_index(path, path.parent, name="fuzzed")
    except UserError:
        with contextlib.suppress(UserError):
            load_index(path, path.parent, name="fuzzed", purpose="evaluation")
        raise
    load_index(path, path.parent, name="fuzzed", purpose="evaluation")


def evaluate(path: Path) -> None:
    average_precision(load_ground_truth(path), np.array([[1, 1, 2, 11, 20, 0.5, 5.0]]))


def evaluate_results(path: Path) -> None:
    average_precision(load_ground_truth(json.loads(COCO)), read_results(path))


def write_store(path: Path) -> None:
    writer = ProposalWriter(path, {"dataset_fingerprint": "f", "rpn_sha256": "s"}, [3, 1, 2])
    for image_id in (1, 2, 3):
        writer.add(image_id, np.ones((4, 4)) * image_id, np.arange(4)[::-1])
    writer.finish()


def read_store(path: Path) -> None:
    """What is not refused must be what was written."""
    store = ProposalStore(path)
    store.verify()
    assert sorted(store.image_ids.tolist()) == [1, 2, 3]
    for image_id in (1, 2, 3):
        assert (store.boxes(image_id) == image_id).all()


def take_up_store(path: Path) -> None:
    """The file as one that a killed writer left."""
    metadata = {"dataset_fingerprint": "f", "rpn_sha256": "s"}
    writer = ProposalWriter(path.parent / "taken_up", metadata, [3, 1, 2])
    (writer.folder / "0000000001.chunk").write_bytes(path.read_bytes())
    writer = ProposalWriter(path.parent / "taken_up", metadata, [3, 1, 2])
    for image_id in (1, 2, 3):
        writer.add(image_id, np.ones((4, 4)) * image_id, np.arange(4)[::-1])
    writer.finish()
    read_store(path.parent / "taken_up")


def read_checkpoint_of_ours(path: Path) -> None:
    """With a right checksum, without which nothing else would ever be tried."""
    load_artifact(sealed(path, path.read_bytes()), "checkpoint")


def resume_log(path: Path) -> None:
    path.replace(path.parent / "log.jsonl")
    log = TrainingLog(path.parent, tensorboard=False)
    log.start(step=2, evaluated=2)
    log.close()


def read_cifar(path: Path) -> None:
    folder = path.parent / "cifar-100-python"
    folder.mkdir(exist_ok=True)
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": ["apple", "bee"]}))
    (folder / "test").write_bytes(path.read_bytes())
    read_archive(folder, "test")


def build_coco_splits(path: Path) -> None:
    for name in (TRAIN2014, VAL2014, VAL2017):
        (path.parent / name).parent.mkdir(exist_ok=True)
        (path.parent / name).write_bytes(path.read_bytes() if name == VAL2014 else COCO)
    build_splits(path.parent)


def checkpoint_of_ours() -> bytes:
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "version": VERSION, "kind": "checkpoint", "network": STATE, "step": 3}, buffer)
    return buffer.getvalue()


def list_of_a_demo() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        make_demo_dataset(folder, train=1, test=1)
        return (Path(folder) / "demo.json").read_bytes()


def draw_demo(path: Path) -> None:
    """The file as what a demo's folder, in which somebody keeps an image, says of itself."""
    mine = path.parent / "demo" / "train" / "000002.jpg"
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_bytes(b"mine")
    path.replace(path.parent / "demo" / "demo.json")
    try:
        make_demo_dataset(path.parent / "demo", train=1, test=1)
    finally:
        assert mine.read_bytes() == b"mine"


def cifar_file() -> bytes:
    return pickle.dumps({"data": np.zeros((3, 3072), dtype=np.uint8), "fine_labels": [0, 1, 0]})


def chunk_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        writer = ProposalWriter(Path(folder) / "store", {}, [3, 1, 2])
        for image_id in (1, 2):
            writer.add(image_id, np.ones((4, 4)) * image_id, np.arange(4)[::-1])
        writer.flush()
        return next(writer.folder.glob("*.chunk")).read_bytes()


SMALL: dict[str, Any] = {"depths": (1, 1, 1, 1), "cardinality": 2, "base_width": 16, "planes": 8, "stem_width": 8}


@functools.cache
def small_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return dict(create_backbone("resnext50_32x4d", **SMALL).state_dict())


def fused_pickle() -> bytes:
    """A detector of Detectron, its BN fused."""
    blobs: dict[str, np.ndarray] = {"lr": np.float32([0.02]), "cls_score_w": np.ones((2, 2), np.float32)}
    for name, tensor in small_state().items():
        block = re.fullmatch(r"layer(\d)\.(\d)\.(conv|bn)(\d)\.(weight|bias)", name)
        shortcut = re.fullmatch(r"layer(\d)\.(\d)\.downsample\.(\d)\.(weight|bias)", name)
        end = ("_bn_s" if name.endswith("weight") else "_bn_b") if "bn" in name or "downsample.1" in name else "_w"
        if block:
            blobs[f"res{int(block[1]) + 1}_{block[2]}_branch2{'abc'[int(block[4]) - 1]}{end}"] = tensor.numpy()
        elif shortcut:
            blobs[f"res{int(shortcut[1]) + 1}_{shortcut[2]}_branch1{end}"] = tensor.numpy()
        elif name in ("conv1.weight", "bn1.weight", "bn1.bias"):
            blobs[{"_w": "conv1_w"}.get(end, f"res_conv1{end}")] = tensor.numpy()
    return pickle.dumps({"blobs": blobs}, 2)


def inner_pickle(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with zipfile.ZipFile(buffer) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("/data.pkl")))


def around(path: Path, content: object) -> Path:
    """The file of torch.save that the pickle at `path` stands in in place of the one of `content`, its sums right."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with zipfile.ZipFile(buffer) as whole, zipfile.ZipFile(path.parent / "around.pt", "w") as archive:
        for entry in whole.infolist():
            own = entry.filename.endswith("/data.pkl")
            archive.writestr(entry.filename, path.read_bytes() if own else whole.read(entry))
    return path.parent / "around.pt"


def start_from(path: Path) -> None:
    create_backbone("resnext50_32x4d", str(path), norm="frozen", **SMALL)


def weights_of_detectron2() -> dict[str, torch.Tensor]:
    state = {f"backbone.bottom_up.{grouped_rename(name)}": tensor for name, tensor in small_state().items()}
    return {**state, "pixel_mean": torch.ones(3, 1, 1), "pixel_std": torch.ones(3, 1, 1)}


OWN = {"format": FORMAT, "version": VERSION, "kind": "rpn", "networks": {"rpn": STATE}, "names": ["a", "b"]}


def read_own(path: Path) -> None:
    load_artifact(sealed(path, around(path, OWN).read_bytes()), "rpn")


PIPELINE = b"[{name: RandomCrop, height: 20, width: 20, p: 0.5}, {name: OneOf, transforms: [{name: Blur}, {name: D4}]}]"


def build_pipeline(path: Path) -> None:
    text = path.read_bytes().decode("utf-8", "replace")
    config = change_config(
        load_config(None, ["data.layout=coco", "backbone.weights=x"]), [f"data.albumentations={text}"]
    )
    training_augmentation(config.data)


def unpack_all(path: Path) -> None:
    unpack(path, path.parent / "unpacked", lambda name: True, limit=1 << 20, progress=False)


# name: (a whole file, or None for the proposal store, which a writer makes; its reader)
TARGETS: dict[str, tuple[Callable[[], bytes] | None, Callable[[Path], object]]] = {
    "annotations": (lambda: COCO, read_annotations),
    "annotations without boxes": (lambda: OUTLINES, read_annotations),
    "ground truth": (lambda: COCO, evaluate),
    "results": (lambda: RESULTS, evaluate_results),
    "log": (lambda: b'{"kind": "train", "step": 3, "loss": 0.5}\n' * 3, read_curves),
    "log of a run that goes on": (lambda: b'{"kind": "train", "step": 2, "loss": 0.5}\n' * 3, resume_log),
    "checkpoint": (checkpoint_of_ours, read_checkpoint_of_ours),
    "part of a proposal store": (chunk_file, take_up_store),
    "list of a demo's files": (list_of_a_demo, draw_demo),
    "CIFAR": (cifar_file, read_cifar),
    "COCO 2014": (lambda: COCO, build_coco_splits),
    "list of classes": (lambda: b"cat\ndog\n", lambda path: read_class_list(path, ("cat", "dog"))),
    "configuration": (lambda: config_to_yaml(Config()).encode(), load_config),
    "Torch7": (torch7_file, torch7.load),
    "Torch7 weights": (torch7_file, read_checkpoint),
    "Python 2 pickle": (lambda: python2_pickle(sample()), restricted_pickle.load),
    "pickle": (lambda: pickle.dumps(sample(), 4), restricted_pickle.load),
    "pickled weights": (lambda: pickle.dumps({"model": {"conv1.weight": np.ones((2, 3))}}, 2), read_checkpoint),
    "torch weights": (lambda: torch_file(zipped=True), read_checkpoint),
    "old torch weights": (lambda: torch_file(zipped=False), read_checkpoint),
    "safetensors": (safetensors_file, read_checkpoint),
    "proposal store": (None, read_store),
    "weights of Detectron": (fused_pickle, start_from),
    "pickle in weights": (
        lambda: inner_pickle({"state_dict": small_state()}),
        lambda path: start_from(around(path, {"state_dict": small_state()})),
    ),
    "pickle in weights of detectron2": (
        lambda: inner_pickle({"model": weights_of_detectron2()}),
        lambda path: start_from(around(path, {"model": weights_of_detectron2()})),
    ),
    "pickle in a file of ours": (lambda: inner_pickle(OWN), read_own),
    "albumentations": (lambda: PIPELINE, build_pipeline),
    "zip": (zip_file, unpack_all),
    **{
        kind: (lambda kind=kind: image_file(kind), read_image)  # type: ignore[misc]
        for kind in ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM")
    },
    **{
        name: (lambda kind=kind, options=options: image_file(kind, **options), read_image)  # type: ignore[misc]
        for name, (kind, options) in {
            "progressive JPEG": ("JPEG", {"progressive": True}),
            "CMYK JPEG": ("JPEG", {"mode": "CMYK"}),
            "JPEG with EXIF": ("JPEG", {"exif": EXIF}),
            "PNG with EXIF": ("PNG", {"exif": EXIF}),
            "PNG of 16 bits": ("PNG", {"mode": "I;16"}),
            "PNG with alpha": ("PNG", {"mode": "RGBA"}),
            "PNG of a palette": ("PNG", {"mode": "P", "transparency": 0}),
            "TIFF with EXIF": ("TIFF", {"exif": EXIF, "compression": "tiff_lzw"}),
            "TIFF of floating point": ("TIFF", {"mode": "F", "compression": "tiff_deflate"}),
            "JPEG 2000": ("JPEG2000", {}),
            "PGM": ("PPM", {"mode": "L"}),
            **({"AVIF": ("AVIF", {})} if features.check("avif") else {}),
        }.items()
    },
}


@st.composite
def damages(draw: st.DrawFn) -> list[tuple[float, int, bytes | None]]:
    """(where, as a share of the file; bytes taken out; what stands there instead, None for the same bytes twice)."""
    numbers = st.sampled_from(
        [b"\xff" * 8, bytes(8), (2**31 - 1).to_bytes(4, "little"), b"\x7f" * 8, b"[[[{", b"1e999", b"9" * 25]
    )
    piece = st.tuples(
        st.floats(0, 1), st.sampled_from([0, 1, 1, 2, 4, 8, 60]), st.none() | st.binary(max_size=4) | numbers
    )
    return draw(st.lists(piece, min_size=1, max_size=4))


def damaged(whole: bytes, pieces: list[tuple[float, int, bytes | None]]) -> bytes:
    content = bytearray(whole)
    for place, length, instead in pieces:
        start = int(place * len(content))
        old = bytes(content[start : start + length])
        content[start : start + length] = old * 2 if instead is None else instead
    return bytes(content)


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    """Beyond the bound an allocation fails, and with it the test."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@contextlib.contextmanager
def bounded_time() -> Iterator[None]:
    """Beyond `SECONDS` of the processor's time (a busy machine's clock says nothing) the test fails."""

    def fail(*_: object) -> None:
        raise AssertionError(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGPROF, fail)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TARGETS)
def test_a_damaged_file_is_read_or_refused(name: str, tmp_path: Path) -> None:
    make, read = TARGETS[name]
    if make is None:
        write_store(tmp_path / "whole")
        whole = (tmp_path / "whole").read_bytes()
    else:
        whole = make()
    path = tmp_path / "fuzzed"

    path.write_bytes(whole)
    with contextlib.suppress(UserError):  # a checkpoint of two layers is no network, which is said
        read(path)

    @hypothesis.settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
    @hypothesis.given(pieces=damages())
    def run(pieces: list[tuple[float, int, bytes | None]]) -> None:
        path.write_bytes(damaged(whole, pieces))
        with contextlib.suppress(UserError), bounded_time():
            read(path)

    run()


# What a leaf of a checkpoint's content may turn into; a tensor also into one of another shape or type.
STRANGE = [None, True, -1, 2**70, 0.5, float("nan"), "word", [], {}, [[1]], {"a": 1}, torch.zeros(0), torch.ones(())]
RESHAPED: list[Callable[[torch.Tensor], torch.Tensor]] = [
    lambda value: value.flatten()[:1].clone(),
    lambda value: value.flatten(),
    lambda value: value[None],
    lambda value: torch.cat([value.flatten(), value.flatten()]),
    lambda value: value.double(),
    lambda value: value.bool(),
    lambda value: value.sum(),
]


def run_in_progress() -> TrainingState:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    averages = {"names": ["a", "b"], "sums": torch.ones(2), "images": 4}
    return TrainingState(network, build_optimizer(network, lr=0.1), step=3, averages=averages)


def leaves(value: object, place: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
    """The places of all that a content is made of, the containers too."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*place, key)
        yield from leaves(item, (*place, key))


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_of_strange_parts_is_resumed_or_refused(tmp_path: Path) -> None:
    """Under a right checksum. What is taken is trained on with: a buffer that is too short must not get that far."""
    whole = Checkpointer(tmp_path / "whole", {}).save(run_in_progress()).read_bytes()
    (tmp_path / "content").write_bytes(whole)
    places = list(leaves(load_artifact(tmp_path / "content", "checkpoint")))

    @hypothesis.settings(max_examples=3 * EXAMPLES, deadline=None, derandomize=True, database=None)
    @hypothesis.given(place=st.sampled_from(places), strange=st.sampled_from(STRANGE), change=st.sampled_from(RESHAPED))
    def run(place: tuple[object, ...], strange: object, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        content = load_artifact(tmp_path / "content", "checkpoint")
        parent: Any = content
        for key in place[:-1]:
            parent = parent[key]
        old = parent[place[-1]]
        parent[place[-1]] = change(old) if isinstance(old, torch.Tensor) and old.numel() else strange
        if not {"format", "version", "kind"} <= content.keys() or (len(place) == 1 and place[0] in ("version", "kind")):
            return
        rest = {key: value for key, value in content.items() if key not in ("format", "version", "kind")}
        save_artifact(tmp_path / "altered" / "checkpoint_00000003.pt", "checkpoint", **rest)
        state = run_in_progress()
        with contextlib.suppress(UserError), bounded_time():
            Checkpointer(tmp_path / "altered", {}, warn=lambda _: None).resume(state)
            state.network(torch.ones(2, 3, 5, 5)).sum().backward()
            state.optimizer.step()
            assert state.step + 1 > 0
        for path in (tmp_path / "altered").iterdir():
            path.unlink()

    run()
