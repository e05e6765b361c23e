from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from backbones.common.errors import UserError
from detection.data.coco.parts import Archive, Part


@pytest.fixture
def main(repository: Path, tmp_path: Path) -> Callable[..., int]:
    """The tool's main for a COCO of one image a split, whose archives lie in `tmp_path`."""
    instances = {f"annotations/instances_{name}.json": json.dumps({"images": []}) for name in ("train2017", "val2017")}

    def archive(path: str, members: dict[str, str]) -> Archive:
        file = tmp_path / path
        file.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(file, "w") as opened:
            for name, content in members.items():
                opened.writestr(name, content)
        return Archive(path, file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest())

    annotations = archive("annotations/annotations_trainval2017.zip", instances)
    val2017 = archive("zips/val2017.zip", {"val2017/000000000042.jpg": "42"})
    train2017 = archive("zips/train2017.zip", {"train2017/000000000009.jpg": "9"})
    parts = (
        *(Part(name, annotations, 100) for name in instances),
        Part("val2017", val2017, 100, 1),
        Part("train2017", train2017, 100, 1),
    )
    specification = importlib.util.spec_from_file_location("prepare_coco", repository / "tools" / "prepare_coco.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return partial(module.main, layouts={"2017": parts})


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    return ["--data", str(tmp_path / "coco"), "--base-url", tmp_path.as_uri()]


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


WHOLE = {
    "annotations/instances_train2017.json",
    "annotations/instances_val2017.json",
    "val2017/000000000042.jpg",
    "train2017/000000000009.jpg",
}


def test_prepares_and_then_has_nothing_to_do(
    main: Callable[..., int], arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--yes", "--keep-archives"]) == 0
    kept = {f"archives/{name}2017.zip" for name in ("annotations_trainval", "val", "train")}
    assert files(tmp_path / "coco") == WHOLE | kept
    shown = capsys.readouterr().out
    assert "fetch zips/train2017.zip (" in shown
    assert "unpack train2017/ (1 images)" in shown
    assert "archives are kept in archives/" in shown
    assert "Free: " in shown
    assert main(arguments) == 0
    assert "nothing is missing" in capsys.readouterr().out


def test_a_dry_run_tells_the_plan_and_does_nothing(
    main: Callable[..., int], arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--dry-run"]) == 0
    assert "To fetch: " in capsys.readouterr().out
    assert not (tmp_path / "coco").exists()
    with pytest.raises(UserError, match="too small"):
        main([*arguments, "--dry-run"], free=lambda folder: 0)


def test_annotations_alone(main: Callable[..., int], arguments: list[str], tmp_path: Path) -> None:
    assert main([*arguments, "--yes", "--only", "annotations"]) == 0
    assert files(tmp_path / "coco") == {name for name in WHOLE if name.endswith(".json")}


@pytest.mark.parametrize(("answer", "status"), [("y", 0), ("", 1)])
def test_it_asks_first(
    main: Callable[..., int],
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    status: int,
) -> None:
    with pytest.raises(UserError, match="add --yes"):  # pytest's stdin is no terminal
        main(arguments)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: answer)
    assert main(arguments) == status
    assert (tmp_path / "coco").exists() == (status == 0)


def test_from_the_command_line_it_needs_no_installation_and_errors_are_one_line(
    repository: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()

    def tool(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "tools/prepare_coco.py", *arguments]
        return subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False, timeout=120)

    shown = tool("--help")
    assert shown.returncode == 0
    for word in ("--layout", "--keep-archives", "--base-url", "--only", "--dry-run", "--yes", "Flickr", "minival"):
        assert word in shown.stdout
    failed = tool("--data", str(tmp_path / "file"))
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert failed.stderr == f"error: {tmp_path / 'file'} is a file, where COCO's folder is expected\n"
