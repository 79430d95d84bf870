"""From clicks to a mask, with the clusters of the image as the shapes to choose from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations_with_replacement

import numpy as np
import torch
from scipy import ndimage
from skimage.measure import label as connected_components
from torch.nn import functional as F

from monai_fusenet.transforms.foreground.morphology import border_of, convex_hulls, opened_components
from monai_fusenet.transforms.kmeans import kmeans_clusters
from monai_fusenet.utils.arrays import reduced_shape, resize_area, resize_nearest

__all__ = ["STATE_VERSION", "ClickSelector", "next_click"]

STATE_VERSION = 2  # to be raised with every change of what `ClickSelector.state` holds, or of how it comes about

GRID_PIXELS = {2: 2**14, 3: 2**15}  # by number of axes: on a grid of about so many, shapes are judged and corrected
RING_WIDTH = 0.04  # of the mean side: how far on either side of its outline a candidate's contrast is measured
OPENINGS = (0, 0.02, 0.04, 0.08)  # of the mean side: half the widths of bridges at which components are cut
MIN_FRACTION, MAX_FRACTION = 0.002, 0.9  # share of the image that a candidate covers
SHAPE_FIELDS = ("distances", "scores", "radii", "depths", "hulls", "plain")
MOST_SHAPES = 400  # candidates that are kept, the most contrasted ones, for time and memory

# How much speaks for a candidate: exponents, chosen on the even images of dermoscopy and of drawn ones
# (`python -m benchmarks.clicks`).
CONTRAST_WEIGHT = 1.0
COMPACTNESS_WEIGHT = 3.0
BORDER_WEIGHT = 4.0
DEPTH_WEIGHT = 4.0
SOLIDITY_WEIGHT = 2.0  # a hull that is mostly filled by its shape; people outline convexly, but not that much
HULL_BONUS = 0.5  # logarithm, for what people's outlines have in common
PLAIN_COST = 2.0  # logarithm, for shapes of 2-means, so that they are chosen where clusters offer nothing
VIOLATION_COST = 1.0  # logarithm, for a click on the wrong side of an outline by the radius of the shape
TEMPERATURE = 0.2  # the smaller, the more the likeliest candidate decides alone
LEAST_SPREAD = 1e-4  # variance that is added to that of the values, so that flat images count as finite

# How a correction spreads from its click.
CORRECTION_RANGE = 0.9  # in radii of the object
COLOUR_RANGE = 0.3  # in values of the image, [0, 1]
COLOUR_SHARE = 0.7  # of the correction that stays among pixels of the click's colour
OWN_OBJECT_DEPTH = 0.5  # a click at least so deep in a shape apart, as a share of its depth, asks for that shape
MARGIN = 1.0  # grid pixels by which a click is on its side of the outline in the end
NOISE = 1e-3  # keeps clicks of both kinds in one grid pixel solvable

Point = Sequence[int]


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """Distance to the outline of a mask (*spatial), in pixels: positive inside, negative outside.

    The border of the image is no outline. A mask that is empty or whole has no outline and gets the sign alone.
    """
    if mask.all() or not mask.any():
        return np.where(mask, 1.0, -1.0) * float(np.mean(mask.shape))
    return ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)


class ClickSelector:
    """Turns clicks on one image into a mask.

    Candidates are shapes that the clusters offer, and, for images on which a fit has failed, those of 2-means: of each
    run of clusters that are neighbours in brightness, the connected components, whole and cut at thin bridges, and
    their convex hulls. The first foreground click weighs them: by contrast along their outline, compactness, distance
    from the image border, and how deep inside them it lies; every further click takes weight from those on whose wrong
    side it is. The outline is where the mean of their signed distances, so weighted, is zero.

    A click that the outline still contradicts corrects it. In a shape apart it adds that shape. Elsewhere it is taken
    to be about as far from the true outline as from the current one, as the middle of an error is; the signed distance
    is changed to say so, smoothly around the click and more among pixels of its colour (the mean of a Gaussian process
    given the clicks, with an exponential kernel). Each click is obeyed at its own pixel.

    All happens on a grid of about 16 384 pixels (32 768 voxels), so that an answer takes milliseconds for any image.

    Args:
        clusters: (*spatial), integer labels, 2-D or 3-D.
        image: (C, *spatial) or on any smaller grid of the same proportions, values in [0, 1].

    Raises:
        ValueError: when clusters and image differ in their number of axes.
    """

    def __init__(self, clusters: np.ndarray, image: np.ndarray) -> None:
        if image.ndim != clusters.ndim + 1:
            raise ValueError(
                f"the image must have the axes of the clusters and one of channels, got {image.shape} and "
                f"{clusters.shape}"
            )
        self.shape = clusters.shape
        self.grid = reduced_shape(clusters.shape, GRID_PIXELS.get(clusters.ndim, clusters.size))
        self._clusters = resize_nearest(clusters, self.grid)
        larger = all(old >= new for old, new in zip(image.shape[1:], self.grid, strict=True))
        resize = resize_area if larger else _stretched
        self._image = resize(np.asarray(image, dtype=np.float32), self.grid).astype(np.float64)
        self._side = float(np.mean(self.grid))
        self._judge_shapes()

    def state(self) -> dict[str, np.ndarray]:
        """All that `from_state` needs, small enough to be kept on disk: what takes long to find out is in it."""
        return {
            "shape": np.array(self.shape),
            "grid_clusters": self._clusters,
            "grid_image": self._image.astype(np.float16),
            **{f"shape_{name}": getattr(self, f"_{name}") for name in SHAPE_FIELDS},
        }

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> ClickSelector:
        """The selector that `state` was taken from."""
        selector = cls.__new__(cls)
        selector.shape = tuple(int(side) for side in state["shape"])
        selector._clusters = state["grid_clusters"]
        selector._image = state["grid_image"].astype(np.float64)
        selector.grid = selector._clusters.shape
        selector._side = float(np.mean(selector.grid))
        for name in SHAPE_FIELDS:
            setattr(selector, f"_{name}", state[f"shape_{name}"])
        return selector

    def _judge_shapes(self) -> None:
        """Collects the candidates and all about them that does not depend on clicks."""
        ring_width = max(1, round(RING_WIDTH * self._side))
        border = border_of(self.grid)
        distances, scores, radii, depths, hulls, plain = [], [], [], [], [], []
        for shape, is_hull, solidity, is_plain in self._shapes():
            distance = signed_distance(shape)
            sides = (distance > 0) & (distance <= ring_width), (distance < 0) & (distance >= -ring_width)
            inner, outer = (self._image[:, side] for side in sides)
            difference = np.abs(inner.mean(axis=1) - outer.mean(axis=1)).mean()
            spread = np.sqrt((inner.var(axis=1) + outer.var(axis=1)).mean() + LEAST_SPREAD)
            radius, depth = _radius(shape), _depth(shape)
            touching = float((border & shape).sum() / border.sum())
            scores.append(
                CONTRAST_WEIGHT * np.log(difference / spread + 1e-2)
                + COMPACTNESS_WEIGHT * np.log(depth / radius)
                + BORDER_WEIGHT * np.log(1.001 - touching)
                + SOLIDITY_WEIGHT * np.log(solidity)
                + HULL_BONUS * is_hull
                - PLAIN_COST * is_plain
            )
            distances.append((2 * distance).round().clip(-127, 127).astype(np.int8))
            radii.append(radius)
            depths.append(depth)
            hulls.append(is_hull)
            plain.append(is_plain)
        order = np.argsort(scores)[::-1][:MOST_SHAPES]
        self._distances = np.array(distances, dtype=np.int8).reshape(-1, *self.grid)[order]  # in half pixels
        self._scores = np.array(scores)[order]
        self._radii = np.array(radii)[order]
        self._depths = np.array(depths)[order]
        self._hulls = np.array(hulls, dtype=bool)[order]
        self._plain = np.array(plain, dtype=bool)[order]

    def _shapes(self) -> Iterator[tuple[np.ndarray, bool, float, bool]]:
        """Candidates (*grid), bool, whether each is a hull, how much of it its shape fills, and whether it comes from
        2-means alone; none comes twice.
        """
        seen: set[bytes] = set()
        # Where a fit has failed, 2-means of the values still offers something to choose.
        levels = [(level, False) for level in self._levels(self._clusters)]
        levels += [(level, True) for level in self._levels(self._two_means())]
        for level, is_plain in levels:
            for opening in OPENINGS:
                components = opened_components(level, opening * self._side)
                sizes = np.bincount(components.ravel())
                for component in np.flatnonzero(sizes >= MIN_FRACTION * level.size):
                    if component == 0:
                        continue
                    shape = ndimage.binary_fill_holes(components == component)
                    for candidate, is_hull in ((shape, False), (convex_hulls(shape), True)):
                        key = np.packbits(candidate).tobytes()
                        if key not in seen and candidate.mean() <= MAX_FRACTION:
                            seen.add(key)
                            yield candidate, is_hull, float(shape.sum() / candidate.sum()), is_plain

    def _levels(self, clusters: np.ndarray) -> Iterator[np.ndarray]:
        """Masks (*grid) of each run of clusters that are neighbours in brightness."""
        grey = self._image.mean(axis=0)
        found = np.unique(clusters)
        brightness = [grey[clusters == cluster].mean() for cluster in found]
        ranks = np.argsort(np.argsort(brightness))[np.searchsorted(found, clusters)]
        for first, last in combinations_with_replacement(range(len(found)), 2):
            yield (first <= ranks) & (ranks <= last)

    def _two_means(self) -> np.ndarray:
        return kmeans_clusters(self._image, 2)

    def __call__(self, foreground: Sequence[Point], background: Sequence[Point] = ()) -> np.ndarray:
        """The mask that the clicks ask for.

        Args:
            foreground: indices (*spatial) of pixels of the object, in the order of the clicks; one at least.
            background: indices of pixels that are not.

        Returns:
            (*spatial), bool.

        Raises:
            ValueError: when there is no foreground click, or a click lies outside the image.
        """
        if len(foreground) == 0:
            raise ValueError("expected at least one foreground click, got none")
        for point in (*foreground, *background):
            if len(point) != len(self.shape) or not all(
                0 <= index < side for index, side in zip(point, self.shape, strict=True)
            ):
                raise ValueError(f"the click {tuple(point)} lies outside the image, whose shape is {self.shape}")
        inside, outside = (self._on_grid(points) for points in (foreground, background))
        distance = self._corrected(self._chosen(inside, outside), inside, outside)
        mask = _stretched(distance[None].astype(np.float32), self.shape)[0] > 0
        for points, value in ((foreground, True), (background, False)):
            for point in points:
                mask[tuple(point)] = value
        return mask

    def _on_grid(self, points: Sequence[Point]) -> np.ndarray:
        """Points (n, axes) as indices of the grid, none of them twice, in their order."""
        scale = np.array(self.grid) / np.array(self.shape)
        indices = ((np.array(points, dtype=float).reshape(-1, len(self.grid)) + 0.5) * scale).astype(np.intp)
        return np.array(list(dict.fromkeys(map(tuple, indices))), dtype=np.intp).reshape(-1, len(self.grid))

    def _chosen(self, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
        """Signed distance (*grid) of the shape that the clicks choose, shapes apart included."""
        first = tuple(inside[0])
        depth_at_first = self._at(inside[:1])[:, 0]
        component = self._component_at(first)
        is_tiny = component.mean() < MIN_FRACTION and not (depth_at_first[~self._plain] > 0).any()
        if is_tiny or not (depth_at_first > 0).any():
            distance = signed_distance(component)
        else:
            wrong = np.maximum(-self._at(inside[1:]), 0).sum(axis=1) + np.maximum(self._at(outside), 0).sum(axis=1)
            logits = (
                self._scores
                + DEPTH_WEIGHT * np.log(np.maximum(depth_at_first, 0) / self._depths + 1e-3)
                - VIOLATION_COST * wrong / self._radii
            )
            weights = np.exp((logits - logits.max()) / TEMPERATURE)
            weights /= weights.sum()
            likely = weights > 1e-3
            distance = np.tensordot(weights[likely] / 2, self._distances[likely], axes=1)
        for point in map(tuple, inside[1:]):
            if distance[point] < 0:
                apart = self._shape_apart(point, distance > 0, outside)
                if apart is not None:
                    distance = np.maximum(distance, apart)
        return distance

    def _at(self, points: np.ndarray) -> np.ndarray:
        """Signed distances of all candidates at points (n, axes): (candidates, n)."""
        flat = self._distances.reshape(len(self._distances), int(np.prod(self.grid)))
        return flat[:, np.ravel_multi_index(tuple(points.T), self.grid)] / 2

    def _component_at(self, point: tuple[int, ...]) -> np.ndarray:
        """The connected component (*grid) of the cluster at a point, however small."""
        components = connected_components(self._clusters == self._clusters[point], connectivity=1)
        return components == components[point]

    def _shape_apart(self, point: tuple[int, ...], mask: np.ndarray, outside: np.ndarray) -> np.ndarray | None:
        """Signed distance of the best candidate well inside which a click lies, and that has nothing of a mask."""
        depth = self._at(np.array([point]))[:, 0]
        fits = (depth >= OWN_OBJECT_DEPTH * self._depths) & ~self._hulls & (self._at(outside) <= 0).all(axis=1)
        for index in np.flatnonzero(fits):  # in the order of their scores
            if not (mask & (self._distances[index] > 0)).any():
                return self._distances[index] / 2
        return None

    def _corrected(self, distance: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
        """A signed distance that agrees with all clicks."""
        points = np.concatenate([inside, outside])
        signs = np.repeat([1.0, -1.0], [len(inside), len(outside)])
        before = distance[tuple(points.T)]
        wrong = [index for index in np.argsort(-np.abs(before)) if before[index] * signs[index] <= 0]
        if not wrong:
            return distance
        reach = CORRECTION_RANGE * _radius(distance > 0)
        covariance = self._kernel(points, points, reach)
        targets, now, coefficients = before.copy(), before.copy(), np.zeros(0)
        held = [index for index in range(len(points)) if index not in wrong]
        for index in wrong:  # the greatest error first: most others vanish with it
            agreed = now[index] * signs[index]
            targets[index] = now[index] if agreed > MARGIN else signs[index] * max(abs(now[index]), MARGIN)
            held.append(index)
            system = covariance[np.ix_(held, held)] + NOISE * np.eye(len(held))
            coefficients = np.linalg.solve(system, (targets - before)[held])
            now = before + covariance[:, held] @ coefficients
        everywhere = np.indices(self.grid).reshape(len(self.grid), -1).T
        correction = self._kernel(everywhere, points[held], reach) @ coefficients
        return distance + correction.reshape(self.grid)

    def _kernel(self, some: np.ndarray, others: np.ndarray, reach: float) -> np.ndarray:
        """Covariance of signed distances at grid points (n, axes) and (m, axes): (n, m)."""
        away = np.sqrt(_squared_distances(some, others))
        colours, other_colours = (self._image[(slice(None), *points.T)].T for points in (some, others))
        unlike = _squared_distances(colours, other_colours)
        alike = 1 - COLOUR_SHARE + COLOUR_SHARE * np.exp(-unlike / (2 * COLOUR_RANGE**2))
        return np.exp(-away / reach) * alike


def _squared_distances(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    return sum((np.subtract.outer(some[:, axis], others[:, axis])) ** 2.0 for axis in range(some.shape[1]))


def _radius(mask: np.ndarray) -> float:
    """Radius of the ball of the same size (a disc in 2-D), in pixels."""
    volume_of_unit_ball = {2: np.pi, 3: 4 / 3 * np.pi}[mask.ndim]
    return float((max(mask.sum(), 1) / volume_of_unit_ball) ** (1 / mask.ndim))


def _depth(mask: np.ndarray) -> float:
    """Distance of the deepest pixel from the outline, to which here the border of the image belongs."""
    return float(ndimage.distance_transform_edt(np.pad(mask, 1)).max())


def _stretched(channels: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Floats (C, *spatial) on a larger grid (C, *shape), interpolated linearly."""
    mode = {2: "bilinear", 3: "trilinear"}[len(shape)]
    return F.interpolate(torch.from_numpy(channels).unsqueeze(0), size=tuple(shape), mode=mode)[0].numpy()


def next_click(truth: np.ndarray, mask: np.ndarray) -> tuple[tuple[int, ...], bool] | None:
    """Where a simulated annotator clicks: in the middle of the largest error.

    Args:
        truth: (*spatial), bool.
        mask: (*spatial), bool, what the annotator sees; empty before the first click.

    Returns:
        the pixel farthest from the border of the largest connected error, and whether it is foreground; `None` where
        there is no error.
    """
    errors = [(truth & ~mask, True), (mask & ~truth, False)]
    largest: tuple[int, np.ndarray, bool] | None = None
    for error, is_foreground in errors:
        components = connected_components(error, connectivity=1)
        sizes = np.bincount(components.ravel())[1:]
        if len(sizes) and (largest is None or sizes.max() > largest[0]):
            largest = (int(sizes.max()), components == sizes.argmax() + 1, is_foreground)
    if largest is None:
        return None
    inside = tuple(slice(1, -1) for _ in truth.shape)
    depth = ndimage.distance_transform_edt(np.pad(largest[1], 1))[inside]
    return tuple(int(index) for index in np.unravel_index(depth.argmax(), depth.shape)), largest[2]
