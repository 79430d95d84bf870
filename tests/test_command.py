"""The command `monai-fusenet` is the bundle's: the same results, exit statuses and lines, for every workflow."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from bundle_tools import (
    BUNDLE,
    ENVIRONMENT,
    OVERLAYS,
    ROOT,
    SMALL,
    SMALL_STUDENT,
    SMALL_TRAINING,
    call,
    draw_folder,
    restored_logging,
    same_files,
)
from click.shell_completion import BashComplete
from PIL import Image

from monai_fusenet.bundle import OPTIONS, faults
from monai_fusenet.cli.main import PROGRAM, main, program
from monai_fusenet.data import sample_images
from monai_fusenet.utils.files import alone_in

COMMANDS = {"masks": "inference", "train": "training", "distill": "distillation", "evaluate": "evaluation"}

logging_as_before = pytest.fixture(autouse=True)(restored_logging)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return draw_folder(tmp_path_factory.mktemp("drawn") / "my images ü")


def words_of(options):
    return [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def status_of(*words):
    """The exit status or message of the command, run in this process."""
    with mock.patch("monai_fusenet.bundle.startup.end_on_signals"):  # this process keeps its own handlers
        try:
            main([str(word) for word in words])
        except SystemExit as ended:
            return ended.code
    return 0


def shown_by(text):
    (line,) = [line for line in text.splitlines() if line.startswith("python -m monai.bundle ")]
    return line


WORKFLOWS = [
    ("masks", SMALL, ("nuclei", "msformer")),
    ("train", SMALL_TRAINING, ()),
    ("distill", SMALL_STUDENT, ("skin",)),
    ("evaluate", SMALL, ("skin",)),
]


@pytest.mark.parametrize(("command", "options", "presets"), WORKFLOWS, ids=[row[0] for row in WORKFLOWS])
def test_each_workflow_leaves_what_the_bundle_leaves(command, options, presets, folder, tmp_path, capfd):
    overlays = [f"{name}.yaml" for name in presets]
    results = {"dataset_dir": folder, "output_dir": tmp_path / "bundle"}
    status = call(COMMANDS[command], *overlays, **results, **options)
    capfd.readouterr()
    preset = [word for name in presets for word in ("--preset", name)]
    assert status_of(command, folder, *preset, "--output", tmp_path / "command", *words_of(options)) == status == 0
    assert same_files(tmp_path / "command", tmp_path / "bundle") >= 3
    assert not faults.is_program()  # any more
    line = shlex.split(shown_by(capfd.readouterr().err))
    assert line[4] == COMMANDS[command]
    assert all(f"/{name}'" in line[6] for name in overlays)
    if command == "distill":
        model = tmp_path / "command" / "model"
        assert status_of("masks", folder, "--bundle", model, "--output", tmp_path / "new", "--device", "cpu") == 0
        for mask in (tmp_path / "command" / "masks").glob("*_mask.png"):
            assert mask.read_bytes() == (tmp_path / "new" / mask.name).read_bytes()


def test_the_line_that_is_shown_does_the_same_again(folder, tmp_path):
    here = tmp_path / "of 'mine'"
    shutil.copytree(folder, here / "-1e3,#")
    preset = here / "my preset.yml"
    preset.write_text("fit_steps: 2\nmy_width: 4\nfeatures: '@my_width'\n", encoding="utf-8")
    given = ["--device", "cpu", "--preset", "skin", "--preset", preset.name, "--working_size", "[24,24]"]
    given += ["--panels", "none", "--workers", "0"]
    command = [sys.executable, "-m", "monai_fusenet", "masks", *given, "--min-clusters=0", "--", "-1e3,#"]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, cwd=here, env=environment, capture_output=True, encoding="utf-8", timeout=300)
    assert run.returncode == 0, run.stderr
    shutil.move(here / "output" / "inference", tmp_path / "first")
    line = re.sub("^python", shlex.quote(sys.executable), shown_by(run.stderr))
    again = subprocess.run(
        ["sh", "-c", line], cwd=here, env=environment, capture_output=True, encoding="utf-8", timeout=300
    )
    assert again.returncode == 0, again.stderr
    assert same_files(tmp_path / "first", here / "output" / "inference") > 3
    told = [[text for text in ran.stderr.splitlines() if "images done" in text] for ran in (run, again)]
    assert told[0] == told[1] == [f"3 images done, 0 failed; see {here}/output/inference/summary.csv"]


def test_a_copied_bundle_runs_in_the_place_of_that_of_the_package(tmp_path, folder):
    shutil.copytree(BUNDLE, tmp_path / "copied")
    small = [*words_of(SMALL), "--output"]
    assert status_of("masks", folder, "--bundle", tmp_path / "copied", *small, tmp_path / "of the copy") == 0
    assert status_of("masks", folder, *small, tmp_path / "own") == 0
    assert same_files(tmp_path / "of the copy", tmp_path / "own") > 3


@pytest.mark.parametrize("status", [1, 2])
def test_the_exit_status_is_that_of_the_bundle(status, tmp_path):
    draw_folder(tmp_path, count=status - 1)
    (tmp_path / "images" / "broken.png").write_text("no image")
    assert status_of("masks", tmp_path, "--output", tmp_path / "out", *words_of(SMALL)) == status


def test_a_wrong_value_is_told_as_the_bundle_tells_it(folder, tmp_path):
    told = status_of("masks", folder, "--output", tmp_path, "--steps", "many", "--device", "cpu")
    assert told == "error: steps must be a whole number of at least 0, got many"
    assert status_of("masks", folder, "--output", tmp_path, "--field", "null").endswith("is written None: --field None")


BAD = [
    (["maks"], "unknown command maks; did you mean masks?"),
    (
        ["my_folder"],
        "unknown command my_folder; known are masks, train, distill, evaluate, annotate, samples, bundle",
    ),
    (["masks", "nowhere"], "the folder does not exist: nowhere"),
    (["masks", __file__], f"FOLDER must be a folder, got the file {__file__}: give the folder that holds it"),
    (["masks", ".", "--dataset-dir", "."], "FOLDER and --dataset-dir are the same thing: give one of them"),
    (["distill"], "distill needs FOLDER, the folder of images"),
    (["evaluate"], "evaluate needs FOLDER, the folder of images"),
    (["masks", "--preset", "skni"], "unknown preset skni; did you mean skin?"),
    (
        ["masks", ".", "--preset", "s3net", "--preset", "skin", "--preset", "msformer"],
        "s3net and msformer are different methods: give one of them",
    ),
    (["masks", "--preset", "x.yaml"], "--preset: there is no file x.yaml"),
    (["masks", "--working-sise", "3"], "unknown option --working-sise; did you mean --working-size?"),
    (["masks", "--predictions", "x"], "unknown option --predictions; did you mean --partitions?"),
    (
        ["masks", "--inferr#steps", "3"],
        "unknown option --inferr#steps: there is no inferr; did you mean inferer#steps?",
    ),
    (["masks", "--steps#x", "3"], "unknown option --steps#x: steps is no block"),
    (
        ["masks", "--preprocessing#transforms#99#min_size", "3"],
        "unknown option --preprocessing#transforms#99#min_size: preprocessing#transforms is a list of 8, from 0 on",
    ),
    (["masks", "-preset", "skin"], "unknown option -preset; names of options begin with two dashes: --preset"),
    (
        ["masks", "--zzz#steps=3"],
        "unknown option --zzz#steps: there is no zzz; blocks are augmentation, dataloader, dataset, evaluator, "
        "foreground, inferer, loss_function, network_def, postprocessing, preprocessing, resizing, scaling, writer",
    ),
    (["masks", "--overwrit"], "unknown option --overwrit; did you mean --overwrite?"),
    (["masks", "--output"], "Option '--output' requires an argument."),
    (["masks", "--bundle", "x"], "x is no bundle for this command: there is no x/configs/inference.json"),
    (
        ["evaluate", ".", "--bundle", "x"],
        "x is no bundle for this command: there is no x/configs/evaluate.json; its masks are scored by evaluate FOLDER "
        "--predictions MASKS",
    ),
    (
        ["annotate", "nowhere"],
        "there is no folder nowhere; give a folder of images, or the address of a DICOMweb server",
    ),
]


@pytest.mark.parametrize(
    ("words", "message"), BAD, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_what_is_wrong_with_a_line_is_told_in_one(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert status_of(*words) == f"error: {message}"
    assert list(tmp_path.iterdir()) == []


def test_a_preset_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text("a: [1", encoding="utf-8")
    told = status_of("masks", "--preset", "bad.yaml")
    assert told.startswith("error: the preset bad.yaml cannot be read: while parsing a flow sequence")
    assert "\n" not in told


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- 1", "the preset my.yaml cannot be read: it must hold lines `name: value`, got a list"),
        (
            "foregroundd#objects: 1",
            ": it sets foregroundd#objects, but there is no foregroundd; did you mean foreground#ob",
        ),
        ("preprocessing#transforms#8#x: 1", "but preprocessing#transforms is a list of 8, from 0 on"),
    ],
)
def test_a_preset_that_does_not_fit_is_told(content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_text(content, encoding="utf-8")
    told = status_of("masks", "--preset", "my.yaml")
    assert message in told
    assert "\n" not in told


def test_a_preset_for_another_bundle_is_told(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "inference.json").write_text('{"device": "cpu", "mask": {}}', encoding="utf-8")
    told = status_of("masks", "--bundle", tmp_path, "--preset", "skin")
    assert told == (
        f"error: the preset skin does not fit {tmp_path}/configs/inference.json: it sets foreground#objects, but there "
        "is no foreground; blocks are mask"
    )


def test_a_bundle_whose_config_is_damaged_is_told(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "inference.json").write_text('{"device": ', encoding="utf-8")
    told = status_of("masks", "--bundle", tmp_path)
    assert told.startswith(f"error: the config {tmp_path}/configs/inference.json cannot be read: Expecting value")
    assert "\n" not in told


def test_images_that_all_cannot_be_read_end_a_training_with_one_line(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"none")
    command = [sys.executable, "-m", "monai_fusenet", "train", "in", "--output", "out"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", check=False)
    assert run.returncode == 1
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("error: none of the 1 images could be loaded; the first, a.png: ")
    assert "Traceback" not in run.stderr


def test_without_the_server_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "monailabel", None)
    monkeypatch.setitem(sys.modules, "monailabel.main", None)
    told = status_of("annotate", tmp_path)
    assert told == "error: monailabel.main is not installed; pip install 'monai-fusenet[label]'"


def test_a_folder_that_another_run_writes_into_is_refused(folder, tmp_path):
    with alone_in(tmp_path / "out"):
        told = status_of(
            "masks", folder, "--output", tmp_path / "out", "--steps", "1", "--device", "cpu", "--workers", "0"
        )
    assert told == (
        f"error: another run is writing into {tmp_path / 'out'}: wait for its end, or choose another --output_dir"
    )
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_each_option_of_the_table_that_the_workflow_knows(command, capsys):
    assert status_of(command, "--help") == 0
    shown = capsys.readouterr().out
    flat = " ".join(shown.split())
    for option in OPTIONS:
        name = f"--{option.name.replace('_', '-')} "
        assert (name in shown) == (COMMANDS[command] in option.workflows), name
        assert (f"{option.help} [{option.kind.text}; default: " in flat) == (COMMANDS[command] in option.workflows)
    assert all(f"\n  {path.stem}  " in shown for path in OVERLAYS.glob("*.yaml"))
    assert "\nMachine:\n" in shown


def test_help_imports_neither_torch_nor_numpy():
    code = """
import sys
from monai_fusenet.cli.main import main
try:
    main(["masks", "--help"])
finally:
    print({"torch", "monai", "numpy"} & set(sys.modules))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", cwd=ROOT, timeout=60)
    assert run.stderr == ""
    assert "--working-size VALUE" in run.stdout
    assert run.stdout.endswith("\nset()\n")


def test_without_a_command_it_shows_the_help_and_where_the_old_behaviour_went(capsys):
    told = "error: no command given; to write bundle and overlays into this folder, run: monai-fusenet bundle ."
    assert status_of() == told
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in (*COMMANDS, "annotate", "samples", "bundle"))


def test_samples_are_the_sample_images_as_files(tmp_path, capsys):
    assert status_of("samples", tmp_path / "to play") == 0
    assert capsys.readouterr().out.splitlines()[-1] == f'monai-fusenet masks "{tmp_path}/to play"'
    for item in sample_images():
        with Image.open(item["image"]) as image, Image.open(tmp_path / "to play" / f"{item['name']}.png") as written:
            assert written.mode == image.mode
            assert np.array_equal(np.asarray(written), np.asarray(image))
    assert len(list((tmp_path / "to play").iterdir())) == 4
    told = status_of("samples", tmp_path / "to play")
    assert told == f"error: {tmp_path}/to play/cell.png is there already; choose another folder"


def completed(line):
    words = shlex.split(line)
    complete = BashComplete(program, {}, PROGRAM, "_MONAI_FUSENET_COMPLETE")
    return [item.value for item in complete.get_completions(words[1:-1], words[-1])]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("monai-fusenet ma", ["masks"]),
        ("monai-fusenet masks --preset s3", ["s3net", "s3net_paper"]),
        ("monai-fusenet distill x --preset ct --preset sk", ["skin"]),
        ("monai-fusenet evaluate --pred", ["--predictions", "--predictions-dir"]),
        ("monai-fusenet masks --overwrite T", ["True"]),
        ("monai-fusenet masks --panels s", ["some"]),
    ],
)
def test_a_shell_completes_commands_options_and_presets(line, expected):
    assert completed(line) == expected


def test_the_console_script_of_an_installed_package_is_this_program():
    text = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    assert "monai-fusenet = monai_fusenet.cli.main:main" in text


def test_one_of_several_processes_shows_the_line(folder, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with mock.patch("runpy.run_module") as run:
        assert status_of("masks", folder) == 0
    assert run.call_args.args == ("monai.bundle",)
    assert capfd.readouterr().err == ""


def test_ctrl_c_before_the_bundle_has_begun_is_told_as_the_bundle_tells_it(capsys):
    with mock.patch("runpy.run_module", side_effect=KeyboardInterrupt):
        assert status_of("masks") == 130
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted; run the same command again to go on"
