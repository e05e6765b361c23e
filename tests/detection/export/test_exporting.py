"""`tools/export.py`: what it refuses at once, and, slow, whole exports of each kind of detector."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import detection
from backbones.common.errors import UserError
from detection.common.categories import Categories
from detection.config import Config
from detection.config_file import load_config
from detection.data.demo import make_demo_dataset
from detection.data.images import read_image
from detection.detector_interface import ImageDetections
from detection.experiment.builders import build_fast_rcnn, build_rpn
from detection.experiment.model_files import Trained, TrainedDetector, save_detector
from detection.export import exporting, reduced
from detection.export.exporting import Precision, export_detector
from detection.export.runtime import Detector
from detection.export.verification import difference
from tests.detection.pipeline import REPOSITORY, tool

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason=f"{package.upper()} MISSING: nothing was exported to ONNX")

WEIGHTS = REPOSITORY / "tests/detection/experiment/files_of_earlier_versions/detector.pt"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "demo"
    make_demo_dataset(folder, train=2, test=6)
    return folder


def assert_same(got: ImageDetections, expected: ImageDetections) -> None:
    outcome = difference(got, expected)
    assert not isinstance(outcome, str), outcome


def test_an_ending_that_is_no_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"chooses the format: \.onnx \(ONNX\), \.xml \(OpenVINO\), \.pt2 \(torch"):
        export_detector(WEIGHTS, tmp_path / "detector.engine")
    with pytest.raises(UserError, match=r"a file for batches is written as \.onnx or \.xml"):
        export_detector(WEIGHTS, tmp_path / "detector.pt2", batch=True)
    with pytest.raises(UserError, match=r"a file in fp16 is written as \.onnx or \.xml"):
        export_detector(WEIGHTS, tmp_path / "detector.pt2", precision="fp16")


def test_int8_needs_images_to_calibrate_on_and_nothing_else_does(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"add --calibrate DIR"):
        export_detector(WEIGHTS, tmp_path / "detector.onnx", precision="int8")
    for name in ("detector.onnx", "detector.pt2"):
        with pytest.raises(UserError, match=r"are for int8: add --int8"):
            export_detector(WEIGHTS, tmp_path / name, calibration=[tmp_path])


@pytest.mark.parametrize("ending", [".onnx", ".xml", ".pt2"])
def test_in_fp32_no_loss_is_allowed(ending: str, tmp_path: Path) -> None:
    output = tmp_path / f"detector{ending}"
    outcome = tool("export", "--weights", WEIGHTS, "--output", output, "--max-loss", 0.05, check=False)
    assert outcome.returncode == 1
    assert "leave --max-loss out, or add --half or --int8" in outcome.stderr


@pytest.mark.parametrize("missing", [("onnx",), ("onnxscript", "onnxruntime")])
def test_missing_packages_are_named_with_the_command(
    missing: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=f"{', '.join(missing)} (is|are) not installed.*pip install onnx onnxscript"):
        export_detector(WEIGHTS, tmp_path / "detector.onnx")


def test_without_openvino_it_names_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match=r"openvino is not installed.*run: pip install openvino"):
        export_detector(WEIGHTS, tmp_path / "detector.xml")


def test_a_file_that_has_the_name_of_the_weights_is_kept(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="OPENVINO MISSING: nothing was written for it")
    other = tmp_path / "detector.bin"
    other.write_text("of somebody")
    with pytest.raises(UserError, match=r"detector\.bin exists, which is where the weights of detector\.xml would be"):
        export_detector(WEIGHTS, tmp_path / "detector.xml")
    assert other.read_text() == "of somebody"


def test_without_images_it_says_how_to_name_some(tmp_path: Path) -> None:
    outcome = tool(
        "export", "--weights", WEIGHTS, "--output", tmp_path / "d.onnx", "--data", tmp_path / "none", check=False
    )
    assert outcome.returncode == 1
    assert "Name others with --verify DIR, or the folder of the data set with --data DIR" in outcome.stderr
    outcome = tool(
        "export", "--weights", WEIGHTS, "--output", tmp_path / "d.onnx", "--verify", tmp_path / "none", check=False
    )
    assert "no such file or folder" in outcome.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        "fast_rcnn.nms=linear",
        "fast_rcnn.nms_across_classes=true",
        "fast_rcnn.box_voting_iou=0.5",
        "data.test_flip=true",
    ],
)
def test_options_that_a_file_does_not_compute_are_refused(change: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"add {change.partition('=')[0]}="):
        export_detector(WEIGHTS, tmp_path / "d.pt2", images=[data], changes=[change])


def test_values_fixed_by_training_cannot_be_changed(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fixed by training"):
        export_detector(WEIGHTS, tmp_path / "d.onnx", images=[data], changes=["rpn.channels=3"])


class OtherDetections:
    """A candidate that finds nothing."""

    def __init__(self, model: object, metadata: object, folder: Path) -> None:
        del model, metadata, folder

    def detect(self, images: list[np.ndarray]) -> list[ImageDetections]:
        nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)
        return [ImageDetections.of_labels(*nothing, Categories((1,), ("a",))) for _ in images]


def test_a_file_that_detects_something_else_is_not_written(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "OnnxCandidate", OtherDetections)
    monkeypatch.setattr(exporting, "onnx_model", lambda module: None)
    earlier = tmp_path / "detector.onnx"
    earlier.write_text("an earlier file")
    with pytest.raises(UserError, match="does not detect the same as the detector in 6 of 6 images"):
        export_detector(WEIGHTS, earlier, images=[data / "test"])
    monkeypatch.setattr(reduced, "SURE", 0.0)  # its scores are low
    with pytest.raises(UserError, match=r"in fp16 the AP on 6 images \(test\) falls by 1\.0000, more than 0\.01"):
        export_detector(WEIGHTS, earlier, precision="fp16", images=[data / "test"])
    assert earlier.read_text() == "an earlier file"
    assert [path.name for path in tmp_path.iterdir()] == ["detector.onnx"]


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--batch",)])
def test_a_file_is_written_and_verified_on_the_test_split(options: tuple[str, ...], data: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "detector.onnx"
    arguments = ("--weights", WEIGHTS, "--output", output, "--data", data, *options, "fast_rcnn.min_score=0.02")
    said = tool("export", *arguments).stdout
    assert "verified on 6 images (the test split, instances_test.json): 30 detections" in said
    assert "AP on these images: detector 0." in said
    detector = Detector.load(output, "cpu", threads=1)
    verification = detector.metadata["verification"]
    assert (verification["images"], verification["undecided"]) == (6, 0)
    assert verification["box_difference"] < 0.01
    assert set(verification["average_precision"]) == {"detector", "file"}
    assert detector.metadata["settings"]["min_score"] == 0.02
    reference = detection.Detector.load(WEIGHTS, "cpu", changes=["fast_rcnn.min_score=0.02"])
    image = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    assert_same(detector(image), reference(image))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "precision"),
    [("a.onnx", "fp16"), ("a.onnx", "int8"), ("a.xml", "fp32"), ("a.xml", "fp16"), ("a.xml", "int8")],
)
def test_other_forms_are_written_with_their_average_precision(
    name: str, precision: Precision, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a detector whose scores are low and spread by chance: int8 changes more than in one that has learnt."""
    monkeypatch.setattr(reduced, "SURE", 0.0)
    if name.endswith(".xml"):
        pytest.importorskip("openvino", reason="OPENVINO MISSING: nothing was written for it")
    result = export_detector(
        WEIGHTS,
        tmp_path / name,
        precision=precision,
        calibration=[data / "train"] if precision == "int8" else [],
        max_loss=None if precision == "fp32" else 0.5,
        images=[data / "test"],
    )
    assert sorted(path.suffix for path in tmp_path.iterdir()) == ([".bin", ".xml"] if ".xml" in name else [".onnx"])
    detector = Detector.load(tmp_path / name, "cpu", threads=1)
    assert detector.metadata["precision"] == precision
    assert detector.metadata["verification"] == json.loads(json.dumps(result.to_dict()))
    assert ("quantization" in detector.metadata) == (precision == "int8")
    assert (result.average_precision is None) == (precision == "fp32")
    assert (result.matched is None) == (precision == "fp32")
    assert result.matched is None or result.matched > (0.5 if precision == "int8" else 0.95)
    assert detector(np.zeros((1, 1, 3), dtype=np.uint8)).boxes.shape[1] == 4


@pytest.mark.slow
def test_torchs_own_format(data: Path, tmp_path: Path) -> None:
    """Loaded without this project: the program needs torchvision's operators alone."""
    output = tmp_path / "detector.pt2"
    export_detector(WEIGHTS, output, images=[data / "test"])
    metadata = {"format": "", "categories": "", "verification": ""}
    program = torch.export.load(output, extra_files=metadata).module()
    assert metadata["format"] == "resnext-detection"
    assert json.loads(metadata["verification"])["images"] == 6
    assert "resnext_detection" not in str(program.graph)
    reference = detection.Detector.load(WEIGHTS, "cpu")
    categories = Categories(**{key: tuple(value) for key, value in json.loads(metadata["categories"]).items()})
    for shape in ((96, 128), (70, 50), (300, 200)):
        image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
        found = [part.numpy() for part in program(torch.from_numpy(image))]
        assert_same(ImageDetections.of_labels(*found, categories), reference(image))
    assert len(program(torch.zeros((1, 1, 3), dtype=torch.uint8))) == 3


def save_random(path: Path, config: Config, classes: int, image: np.ndarray) -> None:
    """A detector with random weights, whose batch normalisation has the statistics of this image, and whose class
    logits differ from region to region without saturating: scores of exactly 1 would all tie."""
    torch.manual_seed(0)
    rpn, fast_rcnn = build_rpn(config, pretrained=False), build_fast_rcnn(config, classes, pretrained=False)
    for network in (rpn, fast_rcnn):
        for name, layer in network.named_modules():
            if name.split(".")[-1] in ("objectness", "box", "class_logits", "box_targets"):
                torch.nn.init.normal_(layer.weight, std=0.02 if name.endswith("objectness") else 0.002)
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = 1.0
    corners = torch.rand((1, 64, 2)) * torch.tensor([image.shape[1] * 0.7, image.shape[0] * 0.7])
    regions = torch.cat([corners, corners + 20 + torch.rand((1, 64, 2)) * 100], dim=2)
    images, sizes = torch.from_numpy(image).permute(2, 0, 1)[None], torch.tensor([image.shape[:2]])
    with torch.no_grad():
        rpn.train().feature_maps(images, sizes)
        fast_rcnn.train().predict(images, sizes, regions)
        logits, _ = fast_rcnn.eval().predict(images, sizes, regions)
        scale = 2 / (logits - logits.mean(dim=0)).std()
        fast_rcnn.class_logits.weight *= scale
        fast_rcnn.class_logits.bias -= logits.mean(dim=0) * scale
    categories = Categories(tuple(range(1, classes + 1)), tuple(f"class {number}" for number in range(classes)))
    trained = Trained(rpn.eval(), config, categories), Trained(fast_rcnn.eval(), config, categories)
    save_detector(path, TrainedDetector(*trained))


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["paper", "modern", "pyramid"])
def test_presets_on_real_images(preset: str, shared_data: Path, tmp_path: Path) -> None:
    """ResNeXt-50 with the preset's image size, anchors, pooling and numbers of proposals, 80 classes."""
    changes = ["backbone.weights=null", "backbone.norm=batch", "backbone.freeze=null"]
    config = load_config(REPOSITORY / f"configs/{preset}/resnext50_32x4d.yaml", changes)
    images = sorted((shared_data / "coco_small").rglob("*.jpg"))[::40]
    save_random(tmp_path / "detector.pt", config, 80, read_image(images[0]))
    result = export_detector(
        tmp_path / "detector.pt", tmp_path / "detector.onnx", images=images, changes=["fast_rcnn.min_score=0.02"]
    )
    assert result.detections > 20
    assert result.box_difference < 0.1
    detector = Detector.load(tmp_path / "detector.onnx", "cpu")
    for shape in ((1, 1), (40, 700)):
        assert detector(np.zeros((*shape, 3), dtype=np.uint8)).boxes.shape[1] == 4
