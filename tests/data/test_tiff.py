"""TIFF as microscopes, scanners and libraries write it: values as written, or one line."""

import io
import re
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from monai_fusenet.data import load_image, spacing_of

HEIGHT, WIDTH, DEPTH = 7, 5, 3
KINDS = ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"]


def numbers(*shape, dtype="u1", top=120):
    """Different values at different positions, so that swapped axes show; negative ones where the type has them."""
    values = (np.arange(np.prod(shape)) * 37 % top).reshape(shape)
    return (values if np.dtype(dtype).kind == "u" else values - top // 2).astype(dtype)


def refusal(path):
    with pytest.raises(ValueError) as caught:  # noqa: PT011, the caller looks at the message
        load_image(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"cannot read {path}: ")
    return message.removeprefix(f"cannot read {path}: ")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.tif"


# Values


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "zstd", "packbits", "lzma"])
@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("dtype", KINDS)
def test_values_are_what_was_written(path, dtype, byte_order, compression):
    grey, colours = numbers(HEIGHT, WIDTH, dtype=dtype), numbers(3, HEIGHT, WIDTH, dtype=dtype)
    for tile in (None, (16, 16)):
        how = {"byteorder": byte_order, "compression": compression, "tile": tile, "metadata": None}
        tifffile.imwrite(path, grey, photometric="minisblack", bigtiff=tile is None, **how)
        np.testing.assert_array_equal(load_image(path).numpy()[0], grey.astype("f4"))
        np.testing.assert_array_equal(load_image(path).numpy()[0], tifffile.imread(path).astype("f4"))
        tifffile.imwrite(path, colours.transpose(1, 2, 0), photometric="rgb", planarconfig="contig", **how)
        np.testing.assert_array_equal(load_image(path).numpy(), colours.astype("f4"))
        tifffile.imwrite(path, colours, photometric="rgb", planarconfig="separate", **how)
        np.testing.assert_array_equal(load_image(path).numpy(), colours.astype("f4"))


@pytest.mark.parametrize("dtype", sorted(set(KINDS) - {"u8", "i8"}))  # libraries predict up to 32 bits
@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_predictors_are_undone(path, dtype, byte_order):
    pixels = numbers(HEIGHT, WIDTH, 3, dtype=dtype)
    tifffile.imwrite(path, pixels, photometric="rgb", byteorder=byte_order, compression="zlib", predictor=True)
    np.testing.assert_array_equal(load_image(path).numpy(), pixels.transpose(2, 0, 1).astype("f4"))


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("dtype", KINDS)
def test_white_is_zero_is_mirrored_at_every_depth(path, dtype, compression):
    pixels = numbers(HEIGHT, WIDTH, dtype=dtype)
    tifffile.imwrite(path, pixels, photometric="miniswhite", compression=compression)
    exact = pixels.astype(object)  # Python's numbers do not overflow
    low, high = (0, np.iinfo(dtype).max) if dtype[0] == "u" else (exact.min(), exact.max())  # those have no white
    expected = low + (high - exact)
    np.testing.assert_allclose(load_image(path).numpy()[0], expected.astype("f4"), rtol=1e-3 if dtype == "f2" else 0)


@pytest.mark.parametrize(("bits", "dtype"), [(2, "u1"), (4, "u1"), (10, "u2"), (12, "u2"), (14, "u2")])
def test_packed_bits(path, bits, dtype):
    pixels = numbers(HEIGHT, WIDTH, dtype=dtype, top=2**bits)
    try:
        tifffile.imwrite(path, pixels, bitspersample=bits)
    except (NotImplementedError, TypeError) as error:
        pytest.skip(f"this version of tifffile or imagecodecs writes no packed bits: {error}")
    np.testing.assert_array_equal(load_image(path).numpy()[0], pixels)
    tifffile.imwrite(path, pixels, bitspersample=bits, photometric="miniswhite")
    np.testing.assert_array_equal(load_image(path).numpy()[0], 2**bits - 1 - pixels)


@pytest.mark.parametrize("compression", ["raw", "group3", "group4", "tiff_lzw"])
@pytest.mark.parametrize("photometric", [0, 1])
def test_one_bit_is_black_and_white_in_both_photometric_interpretations(path, photometric, compression):
    bits = numbers(HEIGHT, WIDTH) % 2 == 1
    Image.fromarray(bits).save(path, tiffinfo={262: photometric}, compression=compression)
    with tifffile.TiffFile(path) as stored:
        assert stored.pages[0].bitspersample == 1
        if stored.pages[0].compression not in tifffile.TIFF.DECOMPRESSORS:
            pytest.skip("this version of tifffile knows no CCITT")
    with Image.open(path) as seen:
        np.testing.assert_array_equal(load_image(path).numpy()[0], np.asarray(seen) * 255.0)


@pytest.mark.parametrize("ome", [False, True])
def test_an_array_of_booleans_stays_as_it_was_written(path, ome):
    bits = numbers(HEIGHT, WIDTH) % 2 == 1
    tifffile.imwrite(path, bits, ome=ome)
    np.testing.assert_array_equal(load_image(path).numpy()[0], bits * 255)


def test_sixteen_bit_palettes_become_eight_bit_colours(path):
    palette = (np.arange(768).reshape(3, 256) * 83 % 65536).astype("u2")
    pixels = numbers(DEPTH, HEIGHT, WIDTH)
    tifffile.imwrite(path, pixels[0], photometric="palette", colormap=palette)
    np.testing.assert_array_equal(load_image(path).numpy(), (palette // 256)[:, pixels[0]])
    tifffile.imwrite(path, pixels, photometric="palette", colormap=palette)
    np.testing.assert_array_equal(load_image(path).numpy(), (palette // 256)[:, pixels.transpose(2, 1, 0)])
    tifffile.imwrite(path, pixels[0], photometric="palette", colormap=palette // 256)  # as some programs do
    np.testing.assert_array_equal(load_image(path).numpy(), (palette // 256)[:, pixels[0]])


def test_each_page_has_its_own_palette(path):
    pixels = numbers(HEIGHT, WIDTH)
    palettes = [(np.arange(768).reshape(3, 256) * step % 65536).astype("u2") for step in (83, 91)]
    with tifffile.TiffWriter(path) as writer:
        for palette in palettes:
            writer.write(pixels, photometric="palette", colormap=palette, metadata=None)
    for index, palette in enumerate(palettes):
        np.testing.assert_array_equal(load_image(path).numpy()[..., index], (palette // 256)[:, pixels.T])


@pytest.mark.parametrize(
    ("extra", "has_alpha"), [(["unassalpha"], True), (["unspecified"], False), (["unspecified", "unassalpha"], True)]
)
@pytest.mark.parametrize("photometric", ["rgb", "minisblack"])
def test_transparency_is_named_and_unspecified_samples_are_channels(path, photometric, extra, has_alpha):
    pixels = numbers(HEIGHT, WIDTH, {"rgb": 3, "minisblack": 1}[photometric] + len(extra))
    tifffile.imwrite(path, pixels, photometric=photometric, planarconfig="contig", extrasamples=extra)
    image = load_image(path)
    np.testing.assert_array_equal(image.numpy(), pixels.transpose(2, 0, 1))
    assert image.meta["has_alpha"] is has_alpha


def test_transparency_comes_last(path):
    pixels = numbers(HEIGHT, WIDTH, 5)
    tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=["unassalpha", "unspecified"])
    np.testing.assert_array_equal(load_image(path).numpy(), pixels.transpose(2, 0, 1)[[0, 1, 2, 4, 3]])


def test_colours_are_divided_by_the_transparency_they_were_multiplied_by(path):
    colours, alpha = np.array([[[100, 60, 20]]], "u1"), np.array([[[51]]], "u1")  # a fifth
    tifffile.imwrite(path, np.dstack([colours // 5, alpha]), photometric="rgb", extrasamples=["assocalpha"])
    assert load_image(path).flatten().tolist() == [100, 60, 20, 51]


def test_cmyk_of_sixteen_bits(path):
    ink = np.array([[[65535, 0, 0, 0], [0, 0, 0, 65535], [0, 0, 0, 0]]], "u2")
    tifffile.imwrite(path, ink, photometric="separated")
    assert load_image(path)[:, 0].T.tolist() == [[0, 65535, 65535], [0, 0, 0], [65535, 65535, 65535]]


@pytest.mark.parametrize("photometric", ["rgb", "ycbcr"])
def test_jpeg_becomes_rgb(path, photometric):
    pixels = np.zeros((32, 48, 3), "u1")
    pixels[:16, 16:, 0] = 200  # whole blocks survive the compression
    how = {"compression": "jpeg", "compressionargs": {"level": 100}, "subsampling": (1, 1)}
    stored = pixels if photometric == "rgb" else np.asarray(Image.fromarray(pixels).convert("YCbCr"))
    tifffile.imwrite(path, stored, photometric=photometric, **how)
    np.testing.assert_allclose(load_image(path).numpy(), pixels.transpose(2, 0, 1), atol=4)


def test_ycbcr_without_jpeg_becomes_rgb(path):
    pixels = numbers(HEIGHT, WIDTH, 3)
    stored = np.asarray(Image.fromarray(pixels).convert("YCbCr"))
    tifffile.imwrite(path, stored, photometric="ycbcr", subsampling=(1, 1))
    seen = np.asarray(Image.fromarray(stored, mode="YCbCr").convert("RGB"), "f4")
    np.testing.assert_allclose(load_image(path).numpy(), seen.transpose(2, 0, 1), atol=1)


@pytest.mark.parametrize("compression", ["jpeg2000", "webp", "png"])
def test_codecs_of_pictures(path, compression):
    pixels = numbers(HEIGHT, WIDTH, 3)
    tifffile.imwrite(path, pixels, photometric="rgb", compression=compression)
    np.testing.assert_array_equal(load_image(path).numpy(), tifffile.imread(path).transpose(2, 0, 1))
    np.testing.assert_allclose(load_image(path).numpy().mean(), pixels.mean(), atol=20)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pages_stand_upright(path, tmp_path, orientation):
    pixels = numbers(HEIGHT, WIDTH)
    tifffile.imwrite(path, pixels, metadata=None, extratags=[(274, "H", 1, orientation, True)])
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as picture:
        np.testing.assert_array_equal(load_image(path).numpy()[0], np.asarray(ImageOps.exif_transpose(picture)))


# Axes

SIZES = {"Z": DEPTH, "C": 2, "T": 1, "Y": HEIGHT, "X": WIDTH, "S": 3}


@pytest.mark.parametrize("axes", ["ZYX", "CYX", "ZCYX", "CZYX", "TZCYX", "TCYX", "YXS", "ZYXS"])
@pytest.mark.parametrize("writer", ["ome", "imagej", "shaped"])
def test_axes_are_those_that_the_file_names(path, writer, axes):
    if writer == "imagej" and axes == "CZYX":
        pytest.skip("ImageJ orders its axes TZCYXS")
    pixels = numbers(*(SIZES[axis] for axis in axes))
    how = {} if writer == "shaped" else {writer: True}
    photometric = "rgb" if "S" in axes else "minisblack"
    tifffile.imwrite(path, pixels, photometric=photometric, metadata={"axes": axes}, **how)
    order = [axes.index(axis) for axis in "CSXYZ" if axis in axes]
    volume = pixels.transpose([place for place, axis in enumerate(axes) if axis == "T"] + order)
    volume = volume.reshape(-1, WIDTH, HEIGHT, SIZES["Z"] if "Z" in axes else 1)
    image = load_image(path)
    if "Z" in axes:
        np.testing.assert_array_equal(image.numpy(), volume)
        assert spacing_of(image) == (1, 1, 1)
    else:
        np.testing.assert_array_equal(image.numpy(), volume[..., 0].swapaxes(1, 2))
        assert spacing_of(image) is None


@pytest.mark.parametrize("writer", ["ome", "imagej"])
def test_several_times_are_refused(path, writer):
    tifffile.imwrite(
        path, numbers(4, HEIGHT, WIDTH), photometric="minisblack", metadata={"axes": "TYX"}, **{writer: True}
    )
    assert refusal(path) == (
        "its axis T (time) has 4 steps, expected one image or volume: save each step as a file of its own; "
        "in ImageJ, Image > Properties turns frames into slices"
    )


def test_two_axes_without_a_name_are_refused(path):
    tifffile.imwrite(path, numbers(DEPTH, 2, HEIGHT, WIDTH), photometric="minisblack")
    assert refusal(path) == (
        "its axes QQYX of shape (3, 2, 7, 5) are not known: write it with axes such as CZYX in its description"
    )


def test_an_imagej_stack_behind_one_page_is_a_volume(path):
    text = b"ImageJ=1.53t\nimages=3\nslices=3\n\0"
    pixels = numbers(DEPTH, HEIGHT, WIDTH)
    path.write_bytes(tiff(text + pixels.tobytes(), strip=8 + len(text), description=(8, len(text))))
    np.testing.assert_array_equal(load_image(path).numpy()[0], pixels.transpose(2, 1, 0))


def test_pages_may_be_compressed_in_different_ways(path):
    pixels = numbers(DEPTH, HEIGHT, WIDTH)
    with tifffile.TiffWriter(path) as writer:
        for page, compression in zip(pixels, (None, "zlib", None), strict=True):
            writer.write(page, compression=compression, photometric="minisblack", metadata=None)
    np.testing.assert_array_equal(load_image(path).numpy()[0], pixels.transpose(2, 1, 0))


def test_of_a_pyramid_the_full_resolution_is_read(path):
    full = numbers(64, 48)
    with tifffile.TiffWriter(path) as writer:
        writer.write(full, subifds=1, photometric="minisblack")
        writer.write(full[::2, ::2], subfiletype=1, photometric="minisblack")
    np.testing.assert_array_equal(load_image(path).numpy()[0], full)


def test_thumbnails_and_transparency_masks_beside_an_image_are_left_out(path):
    with tifffile.TiffWriter(path) as writer:
        writer.write(numbers(11, 9), subfiletype=1, photometric="minisblack", metadata=None)
        writer.write(numbers(HEIGHT, WIDTH), photometric="minisblack", metadata=None)
        writer.write(numbers(HEIGHT, WIDTH) > 3, subfiletype=4, photometric="minisblack", metadata=None)
    np.testing.assert_array_equal(load_image(path).numpy()[0], numbers(HEIGHT, WIDTH))


def test_several_images_are_refused(path):
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(numbers(HEIGHT, WIDTH), photometric="minisblack")
        writer.write(numbers(11, 9), photometric="minisblack")
    assert refusal(path) == ("it holds 2 images, expected one: save each as a file of its own (YX (7, 5), YX (11, 9))")


def test_a_picture_under_the_name_of_a_tiff_is_read_by_its_content(path, tmp_path):
    Image.fromarray(numbers(HEIGHT, WIDTH)).save(path, format="PNG")
    np.testing.assert_array_equal(load_image(path).numpy()[0], numbers(HEIGHT, WIDTH))
    tifffile.imwrite(path, numbers(HEIGHT, WIDTH))
    path.rename(tmp_path / "a.png")
    np.testing.assert_array_equal(load_image(tmp_path / "a.png").numpy()[0], numbers(HEIGHT, WIDTH))


# What cannot be read


def tiff(data, strip=8, following=0, description=None, **tags):
    """A TIFF of one page of 7 x 5 pixels of 8 bits, its strip at `strip`, its tags behind the data; odd by `tags`."""
    numbers_of = {"width": 256, "height": 257, "bits": 258, "compression": 259, "photometric": 262, "count": 279}
    values = {256: WIDTH, 257: HEIGHT, 258: 8, 259: 1, 262: 1, 273: strip, 277: 1, 278: tags.get("height", HEIGHT)}
    values |= {279: HEIGHT * WIDTH} | {numbers_of[name]: value for name, value in tags.items()}
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items()]
    if description:
        entries.append(struct.pack("<HHII", 270, 2, description[1], description[0]))
    entries.sort(key=lambda entry: struct.unpack("<H", entry[:2]))
    place = 8 + len(data) + len(data) % 2
    head = struct.pack("<2sHI", b"II", 42, place) + data + b"\0" * (len(data) % 2)
    return head + struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", following)


def test_thousands_of_pages_are_read_and_no_more_than_a_reader_can_follow(path):
    pixels, size, count = bytes(range(35)), 2 + 9 * 12 + 4, 3000
    one = tiff(pixels)
    page = one[-size:-4]
    links = [len(one) - size + (number + 1) * size for number in range(2**16 + 1)]
    pages = [page + struct.pack("<I", link) for link in links]
    path.write_bytes(one[:-size] + b"".join(pages[: count - 1]) + page + bytes(4))
    assert load_image(path).shape == (1, WIDTH, HEIGHT, count)
    path.write_bytes(one[:-size] + b"".join(pages[:-1]) + page + bytes(4))
    assert refusal(path) == "it holds more than 65536 pages: save parts of it as files of their own"


def test_the_plain_file_that_is_damaged_below_is_read(path):
    path.write_bytes(tiff(bytes(range(35))))
    np.testing.assert_array_equal(load_image(path).numpy()[0].ravel(), range(35))


MISSING = "image file is truncated: 1 of 1 strips or tiles of page 1 are missing"
PACKED = zlib.compress(bytes(20))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tiff(bytes(36), following=44), "its list of pages goes in a circle after page 1"),
        (tiff(bytes(36), following=10**6), "truncated or damaged: page 2 is not in its 158 bytes"),
        (tiff(bytes(36), strip=10**6), MISSING),
        (tiff(bytes(36), strip=0), MISSING),
        (tiff(bytes(36), count=0, compression=8), MISSING),
        (tiff(b"\xff\xd8" + bytes(34), compression=7), MISSING),
        (tiff(bytes(36), width=2**31, height=2**31), "its header claims 2147483648 x 2147483648 values, more than "),
        (tiff(bytes(36), width=2**20, height=2**20, compression=50000), "its header claims 1048576 x 1048576 values"),
        (tiff(bytes(36), width=0), "its header claims 7 x 0 values, but every side of an image must be at least 1"),
        (tiff(bytes(36), bits=65535), "samples of 65535 bits and format 1 are not read"),
        (tiff(bytes(36), compression=12345), "the compression 12345 is not read, expected deflate, LZW, zstd, JPEG, "),
        (tiff(bytes(36), compression=50002), "the compression JPEGXL is not read, expected deflate, LZW, zstd, JPEG, "),
        (tiff(bytes(36), photometric=32803), "the colour mode CFA is not read, expected grey, RGB, CMYK or a palette"),
        (tiff(PACKED, compression=8, count=len(PACKED)), "corrupted strip cannot be reshaped from (20,) to"),
        (struct.pack("<2sHI", b"II", 42, 0), "it holds no page"),
    ],
)
def test_missing_and_absurd_parts_are_refused(path, content, message):
    path.write_bytes(content)
    assert refusal(path).startswith(message)


@pytest.mark.parametrize(("compression", "codec"), [(7, "JPEG"), (34712, "JPEG2000"), (34933, "PNG"), (50001, "WEBP")])
def test_strips_that_unpack_to_more_than_their_page_are_not_unpacked(path, compression, codec):
    stored = io.BytesIO()
    Image.new("RGB", (900, 700)).save(stored, codec)
    path.write_bytes(tiff(stored.getvalue(), compression=compression, count=len(stored.getvalue())))
    assert refusal(path) == "a strip or tile of 5 x 7 pixels holds a picture of 900 x 700"


def described(text, data=bytes(36)):
    text = text.encode() + b"\0"
    return tiff(text + data, strip=8 + len(text), description=(8, len(text)))


OME = (
    '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
    '<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="5" SizeY="7" SizeC="1" SizeT="1" SizeZ="{}">'
    "<TiffData{}</TiffData></Pixels></Image></OME>"
)
UNFIT = "its description as OME-XML or ImageJ does not fit its pages: are some missing?"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ImageJ=1.53t\nimages=3\nslices=3\n", MISSING),
        (f"ImageJ=1.53t\nimages={10**12}\nslices={10**12}\n", UNFIT),
        ('{"shape": [3, 7, 5]}', MISSING),
        ('{"shape": [1000000, 1000000, 7, 5]}', "its header claims 1000000 x 1000000 x 7 x 5 values, more than its "),
        (OME.format(2, ">"), "its OME-XML claims 2 planes, but it holds 1: are some in other files?"),
        (OME.format(10**9, ">"), "its OME-XML claims 1000000000 planes, but it holds 1: are some in other files?"),
        (OME.format(1, f' PlaneCount="{10**12}">'), "its OME-XML claims 1000000000000 planes, but it holds 1: "),
        (OME.format(1, ' IFD="0"><UUID FileName="/etc/passwd">urn:uuid:1</UUID>'), UNFIT),
        ('<?xml version="1.0"?><OME><Image></OME>', "its OME-XML is damaged: mismatched tag: line 1, column 35"),
    ],
)
def test_descriptions_that_claim_more_than_there_is_are_refused(path, text, message):
    path.write_bytes(described(text))
    assert refusal(path).startswith(message)


def test_planes_in_other_files_are_not_looked_for(path, tmp_path):
    pixels = numbers(HEIGHT, WIDTH)
    tifffile.imwrite(tmp_path / "other.tif", pixels)
    uuids = "".join(
        f'<UUID FileName="{name}">urn:uuid:{name}</UUID></TiffData><TiffData>' for name in ("a.tif", "other.tif")
    )
    path.write_bytes(described(OME.format(1, f' IFD="0">{uuids}')))
    assert refusal(path) == "its OME-XML names planes in other files: save all in one file"


def test_integers_of_24_bits_are_refused(path):
    tifffile.imwrite(path, numbers(HEIGHT, WIDTH, dtype="u4"), photometric="minisblack", metadata=None)
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages.first.tags["BitsPerSample"].overwrite(24)
    assert refusal(path) == "integers of 24 bits are not read, expected up to 16, 32 or 64"


def test_subsampled_colours_without_jpeg_are_refused(path):
    tifffile.imwrite(path, numbers(HEIGHT, WIDTH, 3), photometric="ycbcr", subsampling=(1, 1), metadata=None)
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages.first.tags["YCbCrSubSampling"].overwrite((2, 2))
    assert refusal(path) == "YCbCr of subsampled colours is read as JPEG only: save it as RGB"


def test_complex_values_are_refused(path):
    tifffile.imwrite(path, np.ones((HEIGHT, WIDTH), "c8"))
    assert refusal(path) == "its values are complex, expected real ones"


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "zstd", "lzma", "packbits", "jpeg", "jpeg2000", "png"])
@pytest.mark.parametrize("part", [0.4, 0.7, 0.97])
def test_cut_files_are_never_read_in_part(path, compression, part):
    noise = np.random.default_rng(0).integers(0, 256, (3, 64, 48), "u1")
    tifffile.imwrite(path, noise, photometric="minisblack", compression=compression, metadata=None)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    refusal(path)


def test_nothing_is_written_to_stderr(path, capfd):
    path.write_bytes(described('{"shape": [-1, 7, 5]}'))  # of which tifffile warns
    load_image(path)
    assert re.sub(r"\s", "", "".join(capfd.readouterr())) == ""
