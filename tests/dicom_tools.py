"""Draws DICOM series as scanners write them."""

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedMRImageStorage, ExplicitVRLittleEndian, generate_uid

# Rows and columns are turned about two axes; their product is the direction of the slices.
OBLIQUE = (0.96, 0.28, 0.0, -0.168, 0.576, 0.8)
AXIAL = (1, 0, 0, 0, 1, 0)


def write_ct_series(
    folder, volume, orientation=OBLIQUE, spacing=(0.7, 0.5), gap=2.5, origin=(-31.5, 12.25, 100.0), reverse=False, **own
):
    """One CT file for each slice of a (slices, rows, columns) volume, in files whose names tell nothing of the order.

    Args:
        spacing: in mm, between rows and between columns.
        gap: in mm, from a slice to the next.
        reverse: the slices go against the product of rows and columns.
        own: attributes of all files; `None` leaves one out.

    Returns:
        the paths, in the order of the volume.
    """
    folder.mkdir(parents=True, exist_ok=True)
    normal = np.cross(orientation[:3], orientation[3:]) * (-1 if reverse else 1)
    uids = {name: generate_uid() for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")}
    names = np.random.default_rng(0).permutation(len(volume))
    paths = []
    for index, plane in enumerate(volume):
        path = folder / f"im{names[index]:03d}.dcm"
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset = FileDataset(str(path), Dataset(), file_meta=meta, preamble=b"\0" * 128)
        values = {
            **uids,
            "SpecificCharacterSet": "ISO_IR 192",
            "SOPClassUID": CTImageStorage,
            "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
            "Modality": "CT",
            "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
            "PatientName": "Müller^Ünal",
            "PatientID": "P-17",
            "PatientBirthDate": "19700102",
            "PatientSex": "F",
            "StudyDate": "20240229",
            "StudyTime": "101112",
            "StudyID": "S1",
            "AccessionNumber": "A-3",
            "ReferringPhysicianName": "",
            "Manufacturer": "Scanner Works",
            "StationName": "CT7",
            "SeriesNumber": 4,
            "SeriesDescription": "abdomen",
            "InstanceNumber": index + 1,
            "AcquisitionNumber": 1,
            "KVP": 120,
            "PositionReferenceIndicator": "",
            "ImageOrientationPatient": [f"{value:.6g}" for value in orientation],
            "ImagePositionPatient": [f"{value:.10g}" for value in np.array(origin) + index * gap * normal],
            "PixelSpacing": list(spacing),
            "SliceThickness": gap / 2,
            "SpacingBetweenSlices": gap * 3,  # a lie, of which there are many
            "PatientPosition": "HFS",
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "Rows": plane.shape[0],
            "Columns": plane.shape[1],
            "BitsAllocated": 16,
            "BitsStored": 12,
            "HighBit": 11,
            "PixelRepresentation": 0,
            "RescaleIntercept": -1024,
            "RescaleSlope": 2,
            "RescaleType": "HU",
            "WindowCenter": 40,
            "WindowWidth": 400,
            "SmallestImagePixelValue": 0,
            "LargestImagePixelValue": 4095,
            "ImageComments": "as acquired",
            **own,
        }
        for name, value in values.items():
            if value is not None:
                setattr(dataset, name, value)
        block = dataset.private_block(0x0019, "SCANNER WORKS", create=True)
        block.add_new(0x01, "LO", "private")
        dataset.PixelData = plane.astype("<u2").tobytes()
        dataset["PixelData"].VR = "OW"
        dataset.save_as(path, write_like_original=False)  # by the name that pydicom 2 knows, too
        paths.append(path)
    return paths


def write_dicom_file(path, pixels, sop_class=CTImageStorage, position=None, orientation=AXIAL, **own):
    """One DICOM file of (rows, columns), (frames, rows, columns) or (rows, columns, 3) values; None: without pixels.

    Args:
        position: of its first pixel in mm; `None` leaves the place out.
        own: more attributes; `None` leaves one out.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset(str(path), Dataset(), file_meta=meta, preamble=b"\0" * 128)
    values = {
        "SOPClassUID": sop_class,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": "1.2.3.4",
        "PatientID": "P-17",
        "SeriesNumber": 4,
    }
    if position is not None:
        values |= {"ImagePositionPatient": list(position), "ImageOrientationPatient": list(orientation)}
        values["PixelSpacing"] = [0.7, 0.5]
    if pixels is not None:
        is_colour = pixels.shape[-1] == 3
        bits = 8 * pixels.itemsize
        values |= {
            "SamplesPerPixel": 3 if is_colour else 1,
            "PhotometricInterpretation": "RGB" if is_colour else "MONOCHROME2",
            "PlanarConfiguration": 0 if is_colour else None,
            "NumberOfFrames": len(pixels) if pixels.ndim == 3 and not is_colour else None,
            "Rows": pixels.shape[0 if pixels.ndim == 2 or is_colour else 1],
            "Columns": pixels.shape[1 if pixels.ndim == 2 or is_colour else 2],
            "BitsAllocated": bits,
            "PixelRepresentation": int(pixels.dtype.kind == "i"),
            "BitsStored": bits,
        }
    for name, value in {**values, **own}.items():
        if value is not None:
            setattr(dataset, name, value)
    if pixels is not None:
        dataset.HighBit = dataset.BitsStored - 1
        dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
        dataset["PixelData"].VR = "OB" if pixels.itemsize == 1 else "OW"
    dataset.save_as(path, write_like_original=False)  # by the name that pydicom 2 knows, too
    return dataset


def write_enhanced_file(path, frames, order, frame_attributes=None, **own):
    """An enhanced MR file of (slices, rows, columns) that are 3 mm apart, its frames in the given order.

    Args:
        order: for each frame the slice at whose place it lies.
        frame_attributes: for each frame the functional groups that it has besides its place, by name.
    """

    def item(**values):
        dataset = Dataset()
        for name, value in values.items():
            setattr(dataset, name, value)
        return [dataset]

    shared = item(
        PixelMeasuresSequence=item(PixelSpacing=[0.7, 0.5], SliceThickness=3),
        PlaneOrientationSequence=item(ImageOrientationPatient=list(OBLIQUE)),
    )
    normal = np.cross(OBLIQUE[:3], OBLIQUE[3:])
    places = [[float(f"{value:.10g}") for value in np.array([10, 20, 30]) + 3 * slice_ * normal] for slice_ in order]
    groups = [
        item(PlanePositionSequence=item(ImagePositionPatient=place), **{k: item(**v) for k, v in groups.items()})[0]
        for place, groups in zip(places, frame_attributes or [{}] * len(order), strict=True)
    ]
    own = {"SharedFunctionalGroupsSequence": shared, "PerFrameFunctionalGroupsSequence": groups, **own}
    return write_dicom_file(path, frames, own.pop("sop_class", EnhancedMRImageStorage), **own)


def read_headers(folder):
    return [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
