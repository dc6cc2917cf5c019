"""Decoding image files: every kind of pixel, and damage of every kind."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data.image_bytes import encoded
from halrp_np.data.image_files import MOST_PIXELS, decode_image, is_image_name
from halrp_np.errors import DataError

RGB = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
GREY = RGB[..., 0]


def test_channels_come_first_and_pixels_are_exact() -> None:
    assert np.array_equal(decode_image(encoded(RGB), "x", 3), RGB.transpose(2, 0, 1))
    assert np.array_equal(decode_image(encoded(GREY), "x", 1), GREY[None])
    assert np.array_equal(decode_image(encoded(GREY), "x", 3), np.stack([GREY] * 3))
    luma = decode_image(encoded(RGB), "x", 1)[0]
    assert np.abs(luma - RGB @ [0.299, 0.587, 0.114]).max() <= 1
    assert luma.dtype == np.uint8


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_formats_without_loss(kind: str) -> None:
    content = encoded(GREY, kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert np.array_equal(decode_image(content, "x", 1)[0], GREY)


def test_one_bit_images_are_black_and_white() -> None:
    bits = GREY > 127
    assert np.array_equal(decode_image(encoded(Image.fromarray(bits)), "x", 1)[0], bits * np.uint8(255))


def test_palettes_are_looked_up() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    assert decode_image(encoded(palette), "x", 3)[:, 0].T.tolist() == [[10, 20, 30], [200, 100, 50]]
    transparent = decode_image(encoded(palette, transparency=1), "x", 3)
    assert transparent[:, 0].T.tolist() == [[10, 20, 30], [255, 255, 255]]


def test_white_shows_behind_what_is_transparent() -> None:
    alpha = np.array([[0, 255, 128]], np.uint8)
    image = np.concatenate([np.zeros((1, 3, 3), np.uint8), alpha[..., None]], axis=2)
    assert decode_image(encoded(Image.fromarray(image, "RGBA")), "x", 3)[:, 0].tolist() == [[255, 0, 127]] * 3
    pair = Image.merge("LA", (Image.new("L", (3, 1), 0), Image.fromarray(alpha)))
    assert decode_image(encoded(pair), "x", 1)[0].tolist() == [[255, 0, 127]]


def test_the_upper_half_of_16_bits() -> None:
    deep = np.array([[0, 255, 256, 65535]], np.uint16)
    assert decode_image(encoded(deep), "x", 1)[0].tolist() == [[0, 0, 1, 255]]
    assert decode_image(encoded(deep, "TIFF"), "x", 3)[2].tolist() == [[0, 0, 1, 255]]
    assert decode_image(b"P5 2 1 65535\n\x00\xff\xff\xff", "x", 1)[0].tolist() == [[0, 255]]


@pytest.mark.parametrize("array", [np.zeros((2, 2), np.float32), np.full((2, 2), -1, np.int32)])
def test_other_depths_are_refused(array: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"deep\.tif: expected an image of 8 or 16 bits a channel"):
        decode_image(encoded(array, "TIFF"), "deep.tif", 1)


def test_jpegs_of_1_and_4_channels() -> None:
    flat = np.full((8, 8, 3), (200, 60, 20), np.uint8)
    for mode in ("RGB", "CMYK", "L"):
        content = encoded(Image.fromarray(flat).convert(mode), "JPEG", quality=95)
        colour = decode_image(content, "x", 3).mean((1, 2))
        wanted = [97, 97, 97] if mode == "L" else [200, 60, 20]
        assert np.abs(colour - wanted).max() < 4, mode


def test_sizes_are_height_and_width() -> None:
    step = np.repeat(np.array([[0], [200]], np.uint8), 10, axis=1)
    small = decode_image(encoded(step), "x", 1, (4, 6))
    assert small.shape == (1, 4, 6)
    expected = np.asarray(Image.fromarray(step).resize((6, 4), Image.Resampling.BICUBIC))
    assert np.array_equal(small[0], expected)
    assert small[0, 0].max() < 100 < small[0, -1].min()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "an empty file"),
        (b"<html>no such page</html>", "something else"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 2 2\n", "something else"),  # would be a program to run
        (encoded(RGB)[:60], "truncated or damaged"),
        (encoded(RGB, "JPEG")[:400], "truncated or damaged"),
        (encoded(GREY, "TIFF")[:9], "damaged"),
    ],
)
def test_damage_is_an_error_that_names_the_file(content: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=rf"a\.zip: b\.png: expected .*{reason}.*Copy this file again"):
        decode_image(content, "a.zip: b.png", 3)


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_small_file_of_a_huge_image_is_refused_before_it_is_unpacked(side: int) -> None:
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(*chunk) for chunk in chunks)
    assert side * side > MOST_PIXELS
    with pytest.raises(DataError, match="at most 89,478,485 pixels"):
        decode_image(bomb, "x", 1)


@given(st.data())
def test_any_damage_gives_an_image_or_that_error(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"]))
    content = bytearray(encoded(RGB, kind))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(1, len(content)))
    with contextlib.suppress(DataError):
        image = decode_image(bytes(content[:cut]), "x", 3, (4, 4))
        assert (image.shape, image.dtype) == ((3, 4, 4), np.uint8)


def test_names() -> None:
    assert [is_image_name(name) for name in ("a.PNG", "b.jpeg", "n_0.JPEG", "c.txt", "png")] == [True] * 3 + [False] * 2


def test_animations_show_their_first_frame() -> None:
    frames = [Image.new("L", (2, 2), value) for value in (10, 200)]
    content = io.BytesIO()
    frames[0].save(content, "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(content.getvalue(), "x", 1).max() == 10
