"""Labelled images, what is done to them, and top-k error, each against an independent way to the same."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision.transforms import v2

from backbones import UserError, create_classifier
from backbones.classification.labelled_images import open_images
from backbones.classification.random_view import _EIGENVALUES, _EIGENVECTORS, RandomView, colour_change
from backbones.classification.scores import class_scores, is_missed
from backbones.classification.views import Views, resize_shorter_side, stack_views

RNG = np.random.default_rng(0)


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def noise(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


# Top-k error


def test_top_k_error_is_that_of_a_slow_count_with_ties_against_the_network() -> None:
    scores = RNG.integers(0, 7, (300, 12)).astype(np.float64)  # many ties
    labels = RNG.integers(0, 12, 300)
    for k in (1, 2, 5, 12, 20):
        expected = []
        for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
            others = [row[i] for i in range(len(row)) if i != label]
            expected.append(sum(other >= row[label] for other in others) >= k)
        assert is_missed(torch.from_numpy(scores), torch.from_numpy(labels), k).tolist() == expected


def test_top_k_error_without_ties_is_that_of_a_sort() -> None:
    scores = torch.from_numpy(RNG.normal(size=(500, 30)))
    labels = torch.from_numpy(RNG.integers(0, 30, 500))
    for k in (1, 5):
        best = np.argsort(-scores.numpy(), axis=1)[:, :k]
        expected = [label not in row for row, label in zip(best.tolist(), labels.tolist(), strict=True)]
        assert is_missed(scores, labels, k).tolist() == expected


def test_nan_and_constant_scores_are_wrong() -> None:
    labels = torch.arange(6)
    assert is_missed(torch.full((6, 6), float("nan")), labels, 5).all()
    assert is_missed(torch.zeros(6, 6), labels, 5).all()
    own_is_nan = torch.eye(6).masked_fill(torch.eye(6, dtype=torch.bool), float("nan"))
    assert is_missed(own_is_nan, labels, 1).all()


# Images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, classes in (("train", ("b", "a", "ça 10")), ("val", ("ça 10", "a"))):
        for number, name in enumerate(classes):
            (tmp_path / split / name / "deeper").mkdir(parents=True)
            for i in range(number + 2):
                Image.fromarray(noise(5, 6)).save(tmp_path / split / name / f"{i}.png")
            Image.fromarray(noise(7, 4)).save(tmp_path / split / name / "deeper" / "x.PNG")
            (tmp_path / split / name / "notes.txt").write_text("no image")
    return tmp_path


def test_a_folder_is_read_as_torchvision_reads_it(folder: Path) -> None:
    ours, theirs = open_images(folder, "train", read), torchvision.datasets.ImageFolder(folder / "train")
    assert list(ours.classes) == theirs.classes
    assert {(ours.name(i), int(ours.labels[i])) for i in range(len(ours))} == set(theirs.samples)
    for i in range(len(ours)):
        np.testing.assert_array_equal(ours.read(i), read(Path(ours.name(i))))
    again = pickle.loads(pickle.dumps(ours))
    assert (again.fingerprint, again.name(3)) == (ours.fingerprint, ours.name(3))


def test_labels_are_the_networks_where_the_folders_are_fewer(folder: Path) -> None:
    train = open_images(folder, "train", read)
    test = open_images(folder, "val", read, train.classes)
    assert test.classes == train.classes
    for i in range(len(test)):
        assert Path(test.name(i)).relative_to(folder / "val").parts[0] == train.classes[test.labels[i]]
    with pytest.raises(UserError, match=r"b: no class of the network, which knows a, ça 10"):
        open_images(folder, "train", read, ("a", "ça 10"))
    (folder / "train" / "empty").mkdir()
    with pytest.raises(UserError, match="empty: no images in it"):
        open_images(folder, "train", read)
    with pytest.raises(UserError, match="is not there"):
        open_images(folder, "test", read)
    assert open_images(folder, "val", read).fingerprint != train.fingerprint


def write_cifar10(root: Path, keys: type) -> tuple[np.ndarray, np.ndarray]:
    """Both archives of CIFAR-10's layout, written byte for byte as its page describes them, with few rows."""
    images = RNG.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    labels = RNG.integers(0, 10, 12)
    rows = images.transpose(0, 3, 1, 2).reshape(12, 3072)
    names = [f"class{i}" for i in range(10)]
    python, binary = root / "python" / "cifar-10-batches-py", root / "binary" / "cifar-10-batches-bin"
    for archive in (python, binary):
        archive.mkdir(parents=True)

    def word(text: str) -> str | bytes:
        return text.encode() if keys is bytes else text

    for part in range(6):
        stem = f"data_batch_{part + 1}" if part < 5 else "test_batch"
        own = slice(2 * part, 2 * part + 2)
        content = {word("data"): rows[own], word("labels"): labels[own].tolist(), word("batch_label"): word("x")}
        (python / stem).write_bytes(pickle.dumps(content, protocol=2))
        table = np.column_stack([labels[own].astype(np.uint8), rows[own]])
        (binary / f"{stem}.bin").write_bytes(table.tobytes())
    (python / "batches.meta").write_bytes(pickle.dumps({word("label_names"): list(map(word, names))}, protocol=2))
    (binary / "batches.meta.txt").write_text("\n".join(names) + "\n\n")
    return images, labels


@pytest.mark.parametrize("keys", [str, bytes])
def test_cifar10_archives_give_the_images_that_went_in(tmp_path: Path, keys: type) -> None:
    images, labels = write_cifar10(tmp_path, keys)
    for kind, name in (("python", "cifar-10-batches-py"), ("binary", "cifar-10-batches-bin")):
        for root in (tmp_path / kind, tmp_path / kind / name):
            train, test = open_images(root, "train", read), open_images(root, "test", read)
            assert (len(train), len(test)) == (10, 2)
            np.testing.assert_array_equal(train.labels, labels[:10])
            np.testing.assert_array_equal(test.labels, labels[10:])
            for i in range(10):
                np.testing.assert_array_equal(train.read(i), images[i])
            assert train.classes == tuple(f"class{i}" for i in range(10))
            with pytest.raises(UserError, match="train and test"):
                open_images(root, "val", read)


def test_cifar100_takes_the_fine_label(tmp_path: Path) -> None:
    python, binary = tmp_path / "p" / "cifar-100-python", tmp_path / "b" / "cifar-100-binary"
    rows = RNG.integers(0, 256, (4, 3072), dtype=np.uint8)
    names = [f"fine{i}" for i in range(100)]
    for archive in (python, binary):
        archive.mkdir(parents=True)
    for split in ("train", "test"):
        content = {"data": rows, "fine_labels": [99, 3, 0, 50], "coarse_labels": [1, 2, 3, 4]}
        (python / split).write_bytes(pickle.dumps(content, protocol=2))
        table = np.column_stack([np.uint8([1, 2, 3, 4]), np.uint8([99, 3, 0, 50]), rows])
        (binary / f"{split}.bin").write_bytes(table.tobytes())
    (python / "meta").write_bytes(pickle.dumps({"fine_label_names": names, "coarse_label_names": ["c"]}, protocol=2))
    (binary / "fine_label_names.txt").write_text("\n".join(names))
    first, second = open_images(tmp_path / "p", "train", read), open_images(tmp_path / "b", "train", read)
    assert first.labels.tolist() == second.labels.tolist() == [99, 3, 0, 50]
    assert first.fingerprint == second.fingerprint
    assert first.classes[99] == "fine99"


class Hostile:
    def __reduce__(self) -> object:
        return (print, ("code from the pickle ran",))


def test_damaged_and_hostile_archives_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_cifar10(tmp_path, str)
    python, binary = tmp_path / "python" / "cifar-10-batches-py", tmp_path / "binary" / "cifar-10-batches-bin"
    (binary / "data_batch_2.bin").write_bytes((binary / "data_batch_2.bin").read_bytes()[:-1])
    with pytest.raises(UserError, match=r"data_batch_2\.bin: 6145 bytes are no whole rows"):
        open_images(binary, "train", read)
    (python / "data_batch_3").write_bytes(pickle.dumps({"data": Hostile(), "labels": [1]}, protocol=2))
    with pytest.raises(UserError, match="may run any code"):
        open_images(python, "train", read)
    assert "code from the pickle ran" not in capsys.readouterr().out
    (python / "data_batch_3").write_bytes(pickle.dumps({"data": np.zeros((2, 5), np.uint8), "labels": [1, 1]}))
    with pytest.raises(UserError, match="no `data` of rows"):
        open_images(python, "train", read)
    (python / "test_batch").unlink()
    with pytest.raises(UserError, match="test_batch is missing"):
        open_images(python, "test", read)


# Training views


def test_a_view_is_a_function_of_its_seed() -> None:
    view, image = RandomView(16, colour_jitter=0.4, lighting=0.1), noise(40, 50)
    first = [view(image, seed) for seed in range(20)]
    assert all((one == view(image, seed)).all() for seed, one in enumerate(first))
    assert len({one.tobytes() for one in first}) == 20
    assert {one.shape for one in first} == {(16, 16, 3)}


def test_random_sized_crops_have_the_stated_areas_and_ratios() -> None:
    """Pixels say where they come from, so the part that was cut shows in the view."""
    side = 256
    rows, columns = np.mgrid[:side, :side].astype(np.uint8)
    image = np.dstack([rows, columns, columns])
    areas, ratios = [], []
    for seed in range(800):
        view = RandomView(32, horizontal_flip=0.0)(image, seed).astype(float)
        # From the first row's centre to the last's it is 31/32 of the part's height.
        height, width = (np.ptp(view[..., channel].mean(1 - channel)) * 32 / 31 for channel in (0, 1))
        areas.append(height * width / side**2)
        ratios.append(width / height)
    assert min(areas) == pytest.approx(0.08, abs=0.02)
    assert 0.9 < max(areas) <= 1.02
    ratio = np.linspace(3 / 4, 4 / 3, 1000)
    largest = np.minimum(ratio, 1 / ratio)  # the area of the largest part of that ratio in a square
    assert np.mean(areas) == pytest.approx(((largest**2 - 0.08**2) / 2).sum() / (largest - 0.08).sum(), abs=0.03)
    assert np.percentile(ratios, [1, 99]) == pytest.approx([3 / 4, 4 / 3], abs=0.04)
    assert np.log(ratios).mean() == pytest.approx(0, abs=0.015)


def test_a_part_is_resized_as_asked() -> None:
    """The whole of a square image, which is the only part of that area that fits: what torchvision makes of it."""
    image = noise(40, 40)
    for interpolation in ("bilinear", "bicubic"):
        view = RandomView(16, min_area=1.0, horizontal_flip=0.0, interpolation=interpolation)(image, 0)
        expected = v2.Resize(16, v2.InterpolationMode(interpolation))(Image.fromarray(image))
        np.testing.assert_array_equal(view, np.asarray(expected))


def test_a_part_that_never_fits_becomes_the_middle() -> None:
    strip = np.zeros((10, 1000, 3), np.uint8)
    strip[:, 495:505] = 200
    view = RandomView(10, min_area=0.9, horizontal_flip=0.0)(strip, 0)
    assert (view == 200).all()


def test_padded_crops_are_windows_of_the_padded_image_and_half_are_mirrored() -> None:
    image = noise(32, 32)
    padded = np.empty((40, 40, 3), np.uint8)
    padded[:] = (125, 123, 114)
    padded[4:36, 4:36] = image
    windows = {padded[y : y + 32, x : x + 32].tobytes(): (y, x) for y in range(9) for x in range(9)}
    view = RandomView(32, "padded", padding=4, fill=(125, 123, 114))
    seen, mirrored = set(), 0
    for seed in range(1500):
        crop = view(image, seed)
        is_mirrored = crop.tobytes() not in windows
        mirrored += is_mirrored
        seen.add(windows[(crop[:, ::-1] if is_mirrored else crop).tobytes()])
    assert len(seen) == 81
    assert mirrored / 1500 == pytest.approx(0.5, abs=0.05)
    with pytest.raises(UserError, match="smaller than the crop"):
        view(noise(20, 32), 0)
    with pytest.raises(UserError, match=r"320×32 pixels is more than twice .* sheet of many images"):
        view(noise(32, 320), 0)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_colour_jitter_in_one_map_is_the_changes_one_after_the_other(order: list[int]) -> None:
    """Against torchvision's functions, on an image whose values stay clear of black and white."""
    image = torch.from_numpy(RNG.uniform(0.4, 0.6, (3, 8, 9)))
    factors = [0.8, 1.3, 0.7]
    expected = image
    change = (v2.functional.adjust_brightness, v2.functional.adjust_contrast, v2.functional.adjust_saturation)
    for number in order:
        expected = change[number](expected, factors[number])
    matrix, offset = colour_change(image.mean((1, 2)).numpy(), factors, order, np.zeros(3))
    result = np.einsum("ij,jhw->ihw", matrix, image.numpy()) + offset[:, None, None]
    np.testing.assert_allclose(result, expected.numpy(), atol=2e-4)  # its weights of grey have a digit more


def test_lighting_shifts_all_pixels_alike_along_the_principal_components() -> None:
    grey = np.full((4, 4, 3), 128, np.uint8)
    view = RandomView(4, "padded", padding=0, lighting=0.5)
    shifts = []
    for seed in range(600):
        colours = view(grey, seed).reshape(-1, 3).astype(float)
        assert (colours == colours[0]).all()
        shifts.append(colours[0] - 128)
    along = np.array(shifts) @ _EIGENVECTORS / 255  # columns: the three components
    assert along[:, 0].std() == pytest.approx(0.5 * _EIGENVALUES[0], rel=0.1)
    assert along[:, 1].std() == pytest.approx(0.5 * _EIGENVALUES[1], rel=0.1)
    np.testing.assert_allclose(_EIGENVECTORS.T @ _EIGENVECTORS, np.eye(3), atol=1e-3)


# Test views


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(60, 81), (97, 53), (48, 48), (40, 75), (75, 40)])
def test_crops_are_torchvisions_to_the_bit(size: tuple[int, int], interpolation: str) -> None:
    image = noise(*size)
    small = v2.Resize(40, v2.InterpolationMode(interpolation))(Image.fromarray(image))
    np.testing.assert_array_equal(resize_shorter_side(image, 40, interpolation), np.asarray(small))
    (centre,) = Views(32, (40,), interpolation=interpolation)(image)
    np.testing.assert_array_equal(centre, np.asarray(v2.CenterCrop(32)(small)))
    ten = {view.tobytes() for view in Views(32, (40,), "ten", interpolation)(image)}
    assert ten == {np.asarray(crop).tobytes() for crop in v2.TenCrop(32)(small)}


def test_views_that_cannot_be_are_refused() -> None:
    for arguments, part in (
        ((32, (20,), "centre"), "no crop of 32"),
        ((32, (), "ten"), "at least one scale"),
        ((32, (40,), "eleven"), "centre, ten, whole"),
        ((0, (40,), "centre"), "whole numbers above 0"),
        ((-4, (None,), "centre"), "whole numbers above 0"),
        ((32, (40, 0), "whole"), "whole numbers above 0"),
    ):
        with pytest.raises(UserError, match=part):
            Views(*arguments)
    with pytest.raises(UserError, match="30×20 pixels has no crop of 32"):
        Views(32, (None,))(noise(20, 30))
    assert len(Views(32, (20, None), "whole")(noise(20, 30))) == 4


@pytest.mark.parametrize("views", [Views(32, (32, 40), "ten"), Views(32, (40, 48), "whole"), Views(32, (36,))])
def test_scores_are_averages_over_views_and_positions(views: Views) -> None:
    """Against one view at a time, in float64, with the classifier applied at each position of the map."""
    torch.manual_seed(0)
    network = create_classifier(
        "resnext50_32x4d", 7, depths=(1, 1, 1), cardinality=2, base_width=16, planes=8, stem_width=8
    ).eval()
    torch.nn.init.normal_(network.fc.weight)
    images = [noise(40, 52), noise(52, 40), noise(45, 45)]
    result = class_scores(network, stack_views([views(image) for image in images]), 3)
    exact = network.double()
    mean, std = (
        torch.tensor(values).double()[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    for row, image in zip(result, images, strict=True):
        one_by_one = []
        for view in views(image):
            pixels = (torch.from_numpy(view.copy()).permute(2, 0, 1).double() / 255 - mean) / std
            level = exact.feature_maps(pixels[None], ["c4"])["c4"][0]
            scores = torch.einsum("kc,chw->khw", exact.fc.weight, level) + exact.fc.bias[:, None, None]
            one_by_one.append(scores.mean((1, 2)))
        torch.testing.assert_close(row.double(), torch.stack(one_by_one).mean(0), atol=1e-4, rtol=1e-4)
