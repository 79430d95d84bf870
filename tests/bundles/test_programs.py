"""The bundle inside a program: errors are exceptions, and a workflow of its own needs no look at the stack."""

import json
import re
import shutil

import pytest
from bundle_tools import CONFIGS, OVERLAYS, ROOT, SMALL, SMALL_TRAINING, call, draw_folder, read_summary
from monai.bundle import ConfigParser, create_workflow

from monai_fusenet.bundle import Context, FuseNetWorkflow, UnfinishedError, UnfitWeightsError, current_workflow
from monai_fusenet.bundle import context as context_module

QUIET = {"logging_file": False}


def workflow(name="inference.json", kind="infer", **options):
    return FuseNetWorkflow(str(CONFIGS / name), workflow_type=kind, **QUIET, **options)


def test_a_wrong_folder_in_a_program_is_an_exception(tmp_path):
    made = create_workflow(
        config_file=str(CONFIGS / "inference.json"),
        workflow_type="infer",
        dataset_dir="/nowhere",
        output_dir=str(tmp_path / "out"),
        **QUIET,
    )
    with pytest.raises(RuntimeError) as caught:
        made.run()
    assert "the dataset folder does not exist: /nowhere" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset_dirr": "x"}, "unknown option dataset_dirr; did you mean dataset_dir?"),
        ({"inferer#steps": -1}, "inferer cannot be built: steps must be a whole number of at least 0, got -1"),
        ({"steps": 0}, "feed-forward and adaptation need trained weights: give --checkpoint, a training's model.pt"),
    ],
)
def test_its_own_workflow_raises_what_the_library_says(tmp_path, options, message):
    made = workflow(output_dir=str(tmp_path / "out"), **options)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        made.initialize()


def test_weights_that_do_not_fit_have_a_class_of_their_own(tmp_path):
    made = workflow(
        "train.json",
        "train",
        **SMALL_TRAINING,
        dataset_dir=str(draw_folder(tmp_path / "data")),
        output_dir=str(tmp_path / "out"),
        checkpoint=str(CONFIGS.parent / "models" / "model.pt"),
    )
    with pytest.raises(UnfitWeightsError, match=r"model\.pt does not fit this network: "):
        made.initialize()


@pytest.mark.parametrize(("broken", "status"), [(["scan0.png"], 2), (["scan0.png", "scan1.png", "scan2.png"], 1)])
def test_images_that_fail_raise_an_error_once_all_others_are_done(tmp_path, broken, status):
    folder = draw_folder(tmp_path / "data", masks=False)
    for name in broken:
        (folder / "images" / name).write_bytes(b"no image")
    made = workflow(dataset_dir=str(folder), output_dir=str(tmp_path / "out"), **SMALL)
    made.initialize()
    with pytest.raises(UnfinishedError, match=rf"^{len(broken)} of 3 images failed$") as caught:
        made.run()
    assert caught.value.status == status
    assert [row["status"] for row in read_summary(tmp_path / "out")].count("failed") == len(broken)


def test_a_workflow_knows_its_folder_and_options_without_the_stack(tmp_path, monkeypatch):
    monkeypatch.setattr(context_module.inspect, "currentframe", lambda: None)
    made = workflow(dataset_dir=str(draw_folder(tmp_path / "data")), output_dir=str(tmp_path / "out"), **SMALL)
    made.initialize()
    assert made.parser.get_parsed_content("bundle_root") == str(CONFIGS.parent.resolve())
    assert made.check_properties() == []
    made.run()
    assert [row["status"] for row in read_summary(tmp_path / "out")] == ["ok"] * 3


def test_the_workflow_can_be_named_on_the_command_line(tmp_path):
    made = create_workflow(
        workflow_name="monai_fusenet.bundle.FuseNetWorkflow",
        config_file=[str(CONFIGS / "inference.json"), str(OVERLAYS / "skin.yaml")],
        workflow_type="infer",
        dataset_dir=str(draw_folder(tmp_path / "data")),
        output_dir=str(tmp_path / "out"),
        **QUIET,
        **SMALL,
    )
    assert isinstance(made, FuseNetWorkflow)
    assert made.check_properties() == []


def test_without_a_config_there_is_no_workflow():
    with pytest.raises(ValueError, match=r"^current_workflow must be called by a config that a parser or a workflow"):
        current_workflow()


def test_a_parser_alone_knows_no_folder(monkeypatch):
    monkeypatch.setattr("sys.path", [])  # where MONAI's workflows of other tests have put the bundle
    parser = ConfigParser(ConfigParser.load_config_file(CONFIGS / "inference.json"))
    found = parser.get_parsed_content("workflow")
    assert isinstance(found, Context)
    assert (found.parser, found.configs_dir, found.run_id) == (parser, None, None)
    with pytest.raises(RuntimeError) as caught:
        parser.get_parsed_content("bundle_root")
    assert str(caught.value.__cause__) == "the bundle's folder is unknown here: give bundle_root"


def test_a_parser_alone_finds_its_bundle_on_the_path(tmp_path, monkeypatch):
    """MONAI Deploy puts the folder of its bundle on Python's path, and gives its config to a parser."""
    other, own = tmp_path / "other", tmp_path / "own"
    shutil.copytree(CONFIGS, own / "configs")
    config = json.loads((CONFIGS / "inference.json").read_text("utf-8"))
    (other / "configs").mkdir(parents=True)
    (other / "configs" / "inference.json").write_text(json.dumps({**config, "seed": 7}))
    for folder in (own, other):
        monkeypatch.syspath_prepend(str(folder))
    parser = ConfigParser()
    parser.read_meta(CONFIGS / "metadata.json")
    parser.read_config([own / "configs" / "inference.json"])
    parser.parse()
    assert parser.get_parsed_content("bundle_root") == str(own)


def test_a_parser_inside_another_workflow_is_its_own(tmp_path):
    """A config that another workflow has evaluated inside is not taken for that workflow's."""
    inner = str(CONFIGS / "inference.json")
    (tmp_path / "configs").mkdir()
    outer = tmp_path / "configs" / "outer.json"
    outer.write_text(
        json.dumps(
            {
                "imports": ["$from monai.bundle import ConfigParser"],
                "inner": f"$ConfigParser(ConfigParser.load_config_file('{inner}'))",
                "run": ["$@inner.get_parsed_content('workflow')"],
            }
        )
    )
    made = FuseNetWorkflow(str(outer), meta_file=str(CONFIGS / "metadata.json"), workflow_type="infer", **QUIET)
    made.initialize()
    (found,) = made.run()
    assert found.parser is made.parser.get_parsed_content("inner")
    assert found.configs_dir is None


def test_an_error_that_does_not_say_all_keeps_the_expression_that_it_comes_from(tmp_path):
    made = workflow(output_dir=str(tmp_path / "out"), items="$1/0")
    made.initialize()
    with pytest.raises(RuntimeError) as caught:
        made.run()
    error = caught.value
    while "1/0" not in str(error):
        error = error.__cause__
    assert isinstance(error.__cause__, ZeroDivisionError)


def test_a_config_of_another_version_is_told_in_one_line(tmp_path):
    config = ConfigParser.load_config_file(CONFIGS / "inference.json")
    (tmp_path / "configs").mkdir()
    old = tmp_path / "configs" / "inference.json"
    old.write_text(json.dumps({**config, "bundle_root": "$fusenet.find_bundle_root()"}))
    status = call("inference", config=old, output_dir=tmp_path / "out", **SMALL)
    assert status.startswith("error: the config is of another version of monai_fusenet (find_bundle_root: missing a ")
    assert "\n" not in status


def test_the_package_looks_at_the_stack_once():
    look = re.compile(r"inspect\.(currentframe|stack|trace)\(|_getframe|f_back\b")
    sources = {path: path.read_text(encoding="utf-8") for path in (ROOT / "monai_fusenet").rglob("*.py")}
    looks = [(path.name, found.group()) for path, text in sources.items() for found in look.finditer(text)]
    assert looks == [("context.py", "inspect.currentframe("), ("context.py", "f_back")]
