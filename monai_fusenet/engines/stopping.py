"""The rule for the end of a fit."""

from __future__ import annotations

from ignite.engine import Engine, Events

__all__ = ["StopAtFewClusters", "ends"]


def ends(step: int, clusters: float, first_step: int, min_clusters: int) -> bool:
    """Whether a step is the last of a fit: it is late enough, and few clusters are left.

    Args:
        step: number of the step, counted from 1.
        clusters: how many clusters win a pixel in its forward pass, or the mean of this number over a batch.
        first_step: the first step that may be the last.
        min_clusters: a step with at most this many clusters is the last.

    Example:
        >>> ends(5, 3, first_step=6, min_clusters=3), ends(6, 3, first_step=6, min_clusters=3)
        (False, True)
    """
    return step >= first_step and clusters <= min_clusters


class StopAtFewClusters:
    """Ends the run after a step with few clusters, before they all become one.

    The rule is `ends`, with steps counted over all epochs; the defaults are the published values of FuseNet. Ranks that
    train one network use the mean over all ranks, so they end together.

    Args:
        min_clusters: a step with at most this many clusters is the last.
        first_step: the first step, counted from 1, that may be the last.

    Reference:
        Kazerouni et al. 2023, arXiv 2311.13069, published code.
    """

    def __init__(self, min_clusters: int = 3, first_step: int = 6) -> None:
        self.min_clusters = min_clusters
        self.first_step = first_step

    def attach(self, engine: Engine) -> None:
        """Checks `state.metrics["clusters"]` after each step."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Ends the run when it is time."""
        if ends(engine.state.iteration, engine.state.metrics["clusters"], self.first_step, self.min_clusters):
            engine.terminate()
