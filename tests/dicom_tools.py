"""Draws DICOM series as scanners write them."""

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

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
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def read_headers(folder):
    return [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
