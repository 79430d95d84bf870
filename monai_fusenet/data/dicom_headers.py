"""The headers of DICOM files: whether they hold an image, which one, and where its slices lie."""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from monai_fusenet.data.claims import UNDEFINED, check_dicom
from monai_fusenet.data.formats import DICOM_SUFFIXES, suffix_of
from monai_fusenet.utils.errors import failure_reason, printable

if TYPE_CHECKING:  # imported where a DICOM file is read: most data sets have none
    from pydicom import Dataset

__all__ = ["SLICE_MODALITIES", "DicomHeader", "Plane", "is_dicom_file", "read_header"]

NO_SUFFIX = re.compile(r"(\.[^a-z]*)?")  # none, or the last number of a UID
# Told of slices at one place, the most telling first.
TELLING = (
    *("ImagePositionPatient", "ReferencedSegmentNumber", "TemporalPositionIdentifier", "TemporalPositionIndex"),
    *("AcquisitionNumber", "FrameAcquisitionNumber", "StackID", "EchoNumbers", "EchoTime", "EffectiveEchoTime"),
    *("DiffusionBValue", "DiffusionGradientOrientation", "TriggerTime", "NominalCardiacTriggerDelayTime"),
    *("InversionTime", "FlipAngle", "RepetitionTime", "ConvolutionKernel", "ImageType", "FrameType", "KVP"),
    *("SliceThickness", "SpacingBetweenSlices", "AcquisitionTime", "ContentTime", "InstanceNumber"),
)
SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")  # the first that is there counts
NEEDED = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "PatientID"),
    *("Modality", "Rows", "Columns", "BitsAllocated", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
    *("ImageOrientationPatient", "ModalityLUTSequence", "DimensionOrganizationType"),
    *(*SPACINGS, "FrameTime", "FrameTimeVector", "CineRate", "FrameIncrementPointer"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", *TELLING),
)
# Projections and photographs are no slices, whatever their headers say of a position.
PICTURES = re.compile(r"Radiograph|Mammograph|Intra-Oral|X-Ray (Image|Angio|Radiofluoro)|Photograph|Dermoscop|^VL ")
PICTURE_MODALITIES = {"CR", "DX", "MG", "IO", "PX", "RF", "XA", "RG", "XC", "OP", "GM", "SM", "ES"}
FILMS = re.compile(r"Video |(Enhanced )?(XA|XRF|X-Ray (Angio|Radiofluoro))")
TIMES = {0x00181063, 0x00181065, 0x00540070, 0x00540100}  # of frames, of a heart's phase, of a slice of time
SLICES = re.compile(r"(Legacy Converted )?(Enhanced )?(CT|MR|PET|Positron Emission Tomography) Image")
SLICE_MODALITIES = {"CT", "MR", "PT"}
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
RLE = "1.2.840.10008.1.2.5"
PIXELS = {0x7FE00008, 0x7FE00009, 0x7FE00010}


class _DamagedError(ValueError):
    """What is wrong with a file, in words that follow "it is"."""


class Plane(NamedTuple):
    """A slice: the data that say which others it belongs to, and where it lies.

    Attributes:
        name: of its file, or the number of its frame.
        form: number of rows and of columns, samples per pixel and kind of colour.
        position: (3,) of the middle of its first pixel in mm (LPS).
        axes: (2, 3) directions in which its columns and its rows are counted.
        spacing: (2,) in mm, between rows and between columns; `None` where unknown.
        uid: its SOPInstanceUID; "" of a frame.
        told: other attributes, by name.
    """

    name: str
    form: Mapping[str, Any]
    position: np.ndarray
    axes: np.ndarray
    spacing: np.ndarray | None
    uid: str
    told: Mapping[str, str]


class DicomHeader(NamedTuple):
    """The content of a DICOM header.

    Attributes:
        path: of the file.
        kind: name of its class.
        holds_image: False of reports, plans, segmentations and the like.
        series: data that all files of its series share.
        modality: as CT, or US.
        planes: of its slices whose places are known: a file of several frames has several; empty without places.
        frames: how many it has.
        lacks: the missing attribute because of which an image of a slice scanner has no place; "" if it has one.
        size: numbers of rows, of columns and of samples per pixel.
        spacing: (2,) in mm, between rows and between columns, of an image without a place; `None` where unknown.
        rescales: (frames, 2) slope and intercept of each frame, where each has its own.
        is_whole: whether it says that its frames are evenly spaced, none of them left out.
        is_cine: whether its frames follow one another in time, without places.
        is_mixed_up: whether GDCM silently reads wrong values: of single bits, of colours of more than a byte in RLE,
            and of a table of values.
    """

    path: str
    kind: str
    holds_image: bool
    series: tuple[str, ...] = ()
    modality: str = ""
    planes: tuple[Plane, ...] = ()
    frames: int = 1
    lacks: str = ""
    size: tuple[int, ...] = ()
    spacing: np.ndarray | None = None
    rescales: np.ndarray | None = None
    is_whole: bool = False
    is_cine: bool = False
    is_mixed_up: bool = False


def is_dicom_file(path: str | os.PathLike) -> bool:
    """Whether a file is DICOM: by its suffix, or, if it has none, by its mark "DICM" after 128 bytes.

    Numbers at the end of a UID do not count as a suffix.
    """
    suffix = suffix_of(path)
    if suffix in DICOM_SUFFIXES:
        return True
    if not NO_SUFFIX.fullmatch(suffix) or not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_header(path: str) -> DicomHeader:
    """Reads the header of a DICOM file.

    Raises:
        ValueError: if it is no DICOM, or damaged; the message completes a sentence that begins with "it is".
    """
    from pydicom.filereader import read_partial
    from pydicom.tag import Tag

    check_dicom(path)  # pydicom would take memory for whatever length an element claims
    met: list[tuple[int, int]] = []

    def ends(tag: int, _representation: str | None, length: int) -> bool:
        met.append((int(tag), length))
        return int(tag) in PIXELS

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with open(path, "rb") as file:
                dataset = read_partial(file, stop_when=ends, force=True, specific_tags=[Tag(name) for name in NEEDED])
            has_pixels = bool(met) and met[-1][0] in PIXELS
            header = _header(path, dataset, has_pixels)
            if has_pixels and header.holds_image:
                _check_length(dataset, header, met[-1][1])
            return header
        except _DamagedError:
            raise
        except Exception as error:  # damaged elements make pydicom raise anything
            raise ValueError(f"damaged: {failure_reason(error)}") from error


def _check_length(dataset: Dataset, header: DicomHeader, length: int) -> None:
    """Refuses pixels that are fewer than the header says: GDCM makes the others up."""
    if length in (0, UNDEFINED):  # of compressed ones, nothing is known before they are decoded
        return
    rows, columns, samples = header.size
    halved = str(dataset.get("PhotometricInterpretation")) == "YBR_FULL_422"  # two colours for two pixels
    bits = rows * columns * header.frames * (2 if halved else samples) * int(_value([dataset], "BitsAllocated") or 8)
    if length < -(-bits // 8):
        raise _DamagedError(f"damaged: its pixels are {-(-bits // 8)} bytes, and {length} are there")


def _header(path: str, dataset: Dataset, has_pixels: bool) -> DicomHeader:
    uid = dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID")
    if uid is None and not has_pixels:
        raise _DamagedError("not an image, or damaged")
    class_name = uid.name if uid is not None else ""
    is_known = uid is not None and class_name != str(uid)
    kind = class_name.replace(" Storage", "") if is_known else f"object of the class {uid}"
    holds_image = "Image" in kind or kind == "Enhanced US Volume" if is_known else has_pixels
    if not holds_image and uid != SEGMENTATION:  # whose frames lie somewhere, too
        return DicomHeader(path, kind, holds_image)
    if not has_pixels:
        raise _DamagedError("damaged: it has no pixels")
    # StudyInstanceUID stands in for a SeriesInstanceUID that was taken away.
    names = (
        "SeriesInstanceUID" if dataset.get("SeriesInstanceUID") else "StudyInstanceUID",
        "PatientID",
        "SeriesNumber",
    )
    series = tuple(str(dataset.get(name) or "") for name in names)
    frames = int(_value([dataset], "NumberOfFrames") or 1)
    size = tuple(int(_value([dataset], name) or 1) for name in ("Rows", "Columns", "SamplesPerPixel"))
    header = DicomHeader(path, kind, holds_image, series, str(dataset.get("Modality") or ""), frames=frames, size=size)
    header = header._replace(is_mixed_up=_is_mixed_up(dataset))
    is_picture = frames == 1 and header.modality in PICTURE_MODALITIES and not SLICES.match(kind)
    if is_picture or PICTURES.search(kind):
        return header._replace(is_cine=_is_cine(dataset, kind, frames), spacing=_spacing(dataset))
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or []
    sources = _sources(dataset, groups) if len(groups) == frames else [[dataset]]
    if len(sources) == frames:
        planes = [_plane(dataset, source, f"frame {number}") for number, source in enumerate(sources, start=1)]
        header = header._replace(planes=_placed(planes))
    if len(groups) == frames:
        is_whole = str(dataset.get("DimensionOrganizationType")) == "3D"
        header = header._replace(rescales=_rescales(sources), is_whole=is_whole)
    if frames == 1 and not header.planes and (SLICES.match(kind) or header.modality in SLICE_MODALITIES):
        has_position = _numbers(sources[0], "ImagePositionPatient", 3) is not None
        header = header._replace(lacks="ImageOrientationPatient" if has_position else "ImagePositionPatient")
    if not header.planes:
        header = header._replace(is_cine=_is_cine(dataset, kind, frames), spacing=_spacing(dataset))
    if frames == 1:  # a slice of a series, known by its file
        name, uid = printable(os.path.basename(path)), str(dataset.get("SOPInstanceUID") or "")
        header = header._replace(planes=tuple(plane._replace(name=name, uid=uid) for plane in header.planes))
    return header


def _is_cine(dataset: Dataset, kind: str, frames: int) -> bool:
    pointers = _value([dataset], "FrameIncrementPointer")
    counts = pointers if isinstance(pointers, Sequence) else [] if pointers is None else [pointers]
    is_timed = any(_value([dataset], name) for name in ("FrameTime", "FrameTimeVector", "CineRate"))
    return frames > 1 and (is_timed or bool(FILMS.match(kind)) or not TIMES.isdisjoint(map(int, counts)))


def _is_mixed_up(dataset: Dataset) -> bool:
    bits = _value([dataset], "BitsAllocated") or 0
    is_packed = dataset.file_meta.get("TransferSyntaxUID") == RLE
    if dataset.get("ModalityLUTSequence") and str(_value([dataset], "PhotometricInterpretation")).startswith("MONO"):
        return True
    return bits == 1 or (is_packed and bits > 8 and _value([dataset], "SamplesPerPixel") == 3)


def _sources(dataset: Dataset, groups: Any) -> list[list[Dataset]]:
    """What holds the attributes of each frame: its own functional groups, then those that all share."""
    shared = [item for group in dataset.get("SharedFunctionalGroupsSequence") or [] for item in _items(group)]
    return [_items(own) + shared for own in groups]


def _placed(planes: list[Plane | None]) -> tuple[Plane, ...]:
    """The planes of all frames; none where no frame tells its place."""
    placed = tuple(plane for plane in planes if plane is not None)
    if placed and len(placed) < len(planes):
        raise _DamagedError(f"damaged: its frame {planes.index(None) + 1} has no place, unlike its other frames")
    return placed


def _rescales(sources: list[list[Dataset]]) -> np.ndarray | None:
    """Slope and intercept of each frame, where they differ."""
    rescales = np.array(
        [
            [_value(source, name) or default for name, default in (("RescaleSlope", 1), ("RescaleIntercept", 0))]
            for source in sources
        ],
        dtype=float,
    )
    return rescales if (rescales != rescales[0]).any() else None


def _items(group: Dataset) -> list[Dataset]:
    """The first item of each sequence of a functional group, and of the sequences in these."""
    items = [element.value[0] for element in group if element.VR == "SQ" and element.value]
    return items + [inner for item in items for inner in _items(item)]


def _plane(dataset: Dataset, sources: list[Dataset], name: str = "") -> Plane | None:
    position = _numbers(sources, "ImagePositionPatient", 3)
    axes = _numbers(sources, "ImageOrientationPatient", 6)
    if position is None or axes is None or not axes.any():
        return None
    lengths = np.linalg.norm(axes.reshape(2, 3), axis=1)
    if np.abs(lengths - 1).max() > 0.01 or abs(axes[:3] @ axes[3:]) > 0.01:
        raise _DamagedError(
            f"damaged: its ImageOrientationPatient {axes.tolist()} is no two directions at right angles"
        )
    spacing = _numbers(sources, "PixelSpacing", 2)
    if spacing is not None and not (spacing > 0).all():
        raise _DamagedError(f"damaged: its PixelSpacing must be above 0, got {spacing.tolist()}")
    colour = str(dataset.get("PhotometricInterpretation") or "")
    form = {
        "Rows": dataset.get("Rows"),
        "Columns": dataset.get("Columns"),
        "SamplesPerPixel": dataset.get("SamplesPerPixel") or 1,
        "PhotometricInterpretation": next(
            (one for one in ("MONOCHROME", "PALETTE") if colour.startswith(one)), "colour"
        ),
    }
    told: dict[str, str] = {}
    for attribute in TELLING:
        with contextlib.suppress(_DamagedError):  # what cannot be read tells nothing
            value = _value(sources, attribute)
            told |= {attribute: str(value)} if value is not None else {}
    return Plane(name, form, position, axes.reshape(2, 3), spacing, "", told)


def _spacing(dataset: Dataset) -> np.ndarray | None:
    for name in SPACINGS:
        with contextlib.suppress(_DamagedError):  # a picture is one without it, too
            spacing = _numbers([dataset], name, 2)
            if spacing is not None and (spacing > 0).all():
                return spacing
    return None


def _value(sources: list[Dataset], name: str) -> Any:
    try:
        return next((source[name].value for source in sources if name in source), None)
    except (TypeError, ValueError) as error:  # pydicom reads a value where it is asked for
        raise _DamagedError(f"damaged: its {name} cannot be read") from error


def _numbers(sources: list[Dataset], name: str, count: int) -> np.ndarray | None:
    value = _value(sources, name)
    if value is None or value == "" or (isinstance(value, list) and not value):
        return None
    try:
        numbers = np.array(value, dtype=float)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise _DamagedError(f"damaged: its {name} must hold {count} numbers, got {value}")
    return numbers
