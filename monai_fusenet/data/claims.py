"""Checks of the size that a file claims, before memory is taken for it."""

from __future__ import annotations

import glob
import math
import mmap
import os
import re
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal

DEFLATE = 1032  # bytes that one byte of zlib or gzip can hold at most (zlib.net, "Technical Details")
HARMLESS = 16 * 2**20  # bytes that any file may claim; what they miss is found when it is read
SHARE = 4  # one image may take a quarter of the memory: what prepares it makes copies
UNKNOWN_MEMORY = 8 * 2**30
HEADER_BYTES = 2**20  # of text in front of the values of NRRD and MetaImage
CHUNK = 2**20  # bytes to unpack at once
LONGEST_FIELD = 4000  # MetaIO keeps a field in 4096 bytes
LARGEST = 1e9  # of the numbers that place an image, in mm
GEOMETRY = {  # names of MetaImage, then of NRRD, as `text_fields` tells them
    *("transformmatrix", "rotation", "orientation", "offset", "position", "origin", "centerofrotation"),
    *("dimsize", "elementspacing", "elementsize", "spacings", "spaceorigin", "spacedirections", "axismins", "axismaxs"),
}

# DICOM PS3.5, 7.1.2: value representations whose length takes four bytes, and those whose length takes two.
LONG_VRS = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
SHORT_VRS = {
    *(b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS"),
    *(b"LO", b"LT", b"PN", b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US"),
}
UNDEFINED = 0xFFFFFFFF  # a length: up to a delimiter


def available_memory() -> int:
    """Bytes of main memory that are free or can be freed; if the system does not say, those of a common machine."""
    found = []
    for path, pattern, unit in (
        ("/proc/meminfo", r"MemAvailable:\s*(\d+) kB", 1024),
        ("/sys/fs/cgroup/memory.max", r"(\d+)", 1),  # what a container may take
    ):
        try:
            match = re.search(pattern, Path(path).read_text())
        except OSError:
            continue
        if match:
            found.append(int(match[1]) * unit)
    return min(found, default=UNKNOWN_MEMORY)


def check_claim(shape: Sequence[int], value_bytes: float, stored: int, packing: int, kept: int | None = None) -> None:
    """Refuses an image that is too large for its file or for memory.

    Args:
        shape: sides of all axes, channels included.
        value_bytes: the least bytes of a value before any compression.
        stored: bytes of all files that hold the values.
        packing: largest number of bytes that a byte of these files can hold: 1 without compression.
        kept: number of values that memory holds at once, if the file is read in parts; `None`: all.

    Raises:
        ValueError: names the claimed size and the available one.
    """
    sides = [int(side) for side in shape if side != 1] or [1]
    claim = f"its header claims {' x '.join(map(str, sides))} values"
    if min(sides) < 1:
        raise ValueError(f"{claim}, but every side of an image must be at least 1")
    values = math.prod(sides)
    if values * value_bytes > max(HARMLESS, stored * packing):
        raise ValueError(f"{claim}, more than its {stored} bytes can hold")
    available, kept = available_memory(), values if kept is None else kept
    if 4 * kept > available / SHARE:
        raise ValueError(
            f"{claim}, {4 * kept / 2**30:.3g} GiB in memory, but one image may take no more than a quarter of "
            f"the {available / 2**30:.3g} GiB that are free"
        )


def text_fields(path: str) -> list[tuple[str, str]]:
    """The fields of the text in front of the values of NRRD and MetaImage: names in lower case without spaces."""
    with open(path, "rb") as file:
        text = os.fsdecode(file.read(HEADER_BYTES))
    fields = []
    for line in text.split("\n"):
        match = re.match(r"\s*([A-Za-z][\w ]*?)\s*(?::=?|=)\s*(.*)", line)
        if match:
            fields.append((match[1].lower().replace(" ", ""), match[2].strip()))
        if (text.startswith("NRRD") and not line.strip()) or (fields and fields[-1][0] == "elementdatafile"):
            break
    return fields


def check_text(path: str) -> None:
    """Refuses a NRRD or MetaImage header with numbers that ITK crashes or hangs on.

    Raises:
        ValueError: names the field.
    """
    fields = text_fields(path)
    axes = {value for name, value in fields if name == "ndims"}  # of MetaImage
    if axes and axes not in ({"2"}, {"3"}, {"4"}):
        raise ValueError(f"its header's field NDims must be 2, 3 or 4, got {' and '.join(sorted(axes))}")
    for name, value in fields:
        if len(value) > LONGEST_FIELD:
            raise ValueError(f"its header's field {name} has {len(value)} characters, more than {LONGEST_FIELD}")
        if name not in GEOMETRY:
            continue
        words = [word for word in re.split(r"[\s,()]+", value) if word]
        if not all(_is_length(word) or (not axes and word.lower() in ("none", "nan")) for word in words):
            raise ValueError(f"its header's field {name} must hold numbers of up to {LARGEST:g}, got {value}")
        count = int(max(axes, default="0"))
        if axes and len(words) not in (count, count**2):
            raise ValueError(
                f"its header's field {name} must hold a number or a row for each of {count} axes, got {value}"
            )


def _is_length(word: str) -> bool:
    try:
        return abs(float(word)) <= LARGEST
    except ValueError:
        return False


def data_files(path: str) -> list[str]:
    """The files that a NRRD or MetaImage header names for its values; the header itself if it names none.

    Raises:
        ValueError: if one is missing, is a pipe or device, or is named outside the folder of the header.
    """
    named = [value for name, value in text_fields(path) if name in ("datafile", "elementdatafile")]
    files = []
    for value in named:
        if value == "LOCAL":
            files.append(path)
            continue
        words = value.split()
        if words and words[0].upper() == "LIST":
            names = _lines_after(path, value)
        else:
            names = [words[0] if words and "%" in words[0] else value]
        for name in names:
            files += _inside(name, Path(path).parent)
    return files or [path]


def check_packed(path: str, wanted: int) -> None:
    """Refuses a MetaImage whose compressed values are damaged or too few: MetaIO may wait forever for the rest.

    Args:
        path: the header.
        wanted: bytes that the values must unpack to.

    Raises:
        ValueError: if they do not.
    """
    files = data_files(path)
    if len(files) > 1:
        raise ValueError("its compressed values must lie in one file")
    size = dict(text_fields(path)).get("compresseddatasize", "")
    left = int(size) if size.isdecimal() else os.path.getsize(files[0])
    unpacker = zlib.decompressobj(wbits=47)  # of zlib or gzip
    made = 0
    with open(files[0], "rb") as file:
        if files[0] == path:
            file.seek(re.search(rb"ElementDataFile[^\n]*\n?", file.read(HEADER_BYTES)).end())  # type: ignore[union-attr]
        while made < wanted:
            packed = unpacker.unconsumed_tail
            if not packed:
                packed = file.read(min(left, CHUNK))
                left -= len(packed)
            if not packed or unpacker.eof:
                raise ValueError(f"truncated or damaged: its {wanted} bytes end after {made}")
            made += len(unpacker.decompress(packed, CHUNK))


def _lines_after(path: str, value: str) -> list[str]:
    with open(path, "rb") as file:
        text = os.fsdecode(file.read(HEADER_BYTES))
    return [line.strip() for line in text.partition(value)[2].splitlines()[1:] if line.strip()]


def _inside(name: str, folder: Path) -> list[str]:
    absolute = PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive
    if absolute or ".." in re.split(r"[/\\]", name):
        raise ValueError(f"the file of its values must lie in its own folder, but is named {name}")
    pattern = re.sub(r"%[\d.]*[du]", "*", glob.escape(name))  # name%03d.raw: one file per slice
    found = sorted(glob.glob(os.path.join(glob.escape(str(folder)), pattern)))
    if not found or not all(os.path.isfile(one) for one in found):
        raise ValueError(f"the file of its values is missing: {name}")
    return found


def check_dicom(path: str) -> None:
    """Refuses a DICOM file with an element longer than the file, because GDCM would first take memory for it.

    Raises:
        ValueError: names the element.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stored:
        data: mmap.mmap | bytes = stored
        place = 132 if data[128:132] == b"DICM" else 0
        order: Literal["little", "big"] = "little"
        syntax = b""
        in_pixels = False
        while place + 8 <= len(data):
            if place >= 132 and syntax == b"1.2.840.10008.1.2.2" and data[place : place + 2] != b"\2\0":
                order = "big"
            group = int.from_bytes(data[place : place + 2], order)
            element = int.from_bytes(data[place + 2 : place + 4], order)
            kind = data[place + 4 : place + 6]
            if group != 2 and syntax == b"1.2.840.10008.1.2.1.99":
                unpacker = zlib.decompressobj(-15)
                try:
                    data, syntax = data[:place] + unpacker.decompress(data[place:], HARMLESS), b""
                except zlib.error as error:
                    raise ValueError("not an image, or damaged: its deflated elements cannot be unpacked") from error
                if unpacker.unconsumed_tail:
                    raise ValueError(
                        f"its deflated elements are larger than {HARMLESS} bytes: convert it to another syntax"
                    )
                continue
            if group != 2 and syntax == b"1.2.840.10008.1.2":
                kind = b""  # implicit: part of a length, which may look like one
            if group != 0xFFFE and kind in LONG_VRS:
                length, start = int.from_bytes(data[place + 8 : place + 12], order), place + 12
            elif group != 0xFFFE and kind in SHORT_VRS:
                length, start = int.from_bytes(data[place + 6 : place + 8], order), place + 8
            else:  # implicit, or the frame of an item
                length, start = int.from_bytes(data[place + 4 : place + 8], order), place + 8
            if length != UNDEFINED and length > len(data) - start:
                detail = (
                    f"element ({group:04x},{element:04x}) claims {length} bytes, {max(0, len(data) - start)} follow"
                )
                raise ValueError(f"not an image, or damaged{f': {detail}' if data[128:132] == b'DICM' else ''}")
            if (group, element) == (0x7FE0, 0x0010):
                in_pixels = length == UNDEFINED
            # what is in sequences and their items is looked at, too; the items of packed pixels hold bytes
            is_container = length == UNDEFINED or kind == b"SQ" or (group == 0xFFFE and not in_pixels)
            place = start if is_container else start + length
            if (group, element) == (0x0002, 0x0010):
                syntax = data[start:place].rstrip(b"\0 ")
