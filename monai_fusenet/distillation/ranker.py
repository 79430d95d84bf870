"""The choice of the candidates that are the object, learnt from a few images with a known object.

The contrast of the object with its surroundings is much the same in all images of a folder. Learning it needs fewer
examples than learning from pixels: every candidate of an image with a mask is an example, a good or a bad one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from monai_fusenet.distillation.candidates import CandidatePool

if TYPE_CHECKING:
    from sklearn.ensemble import ExtraTreesRegressor

__all__ = ["Ranker", "Vote", "cross_votes"]

TREES = 300
LEAF = 3
FEATURES = 0.4  # share of the features among which a tree chooses at a branch
EXAMPLES = 6000  # candidates that are learnt from at most
TEMPERATURE = 0.05  # of Dice: a candidate that is expected to be so much worse than the best has e times less say
CRUMB = 0.1  # of an object: a part of a mask that is smaller is none
SAME = 0.5  # share of a candidate inside the best one from which on both are one object
APART = 0.3  # share of the smaller of two candidates in the other up to which they are two objects
NEXT = 0.6  # of the Dice that is expected of the best object: what the next one must reach
FOLDS = 5


class Vote(NamedTuple):
    """The combined result of the candidates of an image.

    Attributes:
        probability: (1, *size), values in [0, 1].
        confidence: expected Dice of the best candidate, in [0, 1].
    """

    probability: Tensor
    confidence: float


class Ranker:
    """Learns from images with a known object to predict from a candidate's features how near it comes to the object.

    Randomised trees (Geurts et al. 2006): a handful of examples is enough, and no feature needs scaling.

    Args:
        objects: largest number of objects in the foreground of an image; `None`: one candidate holds all.
    """

    def __init__(self, objects: int | None) -> None:
        self.objects = objects or 1
        self.trees: ExtraTreesRegressor | None = None

    def fit(self, examples: Iterable[tuple[CandidatePool, Tensor]]) -> Ranker:
        """Learns from examples; without any candidate in them, it predicts 0 for all other images.

        Args:
            examples: the pool of each image with a known object, and the probability of the object at each pixel, (1,
                *size), in [0, 1].
        """
        from sklearn.ensemble import ExtraTreesRegressor  # a tenth of a second, and most workflows rank nothing

        known = [(pool.features, self._scores(pool, target)) for pool, target in examples if len(pool)]
        if not known:
            self.trees = None
            return self
        features, scores = (np.concatenate(part) for part in zip(*known, strict=True))
        some = np.random.default_rng(0).permutation(len(scores))[:EXAMPLES]
        self.trees = ExtraTreesRegressor(TREES, min_samples_leaf=LEAF, max_features=FEATURES, random_state=0).fit(
            features[some], scores[some]
        )
        return self

    def vote(self, pool: CandidatePool, size: Sequence[int]) -> Vote:
        """The vote of the candidates of an image, each with the weight of its expected quality.

        Args:
            pool: of the image.
            size: spatial size of the answer.
        """
        if self.trees is None or not len(pool):
            return Vote(torch.zeros(1, *size), 0.0)
        masks, scores = pool.masks, self.trees.predict(pool.features)
        areas = masks.sum(axis=1)
        left, best = np.ones(len(scores), dtype=bool), 0.0
        probability = np.zeros(masks.shape[1])
        for _ in range(self.objects):
            leader = int(np.where(left, scores, -1).argmax())
            if not left[leader] or scores[leader] < NEXT * best:
                break
            best = max(best, float(scores[leader]))
            shared = (masks & masks[leader]).sum(axis=1)
            say = np.where(left, np.exp((scores - scores[leader]) / TEMPERATURE), 0)
            if self.objects > 1:
                say *= shared > SAME * areas
                left &= shared < APART * np.minimum(areas, areas[leader])
            probability = np.maximum(probability, say @ masks / say.sum())
        values = probability.reshape(pool.shape)
        return Vote(pool.take_back(values, size), float(np.clip(best, 0, 1)))

    def _scores(self, pool: CandidatePool, target: Tensor) -> np.ndarray:
        """The Dice of each candidate with the object, or with that of several which it comes nearest to."""
        wanted, masks = pool.bring(target), pool.masks
        parts = [wanted]
        if self.objects > 1:
            labels, count = ndimage.label(wanted > 0.5)
            areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
            large = [place + 1 for place in range(count) if areas[place] > CRUMB * areas.sum()]
            parts = [np.where(labels == place, wanted, 0) for place in large] or parts
        areas = masks.sum(axis=1)
        return np.max([2 * (masks @ part.ravel()) / (areas + part.sum()) for part in parts], axis=0)


def cross_votes(
    pools: Sequence[CandidatePool], targets: Mapping[int, Tensor], objects: int | None, size: Sequence[int]
) -> list[Vote]:
    """The votes of the candidates of all images, each from a ranker that has not learnt from that image.

    Args:
        pools: of all images.
        targets: the probability of the object at each pixel, (1, *size), by the index of an image with a known object;
            at least two.
        objects: see `Ranker`.
        size: spatial size of the answers.
    """
    folds = min(FOLDS, len(targets))
    groups = {place: number % folds for number, place in enumerate(sorted(targets))}
    groups = {place: groups.get(place, place % folds) for place in range(len(pools))}
    rankers = [
        Ranker(objects).fit((pools[place], target) for place, target in targets.items() if groups[place] != fold)
        for fold in range(folds)
    ]
    return [rankers[groups[place]].vote(pool, size) for place, pool in enumerate(pools)]
