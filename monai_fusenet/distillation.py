"""One feed-forward network for a folder, taught by masks that were made without any label.

Masks of several fits and of k-means teach where they agree; the network then teaches itself for a few rounds, until its
masks no longer change. Nothing here is ever given a ground truth.
"""

from __future__ import annotations

import copy
import csv
import hashlib
import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.config import KeysCollection
from monai.data import DataLoader, DistributedSampler, MetaTensor
from monai.engines import SupervisedTrainer
from monai.inferers import Inferer, SimpleInferer
from monai.metrics import compute_dice
from monai.transforms import Compose, MapTransform, Randomizable, SelectItemsd, Transform
from torch import Tensor, nn
from torch.nn import functional as F

from monai_fusenet.checks import check_number, check_whole
from monai_fusenet.data import SeededCacheDataset, load_image
from monai_fusenet.engines import FolderEvaluator, ForgivingDataset
from monai_fusenet.evaluation.baselines import kmeans_clusters
from monai_fusenet.files import atomic_path
from monai_fusenet.handlers import EpochSeed, ProgressHandler, ResultWriter, ResumableCheckpoint
from monai_fusenet.handlers.checkpoint import load_checkpoint, save_tensors
from monai_fusenet.handlers.results import result_path
from monai_fusenet.inferers import PerImageInferer

__all__ = [
    "Distiller",
    "KMeansClustersd",
    "Round",
    "Teacher",
    "consensus",
    "folder_pass",
    "mean_pairwise_dice",
    "select_confident",
    "write_bundle",
]

logger = logging.getLogger(__name__)

LEAST_IMAGES = 5  # a network that sees fewer learns them by heart
LEAST_SHARE = 1 / 3
DECAY = 1e-4

Items = Sequence[Mapping[str, Any]]


def mean_pairwise_dice(masks: Tensor) -> float:
    """How well masks of one image agree: the mean Dice over all pairs of them.

    Args:
        masks: (M, *spatial), foreground above 0, M at least 1.

    Returns:
        a number in [0, 1]; a pair of which one is empty counts 0, a pair of empty masks 1; one mask agrees with itself.
    """
    if len(masks) == 1:
        return 1.0
    masks = (masks > 0).float()
    pairs = torch.tensor(list(combinations(range(len(masks)), 2)))
    first, second = (masks[chosen].unsqueeze(1) for chosen in pairs.T)
    return float(compute_dice(first, second, ignore_empty=False).mean())


def consensus(masks: Tensor) -> Tensor:
    """What masks of one image say together: the mean of those that are not empty; all zero where all are.

    Args:
        masks: (M, *spatial), values in [0, 1].

    Returns:
        (*spatial), values in [0, 1]: 0 and 1 where all agree, 1/2 where they are evenly divided.
    """
    present = masks[masks.flatten(1).any(dim=1)]
    return present.mean(dim=0) if len(present) else torch.zeros_like(masks[0])


def select_confident(confidences: Sequence[float | None], min_confidence: float) -> list[int]:
    """The images to learn from: all that are sure enough, or else the surest third, at least five.

    Args:
        confidences: of each image, or `None` where there is nothing to learn.
        min_confidence: what is sure enough; too few are a third of the images, or four.

    Returns:
        indices in ascending order; none of an image whose confidence is `None`.
    """
    usable = [(index, value) for index, value in enumerate(confidences) if value is not None]
    sure = [index for index, value in usable if value >= min_confidence]
    least = max(LEAST_IMAGES, math.ceil(LEAST_SHARE * len(confidences)))
    if len(sure) < least:
        sure = [index for index, _ in sorted(usable, key=lambda pair: -pair[1])[:least]]
    return sorted(sure)


class KMeansClustersd(MapTransform):
    """The classical teacher: k-means clusters of an image as it was loaded, see `kmeans_clusters`.

    Args:
        keys: key of the image (C, *spatial), a `MetaTensor` from one of this package's loaders, values in [0, 1].
        clusters_key: where the clusters go: (1, *spatial), integers 1..clusters by decreasing size.
        clusters: how many.
    """

    def __init__(self, keys: KeysCollection = "original", clusters_key: str = "clusters", clusters: int = 2) -> None:
        super().__init__(keys)
        check_whole("clusters", clusters, 2)
        self.clusters_key = clusters_key
        self.clusters = clusters

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns the sample with its clusters."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            image = sample[key]
            labels = kmeans_clusters(np.asarray(image.cpu()), self.clusters)
            meta = {**image.meta, "affine": torch.as_tensor(image.meta["loaded_affine"])}
            sample[self.clusters_key] = MetaTensor(torch.from_numpy(labels.astype(np.uint8)).unsqueeze(0), meta=meta)
        return sample


def folder_pass(
    items: Items,
    output_dir: str | Path,
    preprocessing: Callable,
    network: nn.Module,
    inferer: Inferer,
    postprocessing: Transform,
    device: torch.device,
    settings: Mapping[str, Any],
    overwrite: bool = False,
    num_workers: int = 0,
) -> tuple[FolderEvaluator, ResultWriter]:
    """One pass through a folder, ready to run, as the `inference` workflow makes it, and what writes its results."""
    writer = ResultWriter(items, output_dir, overwrite, settings)
    dataset = ForgivingDataset(writer.pending, preprocessing)
    evaluator = FolderEvaluator(
        device=device,
        val_data_loader=DataLoader(dataset, batch_size=1, num_workers=num_workers),
        network=network,
        inferer=inferer,
        postprocessing=postprocessing,
        val_handlers=[writer, ProgressHandler(desc=Path(output_dir).name)],
    )
    return evaluator, writer


class Teacher:
    """Label-free masks of each image: one from a fit for each seed, one from k-means, all chosen by the same rule.

    Args:
        output_dir: each gets a folder in it: `seed_<seed>`, `classical`.
        seeds: of the fits; none: k-means alone teaches, in seconds.
        network: what is fitted to each image.
        inferer: how; its own seed gives way to `seeds`.
        preprocessing: transform of an item to `image` and `original`.
        postprocessing: transform of the scores in `pred` to `clusters` and a mask in `pred`.
        classical: transform of `original` to the same.
        device: where to run.
        settings: what the masks depend on besides images and seeds.
        overwrite: make all masks anew.
        num_workers: processes that load images.

    Raises:
        ValueError: when `seeds` is no list of different whole numbers.
    """

    def __init__(
        self,
        output_dir: str | Path,
        seeds: Sequence[int],
        network: nn.Module,
        inferer: PerImageInferer,
        preprocessing: Callable,
        postprocessing: Transform,
        classical: Transform,
        device: torch.device,
        settings: Mapping[str, Any],
        overwrite: bool = False,
        num_workers: int = 0,
    ) -> None:
        self.seeds = check_seeds(seeds)
        self.output_dir = Path(output_dir)
        self.network = network
        self.inferer = inferer
        self.preprocessing = preprocessing
        self.postprocessing = postprocessing
        self.classical = classical
        self.common: dict[str, Any] = {"device": device, "overwrite": overwrite, "num_workers": num_workers}
        self.settings = settings

    @property
    def folders(self) -> list[Path]:
        """Where the masks are, the classical ones last."""
        return [self.output_dir / name for name in (*(f"seed_{seed}" for seed in self.seeds), "classical")]

    def passes(self, items: Items) -> Iterator[tuple[FolderEvaluator, ResultWriter]]:
        """The passes through the folder, see `folder_pass`, in the order of `folders`."""
        for seed, folder in zip(self.seeds, self.folders, strict=False):
            inferer = copy.copy(self.inferer)
            inferer.seed = seed
            settings = {**self.settings, "seed": seed}
            fit = (self.preprocessing, self.network, inferer, self.postprocessing)
            yield folder_pass(items, folder, *fit, settings=settings, **self.common)
        clustering = (self.preprocessing, nn.Identity(), SimpleInferer(), self.classical)
        yield folder_pass(items, self.folders[-1], *clustering, settings=self.settings, **self.common)


def check_seeds(seeds: Any) -> list[int]:
    """The seeds as a list; raises `ValueError` unless they are different whole numbers."""
    listed = list(seeds) if isinstance(seeds, Sequence) and not isinstance(seeds, str) else None
    if listed is None or len(set(map(str, listed))) < len(listed):
        raise ValueError(f"teacher_seeds must be a list of different whole numbers, as [0,1], got {seeds}")
    for seed in listed:
        check_whole("each of teacher_seeds", seed, 0)
        if seed >= 2**32:
            raise ValueError(f"each of teacher_seeds must be below 2**32, got {seed}")
    return listed


class Round(NamedTuple):
    """A round of self-training, a row of `rounds.csv`.

    Attributes:
        round: counted from 1.
        images: how many taught.
        agreement: mean Dice, over all images, between the masks before and after it.
        seconds: wall-clock time; of a round that was interrupted, the rest of it.
    """

    round: int
    images: int
    agreement: float
    seconds: float


class Distiller:
    """Trains one feed-forward network on label-free masks of a folder, and then on its own masks.

    Every round trains on the images whose masks agree, see `select_confident`: in the first round those of the
    teachers with each other, later those of the network before and after the round. A pixel's target is the mean of
    the teachers' masks, later the network's own probability. The rounds end when the masks no longer change. An
    interrupted run goes on in the epoch where it was.

    Args:
        network: any network (B, C, *spatial) -> (B, 1, *spatial), logits; trained in place.
        in_channels: image channels.
        size: spatial size to train at.
        preprocessing: transform of an item to `image` (C, *size).
        augmentation: random dictionary transform of `image` and `target`; the latter (1, *size).
        inferer: how the network predicts.
        mask: dictionary transform of a probability (1, *spatial) in `pred` to a mask.
        loss_function: called with logits and target.
        output_dir: where checkpoints and `rounds.csv` go.
        device: where to run.
        settings: what the result depends on, as plain values; a run of other settings is not continued.
        rounds: most rounds.
        round_steps: optimisation steps of a round, filled up to whole epochs.
        batch_size: images in a step.
        learning_rate: of AdamW at the start of a round; it falls to 0 along a cosine.
        min_confidence: agreement, in [0, 1], from which on an image teaches.
        agreement: mean agreement, in [0, 1], from which on masks count as unchanged.
        seed: of everything random.
        overwrite: start anew, whatever lies there.
        num_workers: processes that augment images.

    Raises:
        ValueError: when a number is out of range, or the network does not run at `size`.
    """

    def __init__(
        self,
        network: nn.Module,
        in_channels: int,
        size: Sequence[int],
        preprocessing: Callable,
        augmentation: Randomizable,
        inferer: Inferer,
        mask: Callable,
        loss_function: Callable,
        output_dir: str | Path,
        device: str | torch.device,
        settings: Mapping[str, Any],
        rounds: int = 3,
        round_steps: int = 300,
        batch_size: int = 8,
        learning_rate: float = 1e-3,
        min_confidence: float = 0.8,
        agreement: float = 0.98,
        seed: int = 0,
        overwrite: bool = False,
        num_workers: int = 0,
    ) -> None:
        check_number("min_confidence", min_confidence, 0, 1)
        check_number("agreement", agreement, 0, 1)
        check_number("learning_rate", learning_rate, 0)
        if learning_rate == 0:
            raise ValueError("learning_rate must be above 0, got 0")
        check_whole("rounds", rounds, 1)
        check_whole("round_steps", round_steps, 1)
        check_runs(network, in_channels, size)
        self.network = network.to(device)
        self.size = tuple(size)
        self.preprocessing = preprocessing
        self.augmentation = augmentation
        self.inferer = inferer
        self.mask = mask
        self.loss_function = loss_function
        self.output_dir = Path(output_dir)
        self.device = torch.device(device)
        self.settings = dict(settings)
        self.rounds = rounds
        self.round_steps = round_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.min_confidence = min_confidence
        self.agreement = agreement
        self.seed = seed
        self.overwrite = overwrite
        self.num_workers = num_workers

    def check_continuable(self, items: Items) -> None:
        """Looks, before the hours that teachers take, whether rounds that lie there may be continued.

        With `overwrite`, they are removed.

        Args:
            items: images, see `find_images`.

        Raises:
            ValueError: when they come from other settings or images.
        """
        self.settings["images"] = [item["file"] for item in items]
        if self.overwrite:
            shutil.rmtree(self.output_dir / "rounds", ignore_errors=True)
        self._refuse_rounds_of_others()

    def _refuse_rounds_of_others(self) -> None:
        rounds = self.output_dir / "rounds"
        first = rounds / "1" / "checkpoint.pt"
        if self.overwrite or not first.is_file():
            return
        before = load_checkpoint(first)["settings"]
        changed = sorted(name for name, value in self.settings.items() if before.get(name) != value)
        if changed:
            raise ValueError(
                f"{rounds} comes from a training with another {' and '.join(changed)}; choose another --output_dir, "
                "or delete that folder to train anew: teachers' masks that are there are kept"
            )

    def run(self, items: Items, teacher_dirs: Sequence[Path]) -> list[Round]:
        """Trains the network; of an item, only `image`, `file` and `name` are looked at.

        Args:
            items: images, see `find_images`.
            teacher_dirs: folders of `<name>_mask.*`, one at least; of one, all images count as sure.

        Returns:
            what each round did; `rounds.csv` holds the same.

        Raises:
            ValueError: when there is nothing to learn from, or the network has learnt that there is nothing.
        """
        taught = [
            {key: item[key] for key in ("image", "file", "name")}
            for item in items
            if all(result_path(folder, item["name"], "mask") for folder in teacher_dirs)
        ]
        if not taught:
            raise ValueError(
                f"none of {len(items)} images has masks of all teachers, see summary.csv in {teacher_dirs[0]}: "
                "there is nothing to learn from"
            )
        if len(taught) < LEAST_IMAGES:
            logger.warning("a network that sees %d images learns these by heart: give it more", len(taught))
        # Nothing but the small image is kept: what it was made from may be a hundred times as large.
        small = Compose([self.preprocessing, SelectItemsd(["image", "name"])])
        images = SeededCacheDataset(taught, small, progress=False)
        images.prepare()
        prepared = [images[index] for index in range(len(images))]
        samples = [{"image": _plain(sample["image"]).clone(), "name": sample["name"]} for sample in prepared]
        masks = [self._teacher_masks(sample["name"], teacher_dirs) for sample in samples]
        self.settings |= {"images": [item["file"] for item in items], "teachers": _digest(masks)}
        self._refuse_rounds_of_others()

        targets = torch.stack([consensus(one) for one in masks]).unsqueeze(1)
        confidences = [mean_pairwise_dice(one > 0.5) if one.any() else None for one in masks]
        before = targets > 0.5
        history: list[Round] = []
        for number in range(1, self.rounds + 1):
            start = time.perf_counter()
            chosen = select_confident(confidences, self.min_confidence)
            if not chosen:
                raise ValueError(
                    f"all {len(samples)} masks are empty before round {number}: there is nothing to learn from; "
                    "say what kind of image it is, for example with configs/skin.yaml"
                )
            self._train(number, [{**samples[index], "target": targets[index]} for index in chosen])
            probabilities = self._predict(samples)
            after = torch.stack([_plain(self.mask({"pred": one})["pred"]) > 0 for one in probabilities])
            agreements = compute_dice(after.float(), before.float(), ignore_empty=False).flatten().tolist()
            # What the rule took away or filled is certain; elsewhere the network knows best how sure it is.
            targets = torch.where(after == (probabilities > 0.5), probabilities, after.float())
            confidences = [value if one.any() else None for value, one in zip(agreements, after, strict=True)]
            before = after
            seconds = time.perf_counter() - start
            history.append(Round(number, len(chosen), float(np.mean(agreements)), round(seconds, 1)))
            self._write(history)
            logger.info(
                "round %d: %d of %d images taught, mean agreement %.3f, %.0f s",
                *(number, len(chosen), len(samples), history[-1].agreement, seconds),
            )
            if history[-1].agreement > self.agreement:
                break
        else:
            logger.info("masks still changed in the last round by more than agreement (%g) allows", self.agreement)
        if not before.any():
            raise ValueError(
                "the network has learnt that there is nothing in any image: more steps (--round_steps) or another "
                "--seed may mend it"
            )
        return history

    def _teacher_masks(self, name: str, folders: Sequence[Path]) -> Tensor:
        """All masks of an image, (M, *size): the share of each pixel that is foreground."""
        loaded = [_plain(load_image(str(result_path(folder, name, "mask"))))[:1] > 0 for folder in folders]
        return torch.cat([F.interpolate(one.float().unsqueeze(0), size=self.size, mode="area")[0] for one in loaded])

    def _train(self, number: int, samples: list[dict[str, Any]]) -> None:
        seed = self.seed + 1_000_003 * number
        dataset = SeededCacheDataset(samples, dict, self.augmentation, seed=seed, progress=False)
        sampler = DistributedSampler(dataset, num_replicas=1, rank=0, shuffle=True, seed=seed)
        loader = DataLoader(dataset, self.num_workers, batch_size=self.batch_size, sampler=sampler)
        optimizer = torch.optim.AdamW(self.network.parameters(), self.learning_rate, weight_decay=DECAY)
        checkpoint = ResumableCheckpoint(
            self.output_dir / "rounds" / str(number), self.network, optimizer, self.settings, self.overwrite
        )
        trainer = SupervisedTrainer(
            device=self.device,
            max_epochs=math.ceil(self.round_steps / len(loader)),
            train_data_loader=loader,
            network=self.network,
            optimizer=optimizer,
            loss_function=self.loss_function,
            prepare_batch=prepare_taught,
            train_handlers=[EpochSeed(seed, dataset), checkpoint, ProgressHandler(desc=f"round {number}")],
            decollate=False,
        )
        trainer.add_event_handler(Events.ITERATION_STARTED, follow_cosine, optimizer, self.learning_rate)
        trainer.run()

    @torch.no_grad()
    def _predict(self, samples: list[dict[str, Any]]) -> Tensor:
        """Probabilities (N, 1, *size), on the CPU."""
        self.network.eval()
        batches = torch.stack([sample["image"] for sample in samples]).split(self.batch_size)
        return torch.cat([self.inferer(batch.to(self.device), self.network).sigmoid().cpu() for batch in batches])

    def _write(self, history: list[Round]) -> None:
        with (
            atomic_path(self.output_dir / "rounds.csv") as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            table = csv.writer(file)
            table.writerow(Round._fields)
            table.writerows(history)


def check_runs(network: nn.Module, in_channels: int, size: Sequence[int]) -> None:
    """Raises `ValueError` unless the network, in training, makes one channel of its input's size."""
    image = torch.zeros(2, in_channels, *size)
    try:
        with torch.random.fork_rng([]), torch.no_grad():
            output = copy.deepcopy(network).cpu().train()(image)
    except Exception as error:
        raise ValueError(f"student_def does not run at student_size {list(size)}: {_first_line(error)}") from None
    if not isinstance(output, Tensor) or output.shape != (2, 1, *size):
        came = tuple(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise ValueError(f"student_def must put out one channel of the size of its input, {(2, 1, *size)}, got {came}")


def prepare_taught(
    batchdata: Mapping[str, Tensor], device: torch.device, non_blocking: bool = False, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    """Takes image and target out of a batch and onto the device."""
    image, target = (_plain(batchdata[key]).to(device, non_blocking=non_blocking) for key in ("image", "target"))
    return image, target


def follow_cosine(engine: Engine, optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Sets the learning rate of this iteration; a function of its number alone, so that a resumed training agrees."""
    total = (engine.state.max_epochs or 1) * (engine.state.epoch_length or 1)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * (1 + math.cos(math.pi * (engine.state.iteration - 1) / total)) / 2


def write_bundle(
    folder: str | Path, network: nn.Module, config: Mapping[str, Any], metadata: Mapping[str, Any], parent: str | Path
) -> None:
    """Writes a network as a MONAI bundle that stands alone; each file is complete or absent.

    Args:
        folder: of the bundle: `configs/`, `models/model.pt`, `docs/`, `LICENSE`.
        network: whose weights go into it.
        config: what becomes `configs/inference.json`.
        metadata: what becomes `configs/metadata.json`.
        parent: the bundle that this one comes from, whose licence and `logging.conf` it takes over.
    """
    folder = Path(folder)
    weights = {name: value.cpu() for name, value in network.state_dict().items()}
    save_tensors(weights, folder / "models" / "model.pt")
    for name, content in (("metadata", metadata), ("inference", config)):
        with atomic_path(folder / "configs" / f"{name}.json") as temporary:
            temporary.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
    for source, target in (("LICENSE", "LICENSE"), ("configs/logging.conf", "configs/logging.conf")):
        if (Path(parent) / source).is_file():
            with atomic_path(folder / target) as temporary:
                shutil.copyfile(Path(parent) / source, temporary)
    with atomic_path(folder / "docs" / "README.md") as temporary:
        temporary.write_text(BUNDLE_README, encoding="utf-8")


BUNDLE_README = """# A segmentation network distilled without labels

Trained by the workflow `distillation` of monai-fusenet on one folder of images, on masks that were made and chosen
without any ground truth. It knows that kind of image and no other. Research software, not a medical device.

From the folder of this bundle:

```bash
python -m monai.bundle run --config_file configs/inference.json --dataset_dir FOLDER --output_dir RESULTS
```

writes `<name>_mask.png` (`.nii.gz` for everything with a geometry) of each image on its own grid. Reading files and
writing masks on their grid needs the package monai-fusenet; the network itself is MONAI's, and `models/model.pt` its
plain state dict. Input: intensities scaled to [0, 1] between percentiles, resized to `student_size`; output: one
channel, the logit of the foreground.
"""


def _plain(tensor: Tensor) -> Tensor:
    return tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor


def _digest(masks: Sequence[Tensor]) -> str:
    digest = hashlib.sha256()
    for one in masks:
        digest.update((one * 255).round().to(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
