"""Windows of TIFFs of every layout hold the pixels that the whole image has, in the memory of a window."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detection.data import tiff_windows as module
from detection.data.images import ImageError, read_image
from detection.data.tiff_windows import TiffWindows

tifffile = pytest.importorskip("tifffile", reason="TIFFFILE MISSING: windows of TIFFs were not read")
imagecodecs = pytest.importorskip("imagecodecs", reason="IMAGECODECS MISSING: compressed TIFFs were not read")

SHAPE = (333, 250)
WINDOWS = list(itertools.product((slice(0, 100), slice(77, 200), slice(233, 333)), (slice(0, 90), slice(60, 250))))


def pixels(samples: int, kind: Any = np.uint8) -> np.ndarray:
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, np.iinfo(kind).max, (42, 32, samples), dtype=kind)
    found = coarse.repeat(8, axis=0).repeat(8, axis=1)[: SHAPE[0], : SHAPE[1]]
    return found[:, :, 0] if samples == 1 else found


LAYOUTS: dict[str, dict[str, Any]] = {
    "one piece": {},
    "strips": {"rowsperstrip": 50, "compression": "zlib"},
    "one row a strip": {"rowsperstrip": 1, "compression": "lzw", "predictor": True},
    "tiles": {"tile": (64, 80)},
    "compressed tiles": {"tile": (64, 80), "compression": "zstd"},
    "tiles of JPEG": {"tile": (64, 80), "compression": "jpeg", "compressionargs": {"level": 98}},
    "a large file's form": {"tile": (64, 80), "compression": "zlib", "bigtiff": True},
    "the other byte order": {"rowsperstrip": 50, "byteorder": ">"},
    "planes": {"planarconfig": "separate", "tile": (64, 80), "compression": "zlib"},
    "planes in strips": {"planarconfig": "separate", "rowsperstrip": 40, "compression": "zlib"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_windows_have_the_pixels_of_the_image(layout: str, tmp_path: Path) -> None:
    image = pixels(3)
    stored = np.moveaxis(image, 2, 0) if "planes" in layout else image
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", **LAYOUTS[layout])
    expected = read_image(tmp_path / "a.tif") if "JPEG" in layout else image
    with TiffWindows(tmp_path / "a.tif") as windows:
        assert windows.shape == image.shape
        for place in WINDOWS:
            assert windows[place].dtype == np.uint8
            assert np.array_equal(windows[place], expected[place])


@pytest.mark.parametrize("kind", ["grey", "16 bits", "white is zero", "palette", "alpha", "alpha of 8 bits", "1 bit"])
def test_pixels_are_converted_as_those_of_a_whole_image(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    options: dict[str, Any] = {"tile": (64, 80), "photometric": "minisblack"}
    if kind == "palette":
        table = np.random.default_rng(1).integers(0, 65536, (3, 256), dtype=np.uint16)
        tifffile.imwrite(path, pixels(1), **{**options, "photometric": "palette"}, colormap=table)
    elif "alpha" in kind:
        tifffile.imwrite(path, pixels(4), tile=(64, 80), photometric="rgb", extrasamples=["unassalpha"])
    elif kind == "white is zero":
        tifffile.imwrite(path, pixels(1), **{**options, "photometric": "miniswhite"})
    elif kind == "1 bit":
        tifffile.imwrite(path, pixels(1) > 127, photometric="minisblack")
    else:
        tifffile.imwrite(path, pixels(1, np.uint16 if kind == "16 bits" else np.uint8), **options)
    whole = read_image(path)
    with TiffWindows(path) as windows:
        for place in WINDOWS:
            assert np.abs(windows[place].astype(int) - whole[place]).max() <= 1  # of the rounding of alpha


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("text", "cannot be read as a TIFF"),
        ("floating point", "samples of float32 .* save it as grey or RGB with 8 or 16 bits"),
        ("five bands", "5 samples of uint8"),
        ("turned", r"is stored turned \(orientation 6\)"),
        ("cut", "is damaged, or stored in a way that is not read"),
        ("one strip", "stored in pieces of 250×333 pixels.*save it with tiles"),
    ],
)
def test_what_is_not_read(case: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tif"
    if case == "text":
        path.write_text("hello")
    elif case == "floating point":
        tifffile.imwrite(path, pixels(1).astype(np.float32))
    elif case == "five bands":
        tifffile.imwrite(path, pixels(5), photometric="minisblack", planarconfig="contig")
    elif case == "turned":
        tifffile.imwrite(path, pixels(3), photometric="rgb", extratags=[(274, 3, 1, 6, True)])
    else:
        tifffile.imwrite(path, pixels(3), photometric="rgb", compression="zlib", rowsperstrip=333)
    if case == "cut":
        content = bytearray(path.read_bytes())
        content[len(content) // 2 : len(content) // 2 + 400] = bytes(400)
        path.write_bytes(content)
    if case == "one strip":
        monkeypatch.setattr(module, "PIXEL_LIMIT", 80_000)

    def read() -> None:
        with TiffWindows(path) as windows:
            windows[slice(0, 333), slice(0, 250)]

    with pytest.raises(ImageError, match=message):
        read()


def test_a_missing_package_is_named_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(ImageError, match="tifffile is not installed, which reads large TIFFs; run: pip install"):
        TiffWindows(tmp_path / "a.tif")


def write_large(path: Path, side: int, tiled: bool) -> None:
    """A compressed RGB image of side × side pixels, black but for a red square in every fourth piece."""
    height, width = (512, 512) if tiled else (16, side)
    black, red = np.zeros((2, height, width, 3), dtype=np.uint8)
    red[4:12, 40:60, 0] = 255
    pieces = [imagecodecs.zlib_encode(one) for one in (black, red)]

    def encoded() -> Iterator[bytes]:
        for number in range(-(-side // height) * -(-side // width)):
            yield pieces[number % 4 == 0]

    layout: dict[str, Any] = {"tile": (height, width)} if tiled else {"rowsperstrip": height}
    tifffile.imwrite(
        path, encoded(), shape=(side, side, 3), dtype=np.uint8, photometric="rgb", compression="zlib", bigtiff=True,
        **layout,
    )  # fmt: skip


MEASURED = """
import re, sys
from pathlib import Path
from detection.data.tiff_windows import TiffWindows
from detection.tiling import tile_windows
with TiffWindows(sys.argv[1]) as image:
    total = 0
    for x0, y0, x1, y1 in tile_windows(*image.shape[:2], 1024, 0.2).tolist():
        total += int(image[y0:y1, x0:x1].max() == 255)
# not getrusage, which begins with the memory of the process that started this one
print(int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024, total)
"""


def peak_and_windows_with_red(path: Path, repository: Path) -> tuple[int, int]:
    """The peak of the memory in MiB, and in how many windows something red is."""
    outcome = subprocess.run(
        [sys.executable, "-c", MEASURED, str(path)], cwd=repository, capture_output=True, text=True, check=True
    )
    peak, windows = map(int, outcome.stdout.split())
    return peak, windows


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is measured in other units, or not at all")
@pytest.mark.parametrize("tiled", [True, False])
def test_the_memory_does_not_grow_with_the_image(tiled: bool, repository: Path, tmp_path: Path) -> None:
    peaks = []
    for side in (2048, 8192):  # 12 and 192 MiB of pixels
        write_large(tmp_path / f"{side}.tif", side, tiled)
        peak, windows = peak_and_windows_with_red(tmp_path / f"{side}.tif", repository)
        assert windows >= 3
        peaks.append(peak)
    rows = 0 if tiled else 8192 * (1024 + 32) * 3 / 2**20  # those of one window, of the whole width
    assert peaks[1] - peaks[0] < 16 + rows


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is measured in other units, or not at all")
@pytest.mark.parametrize("tiled", [True, False])
def test_thirty_thousand_pixels_square(tiled: bool, repository: Path, tmp_path: Path) -> None:
    write_large(tmp_path / "large.tif", 30_000, tiled)
    assert (tmp_path / "large.tif").stat().st_size < 64 << 20
    peak, windows = peak_and_windows_with_red(tmp_path / "large.tif", repository)
    print(f"peak {peak} MiB of 2,575 MiB of pixels, {'tiles' if tiled else 'strips'}, {windows} windows with an object")
    assert peak < (200 if tiled else 400)
