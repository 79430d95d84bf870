"""Correction of an outline by clicks that it contradicts: the mean of a Gaussian process given the clicks."""

from __future__ import annotations

import numpy as np

from monai_fusenet.clicks.distance import radius_of

__all__ = ["correct"]

CORRECTION_RANGE = 0.9  # in radii of the object: how far a correction spreads from its click
COLOUR_RANGE = 0.3  # in values of the image, [0, 1]
COLOUR_SHARE = 0.7  # of the correction that stays among pixels of the click's colour
MARGIN = 1.0  # grid pixels by which a click is on its side of the outline in the end
NOISE = 1e-3  # keeps clicks of both kinds in one grid pixel solvable


def correct(distance: np.ndarray, image: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """A signed distance that agrees with all clicks.

    A click on the wrong side of the outline is assumed to lie in the middle of an error: as far from the true outline
    as from this one. The signed distance is changed to agree with this, smoothly around the click, and more for pixels
    of its colour. The change is the mean of a Gaussian process given the clicks, with an exponential kernel.

    Args:
        distance: (*grid), signed distance of the shape that the clicks have chosen so far.
        image: (C, *grid), values in [0, 1].
        inside: indices of the foreground clicks, (n, axes).
        outside: indices of the background clicks, (m, axes).
    """
    points = np.concatenate([inside, outside])
    signs = np.repeat([1.0, -1.0], [len(inside), len(outside)])
    before = distance[tuple(points.T)]
    wrong = [index for index in np.argsort(-np.abs(before)) if before[index] * signs[index] <= 0]
    if not wrong:
        return distance
    reach = CORRECTION_RANGE * min(
        radius_of(distance > 0), 2 * max(distance.max(), MARGIN)
    )  # the latter of many objects
    covariance = _kernel(image, points, points, reach)
    targets, now, coefficients = before.copy(), before.copy(), np.zeros(0)
    held = [index for index in range(len(points)) if index not in wrong]
    for index in wrong:  # the greatest error first: most others vanish with it
        agreed = now[index] * signs[index]
        targets[index] = now[index] if agreed > MARGIN else signs[index] * max(abs(now[index]), MARGIN)
        held.append(index)
        system = covariance[np.ix_(held, held)] + NOISE * np.eye(len(held))
        coefficients = np.linalg.solve(system, (targets - before)[held])
        now = before + covariance[:, held] @ coefficients
    everywhere = np.indices(distance.shape).reshape(distance.ndim, -1).T
    change = _kernel(image, everywhere, points[held], reach) @ coefficients
    return distance + change.reshape(distance.shape)


def _kernel(image: np.ndarray, some: np.ndarray, others: np.ndarray, reach: float) -> np.ndarray:
    """Covariance of signed distances at grid points (n, axes) and (m, axes): (n, m)."""
    away = np.sqrt(_squared_distances(some, others))
    colours, other_colours = (image[(slice(None), *points.T)].T for points in (some, others))
    unlike = _squared_distances(colours, other_colours)
    alike = 1 - COLOUR_SHARE + COLOUR_SHARE * np.exp(-unlike / (2 * COLOUR_RANGE**2))
    return np.exp(-away / reach) * alike


def _squared_distances(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    return sum((np.subtract.outer(some[:, axis], others[:, axis])) ** 2.0 for axis in range(some.shape[1]))
