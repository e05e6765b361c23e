"""The benchmarks of the export: their tables, and what is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.common import Timing
from benchmarks.export import differences_table, times_table
from benchmarks.runtime_install import size_of, size_of_packages
from benchmarks.torchvision_export import OTHERS, outcome


def known(**changes: Any) -> dict[str, Any]:
    verification = {
        "images": 100,
        "undecided": 0,
        "detections": 430,
        "box_difference": 0.00012,
        "score_difference": 4.2e-6,
        "matched": None,
        "average_precision": {"detector": 0.6265, "file": 0.62651},
        "truth": "annotations",
    }
    return {"bytes": 5_300_000, "verification": verification | changes, "quantization": None}


def test_a_row_for_each_file_with_what_was_left_out_and_what_failed() -> None:
    int8 = known(matched=0.931, undecided=2) | {"quantization": {"left_out": ["rpn.outputs", "rpn.head"]}}
    none = known(average_precision={"detector": 1.0, "file": 0.9}, truth="detections")
    found = {
        "demo": {"ONNX": known(), "ONNX int8": int8},
        "random": {"ONNX": none, "OpenVINO": {"error": "no (of some); as"}},
    }
    assert differences_table(found)["rows"] == [
        ["demo", "ONNX", "100", "430", "0.00012", "4.2e-06", "all", "0.6265", "0.6265", "5.3"],
        [
            *("demo", "ONNX int8, without rpn.outputs, rpn.head", "100 (2 undecided)", "430", "0.00012", "4.2e-06"),
            *("93.1%", "0.6265", "0.6265", "5.3"),
        ],
        ["random", "ONNX", "100", "430", "0.00012", "4.2e-06", "all", "—", "—", "5.3"],
        ["random", "OpenVINO", "no", *[""] * 7],
    ]


def test_times_are_beside_those_of_pytorch_with_as_many_threads() -> None:
    times = {"PyTorch, 1": 0.2, "ONNX, 1": 0.1, "PyTorch, 2": 0.1, "ONNX, 2": 0.06, "OpenVINO, 2": 0.05}
    own = {name: Timing((seconds, seconds)) for name, seconds in times.items()}
    assert times_table({"demo": own})["rows"] == [
        ["demo", "1", "200 ms", "100 ms (0.50)", "—", "—", "—", "—"],
        ["demo", "2", "100 ms", "60 ms (0.60)", "—", "—", "50 ms (0.50)", "—"],
    ]


class Found(nn.Module):
    """As torchvision's detectors: one box as large as the image."""

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        sizes = [torch.tensor([[0.0, 0, image.shape[2], image.shape[1]]]) for image in images]
        return [{"boxes": box, "labels": torch.ones(1), "scores": torch.tensor([0.5])} for box in sizes]


def test_what_came_of_an_export_is_told_in_words() -> None:
    model = Found()

    def exact(image: Tensor) -> tuple[Tensor, ...]:
        return tuple(model([image])[0].values())

    def as_traced(image: Tensor) -> tuple[Tensor, ...]:
        return torch.tensor([[0.0, 0, 320, 240]]), torch.ones(1), torch.tensor([0.5])

    def of_one_size(image: Tensor) -> tuple[Tensor, ...]:
        if image.shape[1] != 240:
            raise ValueError("wrong size\nof the input")
        return exact(image)

    def fails() -> Any:
        try:
            raise KeyError("u0 < 0")
        except KeyError as error:
            raise RuntimeError("a long report") from error

    assert outcome(model, lambda: exact) == ["written", "the same", "the same"]
    assert outcome(model, lambda: as_traced)[:2] == ["written", "the same"]
    assert outcome(model, lambda: as_traced)[2].startswith("other boxes, by up to 80 px")
    assert len(OTHERS) > 1
    assert outcome(model, lambda: of_one_size) == ["written", "the same", "ValueError: wrong size"]
    assert outcome(model, fails) == ["KeyError: 'u0 < 0'", "—", "—"]


def test_sizes_of_a_folder_and_of_packages(tmp_path: Path) -> None:
    for name in ("lib/numpy/a.py", "lib/pip/b.py", "lib/onnxruntime/c.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(100))
    assert size_of(tmp_path) == 200
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("filelock>=3  # a comment\n# numpy\n")
    alone = size_of_packages(requirements)
    assert 10_000 < alone < 10_000_000
    requirements.write_text("filelock>=3\njinja2  # needs markupsafe\n")
    with_others = size_of_packages(requirements)
    requirements.write_text("filelock\njinja2\nmarkupsafe\nno-such-package-of-ours\n")
    assert size_of_packages(requirements) == with_others > alone


@pytest.mark.parametrize("options", [[], ["--random", "paper"]])
def test_what_is_missing_is_named(options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from backbones.common.errors import UserError
    from benchmarks import export

    monkeypatch.setattr("sys.argv", ["export", *options])
    with pytest.raises(UserError, match="--photographs" if options else "--weights"):
        export.main()
