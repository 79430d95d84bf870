"""Pictures as devices expose them: collimated, round, as fans, and without any field."""

import io

import numpy as np
from PIL import Image
from scipy import ndimage


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
