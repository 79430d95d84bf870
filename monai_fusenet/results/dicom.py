"""Masks of DICOM images as DICOM: a segmentation object, or a series like the one that the image came from."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from monai.data import MetaTensor

from monai_fusenet import __version__
from monai_fusenet.data.dicom_headers import is_dicom_file
from monai_fusenet.data.dicom_series import series_files
from monai_fusenet.utils.arrays import places_of_classes
from monai_fusenet.utils.errors import failure_reason
from monai_fusenet.utils.files import atomic_folder, atomic_path

if TYPE_CHECKING:  # the extra `dicom`; asked for only where DICOM is to be written
    from pydicom import Dataset

__all__ = [
    "UnfitSourceError",
    "check_dicom_output",
    "dicom_mask_path",
    "is_dicom",
    "remove_dicom_masks",
    "write_dicom_mask",
]

KINDS = ("seg", "series")
MAKER = "monai_fusenet"
LABEL = "label-free foreground"
IDENTITY = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows", "Columns")
GEOMETRY = ("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
# DICOM wants them in every image, empty where unknown; files that were made anonymous may lack them.
MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
    "SliceThickness",
)
# What is true of the source's pixels and would be false, or misread, of a mask.
OF_SOURCE_PIXELS = (
    *("WindowCenterWidthExplanation", "VOILUTFunction", "VOILUTSequence", "ModalityLUTSequence", "RescaleType"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "SmallestImagePixelValue", "LargestImagePixelValue"),
    *("SmallestPixelValueInSeries", "LargestPixelValueInSeries", "RealWorldValueMappingSequence", "IconImageSequence"),
    *("PlanarConfiguration", "ICCProfile", "ColorSpace", "DigitalSignaturesSequence", "MACParametersSequence"),
    *("EncryptedAttributesSequence", "OriginalAttributesSequence", "ReferencedImageSequence", "ImageComments"),
    *("StationName", "DeviceSerialNumber", "DeviceUID", "GantryID", "ReferencedPerformedProcedureStepSequence"),
)
PALETTES_AND_OVERLAYS = (0x5000, 0x6000)  # repeating groups: curves and overlays


class UnfitSourceError(ValueError):
    """No DICOM mask can be made for an image; the message says why, in one line."""


def check_dicom_output(value: Any) -> None:
    """Raises `ValueError` unless `value` is `None`, "seg" or "series", and the libraries for these are installed."""
    if value is None:
        return
    if value not in KINDS:
        raise ValueError(f'dicom_output must be null, "seg" or "series", got {value}')
    if find_spec("highdicom") is None:
        raise ValueError(f"dicom_output {value} needs highdicom; pip install 'monai-fusenet[dicom]'")


def is_dicom(path: str | os.PathLike) -> bool:
    """Whether an image is a DICOM file or the folder of a DICOM series."""
    return os.path.isdir(path) or is_dicom_file(path)


def dicom_mask_path(folder: Path, stem: str, kind: str) -> Path:
    """The path that `write_dicom_mask` writes: the file `<stem>.dcm`, or the folder `<stem>_dicom` of a series."""
    return folder / (f"{stem}.dcm" if kind == "seg" else f"{stem}_dicom")


def remove_dicom_masks(folder: Path, stem: str) -> None:
    """Removes DICOM masks of either kind from an earlier run."""
    dicom_mask_path(folder, stem, "seg").unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(dicom_mask_path(folder, stem, "series"))


def write_dicom_mask(
    mask: MetaTensor,
    source: str | os.PathLike,
    folder: Path,
    stem: str,
    kind: str,
    classes: Sequence[int] = (1,),
) -> Path:
    """Writes a mask as DICOM, with grid, patient and study of the DICOM image that it belongs to.

    "seg" is one binary DICOM-SEG object that refers to each source image, with a frame for each slice, empty ones
    included. "series" is a series of the source's own kind. Each slice copies the attributes of its source slice,
    except those about its pixels. The pixels are 0 and 1 in as many bits as the source has, with a window that shows
    them black and white. Both kinds get new UIDs each time. With several classes, "seg" has a segment for each, in
    their order, and "series" holds their values, in 16 bits if 8 are not enough.

    Args:
        mask: (1, *spatial), foreground above 0, or of several classes 0 and their values, with the `meta` of the image
            as `load_image` left it.
        source: the image: a file, or the folder of a series.
        folder: the output folder.
        stem: name without suffix, see `dicom_mask_path`.
        kind: "seg" or "series".
        classes: values of the classes, ascending, up to 65535.

    Returns:
        the path of the file, or of the folder, which are complete or absent.

    Raises:
        UnfitSourceError: if the source does not permit it, because it has several frames in one file, or attributes
            that are missing or wrong; one line says which.
        OSError: when a file cannot be read or written.
    """
    import pydicom

    grid = tuple(int(side) for side in mask.meta["grid_shape"])
    places = places_of_classes(mask.cpu().numpy(), classes)
    planes = places.reshape(*grid[:2], -1).transpose(2, 1, 0)  # (slices, rows, columns)
    files = series_files(source) if os.path.isdir(source) else [str(source)]
    path = dicom_mask_path(folder, stem, kind)
    try:
        headers = [pydicom.dcmread(file, stop_before_pixels=True, force=True) for file in files]
        _check_sources(headers, len(planes), kind)
        if kind == "seg":
            with atomic_path(path) as temporary:
                _segmentation(planes, headers, classes).save_as(temporary, enforce_file_format=True)
        else:
            values = np.array((0, *classes), dtype=np.uint16)[planes]
            with atomic_folder(path) as temporary:
                for index, dataset in enumerate(_derived_series(values, headers, max(classes)), start=1):
                    dataset.save_as(temporary / f"slice{index:04d}.dcm", enforce_file_format=True)
    except (OSError, UnfitSourceError):
        raise
    except Exception as error:  # attributes that DICOM does not allow make the libraries below raise anything
        raise UnfitSourceError(f"its source is no valid DICOM ({failure_reason(error)})") from error
    return path


def _check_sources(headers: Sequence[Dataset], slices: int, kind: str) -> None:
    if len(headers) != slices or any(int(header.get("NumberOfFrames") or 1) > 1 for header in headers):
        raise UnfitSourceError("its source has several frames in one file, and not one file for each slice")
    needed = [*IDENTITY]
    if kind == "seg" and (slices > 1 or "FrameOfReferenceUID" in headers[0]):
        needed += GEOMETRY
    missing = [name for name in needed if any(header.get(name) in (None, "") for header in headers)]
    if missing:
        raise UnfitSourceError(f"its source has no {', '.join(missing)}")
    if kind == "seg" and "ImageOrientationPatient" in needed:
        orientations = np.array([header.ImageOrientationPatient for header in headers], dtype=float)
        if np.abs(orientations - orientations[0]).max() > 1e-4:
            raise UnfitSourceError("the slices of its source differ in ImageOrientationPatient")


def _segmentation(planes: np.ndarray, headers: Sequence[Dataset], classes: Sequence[int]) -> Dataset:
    """A binary DICOM-SEG object of planes (slices, rows, columns), 1..n of n classes, one for each header."""
    import highdicom
    from pydicom.sr.codedict import codes

    for header in headers:
        header.pop("SpacingBetweenSlices", None)  # may be a gap, or wrong: the positions tell the distance
        for name in MAY_BE_EMPTY:
            if name not in header:
                setattr(header, name, None)
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=MAKER, family=codes.DCM.ArtificialIntelligence, version=__version__
    )
    labels = [LABEL] if len(classes) == 1 else [f"class {value}" for value in classes]
    segments = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=label,
            # No label says what it is: the property that general-purpose editors give to a nameless segment.
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=codes.SCT.Tissue,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number, label in enumerate(labels, start=1)
    ]
    return highdicom.seg.Segmentation(
        source_images=headers,
        pixel_array=planes,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=highdicom.UID(),
        series_number=_series_number(headers[0]),
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name=MAKER,
        software_versions=__version__,
        device_serial_number="none",
        content_label="FOREGROUND",
        content_description=LABEL,
        series_description=LABEL,
        omit_empty_frames=False,
    )


def _series_number(header: Dataset) -> int:
    """Far from the numbers that scanners give, and different for masks of different series."""
    return 9000 + max(0, int(header.get("SeriesNumber") or 0))


def _derived_series(planes: np.ndarray, headers: Sequence[Dataset], top: int) -> list[Dataset]:
    """A dataset for each of the planes (slices, rows, columns), values up to `top`, made of its source's header."""
    from pydicom.uid import generate_uid

    series_uid, now = generate_uid(), datetime.now()
    return [_derived(plane, header, series_uid, now, top) for plane, header in zip(planes, headers, strict=True)]


def _derived(plane: np.ndarray, header: Dataset, series_uid: str, now: datetime, top: int) -> Dataset:
    from highdicom.sr import CodedConcept
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.sr.codedict import codes
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    source = Dataset()
    source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    purpose = codes.DCM.SourceImageForImageProcessingOperation
    source.PurposeOfReferenceCodeSequence = [CodedConcept.from_code(purpose)]
    image_type = list(header.get("ImageType") or [])[2:]
    bits = 8 if header.get("BitsAllocated") == 8 and top < 2**8 else 16  # CT and MR must have 16

    header.decode()  # all of it, sequences included: files of the other byte order are written in this one
    header = Dataset(header)
    header.remove_private_tags()
    for element in list(header):
        if (element.tag.group & 0xFF00) in PALETTES_AND_OVERLAYS or "Palette" in element.keyword:
            del header[element.tag]
    for name in OF_SOURCE_PIXELS:
        header.pop(name, None)
    if "RescaleSlope" in header:
        header.RescaleIntercept, header.RescaleSlope, header.RescaleType = 0, 1, "US"
    if "PresentationLUTShape" in header:
        header.PresentationLUTShape = "IDENTITY"

    header.SOPInstanceUID, header.SeriesInstanceUID = generate_uid(), series_uid
    header.SeriesNumber, header.SeriesDescription = _series_number(header), LABEL
    header.SeriesDate = header.ContentDate = header.InstanceCreationDate = now.strftime("%Y%m%d")
    header.SeriesTime = header.ContentTime = header.InstanceCreationTime = now.strftime("%H%M%S")
    header.Manufacturer = header.ManufacturerModelName = MAKER
    header.SoftwareVersions = __version__
    header.ImageType = ["DERIVED", "SECONDARY", *image_type]
    header.DerivationDescription = LABEL
    header.SourceImageSequence = [source]
    header.SamplesPerPixel, header.PhotometricInterpretation, header.PixelRepresentation = 1, "MONOCHROME2", 0
    header.BitsAllocated = header.BitsStored = bits
    header.HighBit = bits - 1
    header.WindowCenter, header.WindowWidth = f"{top / 2:g}", f"{top:g}"  # 0 is black, the greatest value white
    header.Rows, header.Columns = plane.shape
    header.PixelData = plane.astype(f"<u{bits // 8}").tobytes()
    if len(header.PixelData) % 2:
        header.PixelData += b"\0"
    header["PixelData"].VR = "OB" if bits == 8 else "OW"
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return header
