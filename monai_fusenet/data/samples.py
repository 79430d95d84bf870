"""Images for trials without a data set: real ones that scikit-image installs, and drawn ones with masks."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import skimage
from PIL import Image
from scipy import ndimage

from monai_fusenet.utils.files import atomic_path

SAMPLE_FILES = ("cell.png", "ihc.png", "microaneurysms.png", "retina.jpg")


def sample_images() -> list[dict[str, Any]]:
    """The four medical images that scikit-image installs, in their place; nothing is downloaded or copied.

    A retina, an immunohistochemical stain of colon glands, a cell, and microaneurysms. They have no masks.

    Returns:
        Dictionaries as `find_images` returns them.

    Raises:
        ValueError: if the installed scikit-image does not contain one of them.
    """
    folder = Path(skimage.__file__).parent / "data"
    for file in SAMPLE_FILES:
        if not (folder / file).is_file():
            raise ValueError(f"the installed scikit-image does not contain {file}: give a dataset_dir")
    return [{"image": str(folder / file), "file": file, "name": Path(file).stem} for file in SAMPLE_FILES]


def write_samples(folder: str | os.PathLike) -> list[Path]:
    """Writes the images of `sample_images` as PNG files with the same pixels into a folder, which is made if needed.

    Returns:
        The files, named as the images.

    Raises:
        ValueError: when one of them already exists; nothing is written then.
    """
    targets = {Path(folder, f"{item['name']}.png"): item["image"] for item in sample_images()}
    for target in targets:
        if target.exists():
            raise ValueError(f"{target} is there already; choose another folder")
    for target, source in targets.items():
        with atomic_path(target) as temporary, Image.open(source) as image:
            image.save(temporary, format="PNG")
    return list(targets)


def phantom_images(folder: str | os.PathLike, count: int = 4) -> list[dict[str, Any]]:
    """The result of `find_images` for the folder of `draw_phantoms`, also before it has drawn."""
    names = [f"phantom_{index:03d}" for index in range(count)]
    images, masks = (os.path.abspath(Path(folder, kind)) for kind in ("images", "masks"))
    return [
        {"image": f"{images}/{name}.png", "label": f"{masks}/{name}.png", "file": f"images/{name}.png", "name": name}
        for name in names
    ]


def draw_phantoms(folder: str | os.PathLike, count: int = 4, size: tuple[int, int] = (160, 192), seed: int = 0) -> None:
    """Draws synthetic RGB images of one textured, roughly elliptic object each, with masks.

    Object and background differ in colour and texture, but uneven light, noise and a few blots of the object's colour
    keep any single threshold from separating them.

    Args:
        folder: where `images/phantom_*.png` (RGB) and `masks/phantom_*.png` (0 or 255) are written, folders included.
        count: number of phantoms.
        size: height and width.
        seed: the i-th phantom depends on `seed`, `size` and i only.
    """
    for index, item in enumerate(phantom_images(folder, count)):
        for key, pixels in zip(
            ("image", "label"), _draw_phantom(np.random.default_rng([seed, index]), size), strict=True
        ):
            with atomic_path(item[key]) as temporary:
                Image.fromarray(pixels).save(temporary)


def _draw_phantom(random: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    height, width = size
    row, column = np.mgrid[0:height, 0:width]
    y = row / height - random.uniform(0.42, 0.58)
    x = column / width - random.uniform(0.42, 0.58)
    tilt = random.uniform(0, np.pi)
    along, across = x * np.cos(tilt) + y * np.sin(tilt), y * np.cos(tilt) - x * np.sin(tilt)
    along, across = along / random.uniform(0.24, 0.32), across / random.uniform(0.16, 0.24)
    angle = np.arctan2(across, along)
    outline = 1 + sum(random.uniform(-0.08, 0.08) * np.sin(n * angle + random.uniform(0, 6.3)) for n in (2, 3, 5))
    mask = np.hypot(along, across) < outline

    side = min(size)
    blots = _smooth_noise(random, size, side / 40) > 2.2
    softened = ndimage.gaussian_filter((mask | blots).astype(float), side / 110)[..., None]  # no knife-edge
    background = np.array([208, 160, 140]) + random.uniform(-20, 20, 3)
    coloured = np.array([132, 88, 92]) + random.uniform(-20, 20, 3)
    image = (1 - softened) * background + softened * coloured
    image += softened * 16 * _smooth_noise(random, size, side / 60)[..., None]
    image += (1 - softened) * 8 * _smooth_noise(random, size, side / 25)[..., None]
    light = random.uniform(0, 2 * np.pi)
    image *= 1 + 0.35 * (np.cos(light) * (row / height - 0.5) + np.sin(light) * (column / width - 0.5))[..., None]
    image += random.normal(0, 7, image.shape)
    return image.round().clip(0, 255).astype(np.uint8), np.where(mask, 255, 0).astype(np.uint8)


def _smooth_noise(random: np.random.Generator, size: tuple[int, int], sigma: float) -> np.ndarray:
    noise = ndimage.gaussian_filter(random.normal(size=size), sigma, mode="wrap")
    return noise / noise.std()
