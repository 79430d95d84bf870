"""Digests of what the workflows write, to show that a change of the code changes no result, to the last bit.

`python -m benchmarks.results_digest DATA OUTPUT [PART ...]` runs inference (presets skin, lung and nuclei), evaluation,
a distillation taught by k-means alone, and six steps of a training on the sets `dermoscopy`, `chest_xray` and `nuclei`
in DATA, with seed 0 and one thread, and prints a SHA-256 for each. Equal code prints equal lines on the same machine.
What depends on time (seconds, memory) or on the wording of the options (panels) is left out.
"""

import csv
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from PIL import Image

CONFIGS = Path("bundles") / "fusenet_segmentation" / "configs"
OVERLAYS = {"dermoscopy": "skin", "chest_xray": "lung", "nuclei": "nuclei"}
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
OF_TIME = ("seconds", "peak_mib")


def bundle(run_id, config, output, *overlays, **options):
    """Runs a workflow in a process of its own with one thread, unless its output is there already."""
    if (output / "done").exists():
        return
    files = [str(CONFIGS / config), *(str(Path("configs") / f"{name}.yaml") for name in overlays)]
    command = [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", str(files)]
    for name, value in {"output_dir": output, "device": "cpu", **options}.items():
        command += [f"--{name}", str(value)]
    subprocess.run(command, env={**os.environ, **ONE_THREAD}, check=True)
    (output / "done").touch()


def digest_of_arrays(paths):
    """Of the values in label maps, with their names."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        values = nib.load(path).get_fdata() if path.name.endswith(".nii.gz") else np.asarray(Image.open(path))
        digest.update(f"{path.name} {values.dtype} {values.shape}".encode() + np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def digest_of_weights(path):
    """Of the tensors in a `model.pt`, with their names."""
    digest = hashlib.sha256()
    for name, value in torch.load(path, weights_only=True).items():
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def digest_of_scores(path):
    """Of all columns of a `scores.csv` but those of time and memory."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [{key: value for key, value in row.items() if key not in OF_TIME} for row in csv.DictReader(file)]
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def label_maps(folder):
    """The clusters and masks in a folder of results."""
    return [path for kind in ("clusters", "mask") for path in folder.glob(f"*_{kind}.*")]


def inference(data, output, name):
    """Clusters and masks of a set."""
    folder = output / f"inference_{name}"
    bundle("inference", "inference.json", folder, OVERLAYS[name], dataset_dir=data / name)
    return digest_of_arrays(label_maps(folder))


def evaluation(data, output):
    """Scores of the masks that inference made of dermoscopy."""
    inference(data, output, "dermoscopy")
    folder, masks = output / "evaluation", output / "inference_dermoscopy"
    options = {"dataset_dir": data / "dermoscopy", "predictions_dir": masks}
    bundle("evaluation", "evaluate.json", folder, "skin", **options)
    return digest_of_scores(folder / "scores.csv")


def evaluation_of_seeds(data, output):
    """Scores of two seeds on the phantoms."""
    folder = output / "evaluation_of_seeds"
    bundle("evaluation", "evaluate.json", folder, "skin", seeds="[0,1]")
    return digest_of_scores(folder / "scores.csv")


def distillation(data, output):
    """Weights and masks of a network for dermoscopy, taught by k-means."""
    folder = output / "distillation"
    options = {"dataset_dir": data / "dermoscopy", "teacher_seeds": "[]", "rounds": 2, "round_steps": 60}
    bundle("distillation", "distill.json", folder, "skin", **options)
    weights = digest_of_weights(folder / "model" / "models" / "model.pt")
    return f"{weights} {digest_of_arrays(label_maps(folder / 'masks'))}"


def training(data, output):
    """Weights after six steps, of three of the 17 images of dermoscopy each."""
    folder = output / "training"
    options = {"dataset_dir": data / "dermoscopy", "max_epochs": 1, "batch_size": 3}
    bundle("training", "train.json", folder, **options)
    return digest_of_weights(folder / "model.pt")


PARTS = {
    "training": training,
    "distillation": distillation,
    "evaluation of seeds": evaluation_of_seeds,
    "inference dermoscopy": lambda data, output: inference(data, output, "dermoscopy"),
    "evaluation": evaluation,
    "inference nuclei": lambda data, output: inference(data, output, "nuclei"),
    "inference chest_xray": lambda data, output: inference(data, output, "chest_xray"),
}


def main(arguments):
    data, output = (Path(argument).resolve() for argument in arguments[:2])
    for name in arguments[2:] or PARTS:
        print(name, PARTS[name](data, output), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
