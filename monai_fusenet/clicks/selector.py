"""Turns clicks on one image into a mask: shapes are chosen, then corrected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage
from skimage.measure import label as connected_components

from monai_fusenet.clicks.correction import correct
from monai_fusenet.clicks.distance import signed_distance
from monai_fusenet.clicks.shapes import MIN_FRACTION, Shapes, find_shapes
from monai_fusenet.utils.arrays import reduced_shape, resize_area, resize_linear, resize_nearest

__all__ = ["GRID_PIXELS", "STATE_VERSION", "ClickSelector"]

STATE_VERSION = 3  # to be raised with every change of what `ClickSelector.state` holds, or of how it comes about

GRID_PIXELS = {2: 2**14, 3: 2**15}  # by number of axes: on a grid of about so many, shapes are judged and corrected

# How clicks weigh candidates, chosen like the weights of `shapes`.
DEPTH_WEIGHT = 8.0
VIOLATION_COST = 1.0  # logarithm, for a click on the wrong side of an outline by the radius of the shape
TEMPERATURE = 0.2  # the smaller, the more the likeliest candidate decides alone
ALIKE = 1 / 4  # of the size of the smallest part clicked, from which on another part is its like
LEAST_ALIKE = 1 / 16  # of it, below which a part is none of the objects
FURTHER = 5  # parts like those clicked, from which on all of them are meant
STAYS = 0.5  # pixels of the grid, a shift of the outline below which a mask that is there keeps its own
OWN_OBJECT_DEPTH = 0.5  # a click at least so deep in a shape apart, as a share of its depth, asks for that shape

Point = Sequence[int]


class ClickSelector:
    """Turns clicks on one image into a mask.

    Candidates are shapes from the clusters, and from 2-means and thresholds in case a fit has failed. For each run of
    clusters that are neighbours in brightness, they are the connected components, whole and cut at thin bridges, and
    their convex hulls. The first foreground click gives them weights: by contrast along their outline, compactness,
    distance from the image border, and how deep the click lies inside them. Every further click lowers the weight of
    candidates that it contradicts. The outline is where the weighted mean of their signed distances is zero.

    A click that the outline still contradicts corrects it. A click in a separate shape adds that shape. If many more
    shapes are like those clicked, such as cells, it adds them all, except those with background clicks. Elsewhere the
    outline moves around the click, more for pixels of its colour, see `correct`. The pixel of a click always follows
    the click.

    An existing mask can replace the choice of the first click; all clicks then correct this mask.

    All work is done on a grid of about 16 384 pixels (32 768 voxels), so an answer takes milliseconds for any image.

    Args:
        clusters: (*spatial), integer labels, 2-D or 3-D.
        image: (C, *spatial) or on any smaller grid of the same proportions, values in [0, 1].

    Raises:
        ValueError: when clusters and image have different numbers of axes.
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
        resize = resize_area if larger else resize_linear
        self._image = resize(np.asarray(image, dtype=np.float32), self.grid).astype(np.float64)
        self._shapes = find_shapes(self._clusters, self._image)

    def state(self) -> dict[str, np.ndarray]:
        """All that `from_state` needs, small enough for the disk. It holds the parts that take long to compute."""
        return {
            "shape": np.array(self.shape),
            "grid_clusters": self._clusters,
            "grid_image": self._image.astype(np.float16),
            **{f"shape_{name}": values for name, values in self._shapes._asdict().items()},
        }

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> ClickSelector:
        """Restores the selector from its `state`."""
        selector = cls.__new__(cls)
        selector.shape = tuple(int(side) for side in state["shape"])
        selector._clusters = state["grid_clusters"]
        selector._image = state["grid_image"].astype(np.float64)
        selector.grid = selector._clusters.shape
        selector._shapes = Shapes(**{name: state[f"shape_{name}"] for name in Shapes._fields})
        return selector

    def __call__(
        self, foreground: Sequence[Point], background: Sequence[Point] = (), start: np.ndarray | None = None
    ) -> np.ndarray:
        """The mask that the clicks ask for.

        Args:
            foreground: indices (*spatial) of pixels of the object, in the order of the clicks; one at least, unless
                there is a `start`.
            background: indices of pixels that are not.
            start: (*spatial), a mask that the clicks correct, foreground above 0; `None`: the first click chooses.
                Where no click moves the outline it stays as it is, to the pixel.

        Returns:
            (*spatial), bool.

        Raises:
            ValueError: when there is neither a foreground click nor a `start`, when the `start` has another shape, or a
                click is no pixel of the image.
        """
        if len(foreground) == 0 and start is None:
            raise ValueError("expected at least one foreground click, got none")
        if start is not None:
            start = np.asarray(start) > 0
            if start.shape != tuple(self.shape):
                raise ValueError(f"start must have the shape of the image, {tuple(self.shape)}, got {start.shape}")
        for point in (*foreground, *background):
            if any(index != int(index) for index in point):
                raise ValueError(f"a click must be whole numbers, the indices of a pixel, got {tuple(point)}")
            if len(point) != len(self.shape) or not all(
                0 <= index < side for index, side in zip(point, self.shape, strict=True)
            ):
                raise ValueError(f"the click {tuple(point)} lies outside the image, whose shape is {self.shape}")
        inside, outside = (self._on_grid(points) for points in (foreground, background))
        if start is None:
            mask = self._on_image(correct(self._chosen(inside, outside), self._image, inside, outside)) > 0
        else:
            before = signed_distance(resize_linear(start[None].astype(np.float32), self.grid)[0] > 0.5)
            after = correct(self._started(before, inside, outside), self._image, inside, outside)
            mask = self._moved(start, before, after)
        for points, value in ((foreground, True), (background, False)):
            for point in points:
                mask[tuple(map(int, point))] = value
        return mask

    def _moved(self, start: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """A mask (*spatial) whose signed distance on the grid has changed.

        It stays to the pixel where that has not, and so does what is too thin for the grid to know of it.
        """
        change, now = self._on_image(after - before), self._on_image(after) > 0
        known = self._on_image(before) > -1  # within a pixel of the grid, where its outline and the mask's may differ
        return np.where(change >= STAYS, start | now, np.where((change <= -STAYS) & known, start & now, start))

    def _on_image(self, distance: np.ndarray) -> np.ndarray:
        """Distances of the grid on that of the image, (*spatial)."""
        return resize_linear(distance[None].astype(np.float32), self.shape)[0]

    def _on_grid(self, points: Sequence[Point]) -> np.ndarray:
        """Points (n, axes) as indices of the grid, none of them twice, in their order."""
        scale = np.array(self.grid) / np.array(self.shape)
        indices = ((np.array(points, dtype=float).reshape(-1, len(self.grid)) + 0.5) * scale).astype(np.intp)
        return np.array(list(dict.fromkeys(map(tuple, indices))), dtype=np.intp).reshape(-1, len(self.grid))

    def _chosen(self, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
        """Signed distance (*grid) of the shape that the clicks choose, shapes apart included."""
        distance = self._first_chosen(inside, outside)
        for point in map(tuple, inside[1:]):
            if distance[point] < 0:
                alike = self._all_alike(inside, outside)
                if alike is not None:
                    return alike
                apart = self._shape_apart(point, distance > 0, outside)
                if apart is not None:
                    distance = np.maximum(distance, apart)
        return distance

    def _started(self, distance: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
        """A signed distance (*grid) with the shapes apart that clicks add, without the parts that they deny.

        Denied is a part deep inside which a background click lies and no foreground click, where other parts are left.
        """
        for point in map(tuple, inside):
            if distance[point] < 0:
                apart = self._shape_apart(point, distance > 0, outside)
                if apart is not None:
                    distance = np.maximum(distance, apart)
        for point in map(tuple, outside):
            parts = connected_components(distance > 0, connectivity=1)
            part = parts == parts[point]
            deep = distance[point] >= OWN_OBJECT_DEPTH * distance[part].max() > 0
            if deep and parts.max() > 1 and not part[tuple(inside.T)].any():
                distance = signed_distance((distance > 0) & ~part)
        return distance

    def _first_chosen(self, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
        """Signed distance (*grid) of the mean of the candidates at the first click, weighed by all clicks."""
        shapes = self._shapes
        depth_at_first = shapes.at(inside[:1])[:, 0]
        component = self._component_at(tuple(inside[0]))
        depth_at_first[shapes.many] = -np.inf
        is_tiny = component.mean() < MIN_FRACTION and not (depth_at_first[~shapes.plain] > 0).any()
        if is_tiny or not (depth_at_first > 0).any():
            return signed_distance(component)
        wrong = np.maximum(-shapes.at(inside[1:]), 0).sum(axis=1) + np.maximum(shapes.at(outside), 0).sum(axis=1)
        logits = (
            shapes.scores
            + DEPTH_WEIGHT * np.log(np.maximum(depth_at_first, 0) / shapes.depths + 1e-3)
            - VIOLATION_COST * wrong / shapes.radii
        )
        logits[shapes.many] = -np.inf
        weights = np.exp((logits - logits.max()) / TEMPERATURE)
        weights /= weights.sum()
        likely = weights > 1e-3
        return np.tensordot(weights[likely] / 2, shapes.distances[likely], axes=1)

    def _all_alike(self, inside: np.ndarray, outside: np.ndarray) -> np.ndarray | None:
        """Signed distance of the best candidate of many parts, of which the clicks lie in several; `None` if of none.

        Several further parts must be about as large as those clicked: two lungs are not meant with the air around. Much
        smaller ones, and those of background clicks, are left out.
        """
        shapes = self._shapes
        best: tuple[float, np.ndarray] | None = None
        for index in np.flatnonzero(shapes.many & (shapes.at(inside) > 0).all(axis=1)):
            parts = connected_components(shapes.distances[index] > 0, connectivity=1)
            clicked = np.unique(parts[tuple(inside.T)])
            sizes = np.bincount(parts.ravel())
            sizes[[0, *set(parts[tuple(outside.T)]) - {*clicked}]] = 0
            smallest = sizes[clicked].min()
            if len(clicked) < 2 or (sizes >= ALIKE * smallest).sum() - len(clicked) < FURTHER:
                continue
            deepest = ndimage.maximum(shapes.distances[index], parts, parts[tuple(inside.T)]) / 2
            depth = shapes.at(inside)[index] / deepest
            score = shapes.scores[index] + DEPTH_WEIGHT * np.log(depth).mean()
            if best is None or score > best[0]:
                best = score, (sizes >= LEAST_ALIKE * smallest)[parts]
        return None if best is None else signed_distance(ndimage.binary_fill_holes(best[1]))

    def _component_at(self, point: tuple[int, ...]) -> np.ndarray:
        """The connected component (*grid) of the cluster at a point, however small."""
        components = connected_components(self._clusters == self._clusters[point], connectivity=1)
        return components == components[point]

    def _shape_apart(self, point: tuple[int, ...], mask: np.ndarray, outside: np.ndarray) -> np.ndarray | None:
        """Signed distance of the best candidate well inside which a click lies, and that has nothing of a mask."""
        shapes = self._shapes
        depth = shapes.at(np.array([point]))[:, 0]
        fits = (
            (depth >= OWN_OBJECT_DEPTH * shapes.depths)
            & ~(shapes.hulls | shapes.many)
            & (shapes.at(outside) <= 0).all(axis=1)
        )
        for index in np.flatnonzero(fits):  # in the order of their scores
            if not (mask & (shapes.distances[index] > 0)).any():
                return shapes.distances[index] / 2
        return None
