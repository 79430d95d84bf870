import numpy as np
import pytest

from monai_fusenet.clicks import ClickSelector, next_click, signed_distance
from monai_fusenet.clicks.correction import MARGIN, correct
from monai_fusenet.clicks.distance import depth_of, radius_of
from monai_fusenet.clicks.shapes import find_shapes


def scene(spatial_dims=2):
    """Two dark balls on bright ground, unequal sides: clusters, image, and the two masks."""
    shape = (70, 91) if spatial_dims == 2 else (30, 41, 26)
    grid = np.indices(shape) / np.array(shape).reshape(-1, *[1] * spatial_dims)
    balls = [
        sum((axis - middle) ** 2 for axis, middle in zip(grid, centre, strict=True)) < 0.17**2
        for centre in ([0.3, 0.28, 0.5][:spatial_dims], [0.65, 0.72, 0.5][:spatial_dims])
    ]
    dark = balls[0] | balls[1]
    noise = np.random.default_rng(0).normal(0, 0.03, (3, *shape))
    image = np.clip(np.where(dark, 0.3, 0.8) + noise, 0, 1).astype(np.float32)
    return np.where(dark, 2, 1).astype(np.uint8), image, balls


def centre(mask):
    return tuple(np.argwhere(mask).mean(axis=0).round().astype(int))


def dice(mask, truth):
    return 2 * (mask & truth).sum() / (mask.sum() + truth.sum())


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_a_click_takes_its_object_and_another_click_adds_the_other(spatial_dims):
    clusters, image, (first, second) = scene(spatial_dims)
    selector = ClickSelector(clusters, image)
    assert dice(selector([centre(first)]), first) > 0.9
    assert dice(selector([centre(second)]), second) > 0.9
    assert dice(selector([centre(first), centre(second)]), first | second) > 0.9


def test_a_background_click_sends_the_outline_back():
    clusters, image, (first, _) = scene()
    selector = ClickSelector(clusters, image)
    row, column = centre(first)
    before, after = selector([(row, column)]), selector([(row, column)], [(row, column + 11)])
    assert before[row, column + 10]
    assert not after[row, column + 10 : column + 13].any()
    assert after[row, column - 5]


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_clicks_correct_a_mask_that_is_there(spatial_dims):
    clusters, image, (first, second) = scene(spatial_dims)
    selector = ClickSelector(clusters, image)
    assert np.array_equal(selector([], [], first), first)
    assert dice(selector([centre(second)], [], first), first | second) > 0.9
    assert dice(selector([], [centre(second)], first | second), first) > 0.95  # a part that is denied goes
    larger, inside = signed_distance(first) > -4, centre(first)
    radius = int(0.17 * clusters.shape[1])
    beside = (inside[0], inside[1] + radius + 2, *inside[2:])  # the outline moves inwards, around the click
    smaller = selector([], [beside], larger)
    assert larger[beside]
    assert not smaller[beside]
    assert smaller[inside]
    assert dice(smaller, first) > dice(larger, first)


def test_a_foreground_click_keeps_its_part_of_the_start():
    clusters, image, (first, second) = scene()
    row, column = centre(second)
    mask = ClickSelector(clusters, image)([(row, column)], [(row, column + 4)], first | second)
    assert mask[row, column]
    assert not mask[row, column + 4]
    assert mask[centre(first)]


def test_pixels_that_no_click_reaches_stay_as_they_are():
    rows, columns = np.indices((400, 600))
    left, right = (((rows - 200) ** 2 + (columns - column) ** 2) < 80**2 for column in (150, 450))
    clusters = np.where(left | right, 2, 1).astype(np.uint8)
    selector = ClickSelector(clusters, (clusters / 2).astype(np.float32)[None])
    assert np.array_equal(selector([(200, 150)], [], left | right), left | right)  # it agrees
    assert np.array_equal(selector([], [(200, 450)], left | right), left)  # the other part goes
    for start in (255 * left.astype(np.uint8), np.where(left, 1, -1), left.tolist()):
        assert np.array_equal(selector([(200, 150)], [], start), left)


@pytest.mark.parametrize("width", [1, 3])
def test_what_is_too_thin_for_the_grid_stays(width):
    """As a vessel beside a lesion that clicks add or deny."""
    rows, columns = np.indices((512, 512))
    large, small = (((rows - at) ** 2 + (columns - at) ** 2) < radius**2 for at, radius in ((170, 85), (392, 56)))
    line = (np.abs(rows - 480) <= width // 2) & (np.abs(columns - 255) < 235)
    image = np.select([large, small], [0.2, 0.25], 0.8)[None].astype(np.float32)
    selector = ClickSelector(1 + large + 2 * small, image)
    added = selector([(392, 392)], [], large | line)
    assert added[line].all()
    assert added[small].mean() > 0.95
    denied = selector([], [(392, 392)], large | small | line)
    assert denied[line].all()
    assert not denied[small].any()
    assert selector([(480, 250)], [], line)[line].all()


def test_clicks_between_pixels():
    clusters, image, _ = scene()
    with pytest.raises(ValueError, match=r"^a click must be whole numbers, the indices of a pixel, got \(3.5, 3\)$"):
        ClickSelector(clusters, image)([(3.5, 3)])
    assert ClickSelector(clusters, image)([(3.0, 3)])[3, 3]


def test_a_start_of_another_shape():
    clusters, image, _ = scene()
    with pytest.raises(ValueError, match=r"^start must have the shape of the image, \(70, 91\), got \(70, 90\)$"):
        ClickSelector(clusters, image)([], [(3, 3)], np.zeros((70, 90), dtype=bool))


def test_every_click_is_obeyed_at_its_pixel():
    clusters, image, _ = scene()
    selector = ClickSelector(clusters, image)
    random = np.random.default_rng(1)
    for _ in range(20):
        points = [tuple(point) for point in np.unique(random.integers(0, (70, 91), (9, 2)), axis=0)]
        mask = selector(points[:5], points[5:])
        assert all(mask[point] for point in points[:5])
        assert not any(mask[point] for point in points[5:])


def test_clicks_lead_to_any_shape():
    clusters, image, (first, _) = scene()
    truth = first.copy()
    truth[: centre(first)[0]] = False  # half an object: nothing in the image says so
    selector = ClickSelector(clusters, image)
    clicks, mask, scores = {True: [], False: []}, np.zeros_like(truth), []
    for _ in range(8):
        point, is_foreground = next_click(truth, mask)
        clicks[is_foreground].append(point)
        mask = selector(clicks[True], clicks[False])
        scores.append(dice(mask, truth))
    assert scores[-1] > 0.9 > scores[0]


def test_the_order_of_corrections_does_not_matter():
    clusters, image, (first, second) = scene()
    selector = ClickSelector(clusters, image)
    background = [(3, 3), (60, 10), (10, 80)]
    one = selector([centre(first), centre(second)], background)
    assert np.array_equal(one, selector([centre(first), centre(second)], background[::-1]))


def test_a_single_cluster_or_a_tiny_object_can_be_clicked_too():
    image = np.random.default_rng(0).random((3, 40, 50)).astype(np.float32)
    assert ClickSelector(np.ones((40, 50), np.uint8), image)([(20, 20)])[20, 20]
    clusters = np.ones((400, 500), np.uint8)
    clusters[200:204, 300:304] = 2
    mask = ClickSelector(clusters, image)([(201, 301)])
    assert mask[201, 301]
    assert mask.mean() < 0.01


def test_its_state_brings_it_back():
    clusters, image, (first, second) = scene()
    selector = ClickSelector(clusters, image)
    again = ClickSelector.from_state(selector.state())
    clicks = ([centre(first)], [centre(second), (35, 30)])
    assert dice(selector(*clicks), again(*clicks)) > 0.999  # the image is kept in half precision


@pytest.mark.parametrize(
    ("foreground", "background", "message"),
    [
        ([], [(1, 1)], "at least one foreground click"),
        ([(70, 1)], [], r"\(70, 1\) lies outside the image, whose shape is \(70, 91\)"),
        ([(1, 1)], [(-1, 1)], "lies outside"),
        ([(1, 1, 1)], [], "lies outside"),
    ],
)
def test_bad_clicks(foreground, background, message):
    clusters, image, _ = scene()
    with pytest.raises(ValueError, match=message):
        ClickSelector(clusters, image)(foreground, background)


def test_bad_image():
    with pytest.raises(ValueError, match="the axes of the clusters and one of channels"):
        ClickSelector(np.ones((4, 5)), np.ones((4, 5)))


def test_signed_distance_on_a_line():
    assert signed_distance(np.array([[1, 1, 0, 0, 0]], bool)).tolist() == [[2, 1, -1, -2, -3]]
    assert (signed_distance(np.ones((3, 5), bool)) > 0).all()
    assert (signed_distance(np.zeros((3, 5), bool)) < 0).all()


def test_radius_and_depth_by_hand():
    square, cube = np.ones((4, 9), bool), np.ones((3, 5, 7), bool)
    assert (radius_of(square), depth_of(square)) == (pytest.approx((36 / np.pi) ** (1 / 2)), 2)
    assert (radius_of(cube), depth_of(cube)) == (pytest.approx((105 * 3 / 4 / np.pi) ** (1 / 3)), 2)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_shapes_come_best_first_and_none_twice(spatial_dims):
    clusters, image, balls = scene(spatial_dims)
    shapes = find_shapes(clusters, image)
    assert (np.diff(shapes.scores) <= 0).all()
    assert len(np.unique(shapes.distances > 0, axis=0)) == len(shapes.scores)
    assert max(dice(shapes.distances[0] > 0, ball) for ball in balls) > 0.9
    middle = centre(balls[0])
    np.testing.assert_array_equal(shapes.at(np.array([middle]))[:, 0], shapes.distances[(slice(None), *middle)] / 2)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_a_correction_puts_each_click_on_its_side(spatial_dims):
    _, image, (first, second) = scene(spatial_dims)
    distance, (near, far) = signed_distance(first), (np.array([centre(ball)]) for ball in (first, second))
    assert correct(distance, image, near, far) is distance  # it agrees with them
    corrected = correct(distance, image, far, near)
    assert corrected[centre(second)] > 0.9 * MARGIN
    assert corrected[centre(first)] < -0.9 * MARGIN


def test_next_click():
    truth, mask = np.zeros((9, 12), bool), np.zeros((9, 12), bool)
    assert next_click(truth, mask) is None
    truth[1:6, 2:7] = True
    assert next_click(truth, mask) == ((3, 4), True)
    mask[0:9, 1:12] = True
    assert next_click(truth, mask)[1] is False
    assert next_click(truth, truth) is None


@pytest.mark.parametrize("shape", [(60, 47), (24, 20, 16)])
def test_an_object_that_no_cluster_shows_is_found_by_its_values(shape):
    """A fit may put the object and most of the ground into one cluster."""
    axes = np.mgrid[tuple(slice(0, side) for side in shape)]
    sides = zip(axes, shape, strict=True)
    truth = sum(((axis - 0.45 * side) / (0.25 * side)) ** 2 for axis, side in sides) < 1
    image = np.where(truth, 0.8, 0.3) + np.random.default_rng(0).normal(0, 0.03, shape)
    clusters = np.ones(shape, dtype=np.uint8)
    clusters[:3] = 2
    centre = tuple(np.argwhere(truth).mean(axis=0).round().astype(int))
    mask = ClickSelector(clusters, image[None])([centre])
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.95


def cells(count):
    """Bright discs of two sizes on dark noisy ground, in rows of 4: clusters, image, and each disc."""
    shape = (30 * -(-count // 4), 131)
    rows, columns = np.indices(shape)
    discs = [
        np.hypot(rows - 15 - 30 * (index // 4), columns - 17 - 32 * (index % 4)) < 7 + index % 2
        for index in range(count)
    ]
    bright = np.any(discs, axis=0)
    noise = np.random.default_rng(0).normal(0, 0.02, (1, *shape))
    return np.where(bright, 2, 1).astype(np.uint8), np.clip(np.where(bright, 0.8, 0.2) + noise, 0, 1), discs


def test_two_of_many_objects_stand_for_all():
    clusters, image, discs = cells(12)
    selector = ClickSelector(clusters, image)
    assert dice(selector([centre(discs[0])]), discs[0]) > 0.9
    assert dice(selector([centre(discs[0]), centre(discs[6])]), np.any(discs, axis=0)) > 0.95
    without = selector([centre(discs[0]), centre(discs[6])], [centre(discs[3])])
    assert dice(without, np.any([*discs[:3], *discs[4:]], axis=0)) > 0.95


def test_two_of_few_objects_stand_for_themselves():
    clusters, image, discs = cells(6)
    assert dice(ClickSelector(clusters, image)([centre(discs[0]), centre(discs[5])]), discs[0] | discs[5]) > 0.9


def test_a_shape_that_no_cluster_shows_is_found_by_a_threshold():
    rows, columns = np.indices((83, 101))
    bright, brighter = np.hypot(rows - 40, columns - 50) < 33, np.hypot(rows - 40, columns - 71) < 9
    image = np.where(brighter, 0.95, np.where(bright, 0.75, 0.1))[None]
    mask = ClickSelector(np.where(bright, 2, 1), image)([(40, 71)])
    assert dice(mask, brighter) > 0.9


def test_a_bright_organ_that_no_cluster_tells_from_the_body_takes_one_click():
    """A fit whose clusters merge an organ of 220 HU with a body of 40 HU; the window of the abdomen."""
    x, y, z = np.mgrid[:96, :96, :40]
    body = ((x - 48) / 40) ** 2 + ((y - 48) / 34) ** 2 < 1
    organ = ((x - 36) / 10) ** 2 + ((y - 44) / 12) ** 2 + ((z - 20) / 9) ** 2 < 1
    values = np.where(organ, 220.0, np.where(body, 40.0, -1000.0)) + np.random.default_rng(0).normal(0, 15, x.shape)
    selector = ClickSelector(body.astype(int), np.clip((values[None] + 160) / 400, 0, 1))
    assert dice(selector([(36, 44, 20)]), organ) > 0.9
