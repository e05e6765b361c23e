"""Reading images: every kind of pixels and orientation, and everything that is no image."""

from __future__ import annotations

import io
import itertools
import os
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from detection.data import images as module
from detection.data.images import PIXEL_LIMIT, SCAN_LIMIT, ImageError, decode_image, image_size, read_image
from tests.detection.data.oriented_images import ORIENTED_KINDS, save_oriented, upright


@pytest.fixture
def scene() -> np.ndarray:
    """A smooth coloured image, 24 × 40, different in each corner, that survives JPEG well."""
    y, x = np.mgrid[0:24, 0:40]
    return np.stack([x * 6, y * 10, 255 - x * 3 - y * 5], axis=2).clip(0, 255).astype(np.uint8)


def pillow(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tiff", "a.ppm", "a.gif", "lossless.webp"])
def test_lossless_kinds(tmp_path: Path, scene: np.ndarray, name: str) -> None:
    path = tmp_path / name
    palette = Image.fromarray(scene).quantize(200) if name.endswith("gif") else Image.fromarray(scene)
    palette.save(path, lossless=True) if name.endswith("webp") else palette.save(path)
    expected = np.array(palette.convert("RGB"))
    read = read_image(path)
    assert read.dtype == np.uint8
    assert read.flags.c_contiguous
    assert np.array_equal(read, expected)
    assert image_size(path) == (24, 40)


def test_the_content_of_a_file_gives_the_pixels_of_the_file(tmp_path: Path, scene: np.ndarray) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(scene).save(path)
    assert np.array_equal(decode_image(path.read_bytes(), "image 1", 24 * 40), read_image(path))
    with pytest.raises(ImageError, match=r"image 1: claims 40×24 pixels, more than the 959 accepted; scale"):
        decode_image(path.read_bytes(), "image 1", 24 * 40 - 1)
    with pytest.raises(ImageError, match="is no image"):
        decode_image(str(path).encode(), str(path))  # a path is not opened


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg(tmp_path: Path, scene: np.ndarray, mode: str, progressive: bool) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(scene).convert(mode).save(path, quality=95, progressive=progressive)
    expected = Image.fromarray(scene).convert(mode).convert("RGB")
    assert np.abs(read_image(path).astype(int) - np.array(expected)).mean() < 3
    assert np.abs(read_image(path).astype(int) - pillow(path)).max() <= 4  # two decoders round differently


@pytest.mark.skipif("AVIF" not in Image.registered_extensions().values(), reason="this Pillow is built without AVIF")
def test_avif(tmp_path: Path, scene: np.ndarray) -> None:
    Image.fromarray(scene).save(tmp_path / "a.avif", quality=95)
    assert np.abs(read_image(tmp_path / "a.avif").astype(int) - scene).mean() < 4


def test_every_real_image_agrees_with_pillow(shared_data: Path) -> None:
    paths = sorted((shared_data / "coco_tiny/images").iterdir()) + sorted((shared_data / "bccd/images").iterdir())[:4]
    greys = 0
    for path in paths:
        read, expected = read_image(path), pillow(path)
        assert np.abs(read.astype(int) - expected).mean() < 1, path
        greys += bool((read == read[:, :, :1]).all())
    assert greys >= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ORIENTED_KINDS)
def test_orientations(tmp_path: Path, scene: np.ndarray, orientation: int, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    save_oriented(path, scene, orientation)
    expected = upright(scene, orientation)
    read = read_image(path)
    assert read.shape == expected.shape
    assert read.flags.c_contiguous
    assert np.abs(read.astype(int) - expected).mean() < 4
    assert image_size(path) == expected.shape[:2]
    # The annotations decide: where only the size as stored fits theirs, the image stays as stored.
    assert np.array_equal(read_image(path, expected.shape[:2]), read)
    if orientation >= 5:
        assert read_image(path, (24, 40)).shape == (24, 40, 3)
        assert read_image(path, (24, 40)).flags.c_contiguous
        assert np.abs(read_image(path, (24, 40)).astype(int) - scene).mean() < 4
    with pytest.raises(ImageError, match=r"a\.\w+: the image is .* its annotations say 41×24"):
        read_image(path, (24, 41))


@pytest.mark.parametrize(
    ("mode", "compression"),
    [*itertools.product(["RGB", "L", "P", "RGBA", "I;16"], ["raw", "tiff_lzw", "tiff_deflate"]), ("RGB", "jpeg")],
)
def test_orientations_of_every_tiff(tmp_path: Path, scene: np.ndarray, mode: str, compression: str) -> None:
    """Pillow turns TIFFs itself, in two places by their compression."""
    image = Image.fromarray(scene[:, :, 0].astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(scene)
    image = image if mode == "I;16" else image.convert(mode)
    stored = read_image(save_oriented(tmp_path / "stored.tiff", image, 1, compression=compression))
    for orientation in (2, 5, 6, 7, 8):
        path = save_oriented(tmp_path / "a.tiff", image, orientation, compression=compression)
        assert np.array_equal(read_image(path), upright(stored, orientation)), orientation
        if orientation >= 5:
            assert np.array_equal(read_image(path, (24, 40)), stored), orientation


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tiff"])
def test_orientation_in_xmp_alone(tmp_path: Path, scene: np.ndarray, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    note = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    options: dict[str, object] = {"xmp": note, "quality": 95}
    if kind == "png":
        from PIL.PngImagePlugin import PngInfo

        options = {"pnginfo": PngInfo()}
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", note.decode())  # type: ignore[attr-defined]
    elif kind == "tiff":
        options = {"tiffinfo": {700: note}}
    Image.fromarray(scene).save(path, **options)
    assert np.abs(read_image(path).astype(int) - upright(scene, 6)).mean() < 4


def test_orientation_behind_the_pixels_of_a_png(tmp_path: Path, scene: np.ndarray) -> None:
    path = save_oriented(tmp_path / "a.png", scene, 8)
    data = path.read_bytes()
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    last = data.index(b"IEND") - 4
    path.write_bytes(data[:start] + data[end:last] + data[start:end] + data[last:])
    assert np.array_equal(read_image(path), upright(scene, 8))
    assert image_size(path) == (40, 24)


def test_jpeg_2000_knows_no_orientation(tmp_path: Path, scene: np.ndarray) -> None:
    Image.fromarray(scene).save(tmp_path / "a.jp2", irreversible=False, exif=Image.Exif())
    assert np.array_equal(read_image(tmp_path / "a.jp2"), scene)


def test_a_png_is_decoded_once(tmp_path: Path, scene: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's reader would decode all pixels to look for EXIF behind them."""
    from PIL.PngImagePlugin import PngImageFile

    def load(self: object) -> None:
        raise AssertionError("decoded by Pillow")

    Image.fromarray(scene).save(tmp_path / "a.png")
    monkeypatch.setattr(PngImageFile, "load", load)
    assert np.array_equal(read_image(tmp_path / "a.png"), scene)
    assert image_size(tmp_path / "a.png") == (24, 40)


def test_damaged_exif_says_nothing_against_the_pixels(tmp_path: Path, scene: np.ndarray) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(scene).save(path, exif=b"Exif\0\0II*\0\xff\xff\xff\xff\xff")
    assert read_image(path).shape == (24, 40, 3)


def test_alpha_is_laid_over_white(tmp_path: Path) -> None:
    pixels = np.zeros((2, 2, 4), dtype=np.uint8)
    pixels[0, 0] = (200, 0, 0, 255)
    pixels[0, 1] = (200, 0, 0, 0)
    pixels[1, 0] = (0, 0, 0, 128)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").tolist() == [[[200, 0, 0], [255] * 3], [[127] * 3, [255] * 3]]
    grey = np.zeros((1, 2, 2), dtype=np.uint8)
    grey[0, 0] = (90, 255)
    Image.fromarray(grey, "LA").save(tmp_path / "b.png")
    assert read_image(tmp_path / "b.png").tolist() == [[[90] * 3, [255] * 3]]


def test_palette_with_a_transparent_entry(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "plain.png")
    assert read_image(tmp_path / "plain.png").tolist() == [[[10, 20, 30], [40, 50, 60]]]
    image.save(tmp_path / "clear.png", transparency=1)
    assert read_image(tmp_path / "clear.png").tolist() == [[[10, 20, 30], [255, 255, 255]]]


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_16_bit_grey_is_scaled_not_saturated(tmp_path: Path, kind: str) -> None:
    levels = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / f"a.{kind}")
    assert read_image(tmp_path / f"a.{kind}")[0, :, 0].tolist() == [0, 1, 128, 255]


def test_16_bit_grey_with_a_transparent_level(tmp_path: Path) -> None:
    levels = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / "a.png", transparency=257)
    assert read_image(tmp_path / "a.png")[0, :, 0].tolist() == [0, 255, 128, 255]


def test_16_bit_colour_and_1_bit(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" + struct.pack(">HHH", 0x1234, 0x8000, 0xFFFF))
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )
    assert read_image(tmp_path / "a.png").tolist() == [[[0x12, 0x80, 0xFF]]]
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "b.png")
    assert read_image(tmp_path / "b.png").tolist() == [[[255] * 3, [0] * 3]]


def test_floating_point_grey(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 0.5, 1]], dtype=np.float32)).save(tmp_path / "a.tiff")
    assert read_image(tmp_path / "a.tiff")[0, :, 1].tolist() == [0, 128, 255]
    for bad in (200.0, -0.1, np.nan):
        Image.fromarray(np.array([[0, bad]], dtype=np.float32)).save(tmp_path / "b.tiff")
        with pytest.raises(ImageError, match=r"b\.tiff: its numbers have no known white level"):
            read_image(tmp_path / "b.tiff")
    Image.fromarray(np.array([[0, 1]], dtype=np.int32)).save(tmp_path / "c.tiff")
    with pytest.raises(ImageError, match="no known white level"):
        read_image(tmp_path / "c.tiff")


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (3, 2), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (read_image(tmp_path / "a.gif") == [255, 0, 0]).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_extreme_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    for name in ("a.png", "a.jpg"):
        Image.new("RGB", size[::-1], (200, 100, 50)).save(tmp_path / name)
        assert read_image(tmp_path / name, size).shape == (*size, 3)


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tiff", "gif", "bmp"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_cut_files_are_refused(tmp_path: Path, kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    path = tmp_path / f"cut.{kind}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ImageError, match=rf"cut\.{kind}: "):
        read_image(path)


def test_a_cut_jpeg_is_not_saved_by_its_thumbnail(tmp_path: Path, scene: np.ndarray) -> None:
    thumbnail = tmp_path / "thumbnail.jpg"
    Image.fromarray(scene).save(thumbnail)
    path = tmp_path / "a.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, exif=b"Exif\0\0" + thumbnail.read_bytes())
    data = path.read_bytes()
    read_image(path)
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(ImageError, match="cut short"):
        read_image(path)
    path.write_bytes(data + b"\0" * 100)  # padding behind the end, as some cameras leave it
    read_image(path)


def test_an_overwritten_jpeg_is_refused(tmp_path: Path) -> None:
    """OpenCV decodes it without a word to the program, to noise from there on."""
    random = np.random.default_rng(0)
    path = tmp_path / "a.jpg"
    Image.fromarray(random.integers(0, 256, (200, 300, 3), dtype=np.uint8)).save(path)
    data = path.read_bytes()
    path.write_bytes(data[:5000] + random.bytes(2000) + data[7000:])
    assert cv2.imread(str(path)) is not None
    with pytest.raises(ImageError, match=r"a\.jpg: the JPEG is cut short or damaged"):
        read_image(path)


def test_unusual_but_sound_jpegs_are_read(tmp_path: Path, scene: np.ndarray) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(scene).save(path, restart_marker_rows=1, comment=b"\xff\xd9", optimize=True)
    data = path.read_bytes()
    assert b"\xff\xd0" in data
    expected = read_image(path)
    path.write_bytes(data[:2] + b"\xff" + data[2:-2] + b"\0\0\xff\xff\xd9")  # fill bytes, and stray ones before the end
    assert np.array_equal(read_image(path), expected)


def test_damaged_png_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(noise).save(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x55
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"a\.png: the PNG is cut short or damaged"):
        read_image(path)


def test_bombs_are_refused_from_their_header(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for width, height in ((20_000, 20_000), (13_600, 13_400), (PIXEL_LIMIT // 2 + 1, 2)):
        path = tmp_path / "bomb.png"
        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
        for read in (read_image, image_size):
            with pytest.raises(ImageError, match=r"bomb\.png.*pixels"):
                read(path)


def progressive_jpeg(size: tuple[int, int], scans: int) -> bytes:
    """A progressive JPEG whose last scan is there again and again, up to so many scans."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (90, 80, 70)).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * (scans - data.count(b"\xff\xda") + 1) + data[-2:]


def test_a_jpeg_of_thousands_of_scans_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "slow.jpg"
    path.write_bytes(progressive_jpeg((40, 30), SCAN_LIMIT))
    assert read_image(path).shape == (30, 40, 3)
    path.write_bytes(progressive_jpeg((6000, 4000), 3000))
    start = time.process_time()
    with pytest.raises(ImageError, match=r"slow\.jpg: the JPEG goes over its pixels 3000 times"):
        read_image(path)
    assert time.process_time() - start < 2  # decoding takes more than a minute


def tiled_tiff(size: tuple[int, int], tile: tuple[int, int]) -> bytes:
    """A TIFF of one black tile, 8-bit RGB, compressed."""
    data = zlib.compress(bytes(3 * tile[0] * tile[1]), 1)
    entries = [(256, 4, 1, size[0]), (257, 4, 1, size[1]), (258, 3, 3, 146), (259, 3, 1, 8), (262, 3, 1, 2)]
    entries += [(277, 3, 1, 3), (284, 3, 1, 1), (322, 4, 1, tile[0]), (323, 4, 1, tile[1])]
    entries += [(324, 4, 1, 152), (325, 4, 1, len(data))]
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4) + struct.pack("<3H", 8, 8, 8) + data


def test_tiles_that_are_larger_than_any_image_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tiff").write_bytes(tiled_tiff((100, 90), (112, 96)))
    assert np.array_equal(read_image(tmp_path / "a.tiff"), np.zeros((90, 100, 3)))
    small = bytearray(tiled_tiff((100, 90), (16, 16)))
    for value in (322, 323):
        place = small.index(struct.pack("<HH", value, 4)) + 8
        small[place : place + 4] = struct.pack("<I", 20_000)
    (tmp_path / "b.tiff").write_bytes(small)
    with pytest.raises(ImageError, match=r"b\.tiff: claims 20000×20000 pixels"):
        read_image(tmp_path / "b.tiff")


def test_a_kind_that_takes_more_memory_a_pixel_has_a_lower_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scene: np.ndarray
) -> None:
    Image.fromarray(scene).save(tmp_path / "a.jp2")
    monkeypatch.setitem(module._PIXEL_LIMITS, "JPEG2000", 24 * 40)
    assert read_image(tmp_path / "a.jp2").shape == (24, 40, 3)
    monkeypatch.setitem(module._PIXEL_LIMITS, "JPEG2000", 24 * 40 - 1)
    with pytest.raises(ImageError, match=r"a\.jp2: claims 40×24 pixels, more than the 959 accepted of a JPEG2000"):
        read_image(tmp_path / "a.jp2")


PEAK = """
import resource, sys
from detection.data.images import read_image
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
read_image(sys.argv[1])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux alone")
@pytest.mark.parametrize("kind", ["16-bit.png", "float.tiff", "alpha.png", "palette.png"])
def test_decoding_takes_a_bounded_number_of_bytes_a_pixel(tmp_path: Path, kind: str, repository: Path) -> None:
    """A small file may claim PIXEL_LIMIT pixels; with 28 bytes a pixel on the way that were 2.4 GB."""
    path, size = tmp_path / kind, (5000, 4000)
    if kind == "16-bit.png":
        Image.new("I;16", size, 300).save(path)
    elif kind == "float.tiff":
        Image.new("F", size, 0.5).save(path, compression="tiff_deflate")
    elif kind == "alpha.png":
        Image.new("RGBA", size, (90, 80, 70, 60)).save(path)
    else:
        Image.new("P", size, 1).save(path, transparency=0)
    output = subprocess.run([sys.executable, "-c", PEAK, path], cwd=repository, check=True, capture_output=True)
    fixed = 150 << 20  # a band of 4 Mi pixels on its way, and what the decoders' libraries take
    assert 1024 * int(output.stdout) < 9 * size[0] * size[1] + fixed


def test_converting_by_bands_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    colour = random.integers(0, 256, (50, 30, 4), dtype=np.uint8)
    Image.fromarray(colour).save(tmp_path / "a.png")
    Image.fromarray(colour).quantize(90).save(tmp_path / "b.png", transparency=3)
    Image.fromarray(random.integers(0, 65536, (50, 30), dtype=np.uint16)).save(tmp_path / "c.png")
    Image.fromarray(random.random((50, 30), dtype=np.float32)).save(tmp_path / "d.tiff")
    Image.fromarray(colour, "CMYK").save(tmp_path / "e.jpg")
    Image.fromarray(colour[:, :, :3]).save(tmp_path / "f.bmp")
    whole = {path.name: read_image(path) for path in tmp_path.iterdir()}
    monkeypatch.setattr(module, "_BAND", 7 * 30)
    assert all(np.array_equal(read_image(tmp_path / name), pixels) for name, pixels in whole.items())
    bad = np.zeros((50, 30), dtype=np.float32)
    bad[40, 2] = 1.5
    Image.fromarray(bad).save(tmp_path / "bad.tiff")
    with pytest.raises(ImageError, match="no known white level"):
        read_image(tmp_path / "bad.tiff")


def test_every_16_bit_level_is_rounded_to_the_nearest(tmp_path: Path) -> None:
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(levels).save(tmp_path / "a.png")
    expected = np.rint(levels.astype(np.float64) / 65535 * 255)
    assert np.array_equal(read_image(tmp_path / "a.png"), np.repeat(expected[:, :, None], 3, axis=2))


def test_what_is_no_image(tmp_path: Path) -> None:
    for name, content, message in (
        ("empty.jpg", b"", "it is empty"),
        ("page.jpg", b"<!DOCTYPE html><html>not found</html>", "web page"),
        ("text.png", b"hello", "no image"),
        ("head.jpg", b"\xff\xd8\xff", "no image"),
        ("eps.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image"),
        ("pointer.jpg", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
        ("phone.jpg", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC .HEIF. photo.*convert it to JPEG or PNG"),
        ("scan.png", b"%PDF-1.7\n", "PDF document.*convert it"),
    ):
        (tmp_path / name).write_bytes(content)
        for read in (read_image, image_size):
            with pytest.raises(ImageError, match=rf"{name}.*{message}"):
                read(tmp_path / name)


def test_a_camera_s_raw_file_is_not_read_as_its_preview(tmp_path: Path, scene: np.ndarray) -> None:
    preview = Image.fromarray(scene)
    preview.save(tmp_path / "a.NEF", "TIFF")
    preview.save(tmp_path / "b.tiff", tiffinfo={50706: b"\1\4\0\0"})  # DNGVersion
    for name in ("a.NEF", "b.tiff"):
        with pytest.raises(ImageError, match=rf"{name}: .* a camera's raw file; develop it"):
            read_image(tmp_path / name)


def test_control_characters_in_a_name_are_escaped(tmp_path: Path) -> None:
    with pytest.raises(ImageError) as caught:
        read_image(tmp_path / "a\x1b[2Jb\n.png")
    assert str(caught.value).endswith(r"a\x1b[2Jb\n.png: no such image; is the image folder the right one?")


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "gone.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    with open(tmp_path / "huge.jpg", "wb") as file:  # a hole: it takes no room on the disk
        file.truncate(1 << 40)
    for name, message in (
        ("absent.jpg", "no such image"),
        ("absent/a.jpg", "no such image"),
        ("dangling.jpg", r"is a link to .*gone\.jpg, which is not there"),
        (".", "is no file"),
        ("loop.jpg", "cannot be read"),
        ("pipe.jpg", "is no file"),
        ("huge.jpg", "has 1099511627776 bytes"),
        ("nul\0.jpg", "cannot be read"),
        ("x" * 300, "cannot be read"),
    ):
        with pytest.raises(ImageError, match=message):
            read_image(tmp_path / name)


def test_without_permission_to_read(scene: np.ndarray) -> None:
    """In a process that is nobody, where the tests run as root, to whom everything is permitted."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to others
        os.chmod(folder, 0o755)
        closed = Path(folder) / "closed.png"
        (Path(folder) / "behind").mkdir()
        behind = Path(folder) / "behind" / "door.png"
        for path in (closed, behind):
            Image.fromarray(scene).save(path)
        closed.chmod(0o000)
        behind.parent.chmod(0o000)
        read, write = os.pipe()
        if not (child := os.fork()):
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            for path in (closed, behind):
                for reader in (read_image, image_size):
                    try:
                        reader(path)
                    except ImageError as error:
                        os.write(write, f"{error}\n".encode())
            os._exit(0)
        os.close(write)
        with open(read) as said:
            messages = said.read().splitlines()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        behind.parent.chmod(0o755)
    assert messages == [f"{path}: cannot be read (Permission denied)" for path in (closed, closed, behind, behind)]


def test_odd_names(tmp_path: Path, scene: np.ndarray) -> None:
    for name in ("with space.png", "new\nline.png", "größe 画像.png", "-dash.png", "100%.png"):
        Image.fromarray(scene).save(tmp_path / name)
        assert np.array_equal(read_image(str(tmp_path / name)), scene)
