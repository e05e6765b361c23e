"""A detector as two files for OpenVINO: run, damaged, exchanged, and without the package."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from backbones.common.errors import UserError

openvino = pytest.importorskip("openvino", reason="OPENVINO MISSING: its files were not run")
onnx = pytest.importorskip("onnx", reason="ONNX MISSING: no file for OpenVINO was written")
pytest.importorskip("onnxruntime", reason="ONNXRUNTIME MISSING: no file for OpenVINO was written")

from detection.detector_file import load_detector_file, source_digest  # noqa: E402
from detection.export.formats import OpenVinoCandidate  # noqa: E402
from detection.export.openvino_session import sealed  # noqa: E402
from detection.export.runtime import Detector  # noqa: E402

FILES = Path(__file__).parent / "files"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With detector.xml and detector.bin, of the exported ONNX file of these tests."""
    own: Path = tmp_path_factory.mktemp("ir")
    model = onnx.load(FILES / "detector.onnx")
    metadata = {entry.key: entry.value for entry in model.metadata_props if entry.key != "sha256"}
    OpenVinoCandidate(model, metadata, own).write(own / "detector.xml", {**metadata, "verification": '{"images": 7}'})
    return own


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    for name in ("detector.xml", "detector.bin"):
        shutil.copy(folder / name, tmp_path / name)
    return tmp_path / "detector.xml"


def test_it_runs_from_several_threads_with_the_metadata(folder: Path) -> None:
    detector = Detector.load(folder / "detector.xml", threads=1)
    assert detector.metadata["verification"] == {"images": 7}
    assert repr(detector).endswith("pixels, OpenVINO, cpu, fp32>")
    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    first = detector(image)
    assert first.boxes.dtype == first.scores.dtype == np.float32
    assert first.labels.dtype == np.int64
    assert len(first)
    with ThreadPoolExecutor(4) as pool:
        others = list(pool.map(detector, [image] * 8))
    assert all(np.array_equal(one.boxes, first.boxes) for one in others)


def test_the_tools_load_it_like_every_detector_file(folder: Path, copied: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    detector = load_detector_file(folder / "detector.xml")
    assert np.array_equal(detector(image).boxes, Detector.load(folder / "detector.xml")(image).boxes)
    digest = source_digest(folder / "detector.xml", detector)
    assert digest
    assert digest == source_digest(FILES / "detector.onnx", load_detector_file(FILES / "detector.onnx"))
    with pytest.raises(UserError, match="the precision of an exported file is fixed"):
        load_detector_file(folder / "detector.xml", precision="bf16")
    in_capitals = copied.rename(copied.with_name("detector.XML"))
    assert len(load_detector_file(in_capitals)(image)) == len(detector(image))


def test_it_runs_where_torch_and_onnxruntime_cannot_be_imported(folder: Path, repository: Path) -> None:
    code = f"""
import sys
for name in ("torch", "torchvision", "onnxruntime", "onnx", "cv2", "yaml", "tqdm"):
    sys.modules[name] = None  # what Python takes for "not to be found"
import numpy
from detection.export.runtime import Detector
detector = Detector.load({str(folder / "detector.xml")!r}, threads=1)
print(len(detector(numpy.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=numpy.uint8))))
"""
    outcome = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
    assert int(outcome.stdout) > 0


def test_the_folder_has_these_two_files_alone(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir() if path.is_file()) == ["detector.bin", "detector.xml"]


@pytest.mark.parametrize("place", [0, 1000, -100, -2])
def test_a_changed_byte_of_the_graph_is_found(copied: Path, place: int) -> None:
    content = bytearray(copied.read_bytes())
    content[place] ^= 1
    copied.write_bytes(content)
    with pytest.raises(UserError, match=r"export it again with tools/export\.py"):
        Detector.load(copied)


def test_a_changed_byte_of_the_weights_is_found(copied: Path) -> None:
    weights = copied.with_suffix(".bin")
    content = bytearray(weights.read_bytes())
    content[100] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match=r"detector\.bin is damaged or of another export"):
        Detector.load(copied)


@pytest.mark.parametrize("missing", ["detector.xml", "detector.bin"])
def test_a_missing_file_is_named(copied: Path, missing: str) -> None:
    copied.with_name(missing).unlink()
    with pytest.raises(UserError, match=f"there is no file {missing}; a detector for OpenVINO is two files"):
        Detector.load(copied)


def test_a_file_that_is_cut_short_or_foreign(copied: Path) -> None:
    content = copied.read_bytes()
    for other in (content[:-10], content[:1000], b"", b"<net></net>"):
        copied.write_bytes(other)
        with pytest.raises(UserError, match="was changed after its export, is cut short, or is of another origin"):
            Detector.load(copied)


def test_a_sealed_file_of_another_origin(copied: Path) -> None:
    """With checksums as ours, but of no detector, or of none at all."""
    weights = copied.with_suffix(".bin").read_bytes()
    graph = copied.read_bytes().partition(b"<!-- SHA-256")[0]
    marked = json.dumps("resnext-detection").encode().replace(b'"', b"&quot;")
    assert marked in graph
    copied.write_bytes(sealed(graph.replace(marked, b"&quot;something&quot;"), weights))
    with pytest.raises(UserError, match="a model of another origin"):
        Detector.load(copied)
    copied.write_bytes(sealed(b"<net></net>", weights))
    with pytest.raises(UserError, match="cannot be run by OpenVINO"):
        Detector.load(copied)


def test_devices(copied: Path) -> None:
    with pytest.raises(UserError, match="a file for OpenVINO runs on the CPU"):
        Detector.load(copied, "cuda")


def test_without_the_package_it_says_what_to_install(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match=r"openvino is not installed.*run: pip install openvino"):
        Detector.load(copied)
