"""`python -m backbones`: what it prints is what the library counts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from backbones import VARIANTS
from backbones.__main__ import main
from backbones.weights.sources import SOURCES, sources_for


def _row(output: str, name: str) -> list[str]:
    (line,) = [line for line in output.splitlines() if name in line.split()]
    return line.split()


def test_lists_every_variant_beside_the_papers_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    output = capsys.readouterr().out
    names = [line.split()[0] for line in output.splitlines()[2:]]
    assert names == list(VARIANTS)
    assert _row(output, "resnet50")[:6] == ["resnet50", "25,557,032", "25.50", "25.5", "4.09", "4.1"]
    assert _row(output, "resnext50_32x4d")[:6] == ["resnext50_32x4d", "25,028,904", "24.96", "25.0", "4.23", "4.2"]
    assert "20.4" in output
    assert "17.31" in output


def test_stages_and_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resnext50_32x4d", "--stages", "--size", "608x800", "--classes", "5"]) == 0
    output = capsys.readouterr().out
    assert "c4 38×50" in output
    assert "6 × [512, 512 C=32, 1024]" in output
    assert "  fc" in output
    assert f"{2048 * 5 + 5:,}" in output
    # the paper's figures are of 224 × 224 and 1000 classes: not beside those of another size
    assert not {"4.2", "25.0"} & set(_row(output, "resnext50_32x4d"))


def test_names_by_pattern(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resnext50_16x8d", "resnext50"]) == 0
    output = capsys.readouterr().out
    assert "resnext50_16x8d" in output
    assert "22.2" in _row(output, "resnext50")  # the paper's error of 32x4d, which the family's name stands for


def test_compare_is_table_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "1x64d", "2x", "4x", "8x", "32x"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert [(row[0], row[1]) for row in rows] == [("1", "64"), ("2", "40"), ("4", "24"), ("8", "14"), ("32", "4")]
    assert [row[-1] for row in rows] == ["23.9", "23.0", "22.6", "22.3", "22.2"]


def test_compare_two_blocks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "1x64d", "32x4d", "--depth", "101"]) == 0
    output = capsys.readouterr().out
    assert "69,632" in output
    assert "70,144" in output
    assert "resnext101_32x4d" in output
    assert "21.2" in output
    assert "solved" not in output
    assert main(["compare", "8x64d", "16x", "--depth", "29"]) == 0
    assert "resnext29_16x" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnext50_32x4"], "did you mean 'resnext50_32x4d'"),
        (["compare", "32x", "1x64d"], "first block needs a width"),
        (["compare", "1x64"], "is no block"),
        (["compare", "1x64d", "900x"], "too high"),
        (["weights", "resnext29_8x64d"], "no public weights are known for resnext29_8x64d"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--classes", "0"], "whole number above 0"),
        (["--classes", "9" * 5000], "is more than 10000000"),
        (["--size", "99999999"], "99999999 is more than 32768"),
        (["--size", "224x99999999"], "99999999 is more than 32768"),
        (["compare", "1x64d", "--depth", "18"], "choose from 29, 50, 101, 152, 200"),
    ],
)
def test_wrong_options_say_what_is_right(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err.replace("'", "")


def test_runs_as_a_module(repository: Path) -> None:
    command = [sys.executable, "-m", "backbones", "compare", "--help"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)
    assert "32x4d" in done.stdout


@pytest.mark.skipif(os.name != "posix", reason="pipes of a POSIX shell")
def test_a_reader_that_has_seen_enough_is_no_error(repository: Path) -> None:
    """As `| head` is: the pipe's other end is closed before anything is written."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        command = [sys.executable, "-m", "backbones", "resnet50"]
        done = subprocess.run(command, cwd=repository, stdout=closed, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_help_does_not_wait_for_torch(repository: Path) -> None:
    """Each command's help, with a torch that cannot be imported."""
    for command in ([], ["compare"], ["weights"]):
        code = f"import sys; sys.modules['torch'] = None; from backbones.__main__ import main; main({[*command, '-h']})"
        done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "python -m backbones" in done.stdout


def test_lists_the_weights_of_a_network_with_their_terms(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "resnext101_64x4d"]) == 0
    output = capsys.readouterr().out
    assert [line.split()[1] for line in output.splitlines()[2:]] == [s.name for s in sources_for("resnext101_64x4d")]
    assert _row(output, "detectron/X-101-64x4d")[2:5] == ["224", "fused", "not"]  # no accuracy; licence not stated
    assert "NON-COMMERCIAL" in " ".join(_row(output, "facebookresearch/resnext_101_64x4d"))
    assert "https://download.pytorch.org/models/resnext101_64x4d-173b62eb.pth" in output


def test_lists_all_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(SOURCES)
    assert main(["weights", "resnext50"]) == 0  # which stands for 32x4d
    assert "torchvision/IMAGENET1K_V2" in capsys.readouterr().out
