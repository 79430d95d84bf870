"""All scores at all levels on small cases at the edge, against arithmetic on sets of pixels in plain Python."""

import math
from itertools import product

import numpy as np
import pytest

from monai_fusenet.evaluation.levels import LEVELS, METRICS, score_image

ROWS, COLUMNS = 6, 24
GRID = set(product(range(ROWS), range(COLUMNS)))


def block(rows, columns):
    return set(product(range(*rows), range(*columns)))


NOTHING: set[tuple[int, int]] = set()
CENTRE = block((2, 5), (9, 14))
CORNER = block((0, 3), (0, 5))
EDGE = block((0, ROWS), (20, COLUMNS))  # touches three borders

# name: mask, parts of the label map (the rest is label 1), truth
CASES = {
    "empty prediction": (NOTHING, [CENTRE], CENTRE),
    "empty prediction, one cluster": (NOTHING, [], CENTRE),
    "empty truth": (CENTRE, [CENTRE, EDGE], NOTHING),
    "both empty": (NOTHING, [CENTRE], NOTHING),
    "both empty, one cluster": (NOTHING, [], NOTHING),
    "everything predicted": (GRID, [], CENTRE),
    "everything true": (CENTRE, [CENTRE, CORNER], GRID),
    "everything predicted and true": (GRID, [], GRID),
    "the complement": (GRID - EDGE, [EDGE], EDGE),
    "touching a corner": (block((0, 4), (0, 4)), [block((0, 4), (0, 4)), CENTRE], CORNER),
    "touching three borders": (block((0, ROWS), (18, COLUMNS)), [block((0, ROWS), (18, 21)), CORNER], EDGE),
    "at opposite borders": (CORNER, [CORNER, EDGE], EDGE),
    "in pieces": (CENTRE | CORNER, [CENTRE, block((0, 2), (0, 5)), block((2, 3), (0, 8))], CENTRE | CORNER),
}


def dice(mask, truth):
    return 2 * len(mask & truth) / (len(mask) + len(truth)) if mask or truth else 1.0


def neighbours(pixel):
    row, column = pixel
    return {(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)}


def distances(start, goal):
    return sorted(min(math.dist(pixel, other) for other in goal) for pixel in start)


def percentile_95(values):
    place = 0.95 * (len(values) - 1)
    low, high = values[math.floor(place)], values[math.ceil(place)]
    return low + (place - math.floor(place)) * (high - low)


def mask_scores(mask, truth):
    both, either = len(mask & truth), len(mask | truth)
    scores = {
        "dice": dice(mask, truth),
        "iou": both / either if either else 1.0,
        "hammoude": 1 - both / either if either else 0.0,
        "xor": (either - both) / len(truth) if truth else (math.inf if mask else 0.0),
    }
    if not mask or not truth:
        agree = not mask and not truth
        return {**scores, "hd95": 0.0 if agree else math.hypot(ROWS, COLUMNS), "surface_dice": float(agree)}
    surfaces = [{pixel for pixel in part if neighbours(pixel) - part} for part in (mask, truth)]
    there, back = distances(*surfaces), distances(*surfaces[::-1])
    near = sum(value <= 2 for value in [*there, *back])
    return {
        **scores,
        "hd95": max(percentile_95(there), percentile_95(back)),
        "surface_dice": near / (len(there) + len(back)),
    }


def entropy(parts):
    shares = [len(part) / len(GRID) for part in parts if part]
    return -sum(share * math.log2(share) for share in shares)


def pairs(parts):
    return sum(math.comb(len(part), 2) for part in parts)


def boundary(parts):
    return {pixel for part in parts for pixel in part if (neighbours(pixel) & GRID) - part}


def partition_scores(clusters, truth):
    true = [part for part in (truth, GRID - truth) if part]
    cells = [cluster & part for cluster in clusters for part in true]
    together, expected = pairs(cells), pairs(clusters) * pairs(true) / pairs([GRID])
    most = (pairs(clusters) + pairs(true)) / 2
    found, wanted = boundary(clusters), boundary(true)
    f_score = float(bool(found) == bool(wanted))
    if found and wanted:
        precision = sum(value <= 2 for value in distances(found, wanted)) / len(found)
        recall = sum(value <= 2 for value in distances(wanted, found)) / len(wanted)
        f_score = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return {
        "ari": (together - expected) / (most - expected) if most > expected else 1.0,
        "voi": 2 * entropy(cells) - entropy(clusters) - entropy(true),
        "boundary_f": f_score,
    }


def mask_of_level(level, mask, clusters, truth):
    if level == "deployed":
        return mask
    if level == "partition":
        return set().union(*(cluster for cluster in clusters if 2 * len(cluster & truth) > len(cluster)))
    if level == "oracle":
        return max(clusters, key=lambda cluster: dice(cluster, truth))  # of equals the first
    near = {pixel for pixel in GRID if any(max(abs(pixel[0] - r), abs(pixel[1] - c)) <= 8 for r, c in truth)}
    return max(clusters, key=lambda cluster: len(cluster & truth)) & near


def to_array(pixels):
    array = np.zeros((ROWS, COLUMNS), int)
    for pixel in pixels:
        array[pixel] = 1
    return array


@pytest.mark.parametrize("case", CASES)
def test_every_level_equals_plain_arithmetic(case):
    mask, parts, truth = CASES[case]
    clusters = [GRID.difference(*parts), *parts]
    label_map = sum((number * to_array(cluster) for number, cluster in enumerate(clusters, 1)), to_array(NOTHING))
    rows = score_image("ours", to_array(mask), label_map, to_array(truth))
    assert [row["level"] for row in rows] == list(LEVELS)
    for row in rows:
        level = row["level"]
        expected = dict.fromkeys(METRICS, math.nan) | {"clusters": len(clusters)}
        if level == "published" and not truth:  # nothing to choose by: as an empty mask against an object
            worst = {"hd95": math.hypot(ROWS, COLUMNS), "hammoude": 1.0, "xor": 1.0}
            expected |= dict.fromkeys(("dice", "iou", "surface_dice"), 0.0) | worst
        else:
            expected |= mask_scores(mask_of_level(level, mask, clusters, truth), truth)
        if level == "partition":
            expected |= partition_scores(clusters, truth)
        assert {key: row[key] for key in METRICS} == pytest.approx(expected, rel=1e-5, abs=1e-6, nan_ok=True), level
        trivial = level == "deployed" and mask in (NOTHING, GRID)
        assert row["collapsed"] == float(len(clusters) == 1 or trivial)
