"""Damaged and hostile input: `python -m benchmarks.fuzz --count 10000` writes `benchmarks/results/fuzz.md`.

Valid little files of every format are damaged at random, in their headers more than elsewhere, and loaded and prepared
as a workflow does; options, overlays and `dataset.json` are made up at random and read as a workflow does. Allowed is
success, or one line that says what is wrong. All of it happens in a second process, whose end, silence, memory, files
and noise on stderr are watched.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import random
import re
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import itk
import nibabel as nib
import numpy as np
import tifffile
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmarks.fuzz_worker import CONFIG_OF, CONFIGS, FRONT_DOOR
from monai_fusenet.utils.files import atomic_path

RESULTS = Path(__file__).parent / "results"
SECONDS = 10  # of work without an answer until an input counts as one that hangs
MEMORY = 600  # MiB beyond what was taken before; an image takes few, and options may make a workflow load its samples

EXPLANATION = f"""
- loaded: an image that was prepared for a network (changed pixel values do no harm), or options that a workflow takes
- refused: one line that says what is wrong
- before: MONAI refused a config file with an error of its own, before anything of this package ran
- error: any other exception, or a message of several lines
- crash: the process ended; hang: no answer after {SECONDS} s of work; stray: a file was written
- memory: more than {MEMORY} MiB taken, or none left of 2 GiB
- noise: inputs with which libraries (libtiff, MetaIO, Pillow, nibabel; MONAI at the front door) wrote to stderr
"""

Files = dict[str, bytes]  # by name; the first is the one that is opened


ALLOWED = ("loaded", "refused", "before")
OUTCOMES = (*ALLOWED, "error", "crash", "hang", "memory", "stray")


class Outcome(NamedTuple):
    kind: str  # one of OUTCOMES
    message: str
    noise: str  # what came on stderr


# Valid files


def _pixels(*shape: int, dtype: Any = np.uint8) -> np.ndarray:
    return (np.arange(np.prod(shape)) * 37 % 251).reshape(shape).astype(dtype)


def _saved(suffix: str, save: Callable[[Path], Any]) -> Files:
    """What `save` writes, the file with the suffix first."""
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder) / f"a{suffix}")
        names = sorted(os.listdir(folder), key=lambda name: not name.endswith(suffix))
        return {name: (Path(folder) / name).read_bytes() for name in names}


def _pictures(suffix: str) -> list[Files]:
    rgb, grey = Image.fromarray(_pixels(19, 23, 3)), Image.fromarray(_pixels(19, 23))
    kinds: list[tuple[Image.Image, dict[str, Any]]] = [(rgb, {}), (grey, {})]
    if suffix != ".jpg":
        kinds += [(grey.convert("1"), {}), (rgb.convert("P"), {})]
    if suffix == ".jpg":
        exif = Image.Exif()
        exif[0x0112] = 6
        kinds += [(rgb, {"exif": exif}), (rgb, {"progressive": True}), (rgb.convert("CMYK"), {})]
    if suffix in (".png", ".tif"):
        kinds += [(Image.fromarray(_pixels(19, 23, dtype=np.uint16) * 260), {}), (rgb.convert("RGBA"), {})]
    if suffix == ".tif":
        kinds += [(rgb, {"compression": name}) for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")]
        kinds += [(grey, {"save_all": True, "append_images": [grey, grey]})]
    files = [_saved(suffix, lambda path, one=one, how=how: one.save(path, **how)) for one, how in kinds]  # type: ignore[misc]
    if suffix in (".png", ".tif"):  # 16-bit colours, which another library reads
        deep = itk.image_from_array(_pixels(19, 23, 3, dtype=np.uint16) * 260, is_vector=True)
        files.append(_saved(suffix, lambda path: itk.imwrite(deep, str(path))))
    return files + (_microscope_tiffs() if suffix == ".tif" else [])


def _microscope_tiffs() -> list[Files]:
    stack, colour = _pixels(3, 19, 23, dtype=np.uint16), _pixels(19, 23, 3)
    kinds: list[tuple[np.ndarray, dict[str, Any]]] = [
        (stack, {"imagej": True, "metadata": {"axes": "ZYX"}}),
        (stack, {"ome": True, "metadata": {"axes": "CYX"}}),
        (stack, {"bigtiff": True, "byteorder": ">", "photometric": "miniswhite", "metadata": {"axes": "ZYX"}}),
        (stack[0].astype(np.float16), {"compression": "zstd", "predictor": True}),
        (colour, {"photometric": "rgb", "tile": (16, 16), "compression": "lzw"}),
        (colour.transpose(2, 0, 1), {"photometric": "rgb", "planarconfig": "separate", "compression": "lzma"}),
        (colour, {"photometric": "rgb", "compression": "jpeg2000"}),
        (colour, {"photometric": "rgb", "compression": "webp"}),
    ]
    return [_saved(".tif", lambda path, one=one, how=how: tifffile.imwrite(path, one, **how)) for one, how in kinds]  # type: ignore[misc]


def _niftis(suffix: str) -> list[Files]:
    affine = np.diag([1, 2, 3, 1])
    scaled = nib.Nifti1Image(_pixels(9, 7, 5, dtype=np.int16), affine)
    scaled.header.set_slope_inter(0.5, 3)
    images = [
        scaled,
        nib.Nifti1Image(_pixels(9, 7, 5, 3, dtype=np.float32), affine),
        nib.Nifti1Image(_pixels(9, 7), affine),
        nib.Nifti2Image(_pixels(9, 7, 5), affine),
        nib.Nifti1Image(_pixels(9, 7, 5), affine, dtype=np.uint8),
    ]
    images[-1].set_qform(np.diag([-1, 2, 3, 1]), 1)
    return [_saved(suffix, lambda path, image=image: nib.save(image, path)) for image in images]  # type: ignore[misc]


def _volumes(suffix: str) -> list[Files]:
    files = []
    for dtype in (np.int16, np.float32, np.uint8):
        volume = itk.image_from_array(_pixels(5, 7, 9, dtype=dtype))
        vectors = itk.image_from_array(_pixels(5, 7, 9, 3, dtype=dtype), is_vector=True)
        for image, packed in ((volume, False), (volume, True), (vectors, False)):
            files.append(
                _saved(suffix, lambda path, i=image, p=packed: itk.imwrite(i, str(path), compression=p))  # type: ignore[misc]
            )
    return files


def _write_dicom(path: Path, image: Any, number: int = 1, packed: bool = False) -> None:
    header = image.GetMetaDataDictionary()
    for tag, value in {
        **{"0008|0060": "CT", "0008|0018": f"1.2.3.{number}", "0020|000d": "1.2", "0020|000e": "1.2.3"},
        **{"0020|0013": str(number), "0020|0032": f"0\\0\\{number}", "0020|0037": "1\\0\\0\\0\\1\\0"},
    }.items():
        header[tag] = value
    dicom = itk.GDCMImageIO.New()
    dicom.KeepOriginalUIDOn()
    writer = itk.ImageFileWriter.New(image, ImageIO=dicom, FileName=str(path), UseInputMetaDataDictionary=True)
    writer.SetUseCompression(packed)
    writer.Update()


def _dicoms() -> list[Files]:
    grey = itk.image_from_array(_pixels(1, 19, 23, dtype=np.int16))
    colour = itk.image_from_array(_pixels(19, 23, 3), ttype=itk.Image[itk.RGBPixel[itk.UC], 2])
    frames = itk.image_from_array(_pixels(3, 19, 23))
    return [
        _saved(".dcm", lambda path, i=image, p=packed: _write_dicom(path, i, packed=p))  # type: ignore[misc]
        for image in (grey, colour, frames)
        for packed in (False, True)
    ]


def _series() -> list[Files]:
    def save(path: Path) -> None:
        for index, plane in enumerate(_pixels(3, 19, 23, dtype=np.int16), start=1):
            image = itk.image_from_array(plane[None])
            image.SetOrigin([0, 0, index])
            _write_dicom(path.with_name(f"slice{index}.dcm"), image, index)

    return [_saved(".dcm", save)]


SAMPLES: dict[str, Callable[[], list[Files]]] = {
    **{suffix: lambda s=suffix: _pictures(s) for suffix in (".png", ".jpg", ".bmp", ".tif")},  # type: ignore[misc]
    **{suffix: lambda s=suffix: _niftis(s) for suffix in (".nii", ".nii.gz")},  # type: ignore[misc]
    **{suffix: lambda s=suffix: _volumes(s) for suffix in (".nrrd", ".nhdr", ".mha", ".mhd")},  # type: ignore[misc]
    ".dcm": _dicoms,
    "DICOM series": _series,
}
KINDS = (*SAMPLES, *FRONT_DOOR)


# Damage

WORDS = (b"-1", b"0", b"1", b"2", b"7", b"65535", b"2147483648", b"99999999999999999999", b"1e308", b"nan", b"inf", b"")
WORDS = (
    *WORDS,
    b"../../etc/passwd",
    b"/dev/zero",
    b"LIST",
    b"LOCAL",
    b"%s%n",
    b"\xff\xfe",
    b"short",
    b"double",
    b"gzip",
)
NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    2**63,
    2**64 - 1,
)


def flip(data: bytearray, rng: random.Random, place: int) -> None:
    data[place] ^= 1 << rng.randrange(8)


def overwrite(data: bytearray, rng: random.Random, place: int) -> None:
    width = rng.choice((1, 2, 4, 8))
    number = rng.choice(NUMBERS) % 2 ** (8 * width)
    data[place : place + width] = number.to_bytes(width, rng.choice(("little", "big")))


def overwrite_float(data: bytearray, rng: random.Random, place: int) -> None:
    value = rng.choice((float("nan"), float("inf"), -float("inf"), 0.0, -1.0, 1e30))
    data[place : place + 4] = struct.pack(rng.choice("<>") + "f", value)


def cut(data: bytearray, rng: random.Random, place: int) -> None:
    del data[place : place + rng.choice((1, 4, 50, len(data)))]


def repeat(data: bytearray, rng: random.Random, place: int) -> None:
    data[place:place] = data[place : place + rng.choice((1, 4, 50))] * rng.choice((1, 2, 100))


def insert(data: bytearray, rng: random.Random, place: int) -> None:
    data[place:place] = rng.randbytes(rng.choice((1, 4, 50)))


def move(data: bytearray, rng: random.Random, place: int) -> None:
    other = rng.randrange(len(data))
    length = rng.choice((4, 16, 64))
    data[place : place + length] = data[other : other + length]


def replace_word(data: bytearray, rng: random.Random, place: int) -> None:
    words = list(re.finditer(rb"[\w.+-]+", bytes(data[:1500])))
    if words:
        word = rng.choice(words)
        data[word.start() : word.end()] = rng.choice(WORDS)


DAMAGES = (flip, overwrite, overwrite, overwrite_float, cut, repeat, insert, move, replace_word, replace_word)


def damage(content: bytes, rng: random.Random) -> bytes:
    """A few random changes, most of them in the first 400 bytes."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        if data:
            place = rng.randrange(min(len(data), 400) if rng.random() < 0.75 else len(data))
            rng.choice(DAMAGES)(data, rng, place)
    return bytes(data)


def seal_png(content: bytes) -> bytes:
    """Right check sums, so that a change is not found by them."""
    data, place = bytearray(content), 8
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        end = place + 8 + length
        if end + 4 > len(data):
            break
        data[end : end + 4] = zlib.crc32(data[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return bytes(data)


@st.composite
def damaged_files(draw: st.DrawFn, kind: str, samples: list[Files]) -> Files:
    """A damaged input of one format."""
    files = dict(draw(st.sampled_from(samples)))
    rng = draw(st.randoms(use_true_random=True))
    names = list(files)
    name = rng.choice(names) if kind == "DICOM series" or rng.random() < 0.1 else names[0]
    if kind == ".nii.gz" and rng.random() < 0.7:
        files[name] = gzip.compress(damage(gzip.decompress(files[name]), rng))
    elif kind == ".png" and rng.random() < 0.7:
        files[name] = seal_png(damage(files[name], rng))
    else:
        files[name] = damage(files[name], rng)
    return files


# Made-up options

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, -1, 2, 3, 24, 2**31, 2**32, 2**63])
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(
        ["@seed", "@nothing", "$1 + 1", "$undefined", "%seed", "nan", "cpu", "cuda:9", "meta", "/proc", "a"]
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


def _values(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a config by their paths, without classes and entry points."""
    for key, value in config.items():
        if key not in ("_target_", "imports", "initialize", "run", "bundle_root", *CONFIG_OF):
            inner = f"{path}#{key}" if path else key
            yield inner, value
            if isinstance(value, dict):
                yield from _values(value, inner)


@st.composite
def options(draw: st.DrawFn, kind: str) -> Files:
    """Overrides of one workflow, on the command line or as an overlay; or a `dataset.json`."""
    damages = draw(st.sampled_from([None, None, draw(st.randoms(use_true_random=True))]))

    def encoded(content: Any) -> bytes:
        text = json.dumps(content).encode()
        return text if damages is None else damage(text, damages).decode(errors="ignore").encode()

    if kind == "dataset.json":
        paths = ["a.png", "./a.png", "../a.png", "/dev/zero", "b.png", "a\0.png", "a" * 5000, "", ".", {}]
        entry = st.just("a.png") | st.sampled_from(paths)
        item = entry | st.fixed_dictionaries({"image": entry}, optional={"label": entry | JSON}) | JSON
        keys = st.sampled_from(["training", "validation", "test", "name"])
        content = st.dictionaries(keys, st.lists(item, min_size=1, max_size=3) | JSON, min_size=1, max_size=3) | JSON
        return {kind: encoded(draw(content)), "a.png": b"never opened"}
    run_id = draw(st.sampled_from(sorted(CONFIG_OF)))
    own = dict(_values(json.loads((CONFIGS / CONFIG_OF[run_id]).read_text())))
    known = st.sampled_from(sorted(own))
    name = known | known.map(lambda path: path[:-1] or "x") | st.text(min_size=1, max_size=9)
    value = JSON | st.sampled_from([value for value in own.values() if not isinstance(value, dict | list)])
    chosen = draw(st.dictionaries(known, value, min_size=1, max_size=3) | st.dictionaries(name, value, min_size=1))
    if kind == "options":
        return {"options.json": json.dumps([run_id, chosen]).encode()}
    return {draw(st.sampled_from(["overlay.yaml", "overlay.json"])): encoded(chosen), "run_id": run_id.encode()}


# Running


class Worker:
    """A process that handles inputs one after another, made anew when it has died or does not answer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen | None = None

    def run(self, kind: str, files: Files) -> Outcome:
        """Handles one input, which lies in a folder of its own meanwhile."""
        scratch = self.folder / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        for name, content in files.items():
            (scratch / name).write_bytes(content)
        if self.process is None:
            self._start()
        assert self.process is not None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        before = (self.folder / "stderr").stat().st_size
        path = scratch if kind == "DICOM series" else scratch / next(iter(files))
        self.process.stdin.write(json.dumps([kind, str(path)]) + "\n")
        self.process.stdin.flush()
        ready = self._answers()
        line = self.process.stdout.readline() if ready else ""
        if not ready:
            outcome, message = "hang", f"no answer after {SECONDS} s of work"
        elif not line:
            outcome, message = "crash", f"ended with status {self.process.wait()}"
        else:
            outcome, message, taken = json.loads(line)
            strays = sorted(set(os.listdir(scratch)) - set(files))
            if taken > MEMORY:
                outcome, message = "memory", f"{taken:.0f} MiB; {outcome}: {message}"
            elif strays:
                outcome, message = "stray", f"wrote {strays}"
        with (self.folder / "stderr").open(errors="replace") as file:
            file.seek(before)
            noise = file.read()
        if outcome in ("hang", "crash", "memory"):
            self.close()
        return Outcome(outcome, message, noise)

    def _answers(self) -> bool:
        """Whether it answers within some seconds of its own time; on a busy machine it may take longer by the clock."""
        assert self.process is not None
        started, deadline = self._seconds(), time.monotonic() + 10 * SECONDS
        while time.monotonic() < deadline:
            ready, _, _ = select.select([self.process.stdout], [], [], 1)
            if ready:
                return True
            if self._seconds() - started > SECONDS:
                return False
        return False

    def _seconds(self) -> float:
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _start(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": ""}
        with (self.folder / "stderr").open("ab") as noise:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.fuzz_worker"],
                **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": noise, "text": True},
                env=environment,
                cwd=Path(__file__).parents[1],
            )
        assert self.process.stdout
        self.process.stdout.readline()  # it has imported everything

    def close(self) -> None:
        """Ends the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def fuzz(kind: str, count: int, seed: int, worker: Worker) -> list[tuple[Files, Outcome]]:
    """Handles `count` inputs of one kind, the same for the same seed.

    Returns:
        each input and what came of it.
    """
    strategy = damaged_files(kind, SAMPLES[kind]()) if kind in SAMPLES else options(kind)
    found: list[tuple[Files, Outcome]] = []

    @hypothesis.seed(seed)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def handle(files: Files) -> None:
        found.append((files, worker.run(kind, files)))

    handle()
    return found


def table(found: dict[str, list[Outcome]]) -> list[str]:
    """One row per kind of input: how often each outcome came, and how often there was noise on stderr."""
    rows = ["| input | number | " + " | ".join(OUTCOMES) + " | noise |", "|---" * (len(OUTCOMES) + 3) + "|"]
    for kind, outcomes in found.items():
        counts = Counter(outcome.kind for outcome in outcomes)
        noisy = sum(bool(outcome.noise) for outcome in outcomes)
        rows.append(f"| {kind} | {len(outcomes)} | {' | '.join(str(counts[one]) for one in OUTCOMES)} | {noisy} |")
    every = [outcome for outcomes in found.values() for outcome in outcomes]
    counts = Counter(outcome.kind for outcome in every)
    rows.append(f"| all | {len(every)} | {' | '.join(str(counts[one]) for one in OUTCOMES)} | |")
    return rows


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10000, help="inputs in all, evenly spread (default: 10000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=KINDS, nargs="*", default=KINDS, help="kinds of input (default: all)")
    parser.add_argument("--keep", type=Path, help="folder for the inputs that came to no good")
    arguments = parser.parse_args()
    started = time.perf_counter()
    found: dict[str, list[Outcome]] = {}
    each = -(-arguments.count // len(arguments.only))
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(Path(folder))
        for kind in arguments.only:
            results = fuzz(kind, each, arguments.seed, worker)
            found[kind] = [outcome for _, outcome in results]
            print(kind, dict(Counter(outcome.kind for outcome in found[kind])), flush=True)
            for index, (files, outcome) in enumerate(results):
                if outcome.kind not in ALLOWED:
                    print(f"  {index} {outcome.kind}: {outcome.message!r}", flush=True)
                    if arguments.keep:
                        target = arguments.keep / kind / str(index)
                        target.mkdir(parents=True, exist_ok=True)
                        for name, content in files.items():
                            (target / name).write_bytes(content)
        worker.close()
    lines = table(found)
    print("\n".join(lines))
    if arguments.only == KINDS:
        packages = (
            "numpy",
            "torch",
            "monai",
            "itk",
            "nibabel",
            "pillow",
            "tifffile",
            "imagecodecs",
            "pydicom",
            "hypothesis",
        )
        versions = ", ".join(f"{name} {version(name)}" for name in packages)
        text = [
            "# Damaged and hostile input",
            "",
            f"`python -m benchmarks.fuzz --count {arguments.count} --seed {arguments.seed}`, "
            f"{time.perf_counter() - started:.0f} s on one busy core. Python {platform.python_version()}, {versions}.",
            "",
            *lines,
            EXPLANATION,
        ]
        with atomic_path(RESULTS / "fuzz.md") as temporary:
            temporary.write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
