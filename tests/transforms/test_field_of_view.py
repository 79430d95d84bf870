"""The field of view: found within two pixels wherever a device has drawn it, cropped to, and put back."""

import io

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, PersistentDataset, decollate_batch
from monai.transforms import Compose, Invertd, Resized
from PIL import Image
from scipy import ndimage

from monai_fusenet.data import LoadMedicalImaged, ScaleByPercentilesd, WorkingGridd
from monai_fusenet.transforms import (
    ClustersToMaskd,
    CropToFieldd,
    FieldOfViewd,
    KMeansClustersd,
    ScoresToClustersd,
    find_field,
)


def circle(shape, centre, radius):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return np.hypot(rows - centre[0], columns - centre[1]) < radius


def box(shape, centre, sides, degrees):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    turn = np.deg2rad(degrees)
    along = (rows - centre[0]) * np.cos(turn) + (columns - centre[1]) * np.sin(turn)
    across = (columns - centre[1]) * np.cos(turn) - (rows - centre[0]) * np.sin(turn)
    return (abs(along) < sides[0] / 2) & (abs(across) < sides[1] / 2)


def fan(shape, apex, near, far, degrees):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    distance = np.hypot(rows - apex[0], columns - apex[1])
    angle = np.rad2deg(np.arctan2(columns - apex[1], rows - apex[0]))
    return (near < distance) & (distance < far) & (abs(angle) < degrees / 2)


FIELDS = {
    "collimated": box((311, 402), (150, 190), (220, 260), 0),
    "collimated and turned": box((311, 402), (160, 205), (230, 280), 9),
    "collimated to a part": box((420, 350), (120, 250), (130, 110), -20),
    "turned and cut by the border": box((311, 402), (155, 201), (290, 420), 6),
    "bars at two sides": box((300, 451), (150, 225), (400, 371), 0),
    "a thin border": box((300, 451), (149.5, 225), (292, 443), 0),
    "a bar at one side": box((257, 301), (200, 150), (360, 500), 0),
    "circle": circle((311, 402), (150, 210), 140),
    "circle cut by the border": circle((311, 402), (150, 210), 190),
    "half a circle": circle((260, 390), (240, 100), 180),
    "small circle": circle((300, 280), (90, 180), 55),
    "fan": fan((402, 511), (-30, 255), 70, 400, 70),
    "fan of a point": fan((350, 401), (8, 200), 0, 320, 60),
    "large": circle((1030, 1391), (500, 700), 480),
}


def smooth_noise(random, shape, sigma):
    noise = ndimage.gaussian_filter(random.normal(size=shape), sigma, mode="wrap")
    return noise / noise.std()


def acquired(field, seed=0, ground=8, inverted=False, vignette=0.0, text=False, quality=None):
    """A picture (3, H, W), 8 bits, with a bright texture in its field, and a dark thing in it that touches its edge."""
    random = np.random.default_rng(seed)
    rows, columns = np.nonzero(field)
    inside = 150 + 18 * smooth_noise(random, field.shape, 6) + random.normal(0, 6, field.shape)
    row = int(np.quantile(rows, 0.35))
    inside[circle(field.shape, (row, columns[rows == row].min()), 14)] = 25  # dark, at the edge on the left
    inside[circle(field.shape, (rows.mean(), columns.mean()), 20)] = 40
    if vignette:
        middle = np.array([rows.mean(), columns.mean()])
        far = np.hypot(*(np.indices(field.shape) - middle[:, None, None]))
        inside *= 1 - vignette * (far / far[field].max()) ** 2
    outside = ground + random.normal(0, 1.5, field.shape)
    if text:
        for row, column in ((6, 8), (6, 20), (field.shape[0] - 14, field.shape[1] - 30)):
            letter = np.s_[row : row + 8, column : column + 3]
            outside[letter] = np.where(field[letter], outside[letter], 230)
    softened = ndimage.gaussian_filter(field.astype(float), 0.6)
    grey = softened * inside + (1 - softened) * outside
    picture = np.clip(255 - grey if inverted else grey, 0, 255).astype(np.uint8)
    if quality:
        packed = io.BytesIO()
        Image.fromarray(picture).save(packed, "JPEG", quality=quality)
        picture = np.asarray(Image.open(packed))
    return np.repeat(picture[None].astype(np.float32), 3, axis=0)


def distances(found, truth):
    """How far the outlines of two masks are apart, both ways, the image border left out: mean, 95th percentile."""
    rims = []
    for mask in (found, truth):
        rim = mask & ~ndimage.binary_erosion(mask, border_value=1)
        rims.append(rim)
    assert all(rim.any() for rim in rims)
    both = [ndimage.distance_transform_edt(~other)[rim] for rim, other in (rims, rims[::-1])]
    both = np.concatenate(both)
    return both.mean(), np.percentile(both, 95)


@pytest.mark.parametrize(
    "look",
    [{}, {"ground": 20}, {"text": True}, {"quality": 60}, {"vignette": 0.5}, {"seed": 1, "text": True, "quality": 75}],
    ids=str,
)
@pytest.mark.parametrize("name", FIELDS)
def test_a_field_is_found_within_two_pixels(name, look):
    found = find_field(acquired(FIELDS[name], **look), "device")
    mean, most = distances(found, FIELDS[name])
    assert mean <= 1
    assert most <= 2


@pytest.mark.parametrize("name", ["collimated", "collimated and turned", "a thin border"])
def test_a_white_border_is_one_as_well(name):
    found = find_field(acquired(FIELDS[name], inverted=True), "device")
    assert distances(found, FIELDS[name])[1] <= 2


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float"])
def test_values_of_any_range(dtype):
    picture = acquired(FIELDS["circle"])
    picture = {"uint16": 200 * picture, "int16": 10 * picture - 1024, "float": picture / 255}[dtype]
    assert distances(find_field(picture, "device"), FIELDS["circle"])[1] <= 2


def lesion_at_the_border(random, shape):
    grey = 170 + 10 * smooth_noise(random, shape, 5)
    return np.where(circle(shape, (shape[0] / 2, 10), shape[0] / 3), 30, grey) + random.normal(0, 4, shape)


def lesion_that_fills_a_corner(random, shape):
    return np.where(circle(shape, (0, 0), shape[0] / 2), 20, 160) + random.normal(0, 5, shape)


def nuclei_on_black(random, shape, count=12):
    cells = np.zeros(shape)
    for _ in range(count):
        cells[circle(shape, random.uniform(0, 1, 2) * shape, 18)] = 150
    return 8 + ndimage.gaussian_filter(cells, 2.5) + random.normal(0, 2, shape)


def one_cell(random, shape):
    cell = circle(shape, (shape[0] / 2, shape[1] / 2), shape[0] / 4)
    return 8 + ndimage.gaussian_filter(150.0 * cell, 5) + random.normal(0, 2, shape)


def tissue_on_white(random, shape):
    tissue = (
        smooth_noise(random, shape, 18) + 2.5 - 6 * np.hypot(*(np.indices(shape) / np.reshape(shape, (2, 1, 1)) - 0.5))
    )
    return np.where(tissue > 0.5, 150 + 20 * smooth_noise(random, shape, 3), 243) + random.normal(0, 1, shape)


def lesion_on_white(random, shape):
    edge = ndimage.gaussian_filter(circle(shape, (150, 170), 90).astype(float), 4)
    return 245 - 190 * edge + random.normal(0, 2, shape)


def dark_scene(random, shape):
    return 30 + 14 * smooth_noise(random, shape, 14) + random.normal(0, 3, shape)


def membranes(random, shape):
    return np.where(smooth_noise(random, shape, 4) > 1, 40, 190) + random.normal(0, 12, shape)


def noise(random, shape):
    return random.uniform(0, 255, shape)


WITHOUT = [
    *(lesion_at_the_border, lesion_that_fills_a_corner, nuclei_on_black, one_cell, tissue_on_white, lesion_on_white),
    *(dark_scene, membranes, noise),
]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("draw", WITHOUT, ids=lambda draw: draw.__name__)
def test_a_picture_without_a_field_stays_as_it_is(draw, seed):
    picture = torch.from_numpy(draw(np.random.default_rng(seed), (301, 342))).float().clip(0, 255).unsqueeze(0)
    sample = CropToFieldd()(FieldOfViewd()({"image": picture}))
    assert sample["field"].all()
    assert torch.equal(sample["image"], picture)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (15, 15), (16, 17), (5, 300), (7, 9, 11), (1, 40, 40)])
@pytest.mark.parametrize("kind", ["device", "body"])
def test_pictures_of_one_value_and_of_few_pixels(shape, kind):
    assert find_field(np.full((1, *shape), 7.0, np.float32), kind).all()
    assert find_field(np.random.default_rng(0).random((2, *shape), dtype=np.float32), kind).shape == shape


@pytest.mark.parametrize("along", [0, 1, 2])
def test_the_cylinder_of_a_ct(along):
    shape = np.roll((20, 201, 222), along)
    rows, columns = np.delete(shape, along)
    disk = circle((rows, columns), (rows / 2, columns / 2), 95)
    cylinder = np.broadcast_to(np.expand_dims(disk, along), shape)
    random = np.random.default_rng(0)
    body = np.broadcast_to(np.expand_dims(circle((rows, columns), (rows / 2, columns / 2 + 5), 60), along), shape)
    values = np.where(body, 40, -990) + random.normal(0, 20, shape)
    volume = np.where(cylinder, values, -2048).astype(np.float32)[None]
    found = find_field(volume, "device")
    assert distances(found.any(axis=along), disk)[1] <= 2
    assert (find_field(volume, "body") ^ body).sum() < 0.05 * body.sum()


def x_ray(shape=(300, 341), lungs_at_border=False, seed=0):
    """A body between air, with two lungs that are nearly as dark as air; body and lungs."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    body = abs(columns - shape[1] / 2) < 110 + 20 * np.sin(rows / 60)
    lungs = np.zeros(shape, bool)
    top = -20 if lungs_at_border else 60
    for side in (-1, 1):
        lungs |= (((rows - top - 90) / 100) ** 2 + ((columns - shape[1] / 2 - side * 50) / 34) ** 2) < 1
    grey = np.where(body, 170, 6) + 8 * smooth_noise(random, shape, 6) * body
    grey = np.where(lungs & body, 45, grey)
    return (ndimage.gaussian_filter(grey, 2) + random.normal(0, 2, shape)).astype(np.float32)[None], body, lungs


@pytest.mark.parametrize("seed", [0, 1])
def test_air_beside_a_body_is_outside(seed):
    image, body, lungs = x_ray(seed=seed)
    field = find_field(image, "body")
    assert distances(field, body)[1] <= 3
    assert field[lungs].all()


def test_lungs_that_touch_the_border_stay_in_the_body():
    image, body, lungs = x_ray(lungs_at_border=True)
    assert find_field(image, "body")[lungs & body].mean() > 0.98


def test_of_a_collimated_x_ray_the_body_is_left():
    image, body, _ = x_ray()
    field = box(body.shape, (150, 175), (250, 300), 4)
    image = np.where(field, image + 12, 0)
    assert distances(find_field(image, "body"), body & field)[1] <= 4


# Cropped, and put back.


class Given:
    """Puts a field (*spatial) into a sample."""

    def __init__(self, field):
        self.field = torch.from_numpy(field).unsqueeze(0)

    def __call__(self, sample):
        return {**sample, "field": self.field}


def framed(tmp_path, volume):
    """An image on disk, its field and its affine."""
    random = np.random.default_rng(0)
    shape = (60, 71, 24) if volume else (90, 121)
    pixels = random.uniform(100, 200, shape).astype(np.float32)
    field = np.zeros(shape, bool)
    field[9:-12, 13:-7] = True
    field[9:20, 13:30] = False
    if volume:
        affine = np.array([[-1.0, 0.1, 0, 30], [0.1, 1.2, 0, -20], [0, 0, 2.0, 5], [0, 0, 0, 1]])
        path = tmp_path / "scan.nii.gz"
        nib.save(nib.Nifti1Image(pixels, affine), path)
    else:
        affine, path = np.eye(4), tmp_path / "scan.png"
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return {"image": str(path)}, field, affine


def cropping(field):
    resize = WorkingGridd("image", (20, 20, 20)) if field.ndim == 3 else Resized("image", (32, 40))
    return Compose([LoadMedicalImaged("image"), Given(field), CropToFieldd(), resize])


@pytest.mark.parametrize("volume", [False, True])
def test_the_inverse_is_exact_in_the_field_and_0_outside(volume, tmp_path):
    item, field, affine = framed(tmp_path, volume)
    steps = Compose([LoadMedicalImaged("image"), Given(field), CropToFieldd()])
    loaded, sample = LoadMedicalImaged("image")(item)["image"], steps(item)
    assert sample["image"].shape[1:] == ((39, 51, 24) if volume else (69, 101))
    sample["pred"] = sample["image"].clone()
    pred = Invertd("pred", steps, "image")(sample)["pred"]
    assert torch.equal(pred.as_tensor(), loaded.as_tensor() * torch.from_numpy(field))
    np.testing.assert_allclose(pred.affine, affine, atol=1e-6)
    assert pred.applied_operations == []
    back = steps.inverse(steps(item))["image"]
    assert torch.equal(torch.as_tensor(back), torch.as_tensor(pred))


@pytest.mark.parametrize("volume", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_is_undone_item_by_item(workers, volume, tmp_path):
    item, field, affine = framed(tmp_path, volume)
    steps = cropping(field)
    (batch,) = DataLoader(Dataset([item] * 2, steps), batch_size=2, num_workers=workers)
    batch["pred"] = torch.ones_like(batch["image"])
    for one in decollate_batch(batch):
        pred = Invertd("pred", steps, "image", nearest_interp=False)(one)["pred"]
        np.testing.assert_array_equal(pred[0].numpy() > 0.5, field)
        np.testing.assert_allclose(pred.affine, affine, atol=1e-4)


@pytest.mark.parametrize("weights_only", [True, False])
def test_a_cache_on_disk_keeps_what_the_inverse_needs(weights_only, tmp_path):
    item, field, _ = framed(tmp_path, False)
    options = {"cache_dir": tmp_path / "cache", "track_meta": True, "weights_only": weights_only}
    steps = cropping(field)
    PersistentDataset([item], steps, **options)[0]
    sample = PersistentDataset([item], steps, **options)[0]
    sample["pred"] = torch.ones_like(sample["image"])
    np.testing.assert_array_equal(Invertd("pred", steps, "image")(sample)["pred"][0].numpy() > 0.5, field)


def test_where_a_cropped_image_lies_in_space(tmp_path):
    item, field, affine = framed(tmp_path, True)
    image = Compose([LoadMedicalImaged("image"), Given(field), CropToFieldd()])(item)["image"]
    expected = affine @ [9, 13, 0, 1]
    np.testing.assert_allclose(np.asarray(image.affine)[:, 3], expected, atol=1e-6)


def test_what_is_left_outside_gets_values_from_inside():
    field = torch.from_numpy(circle((81, 90), (40, 45), 38)).unsqueeze(0)
    columns = torch.arange(90.0).expand(1, 81, 90)
    cropped = CropToFieldd()({"image": torch.where(field, columns + 100, 0), "field": field})["image"]
    assert cropped.shape == (1, 75, 75)
    assert 105 < cropped.min() < cropped.max() < 185  # of columns 8 to 82
    corner = cropped[0, :8, :8]
    assert (corner > 108).all()
    assert (corner < 130).all()


def test_values_are_scaled_by_what_the_field_holds():
    field = torch.zeros(1, 20, 30, dtype=torch.bool)
    field[:, 5:, 3:] = True
    image = torch.where(field, torch.linspace(100, 200, 600).view(1, 20, 30), 0)
    scaled = ScaleByPercentilesd("image", 0, 100, field_key="field")({"image": image, "field": field})["image"]
    assert scaled[field].min() == 0
    assert scaled[field].max() == 1
    assert torch.equal(
        ScaleByPercentilesd("image", field_key="field")({"image": image})["image"],
        ScaleByPercentilesd("image")({"image": image})["image"],
    )


@pytest.mark.parametrize("volume", [False, True])
def test_clusters_lie_on_the_grid_of_the_file_and_are_0_outside(volume, tmp_path):
    item, field, affine = framed(tmp_path, volume)
    sample = cropping(field)(item)
    halves = torch.zeros(2, *sample["image"].shape[1:])
    halves[0, : halves.shape[1] // 3] = halves[1, halves.shape[1] // 3 :] = 1
    clusters = ScoresToClustersd(field_key="field")({**sample, "scores": halves})["clusters"]
    np.testing.assert_array_equal(clusters[0].numpy() > 0, field)
    np.testing.assert_allclose(clusters.affine, affine, atol=1e-6)
    first = 9 + (field.any(axis=tuple(range(1, field.ndim))).sum()) / 3  # the smaller cluster is the upper third
    expected = field & (np.arange(field.shape[0]).reshape(-1, *[1] * (field.ndim - 1)) < first)
    assert ((clusters[0].numpy() == 2) ^ expected).mean() < 0.02


def test_an_image_that_was_not_cropped_is_refused():
    image = MetaTensor(torch.rand(1, 20, 30), meta={"spatial_shape": [20, 30], "loaded_affine": torch.eye(4)})
    field = torch.ones(1, 20, 30, dtype=torch.bool)
    field[:, :6] = False
    with pytest.raises(ValueError, match="cropped or resampled since it was loaded"):
        ScoresToClustersd(field_key="field")({"image": image, "field": field, "scores": torch.rand(2, 20, 30)})


def test_kmeans_sees_the_field_alone():
    field = torch.zeros(1, 20, 30, dtype=torch.bool)
    field[:, 5:, 3:] = True
    image = torch.zeros(1, 20, 30)
    image[:, 5:12] = 0.7
    image[:, 12:] = 0.9
    sample = KMeansClustersd("image", field_key="field")({"image": image, "field": field})
    expected = np.where(np.arange(20)[:, None] < 12, 2, 1) * field[0].numpy()
    np.testing.assert_array_equal(sample["clusters"][0].numpy(), expected)


# The rule keeps to the field.


def round_field():
    """An image with two like dark disks in a circle of light, one of which touches its edge; their clusters."""
    shape = (100, 120)
    field = circle(shape, (50, 60), 48)
    middle, edge = circle(shape, (50, 60), 12), circle(shape, (50, 16), 12) & field
    image = np.where(middle | edge, 0.3, 0.8) * field
    clusters = np.where(middle | edge, 2, 1) * field
    return (
        {
            "clusters": torch.from_numpy(clusters)[None],
            "image": torch.from_numpy(image)[None].float(),
            "field": torch.from_numpy(field)[None],
        },
        middle,
        edge,
    )


def test_the_edge_of_the_field_is_the_border_of_the_image():
    sample, middle, _ = round_field()
    rule = {"objects": 2, "polarity": "dark", "centre_weight": 0.0}
    regions = ClustersToMaskd(field_key="field", **rule)(sample)["regions"]
    (first, second) = (region for region in regions if region.chosen)
    assert (first.border, second.border > 0.05) == (0, True)
    field = sample["field"].numpy()
    assert first.fraction == pytest.approx(middle.sum() / field.sum())
    chosen = ClustersToMaskd(field_key="field", **{**rule, "objects": 1, "border_weight": 30.0})(sample)["pred"]
    np.testing.assert_array_equal(chosen[0].numpy() > 0, middle)


@pytest.mark.parametrize("options", [{"growth": 0.2}, {"convex": True, "objects": 1}, {"refinement": 0.1}])
def test_nothing_is_drawn_outside_the_field(options):
    sample, _, _ = round_field()
    mask = ClustersToMaskd(field_key="field", polarity="dark", **options)(sample)["pred"]
    assert mask.any()
    assert not (mask[0].numpy() > 0)[~sample["field"][0].numpy()].any()


def test_the_darkness_outside_is_no_contrast():
    sample, middle, _ = round_field()
    bright = sample["image"].clone()
    bright[0][torch.from_numpy(middle)] = 0.8  # nothing dark is left but the disk at the edge
    sample["clusters"][0][torch.from_numpy(middle)] = 1
    chosen = ClustersToMaskd(field_key="field", polarity="bright")({**sample, "image": bright})
    assert [region for region in chosen["regions"] if region.fraction > 0.9] == []


def test_a_whole_field_changes_nothing():
    sample, _, _ = round_field()
    sample["clusters"] = sample["clusters"] + 1
    sample["field"] = torch.ones_like(sample["field"])
    expected, with_field = ClustersToMaskd(objects=1)(sample), ClustersToMaskd(objects=1, field_key="field")(sample)
    assert torch.equal(expected["pred"], with_field["pred"])
    assert expected["regions"] == with_field["regions"]


def test_a_word_that_is_no_shape_is_refused():
    with pytest.raises(ValueError, match=r'^field must be null, "device" or "body", got circle$'):
        FieldOfViewd(shape="circle")


def test_a_field_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"^image and field must have the same shape, got \(9, 8\) and \(8, 9\)$"):
        CropToFieldd()({"image": torch.zeros(1, 9, 8), "field": torch.ones(1, 8, 9, dtype=torch.bool)})


def test_an_empty_field_is_refused():
    with pytest.raises(ValueError, match=r"^expected a mask with at least one pixel, got an empty one$"):
        CropToFieldd()({"image": torch.zeros(1, 9, 8), "field": torch.zeros(1, 9, 8, dtype=torch.bool)})
