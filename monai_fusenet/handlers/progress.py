"""Something to look at while it runs."""

from __future__ import annotations

from collections.abc import Sequence

from ignite.engine import Engine
from ignite.handlers import ProgressBar

__all__ = ["ProgressHandler"]


class ProgressHandler:
    """Ignite's progress bar with chosen metrics beside it, as a handler that a config can name.

    Args:
        metric_names: names in `state.metrics` to show; `None`: none.
        desc: what stands before the bar.
    """

    def __init__(self, metric_names: Sequence[str] | None = None, desc: str = "") -> None:
        self.metric_names = None if metric_names is None else list(metric_names)
        self.desc = desc

    def attach(self, engine: Engine) -> None:
        """Shows the bar from the first iteration on."""
        bar = ProgressBar(persist=True, desc=self.desc, mininterval=0.5, dynamic_ncols=True)
        bar.attach(engine, metric_names=self.metric_names)
