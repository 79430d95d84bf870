"""Segments a picture with a distilled network in ONNX, without torch.

    python docs/onnx_inference.py student.onnx output/distillation/model/configs/inference.json scan.png mask.png

Prepares the picture and finishes the mask as the distilled bundle does, whose options it reads; see docs/export.md. It
looks for no field of view: the whole picture is taken, as with `--field None`.
Needs onnxruntime, numpy, scipy and Pillow.
"""

import argparse
import json
from itertools import chain, combinations
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps
from scipy import ndimage


def load_picture(path: str, channels: int) -> np.ndarray:
    """The picture upright, without transparency, grey repeated: (channels, H, W), float32."""
    with Image.open(path) as file:
        picture = ImageOps.exif_transpose(file)
        if not picture.mode.startswith("I"):  # 16 bits stay 16 bits
            picture = picture.convert("RGB" if channels == 3 else "L")
        pixels = np.asarray(picture, dtype=np.float32)
    return np.broadcast_to(np.atleast_3d(pixels).transpose(2, 0, 1), (channels, *pixels.shape[:2]))


def scale(image: np.ndarray, lower: float, upper: float) -> np.ndarray:
    """Intensities to [0, 1] between two percentiles of the image."""
    low, high = np.percentile(image, [lower, upper])
    if low == high:
        low, high = image.min(), image.max()
    return np.clip((image - low) / (high - low), 0, 1).astype(np.float32)


def resize(planes: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """(C, H, W) to (C, *size), bilinear; smoothed first where it shrinks."""
    factors = np.array(planes.shape[1:]) / size
    sigma = np.maximum(0, (factors - 1) / 2)
    smooth = ndimage.gaussian_filter(planes, (0, *sigma), mode="constant")  # as MONAI: dark beyond the border
    return ndimage.zoom(smooth, (1, *1 / factors), order=1, mode="nearest", grid_mode=True)


def predict(session: onnxruntime.InferenceSession, image: np.ndarray, flip_axes: list[int]) -> np.ndarray:
    """Probability of the foreground (1, H, W): the mean of the logits over all mirror images."""
    name = session.get_inputs()[0].name
    axes = [2 + axis for axis in flip_axes]
    flips = chain.from_iterable(combinations(axes, count) for count in range(len(axes) + 1))
    logits = [np.flip(session.run(None, {name: np.flip(image[None], flip).copy()})[0], flip) for flip in flips]
    return 1 / (1 + np.exp(-np.mean(logits, axis=0)[0]))


def largest(mask: np.ndarray, count: int) -> np.ndarray:
    """The largest connected parts of a mask (H, W), without holes."""
    whole = np.ones((3, 3))
    parts, _ = ndimage.label(mask, structure=whole)
    sizes = np.bincount(parts.ravel())[1:]
    return ndimage.binary_fill_holes(np.isin(parts, 1 + np.argsort(-sizes)[:count]))


def main() -> None:
    """Reads a picture and writes its mask, 0 and 255, on the picture's own grid."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("model", "config", "picture", "mask"):
        parser.add_argument(name)
    arguments = parser.parse_args()
    config = json.loads(Path(arguments.config).read_text(encoding="utf-8"))
    if not config["scaling"]["_target_"].endswith(".ScaleByPercentilesd"):
        raise SystemExit("error: this example scales by percentiles, unlike the given config")

    picture = load_picture(arguments.picture, config["in_channels"])
    image = scale(picture, config["scaling"]["lower"], config["scaling"]["upper"])
    small = resize(image, tuple(config["student_size"]))
    session = onnxruntime.InferenceSession(arguments.model, providers=["CPUExecutionProvider"])
    mask = resize(predict(session, small, config["flip_axes"]), image.shape[1:])[0] >= 0.5
    if config["objects"] is not None:
        mask = largest(mask, config["objects"])
    Image.fromarray(mask.astype(np.uint8) * 255).save(arguments.mask)


if __name__ == "__main__":
    main()
