"""Pickles: numbers come through bit for bit, from old and new numpy and from Python 2; code never does."""

from __future__ import annotations

import collections
import os
import pickle
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backbones.common.errors import UserError
from backbones.weights.formats import pickle_machine, restricted_pickle


def python2_pickle(value: Any) -> bytes:
    """What `cPickle.dump(value, file, 2)` of Python 2 wrote with the numpy of its days."""

    def write(value: Any) -> bytes:
        if value is None:
            return b"N"
        if isinstance(value, bool):
            return b"\x88" if value else b"\x89"
        if isinstance(value, int):
            return b"J" + struct.pack("<i", value)
        if isinstance(value, float):
            return b"G" + struct.pack(">d", value)
        if isinstance(value, (str, bytes)):
            raw = value.encode("latin1") if isinstance(value, str) else value
            return (b"U" + bytes([len(raw)]) if len(raw) < 256 else b"T" + struct.pack("<i", len(raw))) + raw
        if isinstance(value, tuple):
            return b"(" + b"".join(map(write, value)) + b"t"
        if isinstance(value, list):
            return b"](" + b"".join(map(write, value)) + b"e"
        if isinstance(value, dict):
            return b"}(" + b"".join(write(key) + write(item) for key, item in value.items()) + b"u"
        if isinstance(value, np.dtype):
            made = b"cnumpy\ndtype\n" + write((value.str[1:], 0, 1)) + b"R"
            return made + write((3, value.str[0], None, None, None, -1, -1, 0)) + b"b"
        if isinstance(value, np.ndarray):
            made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + write((0,)) + write("b") + b"tR"
            return made + b"(" + b"".join(map(write, (1, value.shape, value.dtype, False, value.tobytes()))) + b"tb"
        if isinstance(value, np.generic):
            return b"cnumpy.core.multiarray\nscalar\n(" + write(value.dtype) + write(value.tobytes()) + b"tR"
        raise TypeError(type(value))

    return b"\x80\x02" + write(value) + b"."


def sample() -> dict[str, Any]:
    generator = np.random.default_rng(0)
    return {
        "conv1_w": generator.standard_normal((4, 3, 7, 7)).astype(np.float32),
        "pred_b": generator.standard_normal(1000),
        "half": generator.standard_normal((2, 3)).astype(np.float16),
        "empty": np.zeros((0, 5), np.float32),
        "count": np.array(7, np.int64),
        "mask": np.array([True, False]),
        "swapped": np.arange(6, dtype=">f4").reshape(2, 3),
        "scalar": np.float32(0.5),
        "cfg": "x" * 300,
        "plain": [1, 2.5, None, True, ("a", {"b": [3]})],
    }


def assert_equal(found: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_equal(found[key], expected[key])
    elif isinstance(expected, (np.ndarray, np.generic)):
        native = expected.dtype.newbyteorder("=")
        assert found.dtype.newbyteorder("=") == native
        assert found.shape == expected.shape
        assert found.astype(native).tobytes() == expected.astype(native).tobytes()
    else:
        assert found == expected


def test_python2(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(python2_pickle(sample()))
    assert_equal(restricted_pickle.load(path), sample())


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_this_python_and_numpy(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "model.pkl"
    content = {**sample(), "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3))}
    path.write_bytes(pickle.dumps(collections.OrderedDict(content), protocol))
    assert_equal(restricted_pickle.load(path), content)


def test_numpy_before_version_2(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(sample(), 2).replace(b"numpy._core.", b"numpy.core."))
    assert_equal(restricted_pickle.load(path), sample())


class Attack:
    """Pickles as a call of anything."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def attacks(marker: Path) -> dict[str, tuple[bytes, str]]:
    command = f"touch {marker}"
    quoted = command.encode()
    return {
        "os.system": (pickle.dumps({"a": Attack(os.system, command)}), "posix.system"),
        "subprocess": (pickle.dumps([Attack(subprocess.check_call, ["touch", str(marker)])]), "subprocess.check_call"),
        "eval": (pickle.dumps(Attack(eval, f"open({str(marker)!r}, 'w')")), "builtins.eval"),
        "exec, protocol 0": (pickle.dumps(Attack(exec, f"open({str(marker)!r}, 'w')"), 0), "__builtin__.exec"),
        "getattr": (b"c__builtin__\ngetattr\n(cos\nenviron\nS'x'\ntR.", "__builtin__.getattr"),
        "INST": (b"(S'" + quoted + b"'\nios\nsystem\n.", "os.system"),
        "OBJ": (b"(cos\nsystem\nS'" + quoted + b"'\no.", "os.system"),
        "STACK_GLOBAL": (
            b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c" + bytes([len(quoted)]) + quoted + b"\x85R.",
            "os.system",
        ),
        "dotted name": (b"\x80\x04\x8c\x05numpy\x8c\x0fos.system.thing\x93.", "numpy.os.system.thing"),
        "numpy's own": (b"cnumpy\nload\n(S'" + quoted + b"'\ntR.", "numpy.load"),
        "numpy loader": (b"cnumpy.core.multiarray\nfromfile\n.", "numpy.core.multiarray.fromfile"),
        "codecs": (b"\x80\x02ccodecs\nopen\n.", "codecs.open"),
        "torch": (b"\x80\x02ctorch\nload\n.", "torch.load"),
    }


@pytest.mark.parametrize("name", list(attacks(Path("x"))))
def test_code_is_refused_by_name_and_never_runs(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "ran"
    stream, named = attacks(marker)[name]
    path = tmp_path / "model.pkl"
    path.write_bytes(stream)
    with pytest.raises(UserError, match=rf"model\.pkl.* names .*{named.rpartition('.')[2]}") as caught:
        restricted_pickle.load(path)
    assert named in str(caught.value)
    assert not marker.exists()


def test_the_attacks_would_work_on_an_open_unpickler(tmp_path: Path) -> None:
    """So that the test above proves something."""
    marker = tmp_path / "ran"
    pickle.loads(attacks(marker)["os.system"][0])
    assert marker.exists()


GLOBAL_ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"


@pytest.mark.parametrize(
    "stream",
    [
        b"cnumpy\nndarray\n(J\xff\xff\xff\x7ftR.",  # calling ndarray itself
        b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR.",  # any codec
        b"cnumpy\ndtype\n(U\x02O8K\x00K\x01tR.",  # an array of objects
        b"cnumpy\ndtype\n(U\x03V99K\x00K\x01tR.",
        GLOBAL_ARRAY + b"(K\x01(J\xff\xff\xff\x7ftcnumpy\ndtype\n(U\x02f4K\x00K\x01tR\x89U\x04abcdtb.",  # huge shape
        GLOBAL_ARRAY + b"(K\x01(J\xff\xff\xff\xfftcnumpy\ndtype\n(U\x02f4K\x00K\x01tR\x89U\x04abcdtb.",  # negative
        GLOBAL_ARRAY + b"(K\x01(K\x01tU\x02f4\x89U\x04abcdtb.",  # a dtype that is a string
        GLOBAL_ARRAY + b"(K\x01(K\x02tcnumpy\ndtype\n(U\x02f4K\x00K\x01tR\x89](K\x01K\x02etb.",  # a list for the bytes
        b"\x80\x02K\x01Q.",  # a persistent id
        b"\x80\x02\x82\x01.",  # an extension code
        b"\x80\x05\x96" + b"\xff" * 7 + b"\x7f" + b".",  # a bytearray of 2^63 bytes
        b"\x80\x04\x95" + b"\xff" * 8 + b".",  # a frame without end
        b"\x80\x02]q\x00h\x00a",  # no STOP
        b"",
        b"\x80\x63.",
    ],
)  # fmt: skip
def test_harmful_or_damaged_streams_are_refused(tmp_path: Path, stream: bytes) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(stream)
    with pytest.raises(UserError, match=r"model\.pkl"):
        restricted_pickle.load(path)


ENCODE = b"c_codecs\nencode\nq\x00X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20) + b"q\x01"  # a text of 1 MiB
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01bt"
MEBIBYTE = b"T" + struct.pack("<i", 1 << 20) + b"a" * (1 << 20)


def costly() -> dict[str, tuple[bytes, str]]:
    """Streams whose reading takes any memory or time in Python's own reader; each with the reason it is refused for."""
    key = b")q\x000" + b"h\x00h\x00\x86q\x000" * 60 + b"h\x00"  # a pair of pairs of pairs …
    state = b"(K\x01(J" + struct.pack("<i", 1 << 20) + b"tcnumpy\ndtype\n(U\x02u1K\x00K\x01tR\x89h\x00tb"
    return {
        "an object's number": (b"\x80\x02Nr\xff\xff\xff\x7f.", "an object numbered 2147483647"),
        "an object's number in letters": (b"Np2000000000\n.", "an object numbered 2000000000"),
        "a long text": (b"\x80\x02T\xff\xff\xff\x7f.", "2147483647 bytes announced"),
        "long bytes": (b"\x80\x04\x8e\x00\x00\x00\x00\x02\x00\x00\x00.", "bytes announced"),
        "a frame": (b"\x80\x04\x95\x00\x00\x00\x00\x02\x00\x00\x00N.", "a frame of 8589934592 bytes"),
        "a long number": (b"\x80\x02\x8b\xff\xff\x00\x00" + b"\x01" * 65535 + b".", "a whole number of 65535 bytes"),
        "keys that share their parts": (b"}" + key + b"Ns.", "a key of the type tuple"),
        "members that share their parts": (b"\x8f(" + key + b"\x90.", "a key of the type tuple"),
        "keys of one hash": (b"}(" + b"".join(b"\x8a\x0a" + (n * (2**61 - 1)).to_bytes(10, "little") + b"N"
                                              for n in range(1, 30_000)) + b"u.", "a key that is too long"),
        "long keys": (b"}" + MEBIBYTE + b"Ns.", "a key that is too long"),
        "copies of a text": (ENCODE + b"](" + b"h\x00h\x01\x85R" * 2000 + b"e.", "more memory than its size explains"),
        "copies of an array": (MEBIBYTE + b"q\x00](" + (ARRAY + b"R" + state) * 2000 + b"e.",
                               "more memory than its size explains"),
        "very many objects": (b"]" * 300_001 + b".", "more than 300000 instructions"),
    }  # fmt: skip


@pytest.mark.parametrize("name", list(costly()))
@pytest.mark.usefixtures("little_memory")
def test_a_stream_made_to_cost_is_refused_before_it_does(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pickle_machine.MOST_OPCODES == 2_000_000
    monkeypatch.setattr(pickle_machine, "MOST_OPCODES", 300_000)  # and a seventh of the time
    stream, reason = costly()[name]
    path = tmp_path / "model.pkl"
    path.write_bytes(stream)
    began = time.process_time()
    with pytest.raises(UserError, match=rf"model\.pkl.*{reason}") as caught:
        restricted_pickle.load(path)
    assert time.process_time() - began < 2
    assert len(str(caught.value)) < 1000


def test_the_streams_would_cost_in_an_open_unpickler() -> None:
    """So that the test above proves something."""
    code = """
import pickle, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
pickle.loads(bytes.fromhex(sys.argv[1]))
"""
    stream = costly()["an object's number"][0]
    done = subprocess.run([sys.executable, "-c", code, stream.hex()], capture_output=True, text=True, check=False)
    assert "MemoryError" in done.stderr  # of 9 bytes


def test_many_plain_objects_are_read_soon(tmp_path: Path) -> None:
    """As many as CIFAR-100's training file has."""
    content = {"filenames": [f"image_s_{i:06d}.png" for i in range(50_000)], "labels": list(range(100)) * 1000}
    path = tmp_path / "train"
    path.write_bytes(pickle.dumps(content, 2))
    began = time.process_time()
    assert restricted_pickle.load(path) == content
    assert time.process_time() - began < 10


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    whole = python2_pickle({"conv1_w": np.zeros((2, 2), np.float32), "x": [np.float64(1.0)]})
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError):
            restricted_pickle.load(path)
