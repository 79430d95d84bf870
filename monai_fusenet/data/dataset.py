"""A dataset in memory with random draws that depend only on seed, epoch and index."""

import copy
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import Dataset
from monai.transforms import Randomizable
from monai.utils import ensure_tuple
from tqdm import tqdm

from monai_fusenet.utils import distributed
from monai_fusenet.utils.errors import failure_reason
from monai_fusenet.utils.threads import one_thread

_logger = logging.getLogger(__name__)


class SeededCacheDataset(Dataset):
    """Loads every sample once, then returns random versions of it that can be repeated exactly.

    Every access seeds the random transform from (seed, epoch, index). So a sample does not depend on the number of
    workers, the order of access, or interruptions. Samples that fail to load are left out with a warning, and listed in
    `failures`.

    Args:
        data: samples, dictionaries such as `find_images` returns.
        transform: transform that is applied once per sample; its result is kept in memory. It must be deterministic.
        random_transform: transform that is applied on each access, to a copy.
        seed: not negative.
        progress: whether loading shows a progress bar.

    Attributes:
        failures: (file, reason) of every sample that failed to load; complete once `prepare` has run.

    Raises:
        ValueError: if there are no samples; by `prepare`, if all of them fail.
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        transform: Sequence[Callable] | Callable,
        random_transform: Callable | None = None,
        seed: int = 0,
        progress: bool = True,
    ) -> None:
        super().__init__(data, transform)
        if not data:
            raise ValueError("expected samples to load, got an empty list")
        self.random_transform = random_transform
        self.seed = seed
        self.progress = progress
        self.failures: list[tuple[str, str]] = []
        self._cache: list[dict[str, Any]] | None = None
        # in shared memory: workers that outlive an epoch learn of the next one
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Chooses the random draws; call it before each pass over the data."""
        self._epoch.fill_(epoch)

    def prepare(self) -> None:
        """Loads the samples, on the first call only; `len` and indexing call it too.

        In a process group, all ranks call it together and leave out samples that failed for any of them.

        Raises:
            ValueError: if all samples fail; the message ends with the reason of the first.
        """
        if self._cache is not None:
            return
        loaded: dict[int, Any] = {}
        failures: dict[int, str] = {}

        def leave_out(place: int, reason: str) -> None:
            failures[place] = reason
            _logger.warning("left out %s: %s", _file_of(self.data[place]), reason)

        bar = tqdm(self.data, desc="loading", unit="image", disable=not self.progress or distributed.rank() > 0)
        for place, item in enumerate(bar):
            try:
                with one_thread():
                    loaded[place] = self.transform(item)
            except Exception as error:  # one broken file must not end the training on all others
                leave_out(place, failure_reason(error))
        for of_others in distributed.gather(dict(failures)):
            for place, reason in of_others.items():
                if loaded.pop(place, None) is not None:
                    leave_out(place, reason)
        self.failures = [(_file_of(self.data[place]), failures[place]) for place in sorted(failures)]
        if not loaded:
            file, reason = self.failures[0]
            raise ValueError(f"none of the {len(self.data)} images could be loaded; the first, {file}: {reason}")
        self._cache = list(loaded.values())

    def __len__(self) -> int:
        """Number of samples that loaded."""
        self.prepare()
        assert self._cache is not None
        return len(self._cache)

    def _transform(self, index: int) -> Any:
        position = range(len(self))[index]  # -1 is the last one, with the last one's seed
        assert self._cache is not None
        if self.random_transform is None:
            return dict(self._cache[position])
        entropy = np.random.SeedSequence([self.seed, int(self._epoch), position])
        if isinstance(self.random_transform, Randomizable):
            self.random_transform.set_random_state(seed=int(entropy.generate_state(1)[0]))
        sample = copy.deepcopy(self._cache[position])  # many MONAI transforms work in place
        with one_thread():
            return self.random_transform(sample)


def _file_of(item: dict[str, Any]) -> str:
    return str(item.get("file", ensure_tuple(item.get("image", "a sample without an image"))[0]))
