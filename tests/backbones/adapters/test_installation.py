"""`pip install` of the repository makes the backbones usable from anywhere."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# Built from a copy: setuptools leaves its folders beside what it builds
PARTS = ("pyproject.toml", "README.md", "LICENSE", "setup.py", "MANIFEST.in", "configs", "backbones", "detection")


@pytest.fixture(scope="module")
def installed(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder the repository was installed into, without its dependencies."""
    if importlib.util.find_spec("pip") is None:
        pytest.skip("PIP MISSING: installing the package was not tried")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    for part in PARTS:
        path = repository / part
        if path.is_dir():
            shutil.copytree(path, source / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source / part)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    outcome = subprocess.run(
        [*command, "--target", str(target), str(source)], cwd=source, capture_output=True, text=True
    )
    assert outcome.returncode == 0, outcome.stderr
    return target


def _run(installed: Path, folder: Path, code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    outcome = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout


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
    asked: dict[str, set[str]] = {"": set(), "detection": set(), "export": set(), "serve": set(), "dev": set()}
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
    assert asked["export"] < asked["dev"]
    runtime = _lines(repository / "requirements-runtime.txt")
    assert runtime < asked[""] | asked["detection"] | asked["export"]


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


def test_every_module_is_installed(installed: Path, repository: Path) -> None:
    for package in ("backbones", "detection"):
        modules = {path.relative_to(repository) for path in (repository / package).rglob("*.py")}
        assert {path.relative_to(installed) for path in (installed / package).rglob("*.py")} == modules


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
