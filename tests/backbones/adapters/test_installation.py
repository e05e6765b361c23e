"""`pip install` of the repository makes the backbones usable from anywhere."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

# Built from a copy: setuptools leaves its folders beside what it builds
PARTS = ("pyproject.toml", "README.md", "LICENSE", "setup.py", "MANIFEST.in")
FOLDERS = ("configs", "backbones", "detection", "tools")


@pytest.fixture(scope="module")
def installed(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the packages of a new environment that the repository was installed into. The packages that it
    depends on are those of this environment."""
    if importlib.util.find_spec("pip") is None:
        pytest.skip("PIP MISSING: installing the package was not tried")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    for part in PARTS:
        shutil.copy(repository / part, source / part)
    for folder in FOLDERS:
        shutil.copytree(repository / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    venv.create(target)
    packages = next(target.rglob("site-packages"))
    (packages / "dependencies.pth").write_text("\n".join(map(sysconfig.get_path, ("purelib", "platlib"))))
    pip = [sys.executable, "-m", "pip", "--python", str(_program(target, "python")), "install", "--quiet"]
    outcome = subprocess.run(
        [*pip, "--no-deps", "--no-build-isolation", "--no-index", str(source)],
        cwd=source,
        capture_output=True,
        text=True,
    )
    assert outcome.returncode == 0, outcome.stderr
    return packages


def _program(environment: Path, name: str) -> Path:
    return environment / ("Scripts" if os.name == "nt" else "bin") / name


def _environment_of(packages: Path) -> Path:
    return next(folder for folder in packages.parents if (folder / "pyvenv.cfg").is_file())


def _run(installed: Path, folder: Path, code: str) -> str:
    return _call(installed, folder, "python", "-c", code)


def _call(installed: Path, folder: Path, name: str, *arguments: object, status: int = 0) -> str:
    """What a program of the new environment writes."""
    command = [str(_program(_environment_of(installed), name)), *map(str, arguments)]
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1"}
    surroundings.pop("PYTHONPATH", None)
    outcome = subprocess.run(command, cwd=folder, env=surroundings, capture_output=True, text=True)
    assert outcome.returncode == status, outcome.stderr[-3000:]
    return outcome.stdout + (outcome.stderr if status else "")


def test_backbones_and_adapters_work_elsewhere(installed: Path, tmp_path: Path) -> None:
    code = """
import torch, backbones, backbones.adapters.torchvision_detection as adapter
print(backbones.__file__)
print(adapter.__file__)
backbone = adapter.fpn_backbone("resnext14_8x16d_small", out_channels=8)
print(list(backbone(torch.rand(1, 3, 64, 64))))
"""
    package, adapter, maps = _run(installed, tmp_path, code).splitlines()
    assert Path(package).is_relative_to(installed)
    assert Path(adapter).is_relative_to(installed)
    assert maps == "['0', '1', '2', '3', 'pool']"


def test_backbones_need_no_more_than_they_ask_for(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    code = """
import sys
for name in ("torchvision", "cv2", "PIL", "albumentations", "pycocotools", "yaml", "tensorboard", "pytest"):
    sys.modules[name] = None
import backbones, backbones.weights.pretrained
backbones.create_c4("resnext14_8x16d_small")
try:
    backbones.create_backbone("resnext14_8x16d_small", "weights.safetensors")
except backbones.UserError as error:
    print(error)
"""
    assert "no tensors in it" in _run(installed, tmp_path, code)


def test_dependencies_are_the_lines_of_the_requirements_files(installed: Path, repository: Path) -> None:
    (package,) = importlib.metadata.distributions(name="resnext-detection", path=[str(installed)])
    extras = ("", "detection", "export", "openvino", "serve", "tiff", "track", "dev")
    asked: dict[str, set[str]] = {extra: set() for extra in extras}
    for line in package.requires or []:
        requirement, _, marker = line.partition(";")
        asked[marker.replace("extra ==", "").strip(" \"'")].add(_plain(requirement))
    assert {re.split("[<>=]", requirement)[0] for requirement in asked[""]} == {
        "torch",
        "numpy",
        "safetensors",
        "filelock",
        "tqdm",
    }
    running = _lines(repository / "requirements.txt")
    tests = {line for line in running if line.startswith(("pytest", "hypothesis"))}
    assert asked[""] | asked["detection"] == running - tests
    assert asked["dev"] == _lines(repository / "requirements-dev.txt") | tests
    assert {re.split("[<>=]", requirement)[0] for requirement in asked["export"]} == {
        "onnx",
        "onnxscript",
        "onnxruntime",
    }
    assert asked["export"] | asked["openvino"] | asked["tiff"] < asked["dev"]
    runtime = _lines(repository / "requirements-runtime.txt")
    assert runtime < asked[""] | asked["detection"] | asked["export"]
    assert asked["serve"] == _lines(repository / "requirements-serve.txt")
    assert asked["serve"] < asked["dev"]


def _lines(requirements: Path) -> set[str]:
    lines = [line.partition("#")[0].strip() for line in requirements.read_text(encoding="utf-8").splitlines()]
    return {_plain(line) for line in lines if line and not line.startswith("-")}


def _plain(requirement: str) -> str:
    """One spelling: bounds in order, no spaces."""
    name, bounds = re.fullmatch(r"([\w.-]+)(.*)", requirement.replace(" ", "")).groups()
    return name.lower() + ",".join(sorted(bounds.split(",")))


def test_type_checkers_find_the_types(installed: Path) -> None:
    for package in ("backbones", "detection"):
        assert (installed / package / "py.typed").is_file()


def test_the_pages_of_the_server_are_installed(installed: Path, repository: Path) -> None:
    for path in (repository / "detection" / "serve" / "static").iterdir():
        assert (installed / "detection" / "serve" / "static" / path.name).read_bytes() == path.read_bytes()


def test_every_module_is_installed(installed: Path, repository: Path) -> None:
    modules = {path.relative_to(repository) for name in FOLDERS for path in (repository / name).rglob("*.py")}
    modules = {Path("detection", path) if path.parts[0] == "tools" else path for path in modules}
    assert {path.relative_to(installed) for path in installed.rglob("*.py")} == modules


def test_presets_are_found_in_the_installed_package(installed: Path, tmp_path: Path) -> None:
    code = """
from detection.config_file import load_config
from detection.presets import comments_of, preset_path
path = preset_path("pyramid/resnext50_32x4d.yaml")
print(path)
print(load_config(path).name, "rpn.anchor_sizes" in comments_of(path))
"""
    path, values = _run(installed, tmp_path, code).splitlines()
    assert Path(path).is_relative_to(installed)
    assert values == "pyramid_resnext50_32x4d True"


def test_the_tools_are_commands(installed: Path, repository: Path, tmp_path: Path) -> None:
    names = sorted(path.stem.replace("_", "-") for path in (repository / "tools").glob("[!_]*.py"))
    listed = re.findall(r"^  ([a-z-]+)  +[A-Z]", _call(installed, tmp_path, "resnext-detect", "--help"), re.MULTILINE)
    assert listed == names
    text = _call(installed, tmp_path, "resnext-detect", "train-rpn", "--help")
    assert text.startswith("usage: resnext-detect train-rpn [-h]")
    assert "\n  resnext-detect train-rpn --config … --resume\n" in text
    assert "\n  torchrun --nproc-per-node 8 -m detection.tools.train_rpn --config … --data …\n" in text
    assert "tools/" not in text
    assert "did you mean 'train'?" in _call(installed, tmp_path, "resnext-detect", "trian", status=2)
    assert _call(installed, tmp_path, "resnext-detect", "--version") == "resnext-detect 0.1.0\n"


def test_commands_find_the_presets_from_any_folder(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: configs/modern/resnext50_32x4d.yaml\nseed: 5\n")
    said = _call(installed, tmp_path, "resnext-detect", "train_rpn", "--config", "mine.yaml", "--print-config")
    assert said.startswith("name: modern_resnext50_32x4d\noutput: null\nseed: 5\n")
    missing = "configs/modern/resnext50.yaml"
    refused = _call(installed, tmp_path, "resnext-detect", "train-rpn", "--config", missing, status=1)
    assert "no preset configs/modern/resnext50.yaml; did you mean 'modern/resnet50.yaml'?" in refused


@pytest.mark.slow
def test_from_a_folder_of_images_to_a_detector_by_commands(installed: Path, tmp_path: Path) -> None:
    """From a folder that is no checkout. What is written names the commands, too."""
    code = """
from pathlib import Path
from detection.data.demo import make_demo_dataset
make_demo_dataset(Path("shapes"), train=6, test=2)
"""
    _run(installed, tmp_path, code)
    steps = ["rpn.training.steps=2", "fast_rcnn.training.steps=2", "data.shorter_sides=[96]", "runtime.workers=1"]
    _call(installed, tmp_path, "resnext-detect", "train", "--data", "shapes", *steps)
    run = tmp_path / "runs" / "shapes"
    assert "    resnext-detect eval-coco --weights detector.pt\n" in (run / "README.md").read_text()
    assert (run / "shapes.yaml").read_text().startswith("# Written by resnext-detect new-config")
    page = (run / "evaluation" / "report.html").read_text()
    assert "resnext-detect predict --thresholds best" in page
    assert "tools/" not in page
    _call(installed, run, "resnext-detect", "predict", "--weights", "detector.pt", tmp_path / "shapes" / "test")
    assert (run / "predictions" / "detections.json").is_file()
