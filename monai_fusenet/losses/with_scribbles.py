"""A scribble term for the loss of any method."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from torch import Tensor, nn

from monai_fusenet.losses.scribble import NO_SCRIBBLE, ScribbleLoss
from monai_fusenet.utils.checks import check_number

__all__ = ["WithScribbles", "with_scribbles"]


class WithScribbles(nn.Module):
    """Adds the scribble loss to the terms of a loss: scribbled pixels should belong to the clusters of their classes.

    Args:
        loss_function: loss with `terms(output, batch)`; no term may be named `scribble`.
        lambda_scribble: weight of the scribble loss. Differs from the published code, which uses 0.5 beside a
            self-labelling loss of weight 1. In other methods that loss has a weight of up to 3.5.
        merge: function that is applied to the scores (B, K, *spatial) before the scribble loss. For clusters that come
            in twins, such as those of a `FuseNet`, give its `merge`: class c is then the pair of twins c. `None`: no
            change.
        ignore_index: of the scribble loss.

    Shape:
        a named tuple that begins with scores (B, K, *spatial), and views -> scalar. Where the views hold `scribble` (B,
        1, *spatial), see `ScribbleLoss`, the terms have a last field `scribble`, which `total` includes. Otherwise they
        are the terms of the loss.

    Raises:
        ValueError: for a negative weight, and as `ScribbleLoss` does.

    Reference:
        Kim, Kanezaki, Tanaka 2020, arXiv 2007.09990, section 3 (scribbles).
    """

    def __init__(
        self,
        loss_function: Any,
        lambda_scribble: float = 2.0,
        merge: Callable[[Tensor], Tensor] | None = None,
        ignore_index: int = NO_SCRIBBLE,
    ) -> None:
        super().__init__()
        check_number("lambda_scribble", lambda_scribble, 0)
        self.loss_function = loss_function
        self.lambda_scribble = lambda_scribble
        self.merge = merge
        self.scribble = ScribbleLoss(ignore_index)

    def terms(self, output: Any, batch: Mapping[str, Tensor] | None = None) -> Any:
        """The terms of the loss and, where there are scribbles, the scribble term."""
        terms = self.loss_function.terms(output, batch)
        if batch is None or "scribble" not in batch:
            return terms
        scores = output[0] if self.merge is None else self.merge(output[0])
        scribble = self.lambda_scribble * self.scribble(scores, batch["scribble"])
        total, *others = terms
        return _with_one_more(terms._fields)(total + scribble, *others, scribble)

    def forward(self, output: Any, batch: Mapping[str, Tensor] | None = None) -> Tensor:
        """The scalar to minimise."""
        return self.terms(output, batch).total


@cache
def _with_one_more(fields: tuple[str, ...]) -> Any:
    """A named tuple of these terms and a last one, `scribble`, which can be sent to other processes."""
    make: Any = namedtuple  # mypy knows names that are written down alone
    base = make("TermsWithScribble", (*fields, "scribble"))
    return type(base.__name__, (base,), {"__slots__": (), "__reduce__": lambda own: (_made, (fields, tuple(own)))})


def _made(fields: tuple[str, ...], values: tuple[Tensor, ...]) -> Any:
    return _with_one_more(fields)(*values)


def with_scribbles(loss_function: Any, merge: Callable[[Tensor], Tensor] | None = None) -> Any:
    """A loss that uses scribbles: the loss itself if it has a `lambda_scribble`, otherwise wrapped in `WithScribbles`.

    Args:
        loss_function: loss with `terms(output, batch)`.
        merge: see `WithScribbles`.
    """
    listens = hasattr(loss_function, "lambda_scribble")
    return loss_function if listens else WithScribbles(loss_function, merge=merge)
