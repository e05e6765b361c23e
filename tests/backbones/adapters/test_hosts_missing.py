"""Adapters whose host is not installed say so; what they share needs no host at all."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

HOSTS = {
    "torchvision_detection": ("torchvision", "pip install torchvision"),
    "segmentation": ("torchvision", "pip install torchvision"),
    "transformers_backbone": ("transformers", r"pip install 'transformers>=5\.1'"),
    "timm_features": ("timm", "pip install timm"),
    "detectron2_backbone": ("detectron2", r"pip install 'git\+https://github\.com/facebookresearch/detectron2"),
    "mmdetection_backbone": ("mmdet", "mim install mmengine mmcv mmdet"),
}


@pytest.mark.parametrize("adapter", HOSTS)
def test_a_missing_host_is_named_with_the_way_to_get_it(adapter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    host, remedy = HOSTS[adapter]
    for module in [name for name in sys.modules if name == host or name.startswith(f"{host}.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, host, None)  # what Python takes for "not to be found"
    monkeypatch.delitem(sys.modules, f"backbones.adapters.{adapter}", raising=False)
    with pytest.raises(ImportError, match=rf"backbones\.adapters\.{adapter} needs .*{remedy}"):
        importlib.import_module(f"backbones.adapters.{adapter}")


def test_every_adapter_is_tried(repository: Path) -> None:
    files = {path.stem for path in (repository / "backbones" / "adapters").glob("*.py")}
    assert files - {"__init__", "host_input", "layers"} == set(HOSTS)


def test_the_folder_imports_no_host(repository: Path) -> None:
    hosts = sorted({host for host, _ in HOSTS.values()})
    command = (
        "import sys, backbones, backbones.adapters, backbones.adapters.layers; "
        f"print([host for host in {hosts} if host in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", command], cwd=repository, capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"
