"""Training and measuring classifiers, end to end in miniature, by the tools as a user runs them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from backbones import create_backbone, create_c4
from backbones.classification.labelled_images import open_images
from backbones.classification.random_view import RandomView
from backbones.common.errors import UserError
from backbones.resnext import ResNeXt
from backbones.variants import find_variant
from detection.classifier.classifier_file import TrainedClassifier, load_classifier, save_classifier
from detection.classifier.config import ClassifierConfig, Data
from detection.classifier.image_input import open_split
from detection.classifier.labelled_batches import TrainingSamples
from detection.classifier.network import build_classifier
from detection.common.core_yaml import parse_yaml
from detection.config_file import config_of, config_to_dict, config_to_yaml, load_config, load_config_of
from detection.data.images import read_image
from detection.experiment.builders import build_fast_rcnn, build_rpn
from tests.detection.pipeline import arguments_for, kill_before_second_checkpoint, tool
from tools import eval_classifier

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
CLASSES = ("a", "b", "c", "d", "e", "f", "g")
STRUCTURE = {"depths": (1, 1, 1, 1), "cardinality": 2, "base_width": 16, "planes": 8, "stem_width": 8}
MINIATURE = """
name: miniature
data: {train: train, test: test, size: 32, colour_jitter: 0.1, test_resize: 36, test_size: 32}
network:
  name: resnext50_32x4d
  depths: [1, 1, 1, 1]
  cardinality: 2
  base_width: 16
  planes: 8
  stem_width: 8
training:
  global_batch: 8
  images_per_device: 8
  learning_rate: 0.02
  learning_rate_batch: 8
  epochs: 4
  milestones: [3]
  log_every: 2
  checkpoint_every: 2
  evaluate_every: 2
runtime: {workers: 0, tensorboard: false, device: cpu, test_batch: 5}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noisy images of 40 × 48 pixels, brighter in the channels that the bits of their class name."""
    root = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(3)
    for split, count in (("train", 8), ("test", 5)):
        for label, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                image = rng.integers(0, 200, (40, 48, 3), dtype=np.uint8)
                image += np.uint8([25 * (label + 1 >> bit & 1) for bit in range(3)])
                Image.fromarray(image).save(root / split / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "miniature.yaml"
    path.write_text(MINIATURE)
    return path


@pytest.fixture(scope="module")
def run(config: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("run") / "it"
    tool("train_classifier", *arguments_for(config, data, output))
    return output


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["network"]  # type: ignore[no-any-return]


def assert_same_weights(first: Path, second: Path, **tolerance: float) -> None:
    one, other = weights(first), weights(second)
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], msg=lambda m, n=name: f"{n}: {m}", **tolerance)


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def normalised(image: np.ndarray) -> torch.Tensor:
    mean, std = (np.array(values) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return torch.from_numpy((image / 255 - mean) / std).permute(2, 0, 1)[None]


def centre_crop(image: np.ndarray) -> np.ndarray:
    small = np.asarray(Image.fromarray(image).resize((43, 36), Image.Resampling.BILINEAR))
    return small[2:34, 6:38]  # round(5.5) is 6


@torch.inference_mode()
def slow_errors(network: ResNeXt, data: Path, names: tuple[str, ...], ways: list[int]) -> tuple[float, float]:
    """Top-1 and top-5 error of the centre crop, one image at a time in float64."""
    missed = []
    for name in names:
        for path in sorted((data / "test" / name).iterdir()):
            scores = network.double()(normalised(centre_crop(read(path))))[0]
            order = sorted(ways, key=lambda label: -float(scores[label]))
            place = order.index(CLASSES.index(name))
            missed.append((place >= 1, place >= 5))
    return tuple(np.mean(missed, axis=0))  # type: ignore[return-value]


def measured(folder: Path) -> tuple[float, float]:
    figures = json.loads((folder / "errors.json").read_text())
    return figures["top1_error"], figures["top5_error"]


# Configurations


@pytest.mark.parametrize(
    "path",
    sorted(path for folder in ("imagenet", "cifar", "tiny_imagenet") for path in CONFIGS.glob(f"{folder}/*.yaml")),
    ids=str,
)
def test_every_config_loads_reads_back_the_same_and_names_a_network(path: Path) -> None:
    config = load_config_of(ClassifierConfig, path)
    assert config_of(ClassifierConfig, parse_yaml(config_to_yaml(config), "text"), "text") == config
    assert config_of(ClassifierConfig, config_to_dict(config), "dict") == config
    find_variant(config.network.name, config.network.structure())
    if path.name != "base.yaml":
        assert config.name != "unnamed"


def test_the_recipes_are_the_papers() -> None:
    imagenet = load_config_of(ClassifierConfig, CONFIGS / "imagenet/resnext101_64x4d.yaml")
    training = imagenet.training.in_steps(1_281_167)
    assert (training.global_batch, training.learning_rate, training.steps) == (256, 0.1, 100 * 5005)
    assert training.milestones == (30 * 5005, 60 * 5005, 90 * 5005)
    assert (training.momentum, training.nesterov, training.weight_decay) == (0.9, True, 1e-4)
    assert (training.bias_weight_decay, training.norm_weight_decay, training.bias_lr_factor) == (True, True, 1.0)
    assert (imagenet.data.size, imagenet.data.test_resize, imagenet.data.test_size) == (224, 256, 224)
    assert (imagenet.data.colour_jitter, imagenet.data.lighting) == (0.4, 0.1)
    assert imagenet.data.interpolation == "bicubic"
    table_3 = {"resnet50", "resnet101", "resnext50_32x4d", "resnext101_32x4d"}
    paths = {path.stem: load_config_of(ClassifierConfig, path) for path in CONFIGS.glob("imagenet/*.yaml")}
    assert {config.network.name for path, config in paths.items() if path in table_3} == table_3
    for path in CONFIGS.glob("cifar/cifar10*.yaml"):
        cifar = load_config_of(ClassifierConfig, path)
        training = cifar.training.in_steps(50_000)
        assert (training.global_batch, training.learning_rate, training.steps) == (128, 0.1, 300 * 391)
        assert training.milestones == (150 * 391, 225 * 391)
        assert training.weight_decay == 5e-4
        assert (cifar.data.crop, cifar.data.padding, cifar.data.size, cifar.data.test_resize) == ("padded", 4, 32, None)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        (["training.epohcs=3"], "did you mean 'epochs'"),
        (["data.test_size=300"], r"data.test_resize \(256\) is below data.test_size \(300\)"),
        (["network.mean=[1, 2, 3]"], "network.mean and network.std"),
        (["training.milestones=[5, 5]"], "must ascend"),
        (["training.epochs=10"], r"milestones \[30, 60, 90\]: none is below training.epochs \(10\)"),
        (["training.momentum=0"], "nesterov"),
        (["rpn.samples=3"], "rpn: unknown key"),
    ],
)
def test_mistakes_in_a_configuration_are_named(changes: list[str], part: str) -> None:
    with pytest.raises(UserError, match=part):
        load_config_of(ClassifierConfig, None, changes)


# Training


def test_training_learns_and_its_log_has_the_error_beside_the_time(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "classifier" / "log.jsonl").read_text().splitlines()]
    evaluations = [line for line in lines if line["kind"] == "evaluation"]
    assert [line["step"] for line in evaluations] == [14, 28]
    times = {line["step"]: line["elapsed"] for line in lines if line["kind"] == "train"}
    assert 0 < times[14] < times[28]
    assert evaluations[-1]["top1_error"] < 0.7  # chance is 0.86
    content = torch.load(run / "classifier.pt", weights_only=True)
    assert content["classes"] == list(CLASSES)
    assert content["provenance"]["test"]["top1_error"] == evaluations[-1]["top1_error"]
    assert content["provenance"]["steps"] == 28


def test_what_it_writes_starts_both_networks_of_a_detector(run: Path) -> None:
    file = str(run / "classifier.pt")
    trained = load_classifier(file)
    trunk, conv5 = create_c4("resnext50_32x4d", file, **STRUCTURE)
    images = trunk.input_format.normalize(torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8))
    with torch.inference_mode():
        expected = trained.network.feature_maps(images, ["c4", "c5"])
        c4 = trunk.eval()(images)["c4"]
        assert torch.equal(c4, expected["c4"])
        assert torch.equal(conv5.eval()(c4), expected["c5"])
    changes = [f"backbone.{key}={list(value) if key == 'depths' else value}" for key, value in STRUCTURE.items()]
    detector = load_config(None, ["data.layout=coco", f"backbone.weights={file}", "rpn.channels=8", *changes])
    for network in (build_rpn(detector).backbone, build_fast_rcnn(detector, 7).trunk):
        assert network.input_format == trained.network.input_format
        torch.testing.assert_close(network.eval()(images)["c4"], expected["c4"], rtol=1e-4, atol=1e-4)  # BN is folded
        assert network.provenance["weights"]["input_format_assumed"] is False


def test_a_network_of_three_stages_is_refused_before_anything_is_trained() -> None:
    changes = ["backbone.name=resnext29_8x16d", "backbone.depths=[1, 1, 1]", "backbone.weights=x.pt"]
    detector = load_config(None, ["data.layout=coco", *changes])
    for build in (build_rpn, lambda config: build_fast_rcnn(config, 7)):
        with pytest.raises(UserError, match=r"c2, c3, c4; both networks need c2 to c5.*cifar/detector_backbone"):
            build(detector)


def test_the_detectors_own_backbone_as_a_classifier_of_cifar_starts_them(tmp_path: Path) -> None:
    """As the epilog of train_classifier says: the file alone is to be named, in configs/demo.yaml and bccd.yaml."""
    config = load_config_of(ClassifierConfig, CONFIGS / "cifar/detector_backbone.yaml")
    network = build_classifier(config.network, 10)
    save_classifier(tmp_path / "classifier.pt", TrainedClassifier(config, tuple("abcdefghij"), network, {}))
    for name in ("demo", "bccd"):
        detector = load_config(CONFIGS / f"{name}.yaml", [f"backbone.weights={tmp_path / 'classifier.pt'}"])
        assert torch.equal(build_rpn(detector).backbone.conv1.weight, network.conv1.weight)
        assert torch.equal(build_fast_rcnn(detector, 3).box_head.conv5[0].conv3.weight, network.layer4[0].conv3.weight)


def test_the_input_format_travels_with_the_weights(config: Path, data: Path, tmp_path: Path) -> None:
    changes = ["network.mean=[10, 20, 30]", "network.std=[40, 50, 60]", "training.epochs=1", "training.milestones=[]"]
    tool("train_classifier", *arguments_for(config, data, tmp_path, changes))
    trunk, _ = create_c4("resnext50_32x4d", str(tmp_path / "classifier.pt"), **STRUCTURE)
    assert (trunk.input_format.mean, trunk.input_format.std) == ((10.0, 20.0, 30.0), (40.0, 50.0, 60.0))
    assert load_classifier(tmp_path / "classifier.pt").network.input_format == trunk.input_format
    # And a training that starts from it keeps it
    again = [f"network.weights={tmp_path / 'classifier.pt'}", "training.epochs=1", "training.milestones=[]"]
    tool("train_classifier", *arguments_for(config, data, tmp_path / "again", again))
    assert load_classifier(tmp_path / "again" / "classifier.pt").network.input_format == trunk.input_format


def test_a_sample_is_a_function_of_seed_epoch_and_index(data: Path) -> None:
    images = open_images(data, "train", read)
    key_of = {}
    for seed in (0, 1):
        samples = TrainingSamples(images, RandomView(24), seed)
        for key in ((0, 0), (1, 0), (0, 1)):
            view, label, index = samples[key]
            assert (view == samples[key][0]).all()
            assert (label, index) == (images.labels[key[1]], key[1])
            key_of[view.tobytes()] = (seed, *key)
    assert len(key_of) == 6


def test_every_kind_of_image_that_can_be_read_is_one(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/2.JFIF", "b/3.pgm", "b/4.jp2", "b/._3.pgm", "b/notes.txt"):
        (tmp_path / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        kind = {".pgm": "PPM", ".jp2": "JPEG2000", ".JFIF": "JPEG"}.get(Path(name).suffix, "PNG")
        Image.new("L", (20, 10), 90).save(tmp_path / "train" / name, kind)
    images = open_split(Data(root=str(tmp_path), train="train"), "train")
    assert [Path(images.name(i)).name for i in range(len(images))] == ["1.png", "2.JFIF", "3.pgm", "4.jp2"]
    assert all(images.read(i).shape == (10, 20, 3) for i in range(4))


def test_another_image_stands_in_for_a_damaged_one(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "train", tmp_path / "train")
    (tmp_path / "train/c/5.png").write_text("<html>no image</html>")
    images = open_images(tmp_path, "train", read_image)
    bad = next(i for i in range(len(images)) if images.name(i).endswith("c/5.png"))
    with pytest.raises(UserError, match=r"c/5\.png"):
        TrainingSamples(images, RandomView(24), 0)[0, bad]
    tolerant = TrainingSamples(images, RandomView(24), 0, skip_unreadable=True)
    seen = {epoch: tolerant[epoch, bad] for epoch in range(12)}
    assert len({index for _, _, index in seen.values()} - {bad}) > 3, "not always the same one"
    for epoch, (view, label, index) in seen.items():
        assert index != bad
        assert label == images.labels[index]
        assert (tolerant[epoch, bad][0] == view).all()


def test_killed_and_resumed_ends_in_the_same_bits(run: Path, config: Path, data: Path, tmp_path: Path) -> None:
    arguments = arguments_for(config, data, tmp_path)
    kill_before_second_checkpoint("train_classifier", *arguments)
    refused = tool("train_classifier", *arguments, check=False)
    assert refused.returncode == 1
    assert "--resume" in refused.stderr
    # Other workers and other micro-batch sizes on the way would change the rounding alone; the same ones, nothing.
    tool("train_classifier", *arguments, "--resume", "runtime.workers=2")
    assert_same_weights(run / "classifier.pt", tmp_path / "classifier.pt", atol=0, rtol=0)


def test_two_processes_end_in_the_weights_of_one(config: Path, data: Path, tmp_path: Path) -> None:
    """With group normalisation, which does not look at the other images; and the errors are the same."""
    changes = ["network.norm=group", "training.epochs=2", "training.milestones=[]", "training.images_per_device=4"]
    for name, processes in (("one", 1), ("two", 2)):
        tool("train_classifier", *arguments_for(config, data, tmp_path / name, changes), processes=processes)
    assert_same_weights(tmp_path / "one/classifier.pt", tmp_path / "two/classifier.pt", atol=1e-5, rtol=1e-4)
    errors = [load_classifier(tmp_path / name / "classifier.pt").provenance["test"] for name in ("one", "two")]
    assert errors[0] == errors[1]


def test_the_errors_of_two_processes_are_those_of_the_file_they_leave(config: Path, data: Path, tmp_path: Path) -> None:
    """Each has running statistics of its own; rank 0's are saved, and measured."""
    changes = ["training.epochs=2", "training.milestones=[]"]
    tool("train_classifier", *arguments_for(config, data, tmp_path, changes), processes=2)
    tool("eval_classifier", "--weights", tmp_path / "classifier.pt", "--data", data)
    logged = load_classifier(tmp_path / "classifier.pt").provenance["test"]
    assert measured(tmp_path / "evaluation") == (logged["top1_error"], logged["top5_error"])


def test_a_dry_run_tells_the_plan_and_writes_nothing(config: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    plan = tool("train_classifier", *arguments_for(config, data, output), "--dry-run").stdout
    for word in ("classifier", "batch", "learning rate", "28, 4.00 epochs", "a step", "peak memory", "classifier.pt"):
        assert word in plan
    assert not output.exists()
    printed = tool("train_classifier", *arguments_for(config, data, output), "--print-config").stdout
    assert config_of(ClassifierConfig, parse_yaml(printed, "printed"), "printed").training.epochs == 4


def test_real_images_are_learnt(shared_data: Path, tmp_path: Path) -> None:
    """200 images of CIFAR-10, by the small configuration's recipe with a narrower network."""
    for split, count in (("train", 20), ("test", 10)):
        for folder in sorted(path for path in (shared_data / "cifar10" / split).iterdir() if path.is_dir()):
            sheet = cv2.imread(str(sorted(folder.glob("*.webp"))[0]))
            images = sheet.reshape(10, 32, 10, 32, 3).swapaxes(1, 2).reshape(100, 32, 32, 3)
            (tmp_path / split / folder.name).mkdir(parents=True)
            for i in range(count):
                cv2.imwrite(str(tmp_path / split / folder.name / f"{i}.png"), images[i])
    changes = [
        "network.cardinality=4",
        "training.global_batch=20",
        "training.learning_rate_batch=20",
        "training.learning_rate=0.05",
        "training.epochs=5",
        "training.log_every=10",
        "training.evaluate_every=5",
        "runtime.workers=0",
        "runtime.tensorboard=false",
        "runtime.device=cpu",
    ]
    tool("train_classifier", *arguments_for(CONFIGS / "cifar/small.yaml", tmp_path, tmp_path / "run", changes))
    lines = [json.loads(line) for line in (tmp_path / "run/classifier/log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert losses[0] > 2.2
    assert losses[-1] < 2.1
    assert lines[-1]["top1_error"] < 0.87
    assert lines[-1]["top5_error"] < 0.45


def test_a_damaged_file_starts_no_detector(tmp_path: Path) -> None:
    """One bit flipped anywhere, headers included: refused, or a bit that says nothing."""
    config = config_of(ClassifierConfig, parse_yaml(MINIATURE, "text"), "text")
    trained = TrainedClassifier(config, CLASSES, build_classifier(config.network, len(CLASSES)), {})
    path = tmp_path / "classifier.pt"
    save_classifier(path, trained)
    whole, expected = path.read_bytes(), trained.network.state_dict()
    refused = 0
    for place in [*range(0, len(whole), 5003), *range(0, 3000, 53), *range(len(whole) - 3000, len(whole), 53)]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            state = create_backbone("resnext50_32x4d", path, **STRUCTURE).state_dict()
        except UserError:
            refused += 1
        else:
            assert all(torch.equal(value, expected[name]) for name, value in state.items()), place
            assert place > len(whole) - 100, "only the words before the checksum may be changed unnoticed"
    assert refused > 100


# Measuring


def test_errors_are_those_of_a_slow_count(run: Path, data: Path, tmp_path: Path) -> None:
    trained = load_classifier(run / "classifier.pt")
    said = tool("eval_classifier", "--weights", run / "classifier.pt", "--data", data).stdout
    expected = slow_errors(trained.network, data, CLASSES, list(range(7)))
    assert 0 < expected[0] < 0.8, "the figures should tell right from wrong"
    assert measured(run / "evaluation") == pytest.approx(expected)
    assert f"top-1 error  {100 * expected[0]:.2f} %" in said
    assert "35 images, 7-way" in said


def test_all_ways_and_some_ways_on_images_of_some_classes(run: Path, data: Path, tmp_path: Path) -> None:
    """A network of 7 classes on images of 6 of them: 7-way, and 6-way; the list's order does not matter."""
    some, labels = ("a", "b", "d", "e", "f", "g"), [0, 1, 3, 4, 5, 6]
    (tmp_path / "test").mkdir()
    for name in some:
        (tmp_path / "test" / name).symlink_to(data / "test" / name)
    trained = load_classifier(run / "classifier.pt")
    common = ("--weights", run / "classifier.pt", "--data", tmp_path, "--output", tmp_path / "out")
    assert "30 images, 7-way" in tool("eval_classifier", *common).stdout
    assert measured(tmp_path / "out") == pytest.approx(slow_errors(trained.network, data, some, list(range(7))))
    (tmp_path / "list.txt").write_text("g\n\nf\na\nb\nd\ne\n")
    assert "30 images, 6-way" in tool("eval_classifier", *common, "--classes", tmp_path / "list.txt").stdout
    assert measured(tmp_path / "out") == pytest.approx(slow_errors(trained.network, data, some, labels))
    whole = (*common[:2], "--data", data, "--output", tmp_path / "whole", "--classes", tmp_path / "list.txt")
    assert "30 images, 6-way" in tool("eval_classifier", *whole).stdout


@pytest.mark.parametrize(
    "options",
    [
        ["--size", 20],
        ["--crops", "ten", "--scales", 32, 40],
        ["--crops", "whole", "--scales", 32, 48],
    ],
)
def test_other_sizes_crops_and_scales(run: Path, data: Path, tmp_path: Path, options: list[object]) -> None:
    said = tool(
        "eval_classifier", "--weights", run / "classifier.pt", "--data", data, "--output", tmp_path, *options
    ).stdout
    assert "35 images, 7-way" in said
    views = json.loads((tmp_path / "errors.json").read_text())["views"]
    assert views["size"] == (20 if "--size" in options else 32)
    assert views["scales"] == ([22] if "--size" in options else options[-2:])


def test_another_data_set_s_errors_are_not_overwritten(run: Path, data: Path, tmp_path: Path) -> None:
    common = ("eval_classifier", "--weights", run / "classifier.pt", "--output", tmp_path)
    tool(*common, "--data", data)
    before = (tmp_path / "errors.json").read_bytes()
    refused = tool(*common, "--data", data, "data.test=train", check=False)
    assert refused.returncode == 1
    assert "errors.json: holds the errors on another data set; name another folder (--output)" in refused.stderr
    assert (tmp_path / "errors.json").read_bytes() == before
    tool(*common, "--data", data)
    for content in ("precious", "[]", '{"precious": 1}'):
        (tmp_path / "errors.json").write_text(content)
        refused = tool(*common, "--data", data, check=False)
        assert "errors.json: exists already, and holds no errors of this tool; name another" in refused.stderr
        assert (tmp_path / "errors.json").read_text() == content


def test_changes_may_follow_the_scales(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("eval_classifier", "--weights", run / "classifier.pt", "--data", data, "--output", tmp_path)
    changes = ("data.interpolation=bicubic", "runtime.workers=0")
    tool(*common, "runtime.test_batch=8", "--crops", "whole", "--scales", 32, 48, *changes)
    views = json.loads((tmp_path / "errors.json").read_text())["views"]
    assert views["scales"] == [32, 48]
    assert views["interpolation"] == "bicubic"
    for wrong, reason in (
        (("--scales", "data.interpolation=bicubic"), "expected at least one number of pixels"),
        (("--scales", 32, "x"), "a number of pixels from 1 to 32768, not 'x'"),
        (("--scales", 0), "a number of pixels from 1 to 32768"),
        (("--size", 10**9), "a number of pixels from 1 to 32768"),
        (("--size", "9" * 5000), "a number of pixels from 1 to 32768"),
    ):
        with pytest.raises(SystemExit) as ended:
            eval_classifier.main([str(argument) for argument in (*common[1:], *wrong)])
        assert ended.value.code == 2
        assert reason in capsys.readouterr().err


def test_weights_of_any_source_are_measured(run: Path, data: Path, tmp_path: Path) -> None:
    """torchvision's network with random weights, saved by torchvision's names, against a slow count with it."""
    torch.manual_seed(0)
    host = torchvision.models.resnet.ResNet(
        torchvision.models.resnet.Bottleneck, [3, 4, 6, 3], num_classes=7, groups=32, width_per_group=4
    ).eval()
    for module in host.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    torch.save(host.state_dict(), tmp_path / "theirs.pth")
    common = ("eval_classifier", "--weights", tmp_path / "theirs.pth", "--data", data, "--output", tmp_path)
    small = ("data.test=test", "data.test_size=32", "data.test_resize=36", "runtime.workers=0", "runtime.device=cpu")
    said = tool(*common, "--network", "resnext50_32x4d", *small).stdout
    assert "35 images, 7-way" in said
    assert measured(tmp_path) == pytest.approx(slow_errors(host, data, CLASSES, list(range(7))))
    assert "need --network" in tool(*common, *small, check=False).stderr
    (tmp_path / "test").mkdir()
    (tmp_path / "test/a").symlink_to(data / "test/a")
    fewer = tool(*common[:3], "--data", tmp_path, "--network", "resnext50_32x4d", *small, check=False)
    assert fewer.returncode == 1
    assert "knows 7 classes, the images are of 1" in fewer.stderr


def test_mistakes_are_one_message_without_traceback(run: Path, config: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a\nyellow\n")
    strange = tmp_path / "strange"
    (strange / "test" / "purple").mkdir(parents=True)
    Image.new("RGB", (40, 40)).save(strange / "test" / "purple" / "1.png")
    broken = tmp_path / "broken"
    for split in ("train", "test"):
        (broken / split / "one").mkdir(parents=True)
        (broken / split / "one" / "bad.png").write_text("<html>no image</html>")
    tool_weights = ("eval_classifier", "--weights", run / "classifier.pt")
    cases: list[tuple[tuple[object, ...], str]] = [
        (("train_classifier", "--config", config, "--data", tmp_path / "nowhere"), "nowhere"),
        (("train_classifier", *arguments_for(config, data, tmp_path / "x", ["training.epcohs=1"])), "'epochs'"),
        (("train_classifier", *arguments_for(config, data, run, ["seed=7"]), "--resume"), "seed"),
        (("train_classifier", *arguments_for(config, broken, tmp_path / "b")), "bad.png"),
        (("train_classifier", *arguments_for(CONFIGS / "paper/resnet50.yaml", data, tmp_path / "y")), "unknown key"),
        (("eval_classifier", "--weights", tmp_path / "missing.pt"), "missing.pt"),
        ((*tool_weights, "--data", strange), "purple"),
        ((*tool_weights, "--data", data, "--classes", tmp_path / "list.txt"), "yellow"),
        ((*tool_weights, "--data", data, "--size", 32, "--scales", 20), "no crop of 32"),
        (("eval_classifier", "--weights", next((run / "classifier").glob("*.pt")), "--data", data), "checkpoint"),
    ]
    for command, part in cases:
        result = tool(*command, check=False)
        assert result.returncode == 1, (command, result.stderr)
        assert part in result.stderr, (command, result.stderr)
        assert "Traceback" not in result.stderr, command
