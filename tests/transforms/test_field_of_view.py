"""The field of view: found within two pixels wherever a device has drawn it, and nowhere else."""

import io

import numpy as np
import pytest
import torch
from field_tools import FIELDS, acquired, box, circle, distances, smooth_noise, x_ray
from PIL import Image
from scipy import ndimage

from monai_fusenet.data import CheckImaged, LoadMedicalImaged, ToChannelsd
from monai_fusenet.transforms import CropToFieldd, FieldOfViewd, find_field


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


# Frames of a few lines, fields of other shapes, and what is no field.


@pytest.mark.parametrize("lines", [(1, 1, 1, 1), (2, 0, 0, 0), (0, 3, 1, 0), (5, 5, 5, 5), (0, 0, 0, 4)], ids=str)
@pytest.mark.parametrize("shape", [(47, 60), (201, 263), (801, 1003)], ids=str)
@pytest.mark.parametrize(("ground", "quality"), [(0, None), (255, None), (0, 60), (255, 85)])
def test_a_frame_of_a_few_lines(lines, shape, ground, quality):
    top, bottom, left, right = lines
    inner = np.zeros(shape, bool)
    inner[top : shape[0] - bottom, left : shape[1] - right] = True
    picture = np.where(inner, acquired(np.ones(shape, bool)), ground).astype(np.uint8)
    if quality:
        packed = io.BytesIO()
        Image.fromarray(picture.transpose(1, 2, 0)).save(packed, "JPEG", quality=quality)
        picture = np.asarray(Image.open(packed)).transpose(2, 0, 1)
    rows, columns = np.nonzero(find_field(picture.astype(np.float32), "device"))
    found = (rows.min(), shape[0] - 1 - rows.max(), columns.min(), shape[1] - 1 - columns.max())
    assert np.abs(np.subtract(found, lines)).max() <= (0 if quality is None else 1)


def test_a_field_in_a_frame():
    picture = np.pad(acquired(FIELDS["circle"], ground=40), ((0, 0), (2, 2), (2, 2)), constant_values=250)
    assert distances(find_field(picture, "device"), np.pad(FIELDS["circle"], 2))[1] <= 2


def test_a_black_frame_before_a_dark_scene_of_soft_edges_is_none():
    rows = np.linspace(0, 1, 200)[:, None]
    picture = np.broadcast_to(255 * rows, (200, 150))[None].astype(np.float32)  # brighter from line to line
    assert find_field(picture, "device").all()


@pytest.mark.parametrize("name", ["octagon", "circle"])
def test_a_field_that_touches_all_borders(name):
    rows, columns = np.mgrid[:240, :300]
    octagon = abs(rows - 119.5) + abs(columns - 149.5) < 200
    field = octagon if name == "octagon" else circle((301, 301), (150, 150), 151)
    assert all(side.any() for side in (field[0], field[-1], field[:, 0], field[:, -1]))
    assert distances(find_field(acquired(field), "device"), field)[1] <= 2


@pytest.mark.parametrize("second", [(200, 160), (120, 100)])
def test_two_pictures_on_one_film_stay_whole(second):
    shape = (260, 420)
    field = box(shape, (130, 105), (200, 160), 0) | box(shape, (130, 315), second, 0)
    assert find_field(acquired(field), "device").all()


def test_a_field_of_one_value_is_one():
    picture = np.where(FIELDS["circle"], 100, 0)[None].astype(np.float32)
    for kind in ("device", "body"):
        assert distances(find_field(picture, kind), FIELDS["circle"])[1] <= 2


@pytest.mark.parametrize("shape", [(41, 53), (70, 64), (130, 97), (301, 342)], ids=str)
@pytest.mark.parametrize("share", [0.1, 0.25, 0.45, 0.6])
def test_a_dark_thing_on_bright_ground_is_no_field_at_any_size(share, shape):
    rows, columns = np.indices(shape)
    axes = np.array(shape) * np.sqrt(share / np.pi)
    ellipse = ((rows - 0.5 * shape[0]) / axes[0]) ** 2 + ((columns - 0.47 * shape[1]) / axes[1]) ** 2 < 1
    picture = np.where(ellipse, 60, 200) + np.random.default_rng(0).normal(0, 8, (3, *shape))
    assert find_field(picture.clip(0, 255).astype(np.float32), "device").all()


@pytest.mark.parametrize("surround", [None, 255, 0])
def test_an_inverted_x_ray_loses_no_lung(surround):
    image, body, lungs = x_ray()
    field = np.ones(body.shape, bool) if surround is None else box(body.shape, (150, 175), (250, 300), 4)
    inverted = np.where(field, 255 - image - 12, 0 if surround is None else surround).astype(np.float32)
    assert find_field(inverted, "body")[lungs & field].all()
    found = find_field(inverted, "device")
    assert found.all() if surround is None else distances(found, field)[1] <= 2


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("padding", [-2048, -1024])
@pytest.mark.parametrize("table", [-700, -300, 200])
def test_the_table_of_a_ct_is_outside_the_body(table, padding, dims):
    shape, random = (200, 220), np.random.default_rng(0)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    body = ((rows - 95) / 60) ** 2 + ((columns - 110) / 85) ** 2 < 1
    lungs = ((rows - 90) / 30) ** 2 + ((abs(columns - 110) - 40) / 22) ** 2 < 1
    plate = (abs(np.hypot(rows - 60, columns - 110) - 120) < 3) & (rows > 160) & (abs(columns - 110) < 75)
    values = np.select([lungs, body, plate], [-800, 40, table], -1000) + random.normal(0, 15, shape)
    values = np.where(circle(shape, (100, 110), 99), values, padding)
    volume = values[None] if dims == 2 else np.repeat(values[None, ..., None], 24, axis=3)
    found = find_field(volume.astype(np.float32), "body")
    truth = body if dims == 2 else np.repeat(body[..., None], 24, axis=2)
    assert found[truth].mean() > 0.997
    assert (found & ~truth).sum() < 0.04 * truth.sum()
    assert not found[plate & (rows > 175)].any()


def test_a_table_that_touches_the_body_costs_none_of_it():
    shape = (200, 220)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    body = ((rows - 95) / 60) ** 2 + ((columns - 110) / 85) ** 2 < 1
    table = (abs(rows - 157) < 3) & (abs(columns - 110) < 80)
    image = np.where(body | table, 40, -1000) + np.random.default_rng(0).normal(0, 15, shape)
    found = find_field(image[None].astype(np.float32), "body")
    assert found[body].mean() > 0.999
    assert (found & ~(body | table)).mean() < 0.02


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_no_light(mode, tmp_path):
    field = FIELDS["circle"]
    colours = acquired(field).transpose(1, 2, 0).astype(np.uint8)
    alpha = np.where(circle(field.shape, (40, 40), 30), 255, 90).astype(np.uint8)  # of another shape
    picture = Image.fromarray(colours).convert(mode)
    picture.putalpha(Image.fromarray(alpha))
    picture.save(tmp_path / "a.png")
    sample = LoadMedicalImaged("image")({"image": str(tmp_path / "a.png")})
    found = FieldOfViewd()(ToChannelsd("image", 3)(sample))["field"][0].numpy()
    assert distances(found, field)[1] <= 2


def test_what_nan_value_puts_in_is_outside():
    field = FIELDS["circle"]
    picture = torch.from_numpy(np.where(field, acquired(field), np.nan)).float()
    sample = CheckImaged("image", 2, 8, nan_value=0)({"image": picture})
    assert distances(FieldOfViewd()(sample)["field"][0].numpy(), field)[1] <= 2
