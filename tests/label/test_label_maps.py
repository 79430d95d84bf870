"""Label maps in the forms that clients ask for, and those that clients send; no server, no monailabel."""

import itk
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from monai_fusenet.data import load_image
from monai_fusenet.label.label_maps import read_form, read_label, write_answer

# Axes swapped, one turned, millimetres that are no whole numbers.
AFFINE = np.array([[0, -1.5, 0, 10], [2, 0, 0, -20], [0, 0, 3.25, 5], [0, 0, 0, 1]])
SAGITTAL = np.array([[0, 0, 4, 7], [1.5, 0, 0, -2], [0, 2.5, 0, 3], [0, 0, 0, 1.0]])
FORMS = (".nrrd", ".seg.nrrd", ".mha", ".nii", ".nii.gz")


def save_nifti(path, shape, affine=AFFINE):
    nib.save(nib.Nifti1Image(np.arange(np.prod(shape), dtype=np.int16).reshape(shape), affine), path)
    return path


def save_picture(path, shape=(7, 5), **options):
    Image.fromarray(np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)).save(path, **options)
    return path


IMAGES = {
    "volume.nii.gz": lambda path: save_nifti(path, (5, 4, 3)),
    "slice.nii.gz": lambda path: save_nifti(path, (5, 4, 1)),
    "plane.nii": lambda path: save_nifti(path, (5, 4)),
    "sagittal.nii.gz": lambda path: save_nifti(path, (1, 5, 4), SAGITTAL),
    "picture.png": save_picture,
    "scan.jpg": lambda path: save_picture(path, dpi=(300, 300)),  # a twelfth of a millimetre a pixel, says ITK
    "scan.tif": lambda path: save_picture(path, dpi=(150, 75)),
}


def labels_of(image):
    """Labels 1, 2, ... of the pixels of an image, all different, on its grid as it was loaded."""
    loaded = load_image(image)
    count = loaded[0].numel()
    labels = torch.arange(1, count + 1, dtype=torch.int32).reshape(1, *loaded.shape[1:])
    return MetaTensor(labels, meta=loaded.meta)


def answer(image, folder, names=None, **request):
    return write_answer(labels_of(image), folder, read_form(request, image), names or {"liver": 1}, image)


def place(image):
    """Where ITK puts the corners of an image, in three axes."""
    sides = [*itk.size(image), 1][:3]
    dimension = image.GetImageDimension()
    corners = [[i, j, k] for i in (0, sides[0] - 1) for j in (0, sides[1] - 1) for k in (0, sides[2] - 1)]
    points = [image.TransformIndexToPhysicalPoint(corner[:dimension]) for corner in corners]
    return np.array([[*point, 0.0][:3] for point in points])


@pytest.mark.parametrize("extension", FORMS)
@pytest.mark.parametrize("name", IMAGES)
def test_itk_finds_a_label_map_where_it_finds_the_image(name, extension, tmp_path):
    image = IMAGES[name](tmp_path / name)
    path = answer(image, tmp_path / "results", result_extension=extension)
    assert path.name.endswith(extension)
    read, shown = itk.imread(str(path)), itk.imread(str(image))
    assert np.allclose(place(read), place(shown), atol=1e-4)
    labels = itk.array_from_image(read).squeeze()
    expected = labels_of(image)
    expected = expected[0].numpy().T if expected.meta["has_geometry"] else expected[0].numpy()
    assert np.array_equal(labels, expected)  # ITK's arrays have the last axis first


@pytest.mark.parametrize("extension", [*FORMS, ".png"])
@pytest.mark.parametrize("name", ["slice.nii.gz", "plane.nii", "sagittal.nii.gz", "scan.jpg"])
def test_a_label_map_comes_back_as_it_was_sent(name, extension, tmp_path):
    image = IMAGES[name](tmp_path / name)
    labels = labels_of(image)
    path = answer(image, tmp_path / "results", result_extension=extension)
    assert np.array_equal(read_label(path, labels.shape[1:], labels.meta), labels[0].numpy())


def test_a_sheared_grid_keeps_its_place_in_nrrd(tmp_path):
    sheared = np.array([[2, 0.5, 0, 10], [0, 1.5, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1]])
    image = save_nifti(tmp_path / "tilted.nii.gz", (5, 4, 3), sheared)
    loaded = load_image(answer(image, tmp_path / "results", result_extension=".nrrd"))
    assert np.allclose(loaded.meta["original_affine"], sheared, atol=1e-4)


def test_a_label_map_of_a_picture_shows_columns_along_x(tmp_path):
    image = save_picture(tmp_path / "a.png", (7, 5))
    read = itk.imread(str(answer(image, tmp_path, result_extension=".nrrd")))
    assert itk.size(read)[0] == 5
    assert read.GetPixel([4, 0]) == 5  # the end of the first row


@pytest.mark.parametrize("asked", ["NRRD", ".NRRD", "nrrd"])
def test_an_extension_needs_no_dot(asked, tmp_path):
    image = save_picture(tmp_path / "a.png")
    assert answer(image, tmp_path / "results", result_extension=asked).suffix == ".nrrd"


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "int32", "float32", "float64"])
def test_labels_have_the_type_that_was_asked_for(dtype, tmp_path):
    image = save_nifti(tmp_path / "a.nii.gz", (5, 4, 3))
    for extension in (".nii", ".nii.gz"):
        path = answer(image, tmp_path / "results", result_extension=extension, result_dtype=dtype)
        assert nib.load(path).get_data_dtype() == np.dtype(dtype)
        assert np.allclose(nib.load(path).affine, AFFINE)
    for extension in (".nrrd", ".seg.nrrd", ".mha"):
        path = answer(image, tmp_path / "results", result_extension=extension, result_dtype=dtype)
        assert itk.array_from_image(itk.imread(str(path))).dtype == np.dtype(dtype)


def test_a_png_has_eight_or_sixteen_bits(tmp_path):
    image = save_picture(tmp_path / "a.png")
    for dtype in ("uint8", "uint16"):
        read = np.asarray(Image.open(answer(image, tmp_path / "results", result_dtype=dtype)))
        assert read.dtype == np.dtype(dtype)
        assert np.array_equal(read, labels_of(image)[0].numpy())


def test_nrrd_is_compressed_when_asked_for(tmp_path):
    image = save_nifti(tmp_path / "a.nii.gz", (5, 4, 3))
    for compress, encoding in ((True, b"encoding: gzip"), (False, b"encoding: raw"), (None, b"encoding: raw")):
        path = answer(image, tmp_path / "results", result_extension=".nrrd", result_compress=compress)
        assert encoding in path.read_bytes().split(b"\n")


def test_a_segmentation_names_its_segments(tmp_path):
    image = save_picture(tmp_path / "a.png", (7, 5))
    path = answer(image, tmp_path / "results", {"Лёгкое": 1, "cluster_2": 2}, result_extension=".seg.nrrd")
    lines = path.read_bytes().split(b"\n\n")[0].decode().split("\n")
    assert {"dimension: 3", "sizes: 5 7 1"} < set(lines)  # Slicer reads no flat segmentation
    for line in ("Segment0_Name:=Лёгкое", "Segment0_LabelValue:=1", "Segment1_Name:=cluster_2", "Segment1_Layer:=0"):
        assert line in lines


def test_without_wishes_a_picture_gets_png_and_everything_else_nifti(tmp_path):
    absent = {"result_extension": None, "result_dtype": "", "result_compress": None}
    for request in ({}, absent):
        path = answer(save_picture(tmp_path / "a.jpg"), tmp_path / "results", **request)
        assert (path.suffix, np.asarray(Image.open(path)).dtype) == (".png", np.uint8)
        path = answer(save_nifti(tmp_path / "a.nii", (5, 4, 3)), tmp_path / "results", **request)
        assert path.name.endswith(".nii.gz")
        assert nib.load(path).get_data_dtype() == np.uint8
    assert len(list((tmp_path / "results").iterdir())) == 4  # nothing else is left behind


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"result_extension": ".jpg"}, r"result_extension must be one of .*\.mha, got '.jpg'$"),
        ({"result_extension": 3}, r"result_extension must be one of .*\.mha, got 3$"),
        ({"result_extension": [".nrrd"]}, r"result_extension must be one of .*\.mha, got \['.nrrd'\]$"),
        ({"result_extension": "../../x.nrrd"}, r"result_extension must be one of .*, got '../../x.nrrd'$"),
        (
            {"result_extension": ".png"},
            r"^a PNG holds no volume: result_extension must be one of .nii.gz .*, got .png$",
        ),
        ({"result_dtype": "uint7"}, "^result_dtype must be one of uint8, .*, float64, got 'uint7'$"),
        ({"result_dtype": 8}, "^result_dtype must be one of .*, got 8$"),
        ({"result_dtype": "object"}, "^result_dtype must be one of .*, got 'object'$"),
        ({"result_compress": "yes"}, "^result_compress must be true or false, got 'yes'$"),
        ({"result_compress": 1}, "^result_compress must be true or false, got 1$"),
        ({"restore_label_idx": [True]}, r"^restore_label_idx must be true or false, got \[True\]$"),
        (
            {"result_write_to_file": False},
            "^result_write_to_file must be true: the answer is a file; output=json leaves",
        ),
    ],
)
def test_a_form_that_cannot_be_is_told_in_one_line(request_, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_form(request_, save_nifti(tmp_path / "a.nii.gz", (5, 4, 3)))


def test_a_picture_that_itk_shows_turned_gets_png_alone(tmp_path):
    for orientation in (1, 3, 6):
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = save_picture(tmp_path / "a.jpg", (7, 5), exif=exif)
        read = np.asarray(Image.open(answer(image, tmp_path / "results", result_extension=".png")))
        assert read.shape == ((5, 7) if orientation == 6 else (7, 5))
        if orientation > 1:
            with pytest.raises(
                ValueError, match=r"^this picture is upright by its EXIF orientation, which readers of "
            ):
                answer(image, tmp_path / "results", result_extension=".nrrd")


def test_a_type_that_does_not_fit_is_told_in_one_line(tmp_path):
    image = save_nifti(tmp_path / "a.nii.gz", (9, 8, 7))  # 504 labels
    with pytest.raises(
        ValueError, match=r"^result_dtype uint8 holds labels up to 255, and there are labels up to 504$"
    ):
        answer(image, tmp_path / "results", result_dtype="uint8")
    with pytest.raises(ValueError, match=r"^result_dtype of .png must be one of uint8, uint16, got 'float32'$"):
        answer(save_picture(tmp_path / "a.png"), tmp_path, result_extension=".png", result_dtype="float32")
    with pytest.raises(ValueError, match=r"^result_dtype of .png must be one of uint8, uint16, got int16$"):
        answer(save_picture(tmp_path / "a.png"), tmp_path, result_dtype="int16")


def test_labels_elsewhere_are_refused(tmp_path):
    image = load_image(save_nifti(tmp_path / "image.nii.gz", (5, 4, 3)))

    def read(change):
        affine = AFFINE @ (np.eye(4) + change)
        return read_label(save_nifti(tmp_path / "labels.nii.gz", (5, 4, 3), affine), image.shape[1:], image.meta)

    shift = np.zeros((4, 4))
    for axis in range(3):
        shift[:], shift[axis, 3] = 0, 0.4  # of a voxel: the nearest voxel is the same
        assert read(shift).shape == (5, 4, 3)
        with pytest.raises(ValueError, match="must have the image's affine"):
            read(1.5 * shift)
        with pytest.raises(ValueError, match="must have the image's affine"):
            read(np.diag([-2.0 * (axis == other) for other in range(4)]))


def test_micrometres_are_no_rounding_errors(tmp_path):
    fine = np.diag([0.005, 0.005, 0.005, 1])  # a turned axis differs by a hundredth of a millimetre
    image = load_image(save_nifti(tmp_path / "image.nii.gz", (5, 4, 3), fine))
    turned = save_nifti(tmp_path / "turned.nii.gz", (5, 4, 3), fine @ np.diag([-1.0, 1, 1, 1]))
    with pytest.raises(ValueError, match="must have the image's affine"):
        read_label(turned, image.shape[1:], image.meta)


def test_colours_are_no_labels(tmp_path):
    image = load_image(save_picture(tmp_path / "a.png", (7, 5)))
    strokes = np.zeros((7, 5, 4), dtype=np.uint8)
    strokes[2, 1:4], strokes[..., 3] = 3, 255
    Image.fromarray(strokes).save(tmp_path / "grey.png")  # as a canvas saves it
    assert read_label(tmp_path / "grey.png", (7, 5), image.meta)[2].tolist() == [0, 3, 3, 3, 0]
    strokes[2, 2, 0] = 200
    Image.fromarray(strokes).save(tmp_path / "red.png")
    with pytest.raises(ValueError, match=r"^the label map must hold one number a pixel, got 3 different channels$"):
        read_label(tmp_path / "red.png", (7, 5), image.meta)
