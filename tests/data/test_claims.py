"""Files that claim more than they hold, or more than memory holds, cost none."""

import gzip
import re
import struct
import zlib

import itk
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from monai_fusenet.data import claims, find_images, load_image
from monai_fusenet.data.claims import available_memory, check_claim

GIB = 2**30


@pytest.fixture(scope="module", autouse=True)
def itk_is_loaded():
    """What ITK takes when its readers are used for the first time is no image's."""
    itk.ImageFileReader[itk.Image[itk.F, 3]].New()
    for name in ("NrrdImageIO", "MetaImageIO", "GDCMImageIO"):
        getattr(itk, name).New()


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width, height, extra=b""):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(bytes(310)))
        + chunk(b"IEND", b"")
    )


def jpeg(width, height, folder):
    Image.new("L", (16, 16)).save(folder / "small.jpg")
    content = bytearray((folder / "small.jpg").read_bytes())
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(content)


def nifti(*shape):
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.structarr["dim"][: len(shape) + 1] = [len(shape), *shape]
    header.structarr["vox_offset"] = 352
    header["magic"] = b"n+1"
    return header.binaryblock + bytes(104)


def nrrd(sizes, encoding="raw", more=""):
    header = f"NRRD0004\ntype: short\ndimension: 3\nsizes: {sizes}\nendian: little\nencoding: {encoding}\n{more}\n"
    return header.encode() + bytes(100)


def meta_image(sizes="9 7 5", axes=3, more="", file="LOCAL"):
    header = f"ObjectType = Image\nNDims = {axes}\n{more}DimSize = {sizes}\nElementType = MET_SHORT\n"
    return f"{header}ElementDataFile = {file}\n".encode() + bytes(100)


def bmp(width, height):
    head = struct.pack("<IHHI", 1000, 0, 0, 54) + struct.pack(
        "<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0
    )
    return b"BM" + head + bytes(900)


def dicom(folder, tag, value):
    """A DICOM file with one element of two bytes changed."""
    itk.imwrite(itk.image_from_array(np.arange(437, dtype=np.int16).reshape(1, 19, 23)), str(folder / "small.dcm"))
    content = (folder / "small.dcm").read_bytes()
    for name in tag:
        place = re.search(re.escape(name) + rb"(US)?\x02\x00(\x00\x00)?", content).end()
        content = content[:place] + struct.pack("<H", value) + content[place + 2 :]
    return content


ROWS_AND_COLUMNS = (b"\x28\0\x10\0", b"\x28\0\x11\0")
ENDLESS = gzip.compress(bytes(10**8))
HELD = "values, more than its {size} bytes can hold"


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("a.png", lambda _: png(60000, 60000), "Image size (3600000000 pixels) exceeds limit of"),
        ("a.png", lambda _: png(9000, 9000), f"its header claims 9000 x 9000 x 3 {HELD}"),
        ("a.png", lambda _: png(10, 10, chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(10**8)))), "too large"),
        ("a.jpg", lambda folder: jpeg(9000, 8000, folder), f"its header claims 8000 x 9000 {HELD}"),
        ("a.bmp", lambda _: bmp(9000, 8000), f"its header claims 8000 x 9000 x 3 {HELD}"),
        ("a.nii", lambda _: nifti(3000, 3000, 300), f"its header claims 3000 x 3000 x 300 {HELD}"),
        ("a.nii", lambda _: nifti(-3, 7, 5), "its header claims -3 x 7 x 5 values, but every side of an image must be"),
        ("a.nii.gz", lambda _: gzip.compress(nifti(3000, 3000, 300)), f"its header claims 3000 x 3000 x 300 {HELD}"),
        ("a.nrrd", lambda _: nrrd("3000 3000 300"), f"its header claims 3000 x 3000 x 300 {HELD}"),
        ("a.nrrd", lambda _: nrrd("3000 3000 300", "gzip"), f"its header claims 3000 x 3000 x 300 {HELD}"),
        ("a.nrrd", lambda _: nrrd(f"{2**32} {2**32} {2**32}"), "not an image, truncated or damaged"),
        ("a.mha", lambda _: meta_image("3000 3000 300"), f"its header claims 3000 x 3000 x 300 {HELD}"),
        ("a.mha", lambda _: meta_image("-9 7 5"), f"its header claims 4294967287 x 7 x 5 {HELD}"),
        ("a.mha", lambda _: meta_image(axes=-1), "its header's field NDims must be 2, 3 or 4, got -1"),
        ("a.mha", lambda _: meta_image(axes=10**20), "its header's field NDims must be 2, 3 or 4, got 1000"),
        (
            "a.mha",
            lambda _: meta_image(more="CompressedData = True\nCompressedDataSize = 99999999999\n"),
            f"its header claims 99999999999 {HELD}",
        ),
        (
            "a.mha",
            lambda _: meta_image(more="TransformMatrix = 1 0 0 1e308 1 0 0 0 1\n"),  # ITK inverts it for ever
            "its header's field transformmatrix must hold numbers of up to 1e+09, got 1 0 0 1e308",
        ),
        (
            "a.mha",
            lambda _: meta_image(more="ElementSpacing = 1 1\n"),
            "its header's field elementspacing must hold a number or a row for each of 3 axes, got 1 1",
        ),
        ("a.mha", lambda _: meta_image(more="Comment = " + "x" * 5000 + "\n"), "has 5000 characters, more than 4000"),
        (
            "a.mha",
            lambda _: meta_image(more="CompressedData = True\n")[:-100] + zlib.compress(bytes(600)),
            "truncated or damaged: its 630 bytes end after 600",
        ),
        (
            "a.dcm",
            lambda folder: dicom(folder, ROWS_AND_COLUMNS, 65535),
            "damaged: its pixels are 8589672450 bytes, and 874 are there",
        ),
        (
            "a.dcm",
            lambda folder: dicom(folder, ROWS_AND_COLUMNS, 19)[:-500],
            "not an image, or damaged: element (7fe0,0010) claims 874 bytes, 374 follow",
        ),
    ],
)
def test_absurd_claims_take_no_memory(tmp_path, monkeypatch, name, make, reason):
    content = make(tmp_path)
    path = tmp_path / name
    path.write_bytes(content)
    before = peak()
    with pytest.raises(ValueError, match=f"^cannot read {re.escape(str(path))}: ") as caught:
        load_image(path)
    assert reason.format(size=len(content)).lower() in str(caught.value).lower()  # Pillow 10 shouts
    assert "\n" not in str(caught.value)
    assert peak() - before < 64


def peak():
    """The most memory taken so far, in MiB."""
    resource = pytest.importorskip("resource")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.parametrize(
    ("name", "content", "shape"),
    [
        ("a.nii.gz", gzip.compress(nifti(3, 4, 2)) + ENDLESS, (1, 3, 4, 2)),
        ("a.nrrd", nrrd("3 4 2", "gzip")[:-100] + ENDLESS, (1, 3, 4, 2)),
        (
            "a.mha",
            meta_image("3 4 2", more="CompressedData = True\n")[:-100] + zlib.compress(bytes(10**8)),
            (1, 3, 4, 2),
        ),
    ],
    ids=["a.nii.gz", "a.nrrd", "a.mha"],  # contents would hold the time of their making
)
def test_streams_without_end_are_read_as_far_as_needed(tmp_path, name, content, shape):
    (tmp_path / name).write_bytes(content)
    before = peak()
    assert load_image(tmp_path / name).shape == shape
    assert peak() - before < 64


@pytest.mark.parametrize(
    ("shape", "value_bytes", "stored", "packing"),
    [
        ((4000, 5000, 3), 1, 2_500_000, claims.DEFLATE),  # a JPEG of 20 megapixels
        ((512, 512, 400), 2, 512 * 512 * 400 * 2 + 352, 1),  # a CT as it is
        ((512, 512, 400), 2, 250_000, claims.DEFLATE),  # all of it air, in .nii.gz
    ],
)
def test_large_images_that_are_real(monkeypatch, shape, value_bytes, stored, packing):
    monkeypatch.setattr(claims, "available_memory", lambda: 2 * GIB)
    check_claim(shape, value_bytes, stored, packing)


def test_an_image_may_take_a_quarter_of_the_memory(monkeypatch):
    monkeypatch.setattr(claims, "available_memory", lambda: 4 * GIB)
    check_claim((256, 1024, 1024), 1, GIB, 1)  # 1 GiB as float32
    with pytest.raises(
        ValueError, match=r"claims 257 x 1024 x 1024 values, 1 GiB in memory, but .* the 4 GiB that are free"
    ):
        check_claim((257, 1024, 1024), 1, GIB, 1)


def test_a_file_must_hold_what_it_claims():
    check_claim((4097, 4096), 1, 4097 * 4096, 1)
    with pytest.raises(
        ValueError, match=r"^its header claims 4097 x 4096 values, more than its 16781311 bytes can hold$"
    ):
        check_claim((1, 4097, 4096), 1, 4097 * 4096 - 1, 1)


def test_the_memory_of_this_machine_is_known():
    assert 2**26 < available_memory() < 2**50


@pytest.mark.parametrize("named", ["/etc/passwd", "../secret.raw", "sub/../../secret.raw", "LIST\n../secret.raw"])
@pytest.mark.parametrize("name", ["a.nhdr", "a.nrrd", "a.mhd", "a.mha"])
def test_values_outside_the_folder_are_not_read(tmp_path, name, named):
    (tmp_path / "data").mkdir()
    (tmp_path / "secret.raw").write_bytes(bytes(1000))
    path = tmp_path / "data" / name
    if name.endswith("hdr") or name.endswith("nrrd"):
        path.write_bytes(nrrd("9 7 5", more=f"data file: {named}\n")[:-101])
    else:
        path.write_bytes(meta_image(file=named)[:-100])
    with pytest.raises(
        ValueError, match=r"the file of its values must lie in its own folder, but is named (/etc|.*secret)"
    ):
        load_image(path)


def test_values_in_one_file_per_slice(tmp_path):
    voxels = np.arange(3 * 7 * 9, dtype=np.int16).reshape(3, 7, 9)
    for index, plane in enumerate(voxels, start=1):
        (tmp_path / f"plane{index}.raw").write_bytes(plane.tobytes())
    (tmp_path / "a.mhd").write_bytes(meta_image("9 7 3", file="plane%d.raw 1 3 1")[:-100])
    (tmp_path / "b.mhd").write_bytes(meta_image("9 7 3", file="LIST\nplane1.raw\nplane2.raw\nplane3.raw")[:-100])
    for name in ("a.mhd", "b.mhd"):
        np.testing.assert_array_equal(load_image(tmp_path / name).numpy()[0], voxels.transpose(2, 1, 0))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_voxels_without_a_size(tmp_path, bad):
    header = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.diag([1, 2, 3, 1])).header
    header["srow_y"] = [0, bad, 0, 0]
    header["pixdim"][2] = bad  # else MONAI puts it in the place of the affine
    header["sform_code"] = 1
    content = header.binaryblock + bytes(4) + bytes(48)
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(ValueError, match=r"its affine \[.*\] gives an axis no length"):
        load_image(tmp_path / "a.nii")


def test_a_damaged_slice_fails_its_series_and_not_the_folder(tmp_path, write_dicom_series):
    write_dicom_series(tmp_path / "scan", np.arange(4 * 7 * 9, dtype=np.int16).reshape(4, 7, 9))
    Image.new("L", (9, 7)).save(tmp_path / "other.png")
    content = (tmp_path / "scan" / "slice02.dcm").read_bytes()
    (tmp_path / "scan" / "slice02.dcm").write_bytes(content[:-50])
    items = find_images(tmp_path)
    assert [item["file"] for item in items] == ["other.png", "scan"]
    with pytest.raises(
        ValueError, match=r"its file slice02.dcm is not an image, or damaged: element \(7fe0,0010\) claims"
    ):
        load_image(items[1]["image"])


def deflated(elements):
    syntax = b"1.2.840.10008.1.2.1.99"
    packer = zlib.compressobj(wbits=-15)
    packed = packer.compress(elements) + packer.flush()
    return bytes(128) + b"DICM" + b"\2\0\x10\0UI" + struct.pack("<H", len(syntax)) + syntax + packed


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        (
            bytes(2 * claims.HARMLESS),
            "its deflated elements are larger than 16777216 bytes: convert it to another syntax",
        ),
        (b"\x28\0\x10\0UT\0\0\xff\xff\xff\x7f", r"element \(0028,0010\) claims 2147483647 bytes, 0 follow"),
    ],
)
def test_deflated_dicom_is_looked_into(tmp_path, elements, reason):
    (tmp_path / "a.dcm").write_bytes(deflated(elements))
    with pytest.raises(ValueError, match=reason):
        claims.check_dicom(str(tmp_path / "a.dcm"))
    (tmp_path / "a.dcm").write_bytes(deflated(b"\x28\0\x10\0US\x02\0\x13\0"))
    claims.check_dicom(str(tmp_path / "a.dcm"))


def test_lengths_that_look_like_a_representation(tmp_path):
    """In the implicit syntax, 0x5355 bytes are no "US"."""
    syntax = b"1.2.840.10008.1.2\0"
    head = bytes(128) + b"DICM" + b"\2\0\x10\0UI" + struct.pack("<H", len(syntax)) + syntax
    content = head + b"\x28\0\x10\0" + struct.pack("<I", 0x5355) + b"\xff" * 0x5355
    (tmp_path / "a.dcm").write_bytes(content)
    claims.check_dicom(str(tmp_path / "a.dcm"))
