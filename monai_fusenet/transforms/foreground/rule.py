"""The rule that chooses a foreground: twelve values that are known of an acquisition without any label."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from monai_fusenet.utils.checks import check_number, check_switch

__all__ = ["Rule", "shows_rule"]

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Rule:
    """Rule by which a foreground is chosen among clusters, see `choose_foreground`.

    Args:
        objects: how many connected objects the foreground has; `None`: any number.
        polarity: "dark" or "bright" against its surroundings, or "any".
        centre_weight: exponent of the centre prior; 0: the place does not matter.
        border_weight: exponent of the penalty for the image border; 0: no penalty.
        min_fraction: candidates that cover a smaller share of the image are left out.
        max_fraction: candidates that cover a larger share of the image are left out.
        fill_holes: fill the holes of a region before it is judged. A region that surrounds everything then becomes the
            whole image, and is too large for an object.
        margin: share of each side, at either end, where no object is looked for. All else is judged inside this margin.
        opening: half the width, as a share of the mean side, of the widest bridges where connected components are cut
            apart. Components that are not cut, or are cut only at narrower bridges, remain candidates. Without a number
            of objects nothing is cut.
        refinement: how far, as a share of the mean side, the contour may move after the choice. It moves to where it
            best separates the mean grey values inside and outside (Chan & Vese 2001).
        convex: replace each connected part of the foreground by its convex hull, after the refinement.
        growth: how far, as a share of the mean side, the outline is moved outwards, as the last step. Where an object
            fades into its surroundings, people draw the outline further out than the clusters end.

    Raises:
        ValueError: a value is invalid.
    """

    objects: int | None = None
    polarity: str = "any"
    centre_weight: float = 1.0
    border_weight: float = 1.0
    min_fraction: float = 0.005
    max_fraction: float = 0.8
    fill_holes: bool = True
    margin: float = 0.0
    opening: float = 0.0
    refinement: float = 0.0
    convex: bool = False
    growth: float = 0.0

    def __post_init__(self) -> None:
        objects = self.objects
        if objects is not None and (not isinstance(objects, int) or isinstance(objects, bool) or objects < 1):
            raise ValueError(f"objects must be None or a whole number of at least 1, got {objects}")
        if self.polarity not in ("dark", "bright", "any"):
            raise ValueError(f'polarity must be "dark", "bright" or "any", got "{self.polarity}"')
        check_number("centre_weight", self.centre_weight, 0)
        check_number("border_weight", self.border_weight, 0)
        check_number("min_fraction", self.min_fraction, 0, 1)
        check_number("max_fraction", self.max_fraction, 0, 1)
        check_switch("fill_holes", self.fill_holes)
        check_number("margin", self.margin, 0, 0.4)
        check_number("opening", self.opening, 0, 0.4)
        check_number("refinement", self.refinement, 0, 0.4)
        check_switch("convex", self.convex)
        check_number("growth", self.growth, 0, 0.4)


def shows_rule(function: Function) -> Function:
    """Replaces `*args` and `**kwargs` in the signature of a function by the fields of `Rule`.

    For functions that pass these on to `Rule`, which refuses unknown names. So the fields are written only once, and
    everything that reads the signature (`help`, editors, the spell check of a config) still finds them. Calls of the
    function do not change.
    """
    signature = inspect.signature(function)
    own = list(signature.parameters.values())
    named = [each for each in own if each.kind == each.KEYWORD_ONLY]
    placed = [each for each in own if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD, each.KEYWORD_ONLY)]
    fields = inspect.signature(Rule).parameters.values()
    function.__signature__ = signature.replace(parameters=[*placed, *fields, *named])  # type: ignore[attr-defined]
    return function
