"""Which clusters are the object, judged by what is known of the acquisition and never by a label."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from scipy import ndimage
from skimage.measure import label as connected_components
from skimage.morphology import convex_hull_image
from skimage.segmentation import morphological_chan_vese

from monai_fusenet.utils.arrays import reduced_shape, resize_area, resize_nearest
from monai_fusenet.utils.checks import check_number, check_switch

__all__ = ["ClustersToMaskd", "ConvexHullsd", "Region", "choose_foreground"]

RING_WIDTH = 0.04  # of the mean side: how far around a region its contrast is measured
OPENINGS = (0, 1 / 3, 2 / 3, 1)  # of the widest: how often candidates are cut anew, from not at all on
CENTRE_WIDTH = 0.25  # standard deviation of the centre prior, in sides
JUDGED_PIXELS = {2: 2**17, 3: 2**18}  # by number of axes: an image of more is judged on a smaller grid, for time

Box = tuple[slice, ...]


class Region(NamedTuple):
    """A candidate for the foreground and what speaks for it; all in [0, 1], contrast in [-1, 1].

    Attributes:
        score: what it is chosen by.
        fraction: share of the image that it covers.
        centre: share of a Gaussian at the image centre that it covers.
        border: share of the image's border pixels that it covers.
        contrast: mean grey value inside less that of a ring around it; for a dark object the other way round, and
            absolute when either will do.
        chosen: whether it is part of the foreground.
        overlaps: whether it could not be, because it overlaps with one of a higher score that is.
    """

    score: float
    fraction: float
    centre: float
    border: float
    contrast: float
    chosen: bool = False
    overlaps: bool = False


def _centre_prior(shape: tuple[int, ...]) -> np.ndarray:
    axes = np.ogrid[tuple(slice(-1 + 1 / side, 1, 2 / side) for side in shape)]
    return np.exp(-sum((axis / 2 / CENTRE_WIDTH) ** 2 for axis in axes) / 2)


def border_of(shape: tuple[int, ...]) -> np.ndarray:
    """Where the outermost pixels of an image of a shape are, bool."""
    border = np.ones(shape, dtype=bool)
    border[tuple(slice(1, -1) for _ in shape)] = False
    return border


def check_rule(
    objects: int | None,
    polarity: str,
    centre_weight: float,
    border_weight: float,
    min_fraction: float,
    max_fraction: float,
    fill_holes: bool,
    margin: float,
    opening: float,
    refinement: float,
    convex: bool,
    growth: float,
) -> None:
    """Raises `ValueError` for an argument of `choose_foreground` that makes no sense."""
    if objects is not None and (not isinstance(objects, int) or isinstance(objects, bool) or objects < 1):
        raise ValueError(f"objects must be None or a whole number of at least 1, got {objects}")
    if polarity not in ("dark", "bright", "any"):
        raise ValueError(f'polarity must be "dark", "bright" or "any", got "{polarity}"')
    check_number("centre_weight", centre_weight, 0)
    check_number("border_weight", border_weight, 0)
    check_number("min_fraction", min_fraction, 0, 1)
    check_number("max_fraction", max_fraction, 0, 1)
    check_switch("fill_holes", fill_holes)
    check_number("margin", margin, 0, 0.4)
    check_number("opening", opening, 0, 0.4)
    check_number("refinement", refinement, 0, 0.4)
    check_switch("convex", convex)
    check_number("growth", growth, 0, 0.4)


def _connected(components: np.ndarray, least: float) -> Iterator[tuple[Box, np.ndarray]]:
    """Each connected component of at least so many pixels: its bounding box, and where it is therein."""
    sizes = np.bincount(components.ravel())
    for label, box in enumerate(ndimage.find_objects(components), start=1):
        if box is not None and sizes[label] >= least:
            yield box, components[box] == label


def _level_sets(clusters: np.ndarray, grey: np.ndarray, polarity: str, within: np.ndarray) -> Iterator[np.ndarray]:
    """Masks: each cluster, and the two darkest together, the three darkest and so on, or the brightest."""
    found = np.unique(clusters[within])
    brightness = [grey[(clusters == cluster) & within].mean() for cluster in found]
    ranks = np.zeros(clusters.shape, dtype=np.int64)
    for rank, cluster in enumerate(found[np.argsort(brightness)], start=1):
        ranks[(clusters == cluster) & within] = rank
    last = len(found)
    runs = {(rank, rank) for rank in range(1, last + 1)}
    if polarity != "bright":
        runs |= {(1, rank) for rank in range(1, last + 1)}
    if polarity != "dark":
        runs |= {(rank, last) for rank in range(1, last + 1)}
    for first, last in sorted(runs):
        yield (first <= ranks) & (ranks <= last)


def opened_components(mask: np.ndarray, radius: float) -> np.ndarray:
    """Connected components of a mask, cut where they are thinner than two radii, from 1 on; 0: what is thin."""
    if radius == 0:
        return connected_components(mask, connectivity=1)
    cores = connected_components(ndimage.distance_transform_edt(mask) > radius, connectivity=1)
    if not cores.any():
        return cores
    distance, nearest = ndimage.distance_transform_edt(cores == 0, return_indices=True)
    return np.where(mask & (distance <= radius + 1), cores[tuple(nearest)], 0)


def _candidates(
    clusters: np.ndarray, grey: np.ndarray, objects: int | None, polarity: str, least: float, opening: float
) -> Iterator[tuple[Box, np.ndarray]]:
    """What may be an object, or all of them: bounding boxes, and where it is therein; nothing comes twice."""
    whole = tuple(slice(0, side) for side in clusters.shape)
    everywhere = np.ones(clusters.shape, dtype=bool)
    if objects is None:
        components = connected_components(clusters, background=-1, connectivity=1)
        boxes = ndimage.find_objects(components)
        surroundings = np.isin(components, [label for label, box in enumerate(boxes, start=1) if box == whole])
        yield from _connected(np.where(surroundings, components, 0), least)
        for mask in _level_sets(clusters, grey, polarity, ~surroundings):
            yield from _connected(mask.astype(np.int64), least)
        return
    seen = set()
    radii = sorted({share * opening for share in OPENINGS})
    for mask in _level_sets(clusters, grey, polarity, everywhere):
        for radius in radii:
            for box, region in _connected(opened_components(mask, radius), least):
                key = (*((side.start, side.stop) for side in box), region.tobytes())
                if key not in seen:
                    seen.add(key)
                    yield box, region


def _choose(
    clusters: np.ndarray,
    image: np.ndarray,
    objects: int | None,
    polarity: str,
    centre_weight: float,
    border_weight: float,
    min_fraction: float,
    max_fraction: float,
    fill_holes: bool,
    margin: float,
    opening: float,
) -> tuple[np.ndarray, list[Region]]:
    """`choose_foreground` as far as the choice."""
    whole = np.zeros(clusters.shape, dtype=bool)
    cuts = [min(round(margin * side), (side - 1) // 2) for side in clusters.shape]
    within = tuple(slice(cut, side - cut) for cut, side in zip(cuts, clusters.shape, strict=True))
    clusters, image = clusters[within], image[(slice(None), *within)]
    grey = image.mean(axis=0)
    centre_prior, border = _centre_prior(grey.shape), border_of(grey.shape)
    ring_width = max(1, round(RING_WIDTH * np.mean(grey.shape)))
    least = min_fraction * grey.size
    candidates: list[tuple[Region, Box, np.ndarray]] = []
    for box, region in _candidates(clusters, grey, objects, polarity, least, opening * float(np.mean(whole.shape))):
        # Only the surroundings of the region: a distance map of the whole image for each would take seconds.
        sides = list(zip(box, grey.shape, strict=True))
        grown = [(min(ring_width, side.start), min(ring_width, length - side.stop)) for side, length in sides]
        box = tuple(
            slice(side.start - before, side.stop + after) for side, (before, after) in zip(box, grown, strict=True)
        )
        inside = np.pad(region, grown)
        if fill_holes:
            inside = ndimage.binary_fill_holes(inside)
        fraction = float(inside.sum() / grey.size)
        if fraction > max_fraction:
            continue
        ring = (ndimage.distance_transform_edt(~inside) <= ring_width) & ~inside
        contrast = float(grey[box][inside].mean() - grey[box][ring].mean()) if ring.any() else 0.0
        contrast = {"bright": contrast, "dark": -contrast, "any": abs(contrast)}[polarity]
        centre = float(centre_prior[box][inside].sum() / centre_prior.sum())
        touching = float((border[box] & inside).sum() / border.sum())
        score = max(contrast, 0.0) * centre**centre_weight * (1 - touching) ** border_weight
        if score > 0:
            candidates.append((Region(score, fraction, centre, touching, contrast), box, inside))
    candidates.sort(key=lambda candidate: candidate[0].score, reverse=True)
    mask = whole[within]  # a view
    regions: list[Region] = []
    wanted = objects or 1
    for candidate, box, inside in candidates:
        overlaps = bool((mask[box] & inside).any())
        chosen = wanted > 0 and not overlaps
        if chosen:
            mask[box] |= inside
            wanted -= 1
        regions.append(candidate._replace(chosen=chosen, overlaps=overlaps))
    return whole, regions


def _finished(mask: np.ndarray, grey: np.ndarray, refinement: float, convex: bool, growth: float) -> np.ndarray:
    """The chosen mask after refinement, hulls and growth."""
    if refinement > 0 and mask.any() and min(mask.shape) > 1:  # a side of one pixel has no gradient
        steps = round(refinement * float(np.mean(mask.shape)))
        start = mask.astype(np.int8)
        mask = morphological_chan_vese(grey, steps, init_level_set=start, smoothing=0) > 0
    if convex:
        mask = convex_hulls(mask)
    if growth > 0 and mask.any():
        mask = ndimage.distance_transform_edt(~mask) <= growth * float(np.mean(mask.shape))
    return mask


def convex_hulls(mask: np.ndarray) -> np.ndarray:
    """The convex hulls of the connected parts of a mask."""
    filled = mask.copy()
    for box, inside in _connected(connected_components(mask, connectivity=1), 1):
        filled[box] |= convex_hull_image(inside) if min(inside.shape) > 1 else inside
    return filled


def _enlarged(small: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A mask on a larger grid, with a smooth contour."""
    mode = {2: "bilinear", 3: "trilinear"}[small.ndim]
    tensor = torch.from_numpy(small)[None, None].float()
    return torch.nn.functional.interpolate(tensor, size=tuple(shape), mode=mode)[0, 0].numpy() > 0.5


def _band(small: np.ndarray, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """On a larger grid: what surely belongs to a mask, and what may."""
    return resize_nearest(small & ~_rim(small), shape), resize_nearest(small | _rim(~small), shape)


def _rim(mask: np.ndarray) -> np.ndarray:
    """Pixels of a mask with a face neighbour outside; the image border is no outside."""
    return mask & ndimage.binary_dilation(~mask)


def _redrawn_by_clusters(small: np.ndarray, small_clusters: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """A mask on the grid of the clusters: on its contour, what is of the clusters that lie along it on the inside."""
    surely, perhaps = _band(small, clusters.shape)
    return surely | (perhaps & np.isin(clusters, np.unique(small_clusters[_rim(small)])))


def _redrawn_by_grey(small: np.ndarray, grey: np.ndarray) -> np.ndarray:
    """A mask on the grid of the image: on its contour, what is nearer to its mean grey value than to the rest's."""
    mask = resize_nearest(small, grey.shape)
    if mask.all() or not mask.any():
        return mask
    surely, perhaps = _band(small, grey.shape)
    inside, outside = grey[mask].mean(), grey[~mask].mean()
    return surely | (perhaps & (abs(grey - inside) < abs(grey - outside)))


def choose_foreground(
    clusters: np.ndarray,
    image: np.ndarray,
    objects: int | None = None,
    polarity: str = "any",
    centre_weight: float = 1.0,
    border_weight: float = 1.0,
    min_fraction: float = 0.005,
    max_fraction: float = 0.8,
    fill_holes: bool = True,
    margin: float = 0.0,
    opening: float = 0.0,
    refinement: float = 0.0,
    convex: bool = False,
    growth: float = 0.0,
) -> tuple[np.ndarray, list[Region]]:
    """Chooses the foreground of one image among its clusters.

    Candidates are the clusters, the two darkest together, the three darkest and so on, or the brightest; with a number
    of objects, the connected components of these, of which so many that do not overlap are kept, or else one is kept
    as it is. Without a number of objects, a component that touches every side of the image, such as a background or a
    frame around everything, takes no part in these and is a candidate of its own. Each is scored by
    max(contrast, 0) * centre ** centre_weight * (1 - border) ** border_weight, see `Region`: a product, because an
    object must convince by all of them, and because their scales differ.

    An image of more than 131 072 pixels (262 144 voxels) is judged, refined and made convex on a smaller grid; the
    contour is then drawn on its own.

    Args:
        clusters: (*spatial), integer labels, 2-D or 3-D.
        image: (C, *spatial), values in [0, 1].
        objects: how many connected objects the foreground has; `None`: any number.
        polarity: "dark" or "bright" against its surroundings, or "any".
        centre_weight: exponent of the centre prior; 0: any place will do.
        border_weight: exponent of the distaste for the image border; 0: touching it does no harm.
        min_fraction: candidates that cover less of the image are left out.
        max_fraction: candidates that cover more of the image are left out.
        fill_holes: fill the holes of a region before it is judged. What surrounds everything becomes the whole image
            by it, and too large to be an object.
        margin: share of each side, at either end, where no object is looked for; what follows is judged within.
        opening: half the width, as a share of the mean side, of the widest bridges at which connected components are
            cut apart; uncut ones, and such that are cut at narrower bridges only, remain candidates. Without a number
            of objects nothing is cut.
        refinement: how far, as a share of the mean side, the contour may move in the end, to where it separates the
            mean grey values inside and outside best (Chan & Vese 2001).
        convex: put the convex hull of each connected part of the foreground in its place, in the end.
        growth: how far, as a share of the mean side, the outline is moved outwards, last of all: where an object fades
            into its surroundings, clusters end before people's outlines do.

    Returns:
        the mask (*spatial), bool, and all candidates, best first, chosen and rejected, as they were before refinement,
        hulls and growth. Where none has an allowed size
        and the polarity asked for, the mask is empty and the list too.

    Raises:
        ValueError: when clusters and image differ in shape, or `objects` or `polarity` is unknown.
    """
    if clusters.shape != image.shape[1:]:
        raise ValueError(f"clusters and image must have the same shape, got {clusters.shape} and {image.shape[1:]}")
    check_rule(
        objects,
        polarity,
        centre_weight,
        border_weight,
        min_fraction,
        max_fraction,
        fill_holes,
        margin,
        opening,
        refinement,
        convex,
        growth,
    )
    rule = (objects, polarity, centre_weight, border_weight, min_fraction, max_fraction, fill_holes, margin)
    shape = reduced_shape(clusters.shape, JUDGED_PIXELS.get(clusters.ndim, clusters.size))
    if shape == clusters.shape:
        mask, regions = _choose(clusters, image, *rule, opening)
        return _finished(mask, image.mean(axis=0), refinement, convex, growth), regions
    small_clusters, small_image = resize_nearest(clusters, shape), resize_area(image, shape)
    chosen, regions = _choose(small_clusters, small_image, *rule, opening)
    small = _finished(chosen, small_image.mean(axis=0), refinement, convex, growth)
    if convex or growth > 0:
        return _enlarged(small, clusters.shape), regions
    if refinement > 0:
        return _redrawn_by_grey(small, image.mean(axis=0)), regions
    return _redrawn_by_clusters(small, small_clusters, clusters), regions


class ClustersToMaskd(MapTransform):
    """Puts the foreground beside the clusters: (1, *spatial), uint8, 0 or 1, see `choose_foreground`.

    The image may have any resolution; it is brought to the grid of the clusters (nearest neighbour) where it differs.
    All candidates are handed on as a list under `regions`, so that a choice can be explained, and the number of objects
    that were to be chosen under `objects_wanted`, 0 for any.

    Args:
        keys: key of the clusters (1, *spatial).
        mask_key: where the mask goes.
        image_key: key of the image (C, *spatial), values in [0, 1].
        objects: see `choose_foreground`, like the arguments that follow.
        polarity: "dark", "bright" or "any".
        centre_weight: exponent of the centre prior.
        border_weight: exponent of the distaste for the image border.
        min_fraction: least share of the image.
        max_fraction: greatest share of the image.
        fill_holes: fill the holes of a region before it is judged.
        margin: share of each side where no object is looked for.
        opening: half the width of the widest bridges that are cut.
        refinement: how far the contour may move in the end.
        convex: put the convex hull of each part in its place.
        growth: how far the outline is moved outwards.
    """

    def __init__(
        self,
        keys: KeysCollection = "clusters",
        mask_key: str = "pred",
        image_key: str = "image",
        objects: int | None = None,
        polarity: str = "any",
        centre_weight: float = 1.0,
        border_weight: float = 1.0,
        min_fraction: float = 0.005,
        max_fraction: float = 0.8,
        fill_holes: bool = True,
        margin: float = 0.0,
        opening: float = 0.0,
        refinement: float = 0.0,
        convex: bool = False,
        growth: float = 0.0,
    ) -> None:
        super().__init__(keys)
        self.mask_key = mask_key
        self.image_key = image_key
        self.rule: dict[str, Any] = {
            "objects": objects,
            "polarity": polarity,
            "centre_weight": centre_weight,
            "border_weight": border_weight,
            "min_fraction": min_fraction,
            "max_fraction": max_fraction,
            "fill_holes": fill_holes,
            "margin": margin,
            "opening": opening,
            "refinement": refinement,
            "convex": convex,
            "growth": growth,
        }
        check_rule(**self.rule)

    def choose(self, clusters: np.ndarray, image: np.ndarray) -> np.ndarray:
        """The foreground of `clusters` (*spatial) in `image` (C, *any spatial), as a bool mask (*spatial)."""
        return self._choose(clusters, image)[0]

    def _choose(self, clusters: np.ndarray, image: np.ndarray) -> tuple[np.ndarray, list[Region]]:
        if image.shape[1:] != clusters.shape:
            resized = torch.nn.functional.interpolate(
                torch.as_tensor(image).unsqueeze(0), size=clusters.shape, mode="nearest-exact"
            )
            image = resized[0].numpy()
        return choose_foreground(clusters, image, **self.rule)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns the sample with its mask and candidates."""
        sample = dict(data)
        image = np.asarray(torch.as_tensor(sample[self.image_key]).cpu())
        sample["objects_wanted"] = self.rule["objects"] or 0
        for key in self.key_iterator(sample):
            clusters = sample[key]
            foreground, sample["regions"] = self._choose(np.asarray(clusters.cpu())[0], image)
            mask = torch.from_numpy(foreground).to(torch.uint8).unsqueeze(0)
            sample[self.mask_key] = MetaTensor(mask, meta=clusters.meta) if isinstance(clusters, MetaTensor) else mask
        return sample


class ConvexHullsd(MapTransform):
    """Puts the convex hull of each connected part of a mask (1, *spatial), foreground above 0, in its place."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns the sample with its hulls, of the type and with the values 0 and 1."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            mask = torch.as_tensor(sample[key])
            hulls = torch.from_numpy(convex_hulls(np.asarray(mask.cpu())[0] > 0)).unsqueeze(0).to(mask)
            sample[key] = MetaTensor(hulls, meta=mask.meta) if isinstance(mask, MetaTensor) else hulls
        return sample
