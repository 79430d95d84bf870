"""What Pillow and ITK would change in PNG and BMP without a word."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from monai_fusenet.data import load_image

COLOURS = (np.arange(2 * 3 * 3) * 3001 % 65536).reshape(2, 3, 3).astype(">u2")


def png(pixels, kind, *chunks):
    """A PNG of 16 bits; kind 2 is RGB, 4 grey with transparency, 6 RGBA (PNG, 11.2.2)."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = pixels.shape[:2]
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)),
        *chunks,
        (b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels))),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def bmp(width, height, bits, compression, data, between=b""):
    """A BMP whose masks or palette lie between header and data."""
    sizes = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(data), 0, 0, 0, 0)
    start = 54 + len(between)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + sizes + between + data


def test_a_transparent_colour_of_sixteen_bits_is_transparency(tmp_path):
    first = COLOURS[0, 0]
    (tmp_path / "a.png").write_bytes(png(COLOURS, 2, (b"tRNS", first.tobytes())))
    image = load_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image.numpy()[:3], COLOURS.transpose(2, 0, 1))
    np.testing.assert_array_equal(image.numpy()[3], np.where((first == COLOURS).all(-1), 0, 65535))
    assert image.meta["has_alpha"] is True


def test_fewer_significant_bits_change_no_value(tmp_path):
    (tmp_path / "a.png").write_bytes(png(COLOURS, 2, (b"sBIT", b"\x0c\x0c\x0c")))
    np.testing.assert_array_equal(load_image(tmp_path / "a.png").numpy(), COLOURS.transpose(2, 0, 1))


@pytest.mark.parametrize("orientation", [3, 6])
def test_sixteen_bit_colours_stand_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "a.png").write_bytes(png(COLOURS, 2, (b"eXIf", exif.tobytes()[6:])))
    upright = np.rot90(COLOURS, {3: 2, 6: -1}[orientation])
    np.testing.assert_array_equal(load_image(tmp_path / "a.png").numpy(), upright.transpose(2, 0, 1))


@pytest.mark.parametrize("part", [0.5, 0.9])
def test_sixteen_bit_colours_are_not_loaded_in_part(tmp_path, part):
    content = png(np.random.default_rng(0).integers(0, 65536, (41, 31, 3)).astype(">u2"), 2)
    (tmp_path / "a.png").write_bytes(content[: int(len(content) * part)])
    with pytest.raises(ValueError, match=r"^cannot read .*a\.png: "):
        load_image(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (bmp(2, 1, 16, 0, struct.pack("<HH", 31 << 10, 31 << 5)), [[255, 0, 0], [0, 255, 0]]),
        (
            bmp(2, 1, 16, 3, struct.pack("<HH", 31 << 11, 63 << 5), struct.pack("<III", 31 << 11, 63 << 5, 31)),
            [[255, 0, 0], [0, 255, 0]],
        ),
        (bmp(2, 1, 32, 0, bytes([1, 2, 3, 0, 4, 5, 6, 0])), [[3, 2, 1], [6, 5, 4]]),
        (
            bmp(4, 1, 8, 1, bytes([3, 7, 1, 9, 0, 1]), np.repeat(np.arange(256, dtype="u1"), 4).tobytes()),
            [[7], [7], [7], [9]],
        ),
        (bmp(4, 1, 1, 0, bytes([0b01010000, 0, 0, 0]), bytes([255] * 4 + [0] * 4)), [[255] * 3, [0] * 3] * 2),
    ],
)
def test_forms_of_bmp(tmp_path, content, expected):
    (tmp_path / "a.bmp").write_bytes(content)
    assert load_image(tmp_path / "a.bmp")[:, 0].T.tolist() == expected
