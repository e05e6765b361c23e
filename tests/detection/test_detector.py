"""A detector among a server's other code: it changes nothing around it, and nothing around it changes its answers."""

from __future__ import annotations

import multiprocessing
import random
import resource
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import detection
from backbones.common.errors import UserError
from detection.data.augmentation import Augmentation
from detection.data.images import read_image
from detection.detector import Detector, ImageDetections
from detection.experiment.model_files import Categories
from detection.networks.faster_rcnn import FasterRCNN
from tests.detection.data.oriented_images import ORIENTED_KINDS, save_oriented, upright
from tests.detection.pipeline import save_untrained_networks
from tests.detection.tiny_networks import tiny_fast_rcnn, tiny_rpn

NAMES = ("cat", "dog", "owl")


@pytest.fixture(scope="module")
def detector() -> Detector:
    network = FasterRCNN(tiny_rpn(), tiny_fast_rcnn(), before_nms=200, proposals=30, min_side=8.0, min_score=0.1)
    return Detector(network, Categories((3, 7, 9), NAMES), Augmentation((96,), 128))


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((96, 128), (50, 40), (97, 61))]


def same(one: ImageDetections, other: ImageDetections) -> bool:
    equal = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("boxes", "scores", "labels"))
    return equal and one.names == other.names and np.array_equal(one.category_ids, other.category_ids)


def surroundings() -> dict[str, Any]:
    """The global settings and states that a library might be tempted to change."""
    return {
        "threads": torch.get_num_threads(),
        "threads between operators": torch.get_num_interop_threads(),
        "gradients": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "default type": torch.get_default_dtype(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cuDNN": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32),
        "float32 products": torch.get_float32_matmul_precision(),
        "torch's numbers": torch.get_rng_state().tolist(),
        "numpy's numbers": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "numpy's errors": np.geterr(),
        "Python's numbers": random.getstate(),
        "OpenCV's threads": cv2.getNumThreads(),
        "warnings": list(warnings.filters),
    }


def test_it_leaves_global_settings_alone(detector: Detector, images: list[np.ndarray]) -> None:
    before = surroundings()
    detector(images[0])
    detector(images, batch_size=2)
    assert surroundings() == before


@pytest.mark.parametrize("enabled", [True, False])
def test_answers_do_not_depend_on_the_gradient_mode(
    detector: Detector, images: list[np.ndarray], enabled: bool
) -> None:
    expected = detector(images[0])
    with torch.set_grad_enabled(enabled):
        assert same(detector(images[0]), expected)
        assert torch.is_grad_enabled() == enabled
    assert len(expected) > 0


def test_answers_do_not_depend_on_the_default_type(detector: Detector, images: list[np.ndarray]) -> None:
    expected = detector(images[0])
    torch.set_default_dtype(torch.float64)
    try:
        assert same(detector(images[0]), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_it_keeps_no_state_between_calls(detector: Detector, images: list[np.ndarray]) -> None:
    weights = {name: value.clone() for name, value in detector.network.state_dict().items()}
    first = detector(images[1])
    copies = [image.copy() for image in images]
    for image in images:
        detector(image)
    assert same(detector(images[1]), first)
    assert all(np.array_equal(image, copy) for image, copy in zip(images, copies, strict=True))
    assert all(torch.equal(value, weights[name]) for name, value in detector.network.state_dict().items())


def test_alone_and_in_a_batch_the_answer_is_the_same(detector: Detector, images: list[np.ndarray]) -> None:
    several = [*images, images[2], images[2][:, ::-1], images[0]]
    for batch_size in (1, 2, 3):
        for together, image in zip(detector(several, batch_size=batch_size), several, strict=True):
            alone = detector(image)
            assert together.names == alone.names
            np.testing.assert_allclose(together.boxes, alone.boxes, atol=1e-2)
            np.testing.assert_allclose(together.scores, alone.scores, atol=1e-5)


def test_several_threads_get_the_answers_that_one_gets(detector: Detector, images: list[np.ndarray]) -> None:
    expected = [detector(image) for image in images]
    wrong: list[object] = []

    def ask(offset: int) -> None:
        try:
            for step in range(6):
                number = (offset + step) % len(images)
                if not same(detector(images[number]), expected[number]):
                    wrong.append(number)
                if not torch.is_grad_enabled():
                    wrong.append("gradients are off in the caller's thread")
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def ask_with_little_memory(detector: Detector, small: Detector, said: SimpleQueue[str]) -> None:
    """A process's work: too many large images at once, for the memory it may take, and then one small image."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + (500 << 20)  # 330 for the images and their batch, but 670 more as floats
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    large = np.zeros((1000, 1500, 3), dtype=np.uint8)
    try:
        detector([large] * 36, batch_size=36)
    except UserError as error:
        said.put(str(error))
    said.put(f"then {len(small(large))}")


def test_out_of_memory_is_told_with_sizes_and_what_to_lower(detector: Detector) -> None:
    """For real: a process that may not have more."""
    context = multiprocessing.get_context("fork")
    said = context.SimpleQueue()
    large = Detector(detector.network, detector.categories, Augmentation((1000,), 1500))
    process = context.Process(target=ask_with_little_memory, args=(large, detector, said))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    message = said.get()
    assert "36 image(s) of 1024 × 1504 pixels (numbers in the call, from 0: [0, 1, 2" in message
    assert "Lower batch_size; or the size that images are brought to (Detector.load with changes=" in message
    assert said.get().startswith("then ")


@pytest.mark.parametrize(
    "view",
    [
        lambda image: image[::-1, ::-1],
        lambda image: np.asfortranarray(image),
        lambda image: np.lib.stride_tricks.as_strided(image, writeable=False)[:, :],
    ],
    ids=["reversed", "Fortran order", "read-only"],
)
def test_any_layout_of_the_array_will_do(
    detector: Detector, images: list[np.ndarray], view: Callable[[np.ndarray], np.ndarray]
) -> None:
    seen = view(images[0])
    assert same(detector(seen), detector(np.array(seen, order="C")))


def test_a_pillow_image_is_taken_as_its_file(detector: Detector, images: list[np.ndarray], tmp_path: Path) -> None:
    alpha = np.where(np.arange(128) < 64, 255, 90).astype(np.uint8).repeat(96).reshape(128, 96).T
    opened = {
        "RGB": Image.fromarray(images[0]),
        "L": Image.fromarray(images[0][:, :, 0]),
        "P": Image.fromarray(images[0]).quantize(16),
        "RGBA": Image.fromarray(np.dstack([images[0], alpha])),
    }
    for mode, image in opened.items():
        assert image.mode == mode
        image.save(tmp_path / f"{mode}.png")
        expected = detector(tmp_path / f"{mode}.png")
        assert len(expected) > 0
        assert same(detector(image), expected)
    together = detector(list(opened.values()))
    assert all(same(one, detector(image)) for one, image in zip(together, opened.values(), strict=True))


def test_tensors_in_a_list_are_images(detector: Detector, images: list[np.ndarray]) -> None:
    tensors = [torch.from_numpy(image).permute(2, 0, 1) for image in images]
    assert all(same(one, detector(image)) for one, image in zip(detector(tensors), images, strict=True))


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (None, "NoneType"),
        (7, "int"),
        ([[]], "list"),
        ([None], "NoneType"),
        (b"a.jpg", "int"),
        (np.zeros((5, 4), np.uint8), r"uint8 \(5, 4\)"),
        (np.zeros((5, 4, 4), np.uint8), r"uint8 \(5, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), r"uint8 \(0, 4, 3\)"),
        (np.zeros((), np.uint8), r"uint8 \(\)"),
        (np.zeros((2, 5, 4, 1), np.uint8), r"uint8 \(5, 4, 1\)"),
        (np.zeros((5, 4, 3), np.float32), r"float32 \(5, 4, 3\)"),
        (torch.zeros(5, 4, 3, dtype=torch.uint8), r"torch.uint8 \(5, 4, 3\)"),
        (torch.zeros(3, 5, 4, dtype=torch.bfloat16, requires_grad=True), r"torch.bfloat16 \(3, 5, 4\)"),
        (Image.new("I;16", (4, 5)), r"a Pillow image of mode I;16 and size \(4, 5\)"),
        (Image.new("F", (4, 5)), r"a Pillow image of mode F"),
        (Image.new("RGB", (0, 5)), r"a Pillow image of mode RGB and size \(0, 5\)"),
    ],
)
def test_what_is_no_image_is_refused_in_words(detector: Detector, given: object, named: str) -> None:
    with pytest.raises(UserError, match=rf"^an image is a path, an array uint8 \(H, W, 3\).*; not {named}"):
        detector(given)


def test_its_detections_are_shown_in_a_line(detector: Detector, images: list[np.ndarray]) -> None:
    found = detector(images[0])
    shown = repr(found)
    assert len(found) > 3
    assert shown.startswith(f"<ImageDetections: {len(found)}: {found.names[0]} {found.scores[0]:.2f}, ")
    assert shown.endswith(", …>")
    assert len(shown) < 80
    assert repr(found.above(1.0)) == "<ImageDetections: 0>"
    assert repr(found.above(found.scores[0])) == f"<ImageDetections: 1: {found.names[0]} {found.scores[0]:.2f}>"


def test_the_package_lists_what_it_offers_and_knows_an_earlier_name() -> None:
    assert {"Detector", "ImageDetections"} <= set(dir(detection))
    assert "PictureDetections" not in dir(detection)
    with pytest.warns(DeprecationWarning, match="PictureDetections is called ImageDetections now"):
        earlier = detection.PictureDetections
    assert earlier is ImageDetections
    with pytest.raises(AttributeError, match="no attribute 'Detectr'"):
        detection.Detectr  # noqa: B018


def test_a_device_that_is_not_there_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device, words in (
        ("gpu", 'device "gpu" is none of auto, cpu, cuda'),
        ("cuda:x", 'device "cuda:x" is none of'),
        ("cuda", 'device "cuda" was asked for, but PyTorch sees no GPU here: use "cpu"'),
        (torch.device("cuda", 1), 'device "cuda:1" was asked for, but PyTorch sees no GPU here'),
    ):
        with pytest.raises(UserError, match=words):
            Detector.load(tmp_path / "detector.pt", device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=r'device "cuda:2" was asked for, but PyTorch sees 2 GPU\(s\)'):
        Detector.load(tmp_path / "detector.pt", "cuda:2")


@pytest.mark.parametrize("kind", ORIENTED_KINDS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_lie_on_the_image_as_it_is_given(
    kind: str, orientation: int, detector: Detector, images: list[np.ndarray], tmp_path: Path
) -> None:
    """A file is seen upright, by its EXIF orientation. A Pillow image is seen as it stands: as stored, but for a TIFF,
    which Pillow itself turns; `ImageOps.exif_transpose` makes it the file's."""
    stored = cv2.resize(images[1][:10, :8], (80, 60))
    path = save_oriented(tmp_path / f"a.{kind}", stored, orientation)
    plain = read_image(save_oriented(tmp_path / f"plain.{kind}", stored, 1))
    seen = detector(np.ascontiguousarray(upright(plain, orientation)))
    assert len(seen) > 0
    assert same(detector(path), seen)
    with Image.open(path) as image:
        given = np.array(image.convert("RGB"))
        assert given.shape == (upright(plain, orientation).shape if kind == "tiff" else plain.shape)
        assert same(detector(image), detector(given))
        turned = ImageOps.exif_transpose(image)
        assert np.abs(np.array(turned.convert("RGB")).astype(int) - upright(plain, orientation)).max() <= 4
        assert same(detector(turned), detector(np.array(turned.convert("RGB"))))


def test_a_file_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match=f"{tmp_path}/absent.pt"):
        Detector.load("~/absent.pt", "cpu")


def test_a_stream_gives_the_results_of_a_call(detector: Detector, images: list[np.ndarray], tmp_path: Path) -> None:
    expected = detector(images)
    for got, one in zip(detector.stream(iter(images), batch_size=2), detector(images, batch_size=2), strict=True):
        assert same(got, one)
    for number, image in enumerate(images):
        cv2.imwrite(str(tmp_path / f"{number}.png"), image[:, :, ::-1])
    found = list(detector.stream(tmp_path))
    assert len(found) == len(expected)
    assert all(map(same, found, expected))


def test_the_repr_names_classes_size_device_and_precision(detector: Detector) -> None:
    assert repr(detector) == "<Detector: 3 classes (cat, dog, owl), images of 96 to 128 pixels, cpu, float32>"


def test_the_repr_tells_of_weights_in_bf16(tmp_path: Path) -> None:
    save_untrained_networks(tmp_path, tmp_path)
    assert repr(Detector.load(tmp_path / "detector.pt", "cpu", precision="bf16")).endswith("cpu, bfloat16>")


def test_the_first_answer_loads_no_package_that_it_does_not_need(repository: Path, tmp_path: Path) -> None:
    """torchvision and PyTorch's compiler take longer to import than PyTorch; the others are for other tools. PyTorch
    2.10 loads sympy for a check of its own."""
    save_untrained_networks(tmp_path, tmp_path)
    code = (
        "import sys, numpy, torch; torch._check(True); own = set(sys.modules); from detection import Detector;"
        f"found = Detector.load({str(tmp_path / 'detector.pt')!r}, 'cpu')(numpy.zeros((96, 128, 3), numpy.uint8));"
        "print(*{'torchvision', 'torch._dynamo', 'sympy', 'torch.onnx', 'albumentations', 'matplotlib', 'pycocotools',"
        "'scipy', 'pandas', 'tensorboard', 'hypothesis'} & sys.modules.keys() - own, len(found.boxes) > 0)"
    )
    output = subprocess.run([sys.executable, "-c", code], cwd=repository, check=True, capture_output=True, text=True)
    assert output.stdout.split() == ["True"]
