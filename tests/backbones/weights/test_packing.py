"""A packed file holds the same network, in half the size, and starts the same detectors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from backbones import UserError, create_backbone, create_classifier
from backbones.__main__ import main
from backbones.weights.packing import pack

NAME = "resnext14_8x16d_small"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    network = create_classifier(NAME, 7)
    path = tmp_path / "weights.pth"
    torch.save(network.state_dict(), path)
    return path


def test_logits_stay_the_same_up_to_half_precision(weights: Path, tmp_path: Path) -> None:
    output = tmp_path / "packed.safetensors"
    size = pack(weights, NAME, output)
    assert size == output.stat().st_size < 0.52 * weights.stat().st_size
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    whole, packed = (create_classifier(NAME, 7, path, norm="frozen").eval() for path in (weights, output))
    expected = whole(images)
    torch.testing.assert_close(packed(images), expected, atol=2e-3 * float(expected.abs().max()), rtol=0)
    assert packed.input_format == whole.input_format


def test_normalisation_keeps_single_precision(weights: Path, tmp_path: Path) -> None:
    output = tmp_path / "packed.safetensors"
    pack(weights, NAME, output)
    with safe_open(output, "pt") as file:
        assert file.metadata()["network"] == NAME
        assert file.get_tensor("bn1.running_var").dtype == torch.float32
        assert file.get_tensor("conv1.weight").dtype == file.get_tensor("fc.weight").dtype == torch.float16


def test_a_backbone_without_classifier_is_packed_without_one(tmp_path: Path) -> None:
    path = tmp_path / "backbone.pth"
    torch.save(create_backbone(NAME).state_dict(), path)
    pack(path, NAME, tmp_path / "packed.safetensors")
    with safe_open(tmp_path / "packed.safetensors", "pt") as file:
        assert not [name for name in file.keys() if name.startswith("fc.")]  # noqa: SIM118
    create_backbone(NAME, tmp_path / "packed.safetensors")


def test_values_beyond_half_precision_are_refused(weights: Path, tmp_path: Path) -> None:
    state = torch.load(weights)
    state["conv1.weight"][0, 0, 0, 0] = 1e5
    torch.save(state, weights)
    with pytest.raises(UserError, match=r"beyond half precision in conv1\.weight"):
        pack(weights, NAME, tmp_path / "packed.safetensors")
    assert not (tmp_path / "packed.safetensors").exists()


def test_an_existing_file_is_kept(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = weights.read_bytes()
    assert main(["pack", str(weights), NAME, str(weights)]) == 1
    assert "exists" in capsys.readouterr().err
    assert weights.read_bytes() == before


def test_the_command_says_what_it_wrote(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pack", str(weights), NAME, str(tmp_path / "packed.safetensors")]) == 0
    assert "packed.safetensors, 1.1 MB" in capsys.readouterr().out
