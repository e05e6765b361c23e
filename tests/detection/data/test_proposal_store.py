"""The proposal store: what goes in comes out, a killed writer loses nothing it had written, and doubt is refused."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors

import detection.data.proposal_store as proposal_store
import detection.data.proposal_writer as proposal_writer
import detection.data.tensor_file as tensor_file
from backbones.common.errors import UserError
from detection.data.index import DatasetIndex
from detection.data.proposal_store import ProposalStore
from detection.data.proposal_writer import ProposalWriter
from detection.data.tensor_file import find_damage, map_array, read_header

METADATA = {"dataset_fingerprint": "f" * 64, "rpn_sha256": "5" * 64, "config": {"nms": 0.7, "limit": 2000}}


def proposals_of(image_id: int) -> tuple[np.ndarray, np.ndarray]:
    """What stands for an RPN: boxes and scores determined by the image id; some images have none."""
    random = np.random.default_rng(abs(image_id))
    count = int(random.integers(0, 6))
    return random.uniform(0, 500, (count, 4)).astype(np.float32), -np.sort(-random.random(count)).astype(np.float32)


def write(path: Path, image_ids: list[int], **metadata: Any) -> ProposalStore:
    writer = ProposalWriter(path, {**METADATA, **metadata}, image_ids)
    for image_id in image_ids[::-1]:
        writer.add(image_id, *proposals_of(image_id))
    writer.finish()
    return ProposalStore(path)


def stored_scores(path: Path, row: int) -> np.ndarray:
    with safetensors.safe_open(path, "np") as file:
        begin, end = file.get_tensor("offsets")[row : row + 2]
        scores: np.ndarray = file.get_tensor("scores")[begin:end]
    return scores


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    ids = [900, 3, 71, 2**40, -5, 12]
    store = write(tmp_path / "proposals", ids)
    assert store.image_ids.tolist() == ids
    assert store.metadata == {**METADATA, "kind": "proposals"}
    for image_id in ids:
        boxes, scores = proposals_of(image_id)
        assert np.array_equal(store.boxes(image_id), boxes)
        assert np.array_equal(stored_scores(tmp_path / "proposals", ids.index(image_id)), scores)
        assert np.array_equal(store.boxes(image_id, limit=2), boxes[:2])
        assert store.boxes(image_id).flags.writeable
    assert os.listdir(tmp_path) == ["proposals"]
    copied = pickle.loads(pickle.dumps(store))
    assert np.array_equal(copied.boxes(71), store.boxes(71))
    store.verify()


def test_safetensors_reads_it(tmp_path: Path) -> None:
    ids = [5, 4, 3]
    store = write(tmp_path / "proposals", ids)
    with safetensors.safe_open(tmp_path / "proposals", "np") as file:
        assert set(file.keys()) == {"image_ids", "offsets", "boxes", "scores"}
        assert json.loads(file.metadata()["config"]) == METADATA["config"]
        assert file.get_tensor("image_ids").tolist() == ids
        begin, end = file.get_tensor("offsets")[1:3]
        assert np.array_equal(file.get_tensor("boxes")[begin:end], store.boxes(4))


def test_bytes_do_not_depend_on_chunks_or_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = list(range(40))
    write(tmp_path / "whole", ids)
    monkeypatch.setattr(proposal_writer, "CHUNK_BYTES", 100)
    writers = [ProposalWriter(tmp_path / "parts", METADATA, ids) for _ in range(2)]  # two ranks
    for image_id in ids:
        writers[image_id % 2].add(image_id, *proposals_of(image_id))
    for writer in writers:
        writer.flush()
    writers[0].finish()
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "parts").read_bytes()


def test_memory_stays_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposal_writer, "CHUNK_BYTES", 1000)
    writer = ProposalWriter(tmp_path / "p", METADATA, range(100))
    for image_id in range(100):
        writer.add(image_id, np.ones((10, 4)), np.ones(10))
        assert writer._gathered_bytes < 1000
    assert len(list(writer.folder.glob("*.chunk"))) == 20


def test_only_what_is_essential_must_be_the_same_to_be_taken_up(tmp_path: Path) -> None:
    ids, essential = [4, 5, 6], ("dataset_fingerprint", "rpn_sha256")
    first = ProposalWriter(tmp_path / "p", METADATA, ids, essential=essential)
    first.add(5, *proposals_of(5))
    first.flush()
    later = {**METADATA, "config": {"runtime": "another"}}
    second = ProposalWriter(tmp_path / "p", later, ids, essential=essential)
    assert second.pending.tolist() == [4, 6]
    for image_id in (4, 6):
        second.add(image_id, *proposals_of(image_id))
    second.finish()
    assert ProposalStore(tmp_path / "p").metadata["config"] == {"runtime": "another"}
    ProposalWriter(tmp_path / "q", METADATA, ids, essential=essential).flush()
    other = ProposalWriter(tmp_path / "q", {**METADATA, "rpn_sha256": "another"}, ids, essential=essential)
    assert other.pending.tolist() == ids


def test_taken_up_where_it_stopped(tmp_path: Path) -> None:
    ids = [4, 5, 6, 7]
    first = ProposalWriter(tmp_path / "p", METADATA, ids)
    first.add(6, *proposals_of(6))
    first.add(5, *proposals_of(5))
    first.flush()
    first.add(7, *proposals_of(7))  # never flushed: lost
    second = ProposalWriter(tmp_path / "p", METADATA, ids)
    assert second.pending.tolist() == [4, 7]
    with pytest.raises(UserError, match="2 images are still missing, first image id 4"):
        second.finish()
    for image_id in (4, 5, 7):
        second.add(image_id, *proposals_of(image_id))
    second.finish()
    assert (tmp_path / "p").read_bytes() == write(tmp_path / "q", ids).path.read_bytes()


@pytest.mark.parametrize("change", [{"rpn_sha256": "6" * 64}, {"config": {"nms": 0.6}}])
def test_a_partial_store_of_other_making_is_cleared(tmp_path: Path, change: dict[str, Any]) -> None:
    first = ProposalWriter(tmp_path / "p", METADATA, [1, 2])
    first.add(1, *proposals_of(1))
    first.flush()
    assert ProposalWriter(tmp_path / "p", {**METADATA, **change}, [1, 2]).pending.tolist() == [1, 2]
    other = ProposalWriter(tmp_path / "p", METADATA, [1, 2, 3])
    assert other.pending.tolist() == [1, 2, 3]


@pytest.mark.parametrize("content", [b"", b"precious", b'{"image_ids": [], "boxes": [], "scores": []}'])
def test_only_a_store_is_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mine").write_bytes(content)
    with pytest.raises(UserError, match=r"mine: exists already, and is no proposal store, .*\(--store\)"):
        ProposalWriter(tmp_path / "mine", METADATA, [1])
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert (tmp_path / "mine").read_bytes() == content


def test_a_store_that_is_damaged_anywhere_is_replaced(tmp_path: Path) -> None:
    whole = write(tmp_path / "p", [1, 2]).path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for position in range(0, header, 3):
        (tmp_path / "p").write_bytes(whole[:position] + bytes([whole[position] ^ 0x04]) + whole[position + 1 :])
        assert proposal_store.resembles_store(tmp_path / "p")
    (tmp_path / "p").write_bytes(whole[:header])
    write(tmp_path / "p", [1, 2])
    assert (tmp_path / "p").read_bytes() == whole


def test_a_partial_folder_keeps_what_no_writer_wrote(tmp_path: Path) -> None:
    mine = tmp_path / "p.partial" / "holiday.jpg"
    mine.parent.mkdir()
    mine.write_text("precious")
    write(tmp_path / "p", [1, 2])
    assert [path.name for path in mine.parent.iterdir()] == ["holiday.jpg"]
    assert mine.read_text() == "precious"


def test_a_damaged_chunk_is_made_anew(tmp_path: Path) -> None:
    first = ProposalWriter(tmp_path / "p", METADATA, [1, 2])
    for image_id in (1, 2):
        first.add(image_id, *proposals_of(image_id))
        first.flush()
    chunk = sorted(first.folder.glob("*.chunk"))[0]
    chunk.write_bytes(chunk.read_bytes()[:-1])
    assert ProposalWriter(tmp_path / "p", METADATA, [1, 2]).pending.tolist() == [1]


@pytest.mark.parametrize(
    ("name", "row", "value"), [("positions", 0, 2), ("positions", 0, -1), ("counts", 0, 1000), ("counts", 0, -3)]
)
def test_a_chunk_that_does_not_fit_is_made_anew(tmp_path: Path, name: str, row: int, value: int) -> None:
    """Whole by its length, but with other numbers than were written."""
    first = ProposalWriter(tmp_path / "p", METADATA, [4, 5])
    first.add(5, *proposals_of(5))
    first.flush()
    [chunk] = first.folder.glob("*.chunk")
    _, places = read_header(chunk)
    data = bytearray(chunk.read_bytes())
    np.frombuffer(data, dtype=np.int64, count=1, offset=places[name].start + 8 * row)[0] = value
    chunk.write_bytes(data)
    assert ProposalWriter(tmp_path / "p", METADATA, [4, 5]).pending.tolist() == [4, 5]
    assert not chunk.exists()


def write_many(path: Path) -> None:
    """A process's work that takes a while: 600 images, a file for every four of them."""
    proposal_writer.CHUNK_BYTES = 400
    writer = ProposalWriter(path, METADATA, range(600))
    for image_id in writer.pending.tolist():
        random = np.random.default_rng(image_id)
        writer.add(image_id, random.random((5, 4)), -np.sort(-random.random(5)))
    writer.finish()


def test_killed_at_any_instant(tmp_path: Path) -> None:
    """A real process, killed again and again; the store that it ends with is that of one never disturbed."""
    fork = multiprocessing.get_context("fork")
    random = np.random.default_rng(0)
    pendings = [600]
    for _ in range(6):
        process = fork.Process(target=write_many, args=(tmp_path / "killed",))
        process.start()
        wanted = len(list((tmp_path / "killed.partial").glob("*.chunk"))) + int(random.integers(1, 20))
        while process.is_alive() and len(list((tmp_path / "killed.partial").glob("*.chunk"))) < wanted:
            time.sleep(random.uniform(0, 0.002))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert not (tmp_path / "killed").exists()
        pendings.append(len(ProposalWriter(tmp_path / "killed", METADATA, range(600)).pending))
    assert pendings == sorted(pendings, reverse=True)
    assert 0 < pendings[-1] < 600
    for name in ("killed", "undisturbed"):
        process = fork.Process(target=write_many, args=(tmp_path / name,))
        process.start()
        process.join()
        assert process.exitcode == 0
    assert (tmp_path / "killed").read_bytes() == (tmp_path / "undisturbed").read_bytes()
    assert not (tmp_path / "killed.partial").exists()


@pytest.mark.parametrize(
    ("boxes", "scores", "message"),
    [
        ([[0, 0, 1, np.nan]], [0.5], "NaN or infinite"),
        ([[0, 0, 1, np.inf]], [0.5], "NaN or infinite"),
        ([[0, 0, 1, 1]], [np.nan], "NaN or infinite"),
        ([[0, 0, 1, 1]] * 2, [0.4, 0.5], "descending"),
        ([[0, 0, 1, 1]] * 2, [0.5], "are not"),
        ([[0, 0, 1]], [0.5], "are not"),
    ],
)
def test_the_writer_refuses_nonsense(tmp_path: Path, boxes: Any, scores: Any, message: str) -> None:
    writer = ProposalWriter(tmp_path / "p", METADATA, [1])
    with pytest.raises(ValueError, match=f"image 1: .*{message}"):
        writer.add(1, np.array(boxes), np.array(scores))
    with pytest.raises(ValueError, match="none of the images"):
        writer.add(2, np.zeros((0, 4)), np.zeros(0))
    with pytest.raises(ValueError, match="twice"):
        ProposalWriter(tmp_path / "p", METADATA, [1, 1])


def test_checked_against_the_data_set(tmp_path: Path, make_index: Callable[..., DatasetIndex]) -> None:
    index = make_index([(20, 30), (30, 20), (20, 20)])
    ids = index.image_ids.tolist()
    sound = write(tmp_path / "sound", ids, dataset_fingerprint=index.fingerprint)
    sound.check_against(index)
    sound.check_against(index.subset([0]), rpn_sha256="5" * 64)
    with pytest.raises(UserError, match=r"sound: was made by other RPN weights \(SHA-256 5{12}…, not 7{12}"):
        sound.check_against(index, rpn_sha256="7" * 64)
    with pytest.raises(UserError, match=r"stale: is stale: it was made for other annotations than .*drawn\.json"):
        write(tmp_path / "stale", ids).check_against(index)
    partly = write(tmp_path / "partly", ids[:1], dataset_fingerprint=index.fingerprint)
    with pytest.raises(UserError, match=r"lacks 2 of the 3 images of drawn \(image ids 101, 102\)"):
        partly.check_against(index)
    with pytest.raises(UserError, match="no proposals for image 102"):
        partly.boxes(102)


def test_cut_foreign_and_missing_files(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole", list(range(20))).path.read_bytes()
    path = tmp_path / "broken"
    for length in (0, 4, 8, 20, 300, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"broken: (is damaged or of another kind|has \d+ bytes)"):
            ProposalStore(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(UserError, match="announces"):
        ProposalStore(path)
    for content in (b"\xff" * 100, b"{}" * 100, (2).to_bytes(8, "little") + b"[]", (4).to_bytes(8, "little") + b"null"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="of another kind"):
            ProposalStore(path)
    from safetensors.numpy import save_file

    save_file({"weight": np.ones(3, dtype=np.float32)}, path, metadata={"kind": '"rpn"'})
    with pytest.raises(UserError, match="no proposal store"):
        ProposalStore(path)
    with pytest.raises(UserError, match="cannot be read"):
        ProposalStore(tmp_path / "absent")
    with pytest.raises(UserError, match="is a directory, not a file"):
        ProposalStore(tmp_path)


def test_random_damage_to_the_header_never_crashes(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole", list(range(8))).path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    path = tmp_path / "broken"
    random = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(whole)
        data[int(random.integers(header))] = int(random.integers(256))
        path.write_bytes(data)
        try:
            store = ProposalStore(path)
        except UserError:
            continue
        for image_id in store.image_ids.tolist():
            store.boxes(image_id)


def test_damaged_content_is_refused_naming_the_image(tmp_path: Path) -> None:
    ids = [7, 8, 9]
    path = tmp_path / "p"
    writer = ProposalWriter(path, METADATA, ids)
    for image_id in ids:
        writer.add(image_id, np.ones((3, 4)), np.array([0.9, 0.5, 0.1]))
    writer.finish()
    _, places = read_header(path)
    whole = path.read_bytes()

    def with_change(name: str, row: int, value: float) -> ProposalStore:
        data = bytearray(whole)
        np.frombuffer(data, dtype=np.float32, count=places[name].size // 4, offset=places[name].start)[row] = value
        path.write_bytes(data)
        return ProposalStore(path)

    store = with_change("boxes", 4 * 4, np.nan)
    assert len(store.boxes(7)) == 3
    with pytest.raises(UserError, match="proposals or scores are NaN or infinite for image 8"):
        store.boxes(8)
    with pytest.raises(UserError, match="image 8"):
        store.verify()
    store = with_change("scores", 4, 0.95)
    with pytest.raises(UserError, match="scores are not in descending order for image 8"):
        store.boxes(8)  # whoever takes the first few boxes takes the best
    data = bytearray(whole)
    np.frombuffer(data, dtype=np.int64, count=3, offset=places["image_ids"].start)[0] = 8
    path.write_bytes(data)
    with pytest.raises(UserError, match="do not fit together"):  # an image twice
        ProposalStore(path)
    data = bytearray(whole)
    offsets = np.frombuffer(data, dtype=np.int64, count=4, offset=places["offsets"].start)
    offsets[1] = 100
    path.write_bytes(data)
    with pytest.raises(UserError, match="do not fit together"):
        ProposalStore(path)


def test_reading_an_image_touches_only_its_own_bytes(tmp_path: Path) -> None:
    path = tmp_path / "p"
    writer = ProposalWriter(path, METADATA, range(2000))
    for image_id in range(2000):
        writer.add(image_id, np.full((500, 4), image_id), np.zeros(500))
    writer.finish()
    assert path.stat().st_size > 19_000_000
    script = textwrap.dedent(
        """
        import re, sys
        from pathlib import Path
        from detection.data.proposal_store import ProposalStore

        def most_memory_held():  # in KiB; getrusage's figure counts the parent process too
            return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

        before = most_memory_held()
        store = ProposalStore(sys.argv[1])
        assert (store.boxes(1234) == 1234).all()
        print(most_memory_held() - before)
        store.verify()  # in pieces
        print(most_memory_held() - before)
        assert all((store.boxes(image_id) == image_id).all() for image_id in range(2000))
        print(most_memory_held() - before)
        """
    )
    root = Path(__file__).resolve().parents[3]
    output = subprocess.run(
        [sys.executable, "-c", script, str(path)], check=True, capture_output=True, text=True, cwd=root
    ).stdout
    one, verified, all_of_them = map(int, output.split())
    assert one < 4000  # of a file of 19,500
    assert verified < 10_000
    assert all_of_them > 15_000  # so the measure does notice what is read


def test_images_without_proposals_at_the_edges_of_pages(tmp_path: Path) -> None:
    """What is asked of the system before an image is read must lie in the map."""
    counts = [0, 256, 0, 255, 1, 1000, 0]  # 256 boxes fill a page
    writer = ProposalWriter(tmp_path / "p", METADATA, range(len(counts)))
    for image_id, count in enumerate(counts):
        writer.add(image_id, np.full((count, 4), image_id), np.zeros(count))
    writer.finish()
    store = ProposalStore(tmp_path / "p")
    for image_id, count in enumerate(counts):
        boxes = store.boxes(image_id)
        assert boxes.shape == (count, 4)
        assert (boxes == image_id).all()


def test_a_flipped_bit_anywhere_is_noticed(tmp_path: Path, make_index: Callable[..., DatasetIndex]) -> None:
    """Where a training opens a store: in the header, the ids, the offsets, boxes and scores."""
    index = make_index([(20, 30), (30, 20), (20, 20)])
    ids = index.image_ids.tolist()
    whole = write(tmp_path / "whole", ids, dataset_fingerprint=index.fingerprint).path.read_bytes()
    path = tmp_path / "flipped"
    accepted, messages = [], set()
    for position in range(len(whole)):
        for bit in (position % 8, (position + 4) % 8):
            flipped = bytearray(whole)
            flipped[position] ^= 1 << bit
            path.write_bytes(flipped)
            try:
                ProposalStore(path).check_against(index)
            except UserError as refusal:
                messages.add("flipped" in str(refusal))
            else:
                accepted.append((position, bit))
    assert len(whole) > 800
    assert accepted == []
    assert messages == {True}


def test_damage_to_one_of_many_blocks_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_file, "SUM_BLOCK", 1000)
    path = tmp_path / "p"
    writer = ProposalWriter(path, METADATA, range(300))
    for image_id in range(300):
        random = np.random.default_rng(image_id)
        writer.add(image_id, random.random((5, 4)), -np.sort(-random.random(5)))
    writer.finish()
    monkeypatch.undo()  # the reader goes by what the file says
    ProposalStore(path).verify()
    whole = path.read_bytes()
    first = 8 + int.from_bytes(whole[:8], "little")
    assert (len(whole) - first) // 1000 > 30
    for position in (first, len(whole) // 2, len(whole) - 1):
        flipped = bytearray(whole)
        flipped[position] ^= 1
        path.write_bytes(flipped)
        block = first + (position - first) // 1000 * 1000
        assert find_damage(path) == (block, block + 1000)
        with pytest.raises(UserError, match=r"do not fit together|are not what was written|descending"):
            ProposalStore(path).verify()


def without_checksums(path: Path) -> None:
    """The file as an earlier release wrote it."""
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    entries = json.loads(whole[8 : 8 + length])
    del entries["__metadata__"]["__sums__"], entries["__metadata__"]["__has_sums__"]
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + length :])


@pytest.mark.parametrize("rows", [1 << 20, 3])
def test_a_store_of_an_earlier_release_is_verified_as_far_as_possible(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(proposal_store, "_ROWS", rows)
    ids = [900, 3, 71, 2**40, -5, 12, 13, 14]
    path = write(tmp_path / "p", ids).path
    without_checksums(path)
    store = ProposalStore(path)
    assert np.array_equal(store.boxes(71), proposals_of(71)[0])
    store.verify()
    assert "was made by an earlier release, without checksums" in caplog.text
    whole = path.read_bytes()
    _, places = read_header(path)
    for image_id in ids:
        row = int(store._offsets[ids.index(image_id)])
        count = len(proposals_of(image_id)[1])
        for name, value, place in (
            ("boxes", np.nan, 4 * row + 3),
            ("scores", np.inf, row),
            ("scores", 2.0, row + count - 1),
        ):
            data = bytearray(whole)
            np.frombuffer(data, np.float32, places[name].size // 4, places[name].start)[place : place + 1] = value
            path.write_bytes(data)
            if count > (value == 2.0):  # a single score is in order whatever it is
                with pytest.raises(UserError, match=f"for image {image_id}; make it anew"):
                    ProposalStore(path).verify()


def test_a_flipped_bit_in_a_part_is_made_anew(tmp_path: Path) -> None:
    first = ProposalWriter(tmp_path / "p", METADATA, [4, 5])
    first.add(5, *proposals_of(5))
    first.flush()
    [chunk] = first.folder.glob("*.chunk")
    whole = chunk.read_bytes()
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << (position % 8)
        chunk.write_bytes(flipped)
        assert ProposalWriter(tmp_path / "p", METADATA, [4, 5]).pending.tolist() == [4, 5]
        assert not chunk.exists()
    chunk.write_bytes(whole)
    without_checksums(chunk)  # what an earlier release left is taken up
    assert ProposalWriter(tmp_path / "p", METADATA, [4, 5]).pending.tolist() == [4]


def test_headers_that_would_cost_or_make_no_sense_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "p", [1, 2]).path
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")

    def with_entries(change: Callable[[dict[str, Any]], Any]) -> None:
        without_checksums(path)
        data = path.read_bytes()
        own = int.from_bytes(data[:8], "little")
        entries = json.loads(data[8 : 8 + own])
        change(entries)
        text = json.dumps(entries).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + own :])

    for change in (
        lambda entries: entries["boxes"].update(shape=[10**4000] * 2000),
        lambda entries: entries["boxes"].update(shape=[-1, 4]),
        lambda entries: entries["boxes"].update(shape=["2", 4]),
        lambda entries: entries["boxes"].update(shape=[1] * 1000),
        lambda entries: entries["__metadata__"].update(__has_sums__="true"),
        lambda entries: entries["__metadata__"].update(__sums__='{"block": 1.5, "crc32": "", "header": ""}'),
        lambda entries: entries.update(__metadata__="__sums__"),
    ):
        path.write_bytes(whole)
        with_entries(change)
        with pytest.raises(UserError, match="its header makes no sense"):
            ProposalStore(path)
    path.write_bytes((1 << 40).to_bytes(8, "little") + whole[8 : 8 + length])
    with pytest.raises(UserError, match="its header makes no sense"):
        ProposalStore(path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="is a pipe, not a file"):
        ProposalStore(tmp_path / "pipe")


def test_empty_store(tmp_path: Path) -> None:
    writer = ProposalWriter(tmp_path / "p", METADATA, [1])
    writer.add(1, np.zeros((0, 4)), np.zeros(0))
    writer.finish()
    assert ProposalStore(tmp_path / "p").boxes(1).shape == (0, 4)
    assert len(write(tmp_path / "q", [])) == 0


def test_map_array_is_read_only(tmp_path: Path) -> None:
    write(tmp_path / "p", [1, 2])
    _, places = read_header(tmp_path / "p")
    array = map_array(tmp_path / "p", places["image_ids"])
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 3
