"""Files of torch.save that are made to cost: refused before torch.load takes what they ask for."""

from __future__ import annotations

import io
import pickle
import struct
import subprocess
import sys
import time
import warnings
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from backbones.common.errors import UserError
from backbones.weights.formats import pickle_machine, torch_file
from backbones.weights.formats.torch_bounds import check_cost


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    raw = value.to_bytes(9, "little")
    return b"\x8a" + bytes([len(raw)]) + raw


def whole_tuple(*values: bytes) -> bytes:
    return b"(" + b"".join(values) + b"t"


def call(module: str, name: str, *arguments: bytes) -> bytes:
    return f"c{module}\n{name}\n".encode() + whole_tuple(*arguments) + b"R"


def storage(kind: str, count: int, legacy: bool = False) -> bytes:
    parts = [text("storage"), f"ctorch\n{kind}\n".encode(), text("0"), text("cpu"), number(count)]
    return whole_tuple(*parts, *([b"N"] if legacy else [])) + b"Q"


def tensor(stored: bytes, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    shape = [whole_tuple(*map(number, values)) for values in (size, stride)]
    return call("torch._utils", "_rebuild_tensor_v2", stored, number(0), *shape, b"\x89", b"N")


def zip_file(pickled: bytes) -> bytes:
    """As torch.save writes it, with a storage of 16 bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in (
            ("data.pkl", pickled),
            ("byteorder", b"little"),
            ("data/0", bytes(16)),
            ("version", b"3\n"),
        ):
            archive.writestr(f"archive/{name}", content)
    return buffer.getvalue()


def legacy_file(pickled: bytes) -> bytes:
    buffer = io.BytesIO()
    torch.save({}, buffer, _use_new_zipfile_serialization=False)
    whole = buffer.getvalue()
    start = whole.index(b"\x80\x02}q\x00.", whole.index(b"type_sizes"))
    keys = pickle.dumps(["0"], 2)
    return whole[:start] + pickled + keys + struct.pack("<q", 4) + bytes(16)


TOO_MUCH = "more memory than its size explains"
BIG_TEXT = text("a" * 2**20)
PAIRS = b")q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"}h\x00Ns"  # a key: a pair of pairs of pairs …
COPIES = b"c_codecs\nencode\nq\x00" + BIG_TEXT + b"q\x01](" + b"h\x00h\x01\x85R" * 3000 + b"e"
SETS = b"c__builtin__\nset\nq\x00](" + b"K\x01" * 10**5 + b"eq\x01](" + b"h\x00h\x01\x85R" * 3000 + b"e"
COSTLY: dict[str, tuple[bytes, str]] = {
    "an array of bytes": (call("__builtin__", "bytearray", number(2**33)), TOO_MUCH),
    "a tensor of a size": (call("torch", "Tensor", number(2**32)), TOO_MUCH),
    "a storage of a size": (call("torch.storage", "UntypedStorage", number(2**33)), TOO_MUCH),
    "a tensor beyond its storage": (tensor(storage("FloatStorage", 4), (2**31,), (1,)), "in a storage of 16 bytes"),
    "a storage that is not there": (storage("FloatStorage", 2**31), f"storage of 8589934592 bytes|{TOO_MUCH}"),
    "a copy of a view": (
        call("torch._utils", "_rebuild_device_tensor_from_cpu_tensor",
             tensor(storage("FloatStorage", 4), (2**31,), (0,)), b"ctorch\nfloat64\n", text("cpu"), b"\x89"),
        TOO_MUCH,
    ),
    "keys that share their parts": (PAIRS, "a key of the type tuple"),
    "copies of a text": (COPIES, TOO_MUCH),
    "copies of a set": (SETS, TOO_MUCH),
    "very many objects": (b"]" * 150_001, "more than 150000 instructions"),
    "a long text": (b"X\xff\xff\xff\xff", "bytes announced"),
}  # fmt: skip


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("container", ["zip", "legacy"])
@pytest.mark.parametrize("name", list(COSTLY))
def test_a_pickle_made_to_cost_is_refused_before_it_does(
    tmp_path: Path, name: str, container: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pickle_machine, "MOST_OPCODES", 150_000)
    pickled, reason = COSTLY[name]
    if container == "legacy":
        pickled = pickled.replace(b"tQ", b"NtQ")
    pickled = b"\x80\x02" + pickled + b"."
    path = tmp_path / "weights.pth"
    path.write_bytes(zip_file(pickled) if container == "zip" else legacy_file(pickled))
    began = time.process_time()
    with pytest.raises(UserError, match=rf"weights\.pth: .*({reason})"):
        torch_file.load(path)
    assert time.process_time() - began < 10


def test_torch_itself_would_take_the_memory(tmp_path: Path) -> None:
    """So that the test above proves something."""
    names = ("an array of bytes", "copies of a text")
    for name in names:
        (tmp_path / name).write_bytes(zip_file(b"\x80\x02" + COSTLY[name][0] + b"."))
    code = """
import resource, sys, torch
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + (1 << 29),) * 2)
for path in sys.argv[1:]:
    try:
        torch.load(path, weights_only=True)
    except Exception as error:
        print(repr(error))
"""
    command = [sys.executable, "-c", code, *(str(tmp_path / name) for name in names)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(said) == len(names)
    assert all("MemoryError" in line or "can't allocate memory" in line for line in said)


def entries(content: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [(entry.filename, archive.read(entry)) for entry in archive.infolist()]


def test_zips_that_are_not_as_torch_writes_them_are_refused(tmp_path: Path) -> None:
    """Two readers could see different pickles in them, or sizes that the file does not have."""
    path = tmp_path / "weights.pth"
    whole = zip_file(b"\x80\x02}.")
    path.write_bytes(whole)
    assert torch_file.load(path) == {}
    for extra in (
        ("archive/data.pkl", b"x"),
        ("archive/DATA.PKL", b"x"),
        ("other/data.pkl", b"x"),
        ("archive/version", b""),
    ):
        with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
            warnings.simplefilter("ignore")  # of a name that is there twice
            for name, content in [*entries(whole), extra]:
                archive.writestr(name, content)
        with pytest.raises(UserError, match=r"not as torch\.save writes"):
            torch_file.load(path)
    path.write_bytes(whole[:0] + b"PK\x03\x04" + bytes(60) + whole)  # another file before it
    with pytest.raises(UserError, match=r"weights\.pth"):
        torch_file.load(path)

    overlapping = bytearray(whole)  # every entry the whole file, and more entries than one
    central = overlapping.index(b"PK\x01\x02")
    while central >= 0:
        overlapping[central + 20 : central + 28] = struct.pack("<II", len(whole), len(whole))
        central = overlapping.find(b"PK\x01\x02", central + 4)
    path.write_bytes(overlapping)
    with pytest.raises(UserError, match="entries are larger than the file"):
        torch_file.load(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("zipped", [True, False])
def test_what_training_programs_save_passes(tmp_path: Path, zipped: bool) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 3, 8, 8)).sum().backward()
    optimizer.step()
    content: dict[str, Any] = {
        "model": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "random": torch.get_rng_state(),
        "counter": Counter([1, 2, 2]),
        "ordered": OrderedDict([((1, 2), "a"), ("b", [None, True, 1.5, 2**70, b"bytes", 1j, {3}])]),
        "types": [torch.float16, torch.device("cpu"), torch.Size([1, 2])],
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "views": [torch.zeros(10)[3:5], torch.zeros(1).expand(5), torch.zeros(3, 4).t(), torch.zeros(0)],
        "odd": [torch.zeros(3, 3).to_sparse(), torch.zeros(3, device="meta"), torch.ones(2, dtype=torch.complex64)],
        "quantized": torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8),
    }
    if zipped:  # the older format never had them
        content["new types"] = [torch.zeros(3, dtype=dtype) for dtype in (torch.float8_e4m3fn, torch.uint16)]
    torch.save(content, tmp_path / "training.pth", _use_new_zipfile_serialization=zipped)
    check_cost(tmp_path / "training.pth")
    assert torch_file.load(tmp_path / "training.pth").keys() == content.keys()
