"""Goes through a folder image by image."""

from __future__ import annotations

from typing import Any

from monai.data import Dataset
from monai.engines import SupervisedEvaluator

from monai_fusenet.data.dataset import one_thread
from monai_fusenet.data.errors import failure_reason

__all__ = ["FolderEvaluator", "ForgivingDataset"]


class ForgivingDataset(Dataset):
    """Dataset in which an image that cannot be prepared becomes a sample that says so, and the others go on.

    Prepares with one thread, as the workers of a data loader do: the last bits of a resized image depend on it, and a
    fit makes much of last bits.

    Args:
        data: samples with `file` (as shown to users) and `name` (of the results).
        transform: what prepares a sample; what it raises ends up under `failure`, in one line.
    """

    def _transform(self, index: int) -> Any:
        try:
            with one_thread():
                return super()._transform(index)
        except Exception as error:
            item = self.data[index]
            return {"file": item["file"], "name": item["name"], "failure": failure_reason(error)}


class FolderEvaluator(SupervisedEvaluator):
    """MONAI evaluator that an image cannot stop: what fails is named, and the next image follows.

    For batches of one image of a `ForgivingDataset`. During an iteration, `state.item` holds `file` and `name` of the
    image and `state.failure` the reason why it failed, or `None`; a handler of `IterationEvents.MODEL_COMPLETED` that
    raises makes the image fail, too.
    """

    def _iteration(self, engine: SupervisedEvaluator, batchdata: dict[str, Any]) -> Any:
        self.state.item = {"file": batchdata["file"][0], "name": batchdata["name"][0]}
        self.state.failure = batchdata["failure"][0] if "failure" in batchdata else None
        if self.state.failure is None:
            try:
                return super()._iteration(engine, batchdata)
            except Exception as error:
                self.state.failure = failure_reason(error)
        return []
