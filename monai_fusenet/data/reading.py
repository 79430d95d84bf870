"""Image files as channel-first tensors that remember the grid they came from."""

from __future__ import annotations  # naming an ITK class at import would load all of ITK, which takes seconds

import math
import os
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import itk
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import ITKReader, MetaTensor, NibabelReader
from monai.transforms import MapTransform
from monai.utils import MetaKeys, SpaceKeys
from monai.utils.misc import ImageMetaKey
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from monai_fusenet.data.claims import (
    DEFLATE,
    check_claim,
    check_dicom,
    check_packed,
    check_text,
    data_files,
    text_fields,
)
from monai_fusenet.utils.errors import failure_reason, printable
from monai_fusenet.utils.geometry import SAME_PLACE

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
NIFTI_SUFFIXES = (".nii", ".nii.gz")
META_IMAGE_SUFFIXES = (".mha", ".mhd")
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
NRRD_SUFFIXES = (".nrrd", ".nhdr")
IMAGE_SUFFIXES = (*PICTURE_SUFFIXES, *NIFTI_SUFFIXES, *NRRD_SUFFIXES, *META_IMAGE_SUFFIXES, *DICOM_SUFFIXES)

UNEVEN = 0.25  # parts of the distance between slices that one may lie off, where no grid is exact

_ITK_READERS = {
    ".png": "PNGImageIO",
    **dict.fromkeys((".tif", ".tiff"), "TIFFImageIO"),
    **dict.fromkeys(NRRD_SUFFIXES, "NrrdImageIO"),
    **dict.fromkeys(META_IMAGE_SUFFIXES, "MetaImageIO"),
    **dict.fromkeys(DICOM_SUFFIXES, "GDCMImageIO"),
}
_PAGES_AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK's grid of unit spacing, told in RAS


class _Raster(NamedTuple):
    """What a file holds: pixels (C, *grid), the affine from grid indices to millimetres (RAS), and how to read them."""

    pixels: np.ndarray
    affine: np.ndarray
    has_geometry: bool
    has_alpha: bool


def suffix_of(path: str | os.PathLike) -> str:
    """The suffix in lower case; `.nii.gz` counts as one.

    Example:
        >>> suffix_of("a/b.c/Brain.NII.GZ"), suffix_of("lesion.v2.PNG")
        ('.nii.gz', '.png')
    """
    name = Path(path).name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def dicom_series(folder: str | os.PathLike) -> list[list[str]]:
    """Groups the DICOM files directly in a folder by series.

    Files belong together when they share SeriesInstanceUID, series number and date, image size and slice thickness:
    the rule by which MONAI's `ITKReader` picks the files of a folder.

    Args:
        folder: an existing folder. Files that are not DICOM are passed over.

    Returns:
        One list of file paths per series, in the order of the slices.

    Raises:
        ValueError: if a file of the folder would make ITK hang or take absurd amounts of memory.
    """
    for path in Path(folder).iterdir():
        if path.exists() and not path.is_file() and not path.is_dir():
            raise ValueError(f"{printable(path.name)} is a pipe or a device, not a file")
        if suffix_of(path) in DICOM_SUFFIXES and path.is_file() and path.stat().st_size > 0:
            try:
                check_dicom(str(path))
            except ValueError as error:
                raise ValueError(f"its file {printable(path.name)} is {error}") from error
    names = itk.GDCMSeriesFileNames.New()
    names.SetUseSeriesDetails(True)
    names.AddSeriesRestriction("0008|0021")
    shows_warnings = names.GetGlobalWarningDisplay()
    names.SetGlobalWarningDisplay(False)  # an empty answer is an answer, not a reason to print
    names.SetDirectory(str(folder))
    names.SetGlobalWarningDisplay(shows_warnings)  # it holds for all of ITK
    return [list(names.GetFileNames(uid)) for uid in names.GetSeriesUIDs()]


def load_image(path: str | os.PathLike | Sequence[str | os.PathLike]) -> MetaTensor:
    """Loads one image: a file, a folder that holds one DICOM series, or several files stacked as channels.

    - Pictures (PNG, JPEG, BMP, one-page TIFF) are (C, H, W) in row-major order, upright by their EXIF orientation.
      Palettes and CMYK become RGB, black and white becomes 0 and 255, 16 bits stay 16 bits.
    - A TIFF of several pages is a volume (C, X, Y, pages) of unit spacing.
    - NIfTI, NRRD, MetaImage and DICOM are (C, X, Y[, Z]). One axis of length 1 of a volume is dropped (the last
      one, if there are several), so that a one-slice volume is a 2-D image.

    Args:
        path: what to load. Of several files, which must have equal shapes and affines, transparency is dropped and
            the channels are concatenated in the given order.

    Returns:
        A float32 `MetaTensor` of shape (C, *spatial). Its `meta` holds, besides `filename_or_obj`, `affine` and
        `space` as in MONAI:

        - `spatial_shape`: the spatial shape of the tensor;
        - `grid_shape`: the spatial shape in the file, axes of length 1 included: a mask of the tensor's shape goes
          back onto the image's own grid by `mask.reshape(1, *grid_shape)`;
        - `original_affine`: the 4 x 4 affine of that grid, as the file states it (`affine` has the tensor's axes
          first);
        - `loaded_affine`: the affine of the tensor as it was loaded, which `affine` ceases to be when it is resized;
        - `has_geometry`: False for pictures, whose pixels have no size in millimetres;
        - `has_alpha`: whether the last channel is transparency.

    Raises:
        ValueError: if the file is missing, empty, truncated or not an image, claims more than it or memory can hold,
            if a series has slices that are not evenly spaced, or if several files differ in shape or affine.
    """
    paths = [str(path)] if isinstance(path, str | os.PathLike) else [str(one) for one in path]
    if not paths:
        raise ValueError("expected the path of an image, got an empty list")
    rasters = [_read(one) for one in paths]
    first = rasters[0]
    if len(rasters) > 1:
        for one, raster in zip(paths, rasters, strict=True):
            if raster.pixels.shape[1:] != first.pixels.shape[1:]:
                raise ValueError(
                    f"images to stack must have one shape, got {first.pixels.shape[1:]} for {paths[0]} "
                    f"and {raster.pixels.shape[1:]} for {one}"
                )
            if not np.allclose(raster.affine, first.affine, atol=SAME_PLACE):
                raise ValueError(
                    f"images to stack must lie on one grid, but the affines of {paths[0]} and {one} differ: "
                    "resample one to the other"
                )
        opaque = [raster.pixels[:-1] if raster.has_alpha else raster.pixels for raster in rasters]
        first = first._replace(pixels=np.concatenate(opaque), has_alpha=False)
    return _to_tensor(first, paths[0])


class LoadMedicalImaged(MapTransform):
    """Dictionary transform: replaces paths by loaded images; see `load_image` for formats, shapes and metadata.

    Args:
        keys: keys of paths, or of lists of paths that are stacked as channels.
        allow_missing_keys: whether samples may lack a key.

    Shape:
        path -> (C, *spatial)

    Raises:
        ValueError: if a file cannot be loaded; the message names it in one line.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns a new dictionary with the images in the place of their paths."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            sample[key] = load_image(sample[key])
        return sample


def _read(path: str) -> _Raster:
    try:
        if not os.path.exists(path):
            raise ValueError("no such file or folder")
        if os.path.isdir(path):
            return _read_series(path)
        if not os.path.isfile(path):
            raise ValueError("a pipe or a device, not a file")
        if os.path.getsize(path) == 0:
            raise ValueError("the file is empty (0 bytes)")
        suffix = suffix_of(path)
        if suffix in PICTURE_SUFFIXES:
            return _read_picture(path)
        if suffix in NIFTI_SUFFIXES:
            return _read_nifti(path)
        if suffix in IMAGE_SUFFIXES:
            return _read_with_itk(path)
        raise ValueError(f"unknown suffix '{suffix}', expected one of {' '.join(IMAGE_SUFFIXES)}")
    except Exception as error:  # a damaged file makes the libraries below raise anything, SyntaxError included
        raise ValueError(f"cannot read {printable(path)}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or damaged"
    if isinstance(error, MemoryError) or "bad_alloc" in str(error):
        return "there is not enough memory for it"
    if re.search("itk", str(error), re.IGNORECASE) and isinstance(error, RuntimeError | TypeError):
        return "not an image, truncated or damaged"  # instead of C++ file names and addresses over many lines
    return failure_reason(error)


def _read_picture(path: str) -> _Raster:
    with Image.open(path) as picture:
        count = getattr(picture, "n_frames", 1) if picture.format == "TIFF" else 1
        deep = _is_deep_colour(picture)
        _check_pages(picture, count, os.path.getsize(path))
        pages = []
        for index in range(count):
            picture.seek(index)
            pages.append(_decode(picture))
    shapes = sorted({(page.height, page.width, len(page.getbands())) for page in pages})
    if len(shapes) > 1:
        raise ValueError(f"its {count} pages must have one size and one colour mode, got {shapes}")
    pixels = np.stack([np.asarray(page, dtype=np.float32).reshape(shapes[0]) for page in pages])
    if deep:  # decoded above all the same: unlike Pillow, ITK does not complain about missing pages
        pixels = itk.array_from_image(_itk_image(path)).reshape(*pixels.shape[:3], -1)
    has_alpha = pages[0].mode in ("LA", "RGBA")
    if count == 1:
        return _Raster(pixels[0].transpose(2, 0, 1), np.eye(4), has_geometry=False, has_alpha=has_alpha)
    return _Raster(pixels.transpose(3, 2, 1, 0), _PAGES_AFFINE, has_geometry=True, has_alpha=has_alpha)


def _check_pages(picture: ImageFile.ImageFile, count: int, stored: int) -> None:
    shapes = []
    for index in range(count):
        picture.seek(index)
        shapes.append((picture.height, picture.width, len(picture.getbands())))
    raw = picture.format == "BMP" or picture.info.get("compression") == "raw"
    may_be_bits = picture.format != "JPEG" and any(shape[2] == 1 for shape in shapes)
    # the codecs of TIFF and JPEG are taken to be as good as that of PNG
    largest = max(shapes, key=math.prod)
    check_claim((count, *largest), 1 / 8 if may_be_bits else 1, stored, 1 if raw else DEFLATE)
    picture.seek(0)


def _is_deep_colour(picture: ImageFile.ImageFile) -> bool:
    """Whether the file holds 16-bit colours, which Pillow would reduce to 8 bits without a word.

    Only where the picture stands upright: what reads them instead does not know the EXIF orientation.
    """
    deep = re.search(r"(RGB|LA)[AX]?;16", str(picture.tile)) is not None  # before getexif, which may empty `tile`
    return deep and picture.getexif().get(0x0112, 1) == 1


def _decode(page: Image.Image) -> Image.Image:
    page = ImageOps.exif_transpose(page)
    if page.mode == "1":
        return page.convert("L")
    if page.mode == "PA" or (page.mode == "P" and "transparency" in page.info):
        return page.convert("RGBA")
    if page.mode in ("P", "CMYK", "YCbCr", "HSV"):
        return page.convert("RGB")
    if page.mode not in ("L", "LA", "RGB", "RGBA", "F") and not page.mode.startswith("I"):
        raise ValueError(f"the colour mode {page.mode} is not read, expected grey, RGB, CMYK or a palette")
    return page


def _read_nifti(path: str) -> _Raster:
    if not path.endswith((*NIFTI_SUFFIXES, *(suffix.upper() for suffix in NIFTI_SUFFIXES))):
        raise ValueError("nibabel needs the suffix in lower or in upper case: rename the file")
    reader = NibabelReader(squeeze_non_spatial_dims=True)
    image = reader.read(path)  # no value of it yet
    packing = DEFLATE if suffix_of(path) == ".nii.gz" else 1
    check_claim(image.shape, image.get_data_dtype().itemsize, os.path.getsize(path), packing)
    array, meta = reader.get_data(image)
    has_alpha = False
    if array.dtype.names:  # NIfTI's RGB24 and RGBA32
        has_alpha = array.dtype.names[-1] == "A"
        array = np.stack([array[channel] for channel in array.dtype.names], axis=-1)
    if np.iscomplexobj(array):
        raise ValueError("its values are complex, expected real ones")
    return _Raster(_channel_first(array, meta), meta[MetaKeys.ORIGINAL_AFFINE], has_geometry=True, has_alpha=has_alpha)


def _read_series(folder: str) -> _Raster:
    series = dicom_series(folder)
    if len(series) != 1:
        raise ValueError(f"a folder must hold one DICOM series, got {len(series)}: give each a folder of its own")
    files = series[0]
    others = sorted(
        {name for name in os.listdir(folder) if suffix_of(name) in DICOM_SUFFIXES} - {Path(file).name for file in files}
    )
    if others:
        raise ValueError(f"{len(others)} of its DICOM files are damaged, the first is {printable(others[0])}")
    header = _itk_header(files[0])
    _check_itk_claim(header, files, len(files))
    image = ITKReader(pixel_type=_pixel_type(header)).read(folder)
    notes, uneven = image.GetMetaDataDictionary(), "ITK_non_uniform_sampling_deviation"
    if notes.HasKey(uneven) and notes[uneven] > UNEVEN * image.GetSpacing()[2]:
        raise ValueError(
            f"its slices are not evenly spaced, they lie up to {notes[uneven]:.3g} mm off: are some missing?"
        )
    raster = _raster_of(image)
    return raster._replace(affine=_with_steps(raster.affine, files))


def _with_steps(affine: np.ndarray, files: Sequence[str]) -> np.ndarray:
    """The affine with the step from slice to slice that the headers tell: ITK's is upright, a gantry may be tilted."""
    if len(files) == 1:
        return affine
    first, last = (
        np.array([header.GetOrigin(axis) for axis in range(3)]) for header in map(_itk_header, files[:: len(files) - 1])
    )
    step = (last - first) * (-1, -1, 1) / (len(files) - 1)  # RAS
    if np.abs(step - affine[:3, 2]).max() * len(files) < SAME_PLACE:
        return affine
    sheared = affine.copy()
    sheared[:3, 2] = step
    return sheared


def _itk_header(path: str) -> itk.ImageIOBase:
    """The header of a file, read. ITK would know some formats by their suffix, which it expects in lower case."""
    suffix = suffix_of(path)
    header = getattr(itk, _ITK_READERS[suffix]).New()
    if suffix not in META_IMAGE_SUFFIXES and not header.CanReadFile(path):
        raise ValueError("not an image, or damaged")
    header.SetFileName(path)
    header.ReadImageInformation()
    return header


def _check_itk_claim(header: itk.ImageIOBase, files: Sequence[str], count: int = 1, packing: int = DEFLATE) -> None:
    sides = [header.GetDimensions(axis) for axis in range(header.GetNumberOfDimensions())]
    stored = sum(os.path.getsize(file) for file in files)
    shape = (count, *sides, header.GetNumberOfComponents())
    check_claim(shape, header.GetComponentSize(), stored, packing)


def _pixel_type(header: itk.ImageIOBase) -> Any:
    """Float32 throughout: ITK's Python package has no images of some integer types, int8 and int64 among them."""
    return itk.F if header.GetNumberOfComponents() == 1 else itk.VariableLengthVector[itk.F]


def _read_with_itk(path: str) -> _Raster:
    suffix = suffix_of(path)
    if suffix in DICOM_SUFFIXES:
        check_dicom(path)
        _check_itk_claim(_itk_header(path), [path])
        return _raster_of(_itk_image(path))
    check_text(path)
    fields, files = dict(text_fields(path)), data_files(path)
    if fields.get("compresseddatasize", "").isdecimal():  # MetaIO takes as much memory without asking
        check_claim([int(fields["compresseddatasize"])], 1, sum(map(os.path.getsize, files)), 1)
    header = _itk_header(path)
    packed = fields.get("encoding", "raw") != "raw" or fields.get("compresseddata", "False") != "False"
    _check_itk_claim(header, files, packing=DEFLATE if packed else 1)
    if packed and suffix in META_IMAGE_SUFFIXES:
        check_packed(path, header.GetImageSizeInBytes())
    return _raster_of(_itk_image(path))


def _itk_image(path: str) -> Any:
    header = _itk_header(path)
    image_type = itk.Image if header.GetNumberOfComponents() == 1 else itk.VectorImage
    reader = itk.ImageFileReader[image_type[itk.F, header.GetNumberOfDimensions()]]
    reader = reader.New(FileName=path, ImageIO=header)
    reader.Update()
    return reader.GetOutput()


def _raster_of(image: Any) -> _Raster:
    array, meta = ITKReader().get_data(image)
    # copied here, where `image` lives: the array is a view of its memory, and MONAI's LoadImage would let go of it
    pixels = np.array(_channel_first(array, meta), dtype=np.float32)
    return _Raster(pixels, meta[MetaKeys.ORIGINAL_AFFINE], has_geometry=True, has_alpha=False)


def _channel_first(array: np.ndarray, meta: Mapping) -> np.ndarray:
    spatial_dims = len(meta[MetaKeys.SPATIAL_SHAPE])
    if array.ndim == spatial_dims:
        return array[None]
    if array.ndim == spatial_dims + 1:
        return np.moveaxis(array, -1, 0)
    raise ValueError(f"expected up to 3 spatial axes and one of channels, got an array of shape {array.shape}")


def _to_tensor(raster: _Raster, path: str) -> MetaTensor:
    pixels = raster.pixels
    grid_shape = pixels.shape[1:]
    original_affine = np.eye(4)
    rank = raster.affine.shape[0] - 1  # 2 for the plane images of ITK
    original_affine[:rank, :rank] = raster.affine[:rank, :rank]
    original_affine[:rank, 3] = raster.affine[:rank, rank]
    if not np.isfinite(original_affine).all() or not original_affine[:3, :3].any(axis=0).all():
        raise ValueError(
            f"cannot read {printable(path)}: its affine {original_affine[:3].tolist()} gives an axis no length"
        )
    affine = original_affine
    singletons = [axis for axis, length in enumerate(grid_shape) if length == 1]
    if len(grid_shape) == 3 and singletons:
        dropped = singletons[-1]
        pixels = pixels.squeeze(dropped + 1)
        affine = affine[:, [axis for axis in range(3) if axis != dropped] + [dropped, 3]]
    tensor = torch.from_numpy(np.array(pixels, dtype=np.float32, order="C"))
    meta = {
        ImageMetaKey.FILENAME_OR_OBJ: path,
        MetaKeys.SPATIAL_SHAPE: np.asarray(pixels.shape[1:]),
        MetaKeys.ORIGINAL_AFFINE: original_affine,
        MetaKeys.ORIGINAL_CHANNEL_DIM: 0,
        MetaKeys.SPACE: SpaceKeys.RAS,
        "loaded_affine": affine.copy(),
        "grid_shape": np.asarray(grid_shape),
        "has_geometry": raster.has_geometry,
        "has_alpha": raster.has_alpha,
    }
    return MetaTensor(tensor, affine=torch.from_numpy(affine.copy()), meta=meta)
