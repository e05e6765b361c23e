"""From a name, a URL or a path to weights with their provenance, without a connection to the outside."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from backbones import IMAGENET, UserError, create_backbone, create_classifier
from backbones.common.files import cache_folder
from backbones.input_format import InputFormat
from backbones.weights import pretrained, sources
from backbones.weights.pretrained import cached_path, resolve_weights
from backbones.weights.sources import DETECTRON, DETECTRON2_RESNEXT, SOURCES, Source

NAME = "resnext101_32x4d"
ODD = InputFormat("bgr", 255.0, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RESNEXT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RESNEXT_OFFLINE", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file with a state dict, on a "server" of its own."""
    path = tmp_path / "server" / "weights-of-someone.pth"
    path.parent.mkdir()
    torch.save({"conv1.weight": torch.ones(1), "layer1.0.conv1.weight": torch.ones(2)}, path)
    return path


@pytest.fixture
def row(weights: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """The table with one more row, whose URL is that file."""
    source = Source("someone/best", NAME, weights.as_uri(), digest(weights), ODD, "CC BY-NC 4.0", 80.0)
    replace_table(monkeypatch, source)
    return source


def replace_table(monkeypatch: pytest.MonkeyPatch, *rows: Source) -> None:
    for module in (sources, pretrained):
        monkeypatch.setattr(module, "SOURCES", rows)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_name_is_fetched_once_and_its_licence_told(
    cache: Path, row: Source, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = resolve_weights("someone/best", NAME)
    assert found.input_format == ODD
    assert not found.frozen_norm_only
    assert torch.equal(found.state_dict["conv1.weight"], torch.ones(1))
    told = capsys.readouterr().err
    assert told.index("someone/best for resnext101_32x4d") < told.index("fetching"), "before the download"
    assert "NON-COMMERCIAL USE ONLY" in told
    assert (cache / "someone" / weights.name).is_file()
    assert cached_path(row) == cache / "someone" / weights.name

    expected = weights.name
    weights.unlink()
    again = resolve_weights("someone/best", NAME)
    assert capsys.readouterr().err == ""
    assert again.provenance == found.provenance
    provenance = json.loads(json.dumps(found.provenance))
    assert provenance["source"] == "someone/best"
    assert provenance["file"] == expected
    assert provenance["sha256"] == row.sha256
    assert provenance["licence"] == "CC BY-NC 4.0"
    assert InputFormat.from_dict(provenance["input_format"]) == ODD
    assert provenance["input_format_assumed"] is False


def test_damaged_file_in_the_cache_is_refused(cache: Path, row: Source) -> None:
    path = cached_path(row)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half a file")
    with pytest.raises(UserError, match="delete it"):
        resolve_weights("someone/best", NAME)


def test_wrong_checksum(cache: Path, row: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_table(monkeypatch, dataclasses.replace(row, sha256="0" * 64))
    with pytest.raises(UserError, match="not the expected file: its SHA-256 is"):
        resolve_weights("someone/best", NAME)


def test_offline_says_where_to_put_the_file(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RESNEXT_OFFLINE", "1")
    place = cache / "timm" / "resnext101_32x4d.gluon_in1k.model.safetensors"
    with pytest.raises(UserError) as caught:
        resolve_weights("timm/gluon_in1k", NAME)
    assert f"put it at {place}" in str(caught.value)
    url = "https://huggingface.co/timm/resnext101_32x4d.gluon_in1k/resolve/main/model.safetensors"
    assert f"get {url} in another way" in str(caught.value)
    assert "fe0599be8d1841a4eac53668d059e3e11b3ec968047de658153c5df61421b0d7" in str(caught.value)


def test_file_put_by_hand_is_used_offline(
    cache: Path, monkeypatch: pytest.MonkeyPatch, row: Source, weights: Path
) -> None:
    replace_table(monkeypatch, dataclasses.replace(row, url="https://example.org/best.pth"))
    monkeypatch.setenv("RESNEXT_OFFLINE", "1")
    (cache / "someone").mkdir(parents=True)
    (cache / "someone" / "best.pth").write_bytes(weights.read_bytes())
    assert resolve_weights("someone/best", NAME).input_format == ODD


def test_file_is_recognised_by_its_checksum(cache: Path, row: Source, weights: Path, tmp_path: Path) -> None:
    moved = tmp_path / "renamed.bin"
    weights.rename(moved)
    found = resolve_weights(str(moved), NAME)
    assert found.provenance["source"] == "someone/best"
    assert found.input_format == ODD


def test_file_of_no_published_checksum_is_recognised_by_its_name(tmp_path: Path) -> None:
    """Two files are called X-101-32x8d.pkl; whether BN is whole tells them apart."""
    path = tmp_path / "X-101-32x8d.pkl"
    block = {"conv1.weight": np.zeros(1, np.float32), "conv1.norm.weight": np.ones(1, np.float32)}
    statistics = {"conv1.norm.running_mean": np.zeros(1, np.float32), "conv1.norm.running_var": np.ones(1, np.float32)}
    whole = {f"{part}.{name}": value for part in ("stem", "res2.0") for name, value in {**block, **statistics}.items()}
    path.write_bytes(pickle.dumps({"model": whole}))
    found = resolve_weights(str(path), "resnext101_32x8d")
    assert found.provenance["source"] == "detectron2/X-101-32x8d"
    assert found.input_format == DETECTRON2_RESNEXT
    assert not found.frozen_norm_only

    fused = {"conv1_w": np.zeros(1, np.float32), "res2_0_branch2a_bn_s": np.ones(1, np.float32)}
    path.write_bytes(pickle.dumps({"blobs": fused}))
    found = resolve_weights(str(path), "resnext101_32x8d")
    assert found.provenance["source"] == "detectron/X-101-32x8d"
    assert found.input_format == DETECTRON
    assert found.frozen_norm_only


def test_unknown_detectron2_file_is_taken_by_the_default_configuration(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "R-50.pkl"
    value = {f"{part}.conv1.weight": np.zeros(1, np.float32) for part in ("stem", "res2.0")}
    path.write_bytes(pickle.dumps({"model": value}))
    found = resolve_weights(str(path), "resnet50")
    assert found.input_format == InputFormat("bgr", 255.0, (103.53, 116.28, 123.675), (1.0, 1.0, 1.0))
    assert found.provenance["input_format_assumed"]
    assert "does not say" in caplog.text


def test_url(cache: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = weights.as_uri()
    found = resolve_weights(url, NAME)
    assert found.provenance["url"] == url
    assert found.input_format == IMAGENET
    assert len(list(cache.glob(f"url/*/{weights.name}"))) == 1
    resolve_weights(f"{url}#sha256={digest(weights)}", NAME)
    with pytest.raises(UserError, match="0000000000 is expected"):
        resolve_weights(f"{url}#sha256=0000000000", NAME)
    with pytest.raises(UserError, match="only sha256="):
        resolve_weights(f"{url}#md5=00", NAME)


def test_a_url_of_the_table_is_its_row(
    cache: Path, row: Source, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = resolve_weights(row.url, NAME)
    assert "NON-COMMERCIAL USE ONLY" in capsys.readouterr().err, "the terms, before the download"
    assert found.provenance["source"] == "someone/best"
    assert cached_path(row).is_file()
    assert not (cache / "url").exists()
    monkeypatch.setenv("RESNEXT_OFFLINE", "1")
    assert resolve_weights("someone/best", NAME).provenance == found.provenance


def test_weights_that_the_norm_refuses_are_not_even_fetched(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "download", lambda *_, **__: pytest.fail("a download began"))
    for norm, reason in (("batch", "norm='frozen'"), ("group", "norm='frozen'")):
        with pytest.raises(UserError, match=reason):
            create_backbone("resnext101_64x4d", "detectron/X-101-64x4d", ("c2",), norm=norm)
    with pytest.raises(UserError, match="trained with BN"):
        create_backbone("resnext50_32x4d", "default", ("c2",), norm="group")


def test_url_with_a_checksum_in_its_name(cache: Path, weights: Path) -> None:
    right = weights.with_name(f"net-{digest(weights)[:8]}.pth")
    right.write_bytes(weights.read_bytes())
    resolve_weights(right.as_uri(), NAME)
    wrong = weights.with_name("net-20240131.pth")
    wrong.write_bytes(weights.read_bytes())
    with pytest.raises(UserError, match="If 20240131 in its name is no checksum, append #sha256="):
        resolve_weights(wrong.as_uri(), NAME)
    resolve_weights(f"{wrong.as_uri()}#sha256={digest(wrong)}", NAME)


def test_unknown_source(cache: Path) -> None:
    with pytest.raises(UserError, match=r"neither a file here nor a known name\. Did you mean 'timm/gluon_in1k'\?"):
        resolve_weights("timm/gluon_in1", NAME)
    with pytest.raises(
        UserError, match=r"'detectron2/X-101-32x8d' are not for the network resnext101_32x4d: it is there for"
    ):
        resolve_weights("detectron2/X-101-32x8d", NAME)
    with pytest.raises(UserError, match="No public weights are known for my_network"):
        resolve_weights("absent.pth", "my_network")


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RESNEXT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "resnext_detection"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache_folder() == Path("/home/somebody/.cache/resnext_detection")


def test_a_home_folder_is_written_as_a_tilde(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, weights: Path, row: Source
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copy(weights, tmp_path / "mine.pth")
    assert resolve_weights("~/mine.pth", NAME).provenance["sha256"] == digest(weights)
    monkeypatch.setenv("RESNEXT_CACHE", "~/kept")
    resolve_weights("someone/best", NAME)
    assert (tmp_path / "kept" / "someone" / weights.name).is_file()
    monkeypatch.delenv("RESNEXT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "~/caches")
    assert cache_folder() == tmp_path / "caches" / "resnext_detection"
    with pytest.raises(UserError, match="neither a file here"):
        resolve_weights("~nobody-of-this-name/mine.pth", NAME)


def test_what_is_no_file_is_not_opened(cache: Path, tmp_path: Path) -> None:
    """A pipe without a writer keeps whoever opens it waiting, and /dev/zero fills the memory."""
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path / "pipe", "a pipe"), (Path("/dev/zero"), "a device"), (tmp_path, "a directory")):
        for source in (str(path), path.as_uri()):
            with pytest.raises(UserError, match=f"{path} is {kind}, not a file"):
                resolve_weights(source, NAME)
    with pytest.raises(UserError, match="neither a file here nor a known name"):
        resolve_weights("x" * 5000, NAME)


def test_unwritable_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, row: Source) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RESNEXT_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="name another folder in RESNEXT_CACHE"):
        resolve_weights("someone/best", NAME)

    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.delenv("RESNEXT_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(UserError, match="name a folder in RESNEXT_CACHE"):
        cache_folder()


def test_networks_take_weights_by_name(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way: name → table → file → network, its input format and its provenance."""
    trained = create_classifier("resnext14_8x16d_small", 5)
    path = tmp_path / "trained.pth"
    torch.save(trained.state_dict(), path)
    rows = (*SOURCES, Source("us/small", "resnext14_8x16d_small", path.as_uri(), digest(path), ODD, "MIT"))
    replace_table(monkeypatch, *rows)
    backbone = create_backbone("resnext14_8x16d_small", "us/small", ("c4",), norm="frozen")
    assert torch.equal(backbone.conv1.weight, trained.conv1.weight)
    assert backbone.input_format == ODD
    assert backbone.provenance["weights"]["source"] == "us/small"
    assert backbone.provenance["weights"]["sha256"] == digest(path)
