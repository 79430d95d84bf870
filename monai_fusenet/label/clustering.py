"""From an image file to clusters and masks, by the bundle's configs."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn

from monai_fusenet import __version__
from monai_fusenet.bundle import UnfitWeightsError, initial_network
from monai_fusenet.bundle.checks import ENTRIES
from monai_fusenet.clicks import STATE_VERSION, ClickSelector
from monai_fusenet.data import load_image
from monai_fusenet.data.blocks import LARGEST_PICTURE
from monai_fusenet.label.cache import ClusterCache, Clusters
from monai_fusenet.label.guided import guided_mask
from monai_fusenet.options.table import BOOKKEEPING
from monai_fusenet.shipped import config_files, shipped
from monai_fusenet.transforms import ClustersToMaskd
from monai_fusenet.utils.arrays import plain
from monai_fusenet.utils.checks import check_number, check_whole
from monai_fusenet.utils.errors import failure_reason
from monai_fusenet.utils.files import content_digest

__all__ = [
    "FUSENET",
    "READING",
    "Clusterer",
    "Conf",
    "bundle_configs",
    "check_method",
    "check_preset",
    "methods",
    "presets",
    "read_conf",
    "read_configs",
]

logger = logging.getLogger(__name__)

GENERIC, FUSENET = "generic", "fusenet"  # the shipped config without an overlay
# Overlays that say how to fit or what lies in the files, not what is in the image.
NO_PRESETS = {"paper", "feedforward", "adapt", "volume", "slices", "mr", "second_view"}
RULE_KEYS = {"foreground", "partitions"}  # what masks depend on, but not clusters
# What MONAI Label itself reads (server_mode), and what its own test suites hand to every app.
MONAI_LABEL_CONF = {
    *("server_mode", "auto_update_scoring", "debug", "epistemic_enabled", "epistemic_samples", "heuristic_planner"),
    *("models", "skip_scoring", "skip_strategies", "tracking"),
}

# To find a component that a config names, MONAI goes through all modules that are loaded. None may be loaded meanwhile,
# which reading an image may do in another thread.
READING = threading.RLock()

Number = TypeVar("Number", int, float)


@functools.cache
def methods() -> tuple[str, ...]:
    """The names that `--method` takes: `fusenet`, and the overlays that put another network in its place."""
    files = sorted(shipped("configs").glob("*.yaml"))
    return (FUSENET, *(file.stem for file in files if "network_def" in ConfigParser.load_config_file(file)))


def presets() -> list[str]:
    """The names that `--preset` takes: `generic`, and the overlays that say what kind of image it is."""
    names = sorted(path.stem for path in shipped("configs").glob("*.yaml"))
    return [GENERIC, *(name for name in names if name not in NO_PRESETS and name not in methods())]


def check_preset(preset: str) -> str:
    """Returns the preset, one of `presets` or a user's own overlay; raises `ValueError` for any other."""
    return _check_overlay("preset", preset, presets())


def check_method(method: str) -> str:
    """Returns the method, one of `methods` or a user's own overlay; raises `ValueError` for any other."""
    return _check_overlay("method", method, methods())


def _check_overlay(what: str, name: str, known: Sequence[str]) -> str:
    if name not in known and not (name.endswith(".yaml") and Path(name).is_file()):
        raise ValueError(f"{what} must be one of {', '.join(known)}, or a file .yaml, got {name}")
    return name


def bundle_configs(name: str, preset: str, spatial_dims: int, *overlays: str) -> list[str]:
    """The files of a workflow of the bundle, in the order in which later ones override earlier ones.

    Args:
        name: `inference`, `train` or `distill`.
        preset: see `presets`.
        spatial_dims: 2 or 3.
        overlays: names of further overlays.
    """
    names = [*(["volume"] if spatial_dims == 3 else []), preset, *overlays]
    return config_files(name, *(one for one in names if one not in (GENERIC, FUSENET)))


def read_configs(files: Sequence[str], **options: Any) -> ConfigParser:
    """The merged config of some files, with options on top."""
    parser = ConfigParser()
    parser.read_config(list(files))
    parser.update({"bundle_root": str(Path(files[0]).parents[1]), **options})
    return parser


class Conf(NamedTuple):
    """The settings of the app from `--conf NAME VALUE`.

    Attributes:
        cache_dir: folder of the cached clusters; `None`: in the app's folder.
        cache_gib: bound on them, in GiB.
        seed: of the fits.
        preset: what kind of image it is, see `check_preset`.
        method: how images are fitted, see `check_method`.
    """

    cache_dir: Path | None
    cache_gib: float
    seed: int
    preset: str
    method: str


def read_conf(conf: Mapping[str, str]) -> Conf:
    """The options of the app from the texts that MONAI Label passes on.

    Raises:
        ValueError: for an unknown name or a value out of range; it names the option, what was expected and what came.
    """
    unknown = sorted(set(conf) - set(Conf._fields) - MONAI_LABEL_CONF)
    if unknown:
        raise ValueError(f"--conf must be one of {', '.join(Conf._fields)}, got {', '.join(unknown)}")
    cache_gib = _number(float, "cache_gib", conf.get("cache_gib", "2"), "a finite number of at least 0")
    check_number("cache_gib", cache_gib, 0)
    seed = _number(int, "seed", conf.get("seed", "0"), "a whole number of at least 0")
    check_whole("seed", seed, 0)
    cache_dir = conf.get("cache_dir")
    try:
        folder = Path(cache_dir).expanduser() if cache_dir else None
    except RuntimeError as error:  # ~nobody
        raise ValueError(f"cache_dir must be a folder, got {cache_dir}: {error}") from error
    preset, method = check_preset(conf.get("preset", GENERIC)), check_method(conf.get("method", FUSENET))
    return Conf(folder, cache_gib, seed, preset, method)


def _number(kind: Callable[[str], Number], name: str, text: str, expected: str) -> Number:
    try:
        return kind(text)
    except ValueError as error:
        raise ValueError(f"{name} must be {expected}, got {text}") from error


class Clusterer:
    """Makes clusters of images and chooses masks among them; asks the cache first.

    Args:
        cache: where clusters are kept.
        preset: what kind of image it is, see `check_preset`.
        trained: path of the `model.pt` of a self-supervised training, which may not exist.
        seed: of the fits.
        method: how images are fitted, see `check_method`.
    """

    def __init__(
        self,
        cache: ClusterCache,
        preset: str = GENERIC,
        trained: str | Path | None = None,
        seed: int = 0,
        method: str = FUSENET,
    ) -> None:
        self.cache = cache
        self.preset = check_preset(preset)
        self.method = check_method(method)
        self.trained = None if trained is None else Path(trained)
        self.seed = seed
        self.fitting = ""  # the file that is fitted now
        self._lock = threading.Lock()  # one fit at a time: each seeds the random numbers of the process
        self._parsers: dict[tuple[int, str, bool], ConfigParser] = {}

    def key(self, path: str | Path, adapt: bool = False) -> str:
        """The cache's key of an image: its content, all options that clusters depend on, and the weights."""
        return hashlib.sha256(f"{content_digest(path)} {self.settings_digest(adapt)}".encode()).hexdigest()

    def settings_digest(self, adapt: bool = False) -> str:
        """A fingerprint of the options that clusters depend on, and of the weights that they start from."""
        with READING:
            settings = [self._settings(spatial_dims, adapt) for spatial_dims in (2, 3)]
        weights = content_digest(self._weights()) if adapt else None
        text = json.dumps([settings, weights, __version__, STATE_VERSION], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def clusters(self, path: str | Path, device: str = "cpu", adapt: bool = False) -> Clusters:
        """The clusters of an image; without any in the cache, a network is fitted to it, which takes seconds.

        Args:
            path: file, or folder of one DICOM series.
            device: where to fit.
            adapt: start from the trained weights instead of new ones.

        Raises:
            ValueError: when the image cannot be read or used, or trained weights are wanted and none fit it.
        """

        def make() -> Clusters:
            with self._fit(path):
                return self._make(path, device, adapt)

        return self.cache.get(self.key(path, adapt), make)

    def image(self, path: str | Path) -> Tensor:
        """An image as its clusters see it: (C, *spatial), a `MetaTensor`, values in [0, 1].

        Raises:
            ValueError: when it cannot be read or used.
        """
        with READING:
            return self._prepared(path)[0]["original"]

    def mask(self, path: str | Path, clusters: np.ndarray, preset: str | None = None) -> np.ndarray:
        """The foreground (*spatial) that the rule of the preset chooses, see `choose_foreground`; bool."""
        image = self.image(path)
        with READING:
            parser = self._parser(image.ndim - 1, check_preset(preset or self.preset), False)
            rule: ClustersToMaskd = parser.get_parsed_content("foreground")
        return rule.agree(clusters, np.asarray(image))

    def guided(self, path: str | Path, scribble: np.ndarray, device: str = "cpu", adapt: bool = False) -> np.ndarray:
        """The object (*spatial), bool, from a fit that uses strokes; each request takes a new fit of some seconds.

        Args:
            path: see `clusters`.
            scribble: label map of strokes, see `draw_points`.
            device: where to fit.
            adapt: see `clusters`.

        Raises:
            ValueError: as `clusters` and `guided_mask` do.
        """
        with self._fit(path):
            with READING:
                sample, network, inferer, _ = self._ready(path, device, adapt)
            return guided_mask(sample, scribble, network, inferer, device)

    @contextmanager
    def _fit(self, path: str | Path) -> Iterator[None]:
        """Waits for other fits, and says what is fitted in the meantime."""
        with self._lock:
            self.fitting = Path(path).name
            try:
                yield
            finally:
                self.fitting = ""

    def _weights(self) -> Path:
        if self.trained is None or not self.trained.is_file():
            raise ValueError("there are no trained weights yet: run the training fusenet_clusters first")
        return self.trained

    def _start_from_weights(self, network: nn.Module, name: str, device: str) -> nn.Module:
        try:
            return initial_network(network, self._weights(), device)
        except UnfitWeightsError as error:
            raise ValueError(
                f"the trained weights do not fit {name}: they are of another method, or for images of another number "
                "of axes or channels; run the training fusenet_clusters on such images, with pretrained false"
            ) from error

    def _parser(self, spatial_dims: int, preset: str, adapt: bool) -> ConfigParser:
        key = (spatial_dims, preset, adapt)
        if key not in self._parsers:
            files = bundle_configs("inference", preset, spatial_dims, self.method, *(["adapt"] if adapt else []))
            self._parsers[key] = read_configs(files, **{"seed": self.seed, "inferer#progress": False})
        return self._parsers[key]

    def _settings(self, spatial_dims: int, adapt: bool) -> Mapping[str, Any]:
        config = self._parser(spatial_dims, self.preset, adapt).get()
        left_out = {*BOOKKEEPING, *ENTRIES, *RULE_KEYS}
        used = json.dumps(config)
        return {key: value for key, value in config.items() if key not in left_out and f"@{key}" in used}

    def _prepared(self, path: str | Path, adapt: bool = False) -> tuple[dict[str, Any], ConfigParser]:
        """The sample that goes into the network, and the config that made it."""
        spatial_dims = axes_of(path)
        parser = self._parser(spatial_dims, self.preset, adapt)
        try:
            return parser.get_parsed_content("preprocessing")({"image": str(path)}), parser
        except RuntimeError as error:  # MONAI wraps what a transform raises
            raise ValueError(failure_reason(error)) from error

    def _ready(self, path: str | Path, device: str, adapt: bool) -> tuple[dict, nn.Module, Any, ConfigParser]:
        """The sample of an image, what is fitted to it, what fits it, and the config that made all of them."""
        sample, parser = self._prepared(path, adapt)
        network, inferer = (parser.get_parsed_content(part) for part in ("network_def", "inferer"))
        if adapt:
            network = self._start_from_weights(network, Path(path).name, device)
        return sample, network, inferer, parser

    def _make(self, path: str | Path, device: str, adapt: bool) -> Clusters:
        name = Path(path).name
        logger.info("%s: no clusters in the cache, fitting a network to it: this takes seconds", name)
        start = time.perf_counter()
        with READING:
            sample, network, inferer, parser = self._ready(path, device, adapt)
            postprocessing = parser.get_parsed_content("postprocessing")
        with torch.no_grad():
            sample["pred"] = inferer(plain(sample["image"]).unsqueeze(0).to(device), network.to(device))[0].cpu()
        for transform in postprocessing.transforms:
            if isinstance(transform, ClustersToMaskd):
                break
            sample = transform(sample)
        clusters, image = sample["clusters"].cpu().numpy()[0], sample["original"]
        selector = ClickSelector(clusters, np.asarray(plain(image)))
        logger.info("%s: %d clusters in %.1f s", name, clusters.max(), time.perf_counter() - start)
        return Clusters(
            clusters=clusters,
            uncertainty=uncertainty(plain(torch.as_tensor(sample["scores"]))),
            original_affine=np.asarray(image.meta["original_affine"]),
            grid_shape=tuple(int(side) for side in image.meta["grid_shape"]),
            has_geometry=bool(image.meta["has_geometry"]),
            nifti_header=image.meta.get("nifti_header", b""),
            selector=selector,
        )


def axes_of(path: str | Path) -> int:
    """How many axes an image has: 2 or 3.

    Raises:
        ValueError: of another number, and of a large picture: clients point at its pixels and expect a mask of them,
            and the server would work on a smaller copy, see `load_image`.
    """
    image = load_image(path)
    if image.meta["block"] > 1:
        sides = " x ".join(map(str, image.meta["file_shape"]))
        raise ValueError(
            f"{Path(path).name}: the server takes pictures of up to {LARGEST_PICTURE} pixels, got {sides}: make its "
            "mask by the workflow inference, or give parts of it as images"
        )
    if image.ndim not in (3, 4):
        raise ValueError(f"{Path(path).name}: expected an image of 2 or 3 axes, got {image.ndim - 1}")
    return image.ndim - 1


def uncertainty(scores: Tensor) -> float:
    """The uncertainty of pixels between the clusters that win any: mean entropy of their softmax, in [0, 1].

    Args:
        scores: (K, *spatial).

    Returns:
        1 if all of these clusters are equally likely everywhere; 0 if each pixel is sure, or one cluster has all
        pixels.
    """
    present = scores[scores.argmax(dim=0).unique()].float()
    if len(present) == 1:
        return 0.0
    shares = present.softmax(dim=0)
    entropy = -(shares * shares.clamp_min(1e-12).log()).sum(dim=0).mean()
    return float(entropy / torch.tensor(float(len(present))).log())
