"""The bundle as MONAI sees it: configs, properties, metadata, export."""

import inspect
import json
import pkgutil
import pydoc
import re
from importlib import import_module
from importlib.util import find_spec

import jsonschema
import pytest
import torch
import yaml
from bundle_tools import (
    BUNDLE,
    CONFIG_OF,
    CONFIGS,
    OVERLAYS,
    ROOT,
    SMALL,
    SMALL_TRAINING,
    draw_folder,
    export_torchscript,
)
from monai.bundle import ComponentLocator, ConfigParser, create_workflow, load, verify_net_in_out

import monai_fusenet
from monai_fusenet import bundle
from monai_fusenet.networks import FuseNet

WORKFLOWS = {"train.json": "train", "inference.json": "infer", "evaluate.json": "infer"}
OVERLAY_NAMES = sorted(path.name for path in OVERLAYS.glob("*.yaml"))


def components(config):
    if isinstance(config, dict):
        if "_target_" in config:
            yield config
        for value in config.values():
            yield from components(value)
    elif isinstance(config, list):
        for value in config:
            yield from components(value)


@pytest.mark.parametrize(
    "path", [*sorted(CONFIGS.glob("*.json")), *sorted(OVERLAYS.glob("*.yaml"))], ids=lambda p: p.name
)
def test_every_target_resolves_and_takes_its_arguments(path):
    config = ConfigParser.load_config_file(path)
    for component in components(config):
        target = pydoc.locate(component["_target_"])
        assert callable(target), component["_target_"]
        known = inspect.signature(target).parameters
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
            assert {key for key in component if not key.startswith("_")} <= set(known)


@pytest.mark.parametrize("with_folder", [True, False])
@pytest.mark.parametrize("name", WORKFLOWS)
def test_all_required_properties_are_there(name, with_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = dict(SMALL_TRAINING if name == "train.json" else SMALL)
    if with_folder:
        options["dataset_dir"] = str(draw_folder(tmp_path / "data"))
    workflow = create_workflow(config_file=str(CONFIGS / name), workflow_type=WORKFLOWS[name], **options)
    assert workflow.check_properties() == []
    assert not (tmp_path / "output").exists()  # to look at a config writes nothing


@pytest.mark.parametrize("name", CONFIG_OF.values())
def test_run_is_the_same_list(name):
    config = ConfigParser.load_config_file(CONFIGS / name)
    (run_id,) = (run_id for run_id, config_name in CONFIG_OF.items() if config_name == name)
    assert config["run"] == config[run_id]


@pytest.mark.parametrize("name", CONFIG_OF.values())
def test_options_that_all_workflows_share(name):
    shared = ["bundle_root", "dataset_dir", "output_dir", "checkpoint", "device", "amp", "seed", "overwrite"]
    assert set(shared) <= set(ConfigParser.load_config_file(CONFIGS / name))


@pytest.mark.parametrize("overlay", OVERLAY_NAMES)
@pytest.mark.parametrize("name", ["inference.json", "evaluate.json", "distill.json"])
def test_overlays_change_what_is_there(overlay, name):
    base = ConfigParser(ConfigParser.load_config_file(CONFIGS / name))
    options = yaml.safe_load((OVERLAYS / overlay).read_text(encoding="utf-8"))
    assert any(key in base for key in options)
    for key in options:
        brought = any(f"@{key}" in str(value) for value in options.values())  # an option that the overlay itself uses
        assert key in base or key in (*bundle.FIT_OPTIONS, *bundle.STUDENT_OPTIONS) or brought, key
    merged = ConfigParser.load_config_files([CONFIGS / name, OVERLAYS / overlay])
    bundle.check_options(merged)


def test_the_overlay_for_several_processes_changes_what_is_there():
    paths = [CONFIGS / "train.json", CONFIGS / "multi_gpu_train.json"]
    base, overlay = map(ConfigParser.load_config_file, paths)
    assert all(key in ConfigParser(base) for key in overlay)
    merged = ConfigParser.load_config_files(paths)
    assert merged != base
    bundle.check_options(merged)


@pytest.mark.parametrize("overlay", OVERLAY_NAMES)
def test_overlays_open_with_their_command(overlay):
    head = (OVERLAYS / overlay).read_text(encoding="utf-8").split("\n\n")[0]
    assert f"configs/{overlay}" in head
    assert "python -m monai.bundle run" in head


METADATA_KEYS = [
    *("schema", "version", "changelog", "monai_version", "pytorch_version", "numpy_version"),
    *("required_packages_version", "task", "description", "authors", "copyright", "network_data_format"),
]


@pytest.mark.parametrize("key", METADATA_KEYS)
def test_metadata_has(key):
    assert json.loads((CONFIGS / "metadata.json").read_text(encoding="utf-8"))[key]


def test_metadata_speaks_of_this_version():
    metadata = json.loads((CONFIGS / "metadata.json").read_text(encoding="utf-8"))
    assert metadata["version"] == monai_fusenet.__version__
    assert metadata["version"] in metadata["changelog"]


def test_metadata_has_the_form_that_monai_wants():
    # What MONAI's own schema demands of the data format; `verify_metadata` would fetch it from the network.
    fields = ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range"]
    tensor = {"type": "object", "required": fields, "properties": {"num_channels": {"type": "integer"}}}
    tensors = {"type": "object", "minProperties": 1, "additionalProperties": tensor}
    data_format = {
        "type": "object",
        "required": ["inputs", "outputs"],
        "properties": {"inputs": tensors, "outputs": tensors},
    }
    schema = {"type": "object", "required": METADATA_KEYS, "properties": {"network_data_format": data_format}}
    jsonschema.validate(json.loads((CONFIGS / "metadata.json").read_text(encoding="utf-8")), schema)


@pytest.mark.parametrize("name", ["README.md", "data_license.txt"])
def test_bundle_brings_its_documents(name):
    assert (BUNDLE / "docs" / name).read_text(encoding="utf-8").strip()
    assert (BUNDLE / "LICENSE").read_text(encoding="utf-8") == (ROOT / "LICENSE").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", WORKFLOWS)
def test_network_keeps_what_the_metadata_promise(name):
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(CONFIGS / "metadata.json"),
        config_file=str(CONFIGS / name),
        n=2,
        p=4,
        any=40,
    )


def load_bundle(**options):
    if "return_state_dict" in inspect.signature(load).parameters:  # MONAI 1.4, which by default gives weights alone
        options["return_state_dict"] = False
    return load("fusenet_segmentation", bundle_dir=BUNDLE.parent, source="github", **options)


@pytest.mark.parametrize("use_trace", [False, True])
def test_export(use_trace, tmp_path):
    path = tmp_path / "model.ts"
    shape = [1, 3, 40, 56] if use_trace else None
    export_torchscript(BUNDLE, path, use_trace=use_trace, input_shape=shape)
    network = load_bundle(workflow_type="inference").eval()
    image = torch.rand(1, 3, 40, 56)
    torch.testing.assert_close(torch.jit.load(path)(image), network(image))


def test_load_gives_the_shipped_weights_which_are_seeded_initial_values(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = load_bundle()
    torch.manual_seed(0)
    expected = FuseNet().state_dict()
    assert network.state_dict().keys() == expected.keys()
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value.cpu(), expected[name])
    assert list(tmp_path.iterdir()) == []  # it wrote nothing


def test_no_class_name_collides_with_monai():
    modules = []
    for info in pkgutil.walk_packages(monai_fusenet.__path__, "monai_fusenet."):
        if info.name.endswith("__main__"):
            continue
        try:
            modules.append(import_module(info.name))
        except ModuleNotFoundError as error:  # the app's modules, where its extra is not installed
            extra = "label" in info.name.split(".") and find_spec("monailabel") is None
            if not extra or str(error.name).split(".")[0] == "monai_fusenet":
                raise
    locator = ComponentLocator()  # knows what is imported by now
    for module in modules:
        for name, value in vars(module).items():
            if inspect.isclass(value) and value.__module__ == module.__name__:
                assert isinstance(locator.get_component_module_name(name), str), name


def test_nothing_but_the_label_app_imports_monailabel():
    for path in (ROOT / "monai_fusenet").rglob("*.py"):
        if "label" not in path.relative_to(ROOT / "monai_fusenet").parts:
            assert not re.search(r"^\s*(import|from) monailabel", path.read_text(encoding="utf-8"), re.MULTILINE), path


def test_evaluation_makes_masks_exactly_as_inference_does():
    inference, evaluation = (
        ConfigParser.load_config_file(CONFIGS / f"{name}.json") for name in ("inference", "evaluate")
    )
    own = {"output_dir", "predictions_dir", "seeds", "items", "inference", "evaluation", "run"}
    assert {key: value for key, value in inference.items() if key not in own} == {
        key: value for key, value in evaluation.items() if key not in own
    }


@pytest.mark.parametrize("block", ["network_def", "loss_function", "scaling", "resizing", "foreground", "working_size"])
def test_training_and_inference_see_images_alike(block):
    training, inference = (ConfigParser.load_config_file(CONFIGS / f"{name}.json") for name in ("train", "inference"))
    if block == "foreground":
        del inference[block]["partitions"]  # a training shows what its own clusters are good for
    assert training[block] == inference[block]
