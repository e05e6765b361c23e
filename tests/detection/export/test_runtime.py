"""The runtime against the `Detector` of the same weights, without PyTorch too, and with files that cannot be used."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import detection
from backbones.common.errors import UserError
from detection.detector_interface import ImageDetections
from detection.export.verification import difference
from tests.detection.data.oriented_images import save_oriented

onnxruntime = pytest.importorskip("onnxruntime", reason="ONNXRUNTIME MISSING: exported files were not run")

from detection.export.runtime import Detector, seal  # noqa: E402

FILES = Path(__file__).parent / "files"
WEIGHTS = Path(__file__).parents[1] / "experiment" / "files_of_earlier_versions" / "detector.pt"
# Without ties: in an image of one row or column many proposals are equal, and rounding orders them.
SHAPES = [(96, 128), (70, 50), (97, 61), (300, 400), (20, 33), (128, 96)]

# What the runtime does not need, by the names that are imported.
NOT_NEEDED = ("torch", "torchvision", "cv2", "yaml", "pycocotools", "albumentations", "safetensors")
NOT_NEEDED += ("openvino", "tqdm", "tensorboard", "onnx", "onnxscript", "scipy", "pytest", "pandas", "supervision")


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in SHAPES]


@pytest.fixture(scope="module")
def reference() -> detection.Detector:
    return detection.Detector.load(WEIGHTS, "cpu")


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.load(FILES / "detector.onnx", "cpu", threads=1)


def assert_same(got: ImageDetections, expected: ImageDetections) -> None:
    outcome = difference(got, expected)
    assert not isinstance(outcome, str), outcome
    assert got.names == expected.names
    assert got.category_ids.tolist() == expected.category_ids.tolist()


def test_it_answers_as_the_detector(
    detector: Detector, reference: detection.Detector, images: list[np.ndarray]
) -> None:
    expected = reference(images)
    for got, one in zip(detector(images), expected, strict=True):
        assert_same(got, one)
    assert sum(map(len, expected)) > 20
    assert detector.categories == reference.categories


def test_a_file_for_batches_answers_as_the_detector(reference: detection.Detector, images: list[np.ndarray]) -> None:
    detector = Detector.load(FILES / "batch.onnx", "cpu", threads=1)
    several = [*images, images[0][:, ::-1], images[0][::-1]]
    for batch_size in (1, 3):
        for got, expected in zip(detector(several, batch_size=batch_size), reference(several), strict=True):
            assert_same(got, expected)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 2)])
def test_images_of_any_shape(detector: Detector, shape: tuple[int, int]) -> None:
    found = detector(np.zeros((*shape, 3), dtype=np.uint8))
    assert (found.boxes[:, 2:] <= shape[::-1]).all()
    assert (np.diff(found.scores) <= 0).all()
    assert found.boxes.dtype == found.scores.dtype == np.float32
    assert found.labels.dtype == found.category_ids.dtype == np.int64


def test_it_takes_what_the_detector_takes(
    detector: Detector, reference: detection.Detector, images: list[np.ndarray], tmp_path: Path
) -> None:
    file = save_oriented(tmp_path / "turned.jpg", images[0], 6)
    tensor = torch.from_numpy(images[1]).permute(2, 0, 1)
    for given in (file, str(file), tensor, Image.fromarray(images[2])):
        assert_same(detector(given), reference(given))
    assert len(detector(np.stack([images[0]] * 2))) == 2
    assert detector([]) == []
    for wrong in (images[0].astype(np.float32), 3, images[0][:, :, 0]):
        with pytest.raises(UserError, match="an image is a path"):
            detector(wrong)
    with pytest.raises(UserError, match="no such image"):
        detector(tmp_path / "missing.jpg")


def test_the_file_tells_where_it_is_from(detector: Detector) -> None:
    metadata = detector.metadata
    assert metadata["categories"]["names"] == ["disc", "square", "triangle", "star", "ring", "cross"]
    assert metadata["settings"]["min_score"] == 0.01
    assert metadata["provenance"]["rpn"]["steps"] == 6
    assert metadata["licences"] == {"rpn": None, "fastrcnn": None}
    assert metadata["verification"]["images"] == 20
    assert metadata["verification"]["box_difference"] < 0.5
    sizes = f"{metadata['settings']['shorter_side']} to {metadata['settings']['longer_side']}"
    classes = "6 classes (disc, square, triangle, …)"
    assert repr(detector) == f"<Detector: {classes}, images of {sizes} pixels, onnxruntime, cpu, fp32>"


@pytest.mark.parametrize("name", ["detector.onnx", "batch.onnx"])
def test_a_stream_gives_the_results_of_a_call(name: str, images: list[np.ndarray]) -> None:
    detector = Detector.load(FILES / name, "cpu", threads=1)
    found = list(detector.stream(iter(images), batch_size=2))
    for got, expected in zip(found, detector(images, batch_size=2), strict=True):
        assert_same(got, expected)


def test_it_runs_where_torch_cannot_be_imported(
    reference: detection.Detector, images: list[np.ndarray], repository: Path, tmp_path: Path
) -> None:
    Image.fromarray(images[0]).save(tmp_path / "image.png")
    Image.fromarray(images[1]).save(tmp_path / "image.jpg", quality=90)
    code = f"""
import sys
for name in {NOT_NEEDED}:
    sys.modules[name] = None  # what Python takes for "not to be found"
import json
from detection.export.runtime import Detector
detector = Detector.load({str(FILES / "detector.onnx")!r}, threads=1)
for name in ("image.png", "image.jpg"):
    found = detector({str(tmp_path)!r} + "/" + name)
    print(json.dumps([found.boxes.tolist(), found.scores.tolist(), found.labels.tolist()]))
"""
    outcome = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
    for line, name in zip(outcome.stdout.splitlines(), ("image.png", "image.jpg"), strict=True):
        boxes, scores, labels = (np.array(values) for values in json.loads(line))
        got = ImageDetections.of_labels(boxes, scores, labels, reference.categories)
        assert_same(got, reference(tmp_path / name))


def with_metadata(path: Path, **changes: Any) -> Path:
    """A copy of the file with these values in place of its own; None leaves one out."""
    onnx = pytest.importorskip("onnx", reason="ONNX MISSING: changed files were not tried")
    model = onnx.load(FILES / "detector.onnx")
    entries = {entry.key: entry.value for entry in model.metadata_props if entry.key != "sha256"}
    entries |= {key: value if key == "format" else json.dumps(value) for key, value in changes.items()}
    del model.metadata_props[:]
    onnx.helper.set_model_props(
        model, {key: value for key, value in entries.items() if changes.get(key, "") is not None}
    )
    path.write_bytes(seal(model.SerializeToString()))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "a model of another origin"),
        ({"format": None}, "a model of another origin"),
        ({"version": 2}, r"has version 2 of this file format .* reads up to version 1\. Update it"),
        ({"version": "new"}, "missing or of the wrong kind"),
        ({"version": None}, "missing or of the wrong kind"),
        ({"kind": "video"}, "its kind is 'video'"),
        ({"kind": "batch"}, r"its inputs are \('image',\), not \('images', 'sizes'\)"),
        ({"categories": {"ids": [1], "names": ["a", "b"]}}, "1 ids and 2 names"),
        ({"settings": {"shorter_side": 0, "longer_side": 4, "size_divisor": 4}}, "sizes are not whole numbers"),
    ],
)
def test_metadata_that_cannot_be_used(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        Detector.load(with_metadata(tmp_path / "changed.onnx", **changes), "cpu")


def test_sealed_anew_without_changes_it_loads(tmp_path: Path) -> None:
    """So that the cases above fail for their reason."""
    assert len(Detector.load(with_metadata(tmp_path / "same.onnx"), "cpu").categories) == 6


def damaged(tmp_path: Path, start: int, end: int | None, flip: int | None = None) -> Path:
    content = bytearray((FILES / "detector.onnx").read_bytes())
    if flip is not None:
        content[flip] ^= 1
    path = tmp_path / "damaged.onnx"
    path.write_bytes(content[start:end])
    return path


@pytest.mark.parametrize("flip", [0, 100, 50_000, 150_000, -1, -64])
def test_a_changed_bit_is_found(flip: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is damaged: its checksum"):
        Detector.load(damaged(tmp_path, 0, None, flip), "cpu")


@pytest.mark.parametrize("end", [0, 3, 100, 1000, 150_000, -1, -76])
def test_a_file_that_is_cut_short(end: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cut short.*export it again|cut short; export it again"):
        Detector.load(damaged(tmp_path, 0, end), "cpu")


def test_other_files(tmp_path: Path) -> None:
    text = tmp_path / "text.onnx"
    text.write_text("no model")
    for path, message in (
        (tmp_path / "missing.onnx", "there is no such file"),
        (tmp_path, "is a directory"),
        (text, "is no ONNX model that onnxruntime"),
        (WEIGHTS, r"is a file of PyTorch: .* tools/export\.py makes a detector\.onnx of it"),
    ):
        with pytest.raises(UserError, match=message):
            Detector.load(path, "cpu")


def test_devices() -> None:
    with pytest.raises(UserError, match="is none of auto, cpu"):
        Detector.load(FILES / "detector.onnx", "gpu")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(UserError, match="pip install onnxruntime-gpu"):
            Detector.load(FILES / "detector.onnx", "cuda:1")
    assert Detector.load(FILES / "detector.onnx", threads=1).device in ("cpu", "cuda")


def test_it_reports_to_nobody(tmp_path: Path) -> None:
    """onnxruntime with its reports on leaves an identifier in the home folder."""
    left_out = ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    surroundings = {name: value for name, value in os.environ.items() if name not in left_out}
    code = f"from detection.export.runtime import Detector; Detector.load({str(FILES / 'detector.onnx')!r}, 'cpu')"
    command = [sys.executable, "-c", code]
    root = Path(detection.__file__).parents[1]
    subprocess.run(command, cwd=root, env={**surroundings, "HOME": str(tmp_path)}, check=True)
    assert list(tmp_path.rglob("*")) == []


def test_without_onnxruntime_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="run: pip install onnxruntime"):
        Detector.load(FILES / "detector.onnx")


@pytest.mark.skipif(os.name == "nt", reason="names of such files are not allowed on Windows")
def test_a_name_with_control_characters_is_shown_harmlessly(tmp_path: Path) -> None:
    path = shutil.copy(FILES / "README.md", tmp_path / "a\x1b[2J.onnx")
    with pytest.raises(UserError) as caught:
        Detector.load(path)
    assert "\x1b" not in str(caught.value)
