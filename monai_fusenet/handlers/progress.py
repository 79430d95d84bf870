"""A progress bar."""

from __future__ import annotations

from collections.abc import Sequence

from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar

from monai_fusenet.utils import distributed

__all__ = ["ProgressHandler"]


class ProgressHandler:
    """Ignite's progress bar with chosen metrics beside it, as a handler for configs.

    Args:
        metric_names: names in `state.metrics` to show; "all": all that it holds at the time; `None`: none.
        desc: text before the bar.
    """

    def __init__(self, metric_names: Sequence[str] | str | None = None, desc: str = "") -> None:
        # Ignite takes a list, "all" or None.
        self.metric_names = metric_names if metric_names is None or metric_names == "all" else list(metric_names)
        self.desc = desc
        self._is_shown = False

    def attach(self, engine: Engine) -> None:
        """Shows a bar for each epoch, or one for all epochs if they have few iterations; on the first rank."""
        if distributed.rank() > 0:
            return
        engine.add_event_handler(Events.STARTED, self._show)

    def _show(self, engine: Engine) -> None:
        if self._is_shown:  # a trainer that goes on has its bar
            return
        self._is_shown = True
        bar = ProgressBar(persist=True, desc=self.desc, mininterval=0.5, dynamic_ncols=True)
        if (engine.state.epoch_length or 0) < 10 < (engine.state.max_epochs or 0):
            bar.attach(
                engine, self.metric_names, event_name=Events.EPOCH_COMPLETED, closing_event_name=Events.COMPLETED
            )
        else:
            bar.attach(engine, self.metric_names)
