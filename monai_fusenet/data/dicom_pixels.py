"""The values of one DICOM file, as it shows them: rescaled, black dark, colours as RGB."""

from __future__ import annotations

import importlib

import numpy as np

from monai_fusenet.data.dicom_headers import DicomHeader
from monai_fusenet.data.itk_files import affine_of_header, check_itk_claim, itk_header, itk_image, raster_of
from monai_fusenet.data.raster import Raster

__all__ = ["read_pixels"]


def read_pixels(header: DicomHeader) -> Raster:
    """The values (C, X, Y, frames) of a file, with their geometry from ITK.

    Raises:
        ValueError: if its header claims more than the file can hold, or GDCM does not know its class.
        RuntimeError: if neither GDCM, by ITK, nor pydicom can decode it.
    """
    path = header.path
    try:
        itk_io = itk_header(path)
    except ValueError as error:
        raise ValueError(f"{error}, or of a class that GDCM does not know: {header.kind}; save it as NIfTI") from error
    check_itk_claim(itk_io, [path])
    if header.is_mixed_up:
        return _decoded_by_pydicom(path)
    try:
        return raster_of(itk_image(path, itk_io))
    except RuntimeError as error:
        try:
            return _decoded_by_pydicom(path)
        except Exception:
            raise error from None


def _decoded_by_pydicom(path: str) -> Raster:
    """What GDCM cannot decode: also RLE of odd lengths, MONOCHROME1 of signed values that do not fill their bytes."""
    import pydicom

    converts_colours = int(pydicom.__version_info__[0]) >= 3
    tools = importlib.import_module("pydicom.pixels" if converts_colours else "pydicom.pixel_data_handlers.util")
    dataset = pydicom.dcmread(path, force=True)
    values, colour = dataset.pixel_array, dataset.PhotometricInterpretation
    if colour == "PALETTE COLOR":
        raise ValueError("a palette is left to GDCM")
    if colour.startswith("YBR_FULL") and not converts_colours:
        values = tools.convert_color_space(values, colour, "RGB")
    lowest, bits = -(2 ** (dataset.BitsStored - 1)) if dataset.PixelRepresentation else 0, dataset.BitsStored
    table = next(iter(dataset.get("ModalityLUTSequence") or []), None) if dataset.SamplesPerPixel == 1 else None
    if table is not None:  # of what is stored; the levels that it gives are shown inverted, or not
        try:
            entries, start, bits = table.LUTDescriptor
            lowest, table.LUTDescriptor = 0, [entries, start, 8 if bits <= 8 else 16]  # pydicom knows only these two
            values = tools.apply_modality_lut(values.astype(np.int64), dataset)
        except Exception as error:  # damaged elements make pydicom raise anything
            raise ValueError("its table of values (ModalityLUTSequence) is damaged: save it as NIfTI") from error
    if colour == "MONOCHROME1":
        values = 2 * lowest + 2**bits - 1 - values.astype(np.int64)
    if dataset.SamplesPerPixel == 1:
        values = (values if table is not None else tools.apply_modality_lut(values, dataset))[..., None]
    frames = values.reshape(-1, dataset.Rows, dataset.Columns, dataset.SamplesPerPixel)
    pixels = frames.transpose(3, 2, 1, 0).astype(np.float32)
    return Raster(pixels, affine_of_header(itk_header(path)), has_geometry=True, has_alpha=False)
