"""The project's .pt files: what goes in comes out, and nothing else gets in."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import pickle
import resource
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backbones.common.errors import UserError
from backbones.common.files import sha256_of
from detection.training.artifacts import FORMAT, VERSION, DamagedFile, load_artifact, save_artifact
from tests.detection.ranks import forked

PAYLOAD = {
    "network": {"a.weight": torch.arange(12.0).reshape(3, 4), "a.count": torch.tensor(3)},
    "categories": [[1, "cat"], [7, "dog"]],
    "note": None,
}
ONES = torch.ones(2**20)


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    path = tmp_path / "rpn.pt"
    save_artifact(path, "rpn", **PAYLOAD)
    return path


def assert_same(content: dict) -> None:
    assert content["categories"] == PAYLOAD["categories"]
    assert content["note"] is None
    assert content["network"].keys() == PAYLOAD["network"].keys()
    for name, tensor in PAYLOAD["network"].items():
        assert torch.equal(content["network"][name], tensor)
        assert content["network"][name].dtype == tensor.dtype


def test_what_is_saved_is_loaded(artifact: Path) -> None:
    assert_same(load_artifact(artifact, "fastrcnn", "rpn"))
    assert os.listdir(artifact.parent) == ["rpn.pt"]


def test_another_kind_is_named_with_the_tool_that_takes_it(artifact: Path) -> None:
    with pytest.raises(UserError, match=r"a trained RPN \(for tools/propose.py.*Needed here: a whole detector"):
        load_artifact(artifact, "detector")


def sealed(path: Path, content: bytes) -> Path:
    """`content`, a zip without a comment, with the checksum at its end that a file of this project has."""
    comment = b"sha256 of all before: " + hashlib.sha256(content).hexdigest().encode()
    path.write_bytes(content[:-2] + len(comment).to_bytes(2, "little") + comment)
    return path


def sealed_pickle(path: Path, content: object) -> Path:
    torch.save(content, path)
    return sealed(path, path.read_bytes())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"format": FORMAT, "version": VERSION + 1, "kind": "rpn"}, "newer release"),
        ({"format": FORMAT, "version": "1", "kind": "rpn"}, "version 1"),
        ({"format": FORMAT, "version": 1}, "unknown kind"),
        ({"format": FORMAT, "version": 1, "kind": ["rpn"]}, "unknown kind"),
        ({"a.weight": torch.zeros(2)}, "not written by this project"),
        ([1, 2], "not written by this project"),
    ],
)
def test_strange_contents_are_refused(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_artifact(sealed_pickle(tmp_path / "x.pt", content), "rpn")


def test_somebody_elses_weights_are_told_apart(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "resnext50.pth")
    with pytest.raises(UserError, match=r"not a file of this project. Needed here: a trained RPN \("):
        load_artifact(tmp_path / "resnext50.pth", "rpn")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused_by_name(tmp_path: Path, value: float) -> None:
    save_artifact(tmp_path / "x.pt", "rpn", network={"conv": {"weight": torch.tensor([1.0, value])}})
    with pytest.raises(DamagedFile, match=r"network\.conv\.weight holds NaN or infinite"):
        load_artifact(tmp_path / "x.pt", "rpn")


def test_any_flipped_byte_is_noticed(artifact: Path) -> None:
    """All over the file: after some flips in a zip's headers torch.load gives unwritten memory, its CRC-32 or no."""
    whole = artifact.read_bytes()
    for position in range(0, len(whole), 3):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << (position % 8)
        artifact.write_bytes(flipped)
        with pytest.raises(DamagedFile, match=r"rpn\.pt is (damaged|cut short)"):
            load_artifact(artifact, "rpn")


def test_a_file_cut_anywhere_is_refused_as_damaged(artifact: Path) -> None:
    whole = artifact.read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 100, len(whole) - 1):
        artifact.write_bytes(whole[:length])
        with pytest.raises(DamagedFile, match="cut short"):
            load_artifact(artifact, "rpn")


def test_other_programs_read_it_too(artifact: Path) -> None:
    assert_same(torch.load(artifact, weights_only=True))
    with zipfile.ZipFile(artifact) as archive:
        assert archive.testzip() is None


class Bomb:
    """Runs code when unpickled."""

    def __reduce__(self):
        return (os.mkdir, (os.environ["BOMB"],))


def test_code_in_a_pickle_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOMB", str(tmp_path / "exploded"))
    sealed_pickle(tmp_path / "zip.pt", {"format": FORMAT, "version": 1, "kind": "rpn", "network": Bomb()})
    with pytest.raises(UserError, match="could run somebody's code"):
        load_artifact(tmp_path / "zip.pt", "rpn")
    with pytest.raises(UserError, match="not a file of this project"):
        load_artifact(sealed(tmp_path / "plain.pt", pickle.dumps(Bomb()) + bytes(2)), "rpn")
    assert not (tmp_path / "exploded").exists()


def test_tensors_that_are_larger_than_the_file_are_refused(tmp_path: Path) -> None:
    """Four bytes that claim to be a terabyte: to look whether they are finite would take that memory."""
    entry = {"format": FORMAT, "version": 1, "kind": "rpn"}
    for strange in (torch.zeros(1).expand(2**38), torch.zeros(3, 3).to_sparse(), torch.zeros(3, device="meta")):
        sealed_pickle(tmp_path / "x.pt", {**entry, "network": {"conv.weight": strange}})
        with pytest.raises(UserError, match=r"network\.conv\.weight is no ordinary tensor|not a file of this project"):
            load_artifact(tmp_path / "x.pt", "rpn")


def test_contents_within_themselves_are_refused(tmp_path: Path) -> None:
    entry = {"format": FORMAT, "version": 1, "kind": "rpn"}
    entry["network"] = entry
    with pytest.raises(UserError, match="nested within itself"):
        load_artifact(sealed_pickle(tmp_path / "x.pt", entry), "rpn")


def shared(depth: int) -> list[object]:
    """A list of 2 ** depth items, made of one list for each of its levels."""
    value: list[object] = [1]
    for _ in range(depth):
        value = [value, value]
    return value


def nested(depth: int) -> list[object]:
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"provenance": shared(40)}, "unfolds to more than 1000000 values"),
        ({"provenance": shared(20)}, "unfolds to more than 1000000 values"),
        ({"kind": shared(40)}, "unfolds to more than 1000000 values"),
        ({"version": shared(40)}, "unfolds to more than 1000000 values"),
        ({"provenance": nested(60)}, "nested within itself or too deeply"),
        ({"network": {"x": torch.zeros(3, dtype=torch.float8_e4m3fn)}}, r"network\.x is no ordinary tensor"),
        ({"network": {"x": torch.zeros(3, dtype=torch.complex64)}}, r"network\.x is no ordinary tensor"),
        ({"network": {str(i): ONES[: 2**20 - i] for i in range(64)}}, r"network\.\d+ is no ordinary tensor"),
        (
            {"network": {"bn1.running_var": torch.tensor([1.0, -1e-3])}},
            r"network\.bn1\.running_var holds variances below",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_contents_that_would_cost_or_cannot_be_are_refused(
    tmp_path: Path, content: dict[str, object], message: str
) -> None:
    """A few bytes that unfold to any number of values; 64 views of one storage of 4 MB."""
    entry = {"format": FORMAT, "version": VERSION, "kind": "rpn", **content}
    with pytest.raises(UserError, match=message):
        load_artifact(sealed_pickle(tmp_path / "x.pt", entry), "rpn")


def test_what_stands_in_two_places_is_read(tmp_path: Path) -> None:
    twice = {"a": [1, 2, torch.ones(2)]}
    save_artifact(tmp_path / "x.pt", "rpn", first=twice, second=[twice, twice])
    content = load_artifact(tmp_path / "x.pt", "rpn")
    assert content["second"][1]["a"][:2] == content["first"]["a"][:2] == [1, 2]


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (b"c__builtin__\nbytearray\n\x8a\x05\x00\x00\x00\x00\x02\x85R", "more memory than its size explains"),
        (b"]" * 100_000 + b"a" * 99_999, "nested within itself or too deeply"),
    ],
)
def test_a_pickle_that_no_program_writes_is_refused(tmp_path: Path, pickled: bytes, message: str) -> None:
    """With a right checksum: 8 GB of zeros in 30 bytes, and more lists within each other than Python's stack has."""
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + pickled + b".")
        archive.writestr("x/version", b"3\n")
    with pytest.raises(UserError, match=message):
        load_artifact(sealed(tmp_path / "x.pt", (tmp_path / "x.pt").read_bytes()), "rpn")


def test_what_is_no_plain_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "device.pt").symlink_to("/dev/zero")
    for name, kind in (("pipe.pt", "a pipe"), ("device.pt", "a device")):
        with pytest.raises(UserError, match=rf"{name} is {kind}, not a file"):
            load_artifact(tmp_path / name, "rpn")


def test_things_that_are_no_such_file(tmp_path: Path) -> None:
    (tmp_path / "page.pt").write_text("<html>404</html>" * 100)
    (tmp_path / "folder.pt").mkdir()
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("hello", b"world")
    sealed(tmp_path / "zip.pt", (tmp_path / "zip.pt").read_bytes())
    for name in ("page.pt", "folder.pt", "zip.pt", "missing.pt", f"{'long' * 100}.pt"):
        with pytest.raises(UserError, match=name):
            load_artifact(tmp_path / name, "rpn")


def test_a_compressed_file_is_not_unpacked(tmp_path: Path) -> None:
    """10 MB that would unpack to as many GB."""
    torch.save({"format": FORMAT, "version": 1, "kind": "rpn", "network": torch.zeros(10**6)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in plain.namelist():
            bomb.writestr(entry, plain.read(entry))
    assert (tmp_path / "bomb.pt").stat().st_size < 20_000
    sealed(tmp_path / "bomb.pt", (tmp_path / "bomb.pt").read_bytes())
    with pytest.raises(UserError, match="compressed entries"):
        load_artifact(tmp_path / "bomb.pt", "rpn")


def saved_with_little_room(folder: Path, before: Callable[[], object] = lambda: None) -> str:
    """The error of a process that calls `before`, saves a small artifact, then one of 12 MB under the same name."""
    receiver, sender = multiprocessing.Pipe()

    def work() -> None:
        before()
        save_artifact(folder / "x.pt", "rpn", network=torch.ones(100))
        try:
            save_artifact(folder / "x.pt", "rpn", network=[torch.ones(1_000_000) for _ in range(3)])
        except UserError as error:
            sender.send(str(error))

    process = forked(work)
    process.join(60)
    assert process.exitcode == 0
    assert receiver.poll(), "it could be written"
    said: str = receiver.recv()
    return said


def test_a_write_that_fails_says_why_and_leaves_the_old_file(tmp_path: Path) -> None:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    assert "x.pt cannot be written: File too large" in saved_with_little_room(tmp_path, limit)
    assert torch.equal(load_artifact(tmp_path / "x.pt", "rpn")["network"], torch.ones(100))
    assert os.listdir(tmp_path) == ["x.pt"]


def test_a_full_disk_says_so_and_leaves_the_old_file(small_disk: Path) -> None:
    assert "x.pt cannot be written: No space left on device. Free space" in saved_with_little_room(small_disk)
    assert torch.equal(load_artifact(small_disk / "x.pt", "rpn")["network"], torch.ones(100))
    assert os.listdir(small_disk) == ["x.pt"]


def test_sha256(artifact: Path) -> None:
    assert sha256_of(artifact) == hashlib.sha256(artifact.read_bytes()).hexdigest()


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_whatever_stands_in_the_file_it_is_a_user_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Random bytes, and whole files with pieces cut out, doubled or overwritten, with a right checksum put on."""
    path = tmp_path_factory.getbasetemp() / "fuzzed.pt"
    torch.save({"format": FORMAT, "version": VERSION, "kind": "rpn", **PAYLOAD}, path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        start, length = data.draw(st.integers(0, len(content) - 2)), data.draw(st.integers(0, 200))
        content[start : start + length] = data.draw(
            st.binary(max_size=50) | st.just(bytes(content[start : start + 2 * length]))
        )
    with contextlib.suppress(UserError):
        load_artifact(sealed(path, bytes(content)), "rpn")


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    """It would keep whoever opens it waiting for somebody who writes."""
    os.mkfifo(tmp_path / "detector.pt")
    with pytest.raises(UserError, match="is a pipe, not a file"):
        load_artifact(tmp_path / "detector.pt", "detector")
