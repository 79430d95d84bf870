"""When to stop fitting one image."""

from __future__ import annotations

from ignite.engine import Engine, Events

__all__ = ["StopAtFewClusters"]

FIRST_STEP = 6  # as published


class StopAtFewClusters:
    """Ends the run after a step that saw few clusters, before they all become one.

    The published rule: clusters are counted on each step's forward pass, and from the sixth step on the loop ends
    after the update of a step that saw at most three. Ranks that train one network see the mean over all of them, and
    so end together.

    Args:
        min_clusters: a step that sees at most as many is the last.
        first_step: the first step, counted from 1, that may be the last.

    Reference:
        Kazerouni et al. 2023, arXiv 2311.13069, published code.
    """

    def __init__(self, min_clusters: int = 3, first_step: int = FIRST_STEP) -> None:
        self.min_clusters = min_clusters
        self.first_step = first_step

    def attach(self, engine: Engine) -> None:
        """Looks at `state.metrics["clusters"]` after each step."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Ends the run when it is time."""
        if engine.state.iteration >= self.first_step and engine.state.metrics["clusters"] <= self.min_clusters:
            engine.terminate()
