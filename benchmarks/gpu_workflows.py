"""The sections of `benchmarks.gpu` that run workflows in processes: a folder, distillation, and two ranks."""

from __future__ import annotations

import csv
import importlib
import re
import sys
import time
from collections.abc import Iterator

import torch

from benchmarks.gpu_job import Case, Found, Job, draw_folder, pictures
from monai_fusenet.shipped import config_files


def folder(job: Job) -> Iterator[Case]:
    """The workflow `inference`, from files to masks."""
    for name in ("fire", "monai_fusenet.bundle"):
        importlib.import_module(name)
    few, many = (1, 2) if job.tiny else (8, job.images)
    side = 48 if job.tiny else 512
    taken: dict[int, float] = {}

    def whole(count: int) -> Found:
        images, results = draw_folder(job, count, side), job.scratch / f"masks{count}"
        options = {"dataset_dir": images, "output_dir": results, "device": job.device}
        seconds, _ = job.run(job.bundle("inference", config_files("inference"), **options))
        with (results / "summary.csv").open(newline="", encoding="utf-8") as file:
            good = sum(row["status"] == "ok" for row in csv.DictReader(file))
        taken[count] = seconds
        return seconds / count, f"{seconds:.1f} s in all, {good} of {count} segmented, start included"

    def reckoned() -> Found:
        if few not in taken or many not in taken:
            raise RuntimeError("there are no two folders to reckon from")
        each = (taken[many] - taken[few]) / (many - few)
        return taken[few] + (1000 - few) * each, f"{each:.3f} s an image beyond the first {few}"

    size = f"{side} x {side}"
    yield Case(f"{few} images of {size}", lambda: whole(few), "s/image", 40)
    yield Case(f"{many} images of {size}", lambda: whole(many), "s/image", 15 + 0.2 * many)
    yield Case("1,000 images, reckoned", reckoned, "s", 0, "40")
    if not job.tiny and few in taken and many in taken:
        # Distillation and processes, which come later, want their time.
        yield Case(f"1,000 images of {size}", lambda: whole(1000), "s/image", 120 + 1.2 * reckoned()[0], "0.04")


def distillation(job: Job) -> Iterator[Case]:
    """A small folder's own network, and a click in the label app."""
    for name in ("fire", "monai_fusenet.bundle"):
        importlib.import_module(name)
    count = 2 if job.tiny else 16

    def student() -> Found:
        from monai.bundle import ConfigParser

        from monai_fusenet.distillation.schooling import Schooling
        from monai_fusenet.utils.precision import has_fast_bfloat16

        parser = ConfigParser()
        parser.read_config(config_files("distill"))
        parser.update({"accepted": None, "classes": [1]})
        parts = ("student_def", "student#augmentation", "student#inferer", "student#loss_function")
        network, augmentation, inferer, loss = map(parser.get_parsed_content, parts)
        size, epochs = (32, 1) if job.tiny else (128, 50)
        amp, rate = has_fast_bfloat16(job.device), parser["learning_rate"]
        places = job.scratch / "student", job.device, parser["batch_size"]
        school = Schooling(augmentation, inferer, dict, loss, *places, rate, seed=0, overwrite=True, amp=amp)
        samples = [{"image": one.cpu(), "target": (one[:1] < 0.6).float().cpu()} for one in pictures(job, 32, size)]
        network.to(job.device)
        for length in (1, epochs):  # the first one warms up
            trainer = school.trainer(network, "0", 0, samples, length)
            job.wait()
            start = time.perf_counter()
            trainer.run()
            job.wait()
        done = trainer.state.iteration
        return done / (time.perf_counter() - start), f"{done} steps of {places[2]} images, {size} x {size}"

    def workflow() -> Found:
        images = draw_folder(job, count, 48 if job.tiny else 512)
        options = {"dataset_dir": images, "output_dir": job.scratch / "distilled", "device": job.device}
        if job.tiny:
            options |= {"student_def#features": [4] * 6, "teacher_seeds": [], "rounds": 1, "round_steps": 4}
            options["student_size"] = [32, 32]
        seconds, _ = job.run(job.bundle("distillation", config_files("distill"), **options))
        return seconds, "teachers, three rounds and all masks; start included"

    def click() -> Found:
        importlib.import_module("monailabel")
        _, text = job.run([sys.executable, "-m", "benchmarks.annotators", "latency"])
        told = text.strip().splitlines()[-1]
        return float(re.findall(r"median (\d+) ms", told)[0]), told

    yield Case("student", student, "steps/s", 30)
    yield Case(f"distillation of {count} images", workflow, "s", 75)
    yield Case("click in the label app", click, "ms", 40)


def processes(job: Job) -> Iterator[Case]:
    """A training by two processes, on a GPU each over NCCL; on a CPU over Gloo."""
    if job.device.type == "cuda" and torch.cuda.device_count() < 2:
        raise RuntimeError(f"two processes over NCCL want two GPUs, and there is {torch.cuda.device_count()}")
    for name in ("fire", "monai_fusenet.bundle"):
        importlib.import_module(name)

    def train() -> Found:
        images = draw_folder(job, 4 if job.tiny else 16, 48 if job.tiny else 256)
        options = {"dataset_dir": images, "output_dir": job.scratch / "trained", "device": job.device.type}
        program = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
        files = config_files("train", "multi_gpu_train")
        seconds, _ = job.run(job.bundle("training", files, program, **options, max_epochs=2, min_clusters=0))
        return seconds, "2 epochs, start included"

    yield Case("training by two processes", train, "s", 60)
