"""What MONAI's model zoo asks of a bundle, as its documentation says it: files, names of keys, metadata, network."""

import configparser
import json
import re
from pathlib import PurePosixPath

import pytest
import torch
import yaml
from bundle_tools import BUNDLE, CONFIGS, ROOT, SMALL, SMALL_TRAINING, draw_folder
from monai.bundle import ConfigParser, create_workflow, verify_metadata
from monai.bundle.config_parser import ID_SEP_KEY
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import monai_fusenet

METADATA = json.loads((CONFIGS / "metadata.json").read_text(encoding="utf-8"))
LARGEST = 25 * 2**20  # bytes; larger files would need a `large_files.yml`
TEXT = {"type": "string", "minLength": 1}
VERSION = {"type": "string", "pattern": r"^\d+\.\d+(\.\d+)?$"}
TEXTS = {"type": "object", "minProperties": 1, "additionalProperties": TEXT}
TENSOR = {
    "type": "object",
    "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range"],
    "properties": {
        "num_channels": {"type": "integer", "minimum": 1},
        "spatial_shape": {"type": "array", "items": {"type": ["integer", "string"]}},
        "value_range": {"type": "array", "items": {"type": "number"}},
        "is_patch_data": {"type": "boolean"},
        "channel_def": {"type": "object", "additionalProperties": TEXT},
    },
}
TENSORS = {"type": "object", "minProperties": 1, "additionalProperties": TENSOR}
# MONAI's own schema lies at the address that the metadata name; this one asks for what MONAI's documentation names.
SCHEMA = {
    "type": "object",
    "required": [
        *("schema", "version", "changelog", "monai_version", "pytorch_version", "numpy_version"),
        *("required_packages_version", "supported_apps", "name", "task", "description", "authors", "copyright"),
        *("eval_metrics", "intended_use", "references", "data_source", "data_type", "network_data_format"),
    ],
    "properties": {
        **dict.fromkeys(("schema", "version", "name", "task", "description", "authors", "copyright"), TEXT),
        **dict.fromkeys(("monai_version", "pytorch_version", "numpy_version"), VERSION),
        **dict.fromkeys(("changelog", "required_packages_version", "supported_apps"), TEXTS),
        "eval_metrics": {"type": "object", "additionalProperties": {"type": "number", "minimum": 0, "maximum": 1}},
        "references": {"type": "array", "minItems": 1, "items": TEXT},
        "network_data_format": {
            "type": "object",
            "required": ["inputs", "outputs"],
            "properties": {"inputs": TENSORS, "outputs": TENSORS},
        },
    },
}
KEYS = {
    "inference.json": ["bundle_root", "device", "network_def", "inferer", "output_dir", "dataset_dir"],
    "evaluate.json": ["bundle_root", "device", "network_def", "inferer", "output_dir", "dataset_dir"],
    "train.json": [
        *("bundle_root", "device", "dataset_dir", "output_dir", "train#trainer", "train#trainer#max_epochs"),
        *("train#dataset", "train#dataset#data", "train#handlers", "train#preprocessing", "train#inferer"),
    ],
}


def requirements():
    """What `setup.cfg` asks for, by name."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = config["options"]["install_requires"].split("\n")
    return {canonicalize_name(one.name): one for one in (Requirement(line) for line in lines if line)}


@pytest.mark.parametrize(
    "name",
    [
        *("LICENSE", "models/model.pt", "docs/README.md", "docs/data_license.txt", "configs/metadata.json"),
        *("configs/logging.conf", "configs/train.json", "configs/inference.json", "configs/evaluate.json"),
        *("configs/multi_gpu_train.json", "configs/multi_gpu_evaluate.json"),
    ],
)
def test_the_bundle_has(name):
    assert (BUNDLE / name).stat().st_size > 0


def test_no_file_is_too_large_or_of_another_kind():
    for path in BUNDLE.rglob("*"):
        if path.is_file():
            assert path.stat().st_size < LARGEST, path
            assert PurePosixPath(path).suffix in (".json", ".conf", ".md", ".txt", ".pt", ""), path
    assert BUNDLE.name == re.sub(r"[^a-z0-9_]", "", BUNDLE.name)


@pytest.mark.parametrize("name", KEYS)
def test_a_config_has_the_keys(name):
    config = ConfigParser(ConfigParser.load_config_file(CONFIGS / name))
    assert [key for key in KEYS[name] if key not in config] == []
    assert "validate" not in config  # which would have to hold an evaluator, a dataset and handlers


def test_no_config_holds_a_place_on_somebody_s_machine():
    for path in CONFIGS.iterdir():
        assert not re.search(r"/(home|root|Users|workspace|mnt)/|[A-Z]:\\\\", path.read_text(encoding="utf-8")), path


def test_metadata_pass_monai_s_check(tmp_path):
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA), encoding="utf-8")
    verify_metadata(meta_file=str(CONFIGS / "metadata.json"), filepath=str(tmp_path / "schema.json"))


@pytest.mark.parametrize("key", ["references", "eval_metrics", "network_data_format", "supported_apps"])
def test_metadata_without_a_key_do_not_pass(key, tmp_path):
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA), encoding="utf-8")
    (tmp_path / "metadata.json").write_text(json.dumps({**METADATA, key: None}), encoding="utf-8")
    with pytest.raises(ValueError, match="against schema"):
        verify_metadata(meta_file=str(tmp_path / "metadata.json"), filepath=str(tmp_path / "schema.json"))


def test_one_version_everywhere():
    version = monai_fusenet.__version__
    assert METADATA["version"] == METADATA["required_packages_version"]["monai-fusenet"] == version
    assert next(iter(METADATA["changelog"])) == version
    assert str(yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"]) == version
    newest = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest.group(1) == version


def test_packages_of_the_metadata_are_those_that_pip_installs():
    needed = requirements()
    stated = {"torch": METADATA["pytorch_version"], "monai": METADATA["monai_version"]}
    stated |= {"numpy": METADATA["numpy_version"], **METADATA["required_packages_version"]}
    del stated["monai-fusenet"]
    assert {canonicalize_name(name) for name in stated} == set(needed)
    for name, version in stated.items():
        assert version in needed[canonicalize_name(name)].specifier, name


def test_figures_of_the_metadata_are_measured_ones():
    results = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    for name, value in METADATA["eval_metrics"].items():
        assert f"{value:.3f}" in results, name


def test_the_network_has_as_many_channels_as_are_stated():
    config = ConfigParser(ConfigParser.load_config_file(CONFIGS / "inference.json"))
    data = METADATA["network_data_format"]
    network = config.get_parsed_content("network_def").eval()
    with torch.no_grad():
        scores = network(torch.zeros(1, data["inputs"]["image"]["num_channels"], 40, 56))
    assert scores.shape == (1, data["outputs"]["pred"]["num_channels"], 40, 56)


@pytest.mark.parametrize(
    ("names", "kind", "options"),
    [
        (["train.json", "multi_gpu_train.json"], "train", SMALL_TRAINING),
        (["inference.json", "multi_gpu_evaluate.json"], "infer", SMALL),
        (["evaluate.json", "multi_gpu_evaluate.json"], "infer", SMALL),
    ],
)
def test_configs_of_several_processes_have_the_properties(names, kind, options, tmp_path):
    files = [str(CONFIGS / name) for name in names]
    folder = str(draw_folder(tmp_path / "data"))
    workflow = create_workflow(config_file=files, workflow_type=kind, **options, dataset_dir=folder)
    assert workflow.check_properties() == []


def test_overlays_of_several_processes_change_what_is_there():
    for name, overlay in (("train", "multi_gpu_train"), ("evaluate", "multi_gpu_evaluate")):
        base, changes = (ConfigParser.load_config_file(CONFIGS / f"{part}.json") for part in (name, overlay))
        assert all(key.replace("#", ID_SEP_KEY) in ConfigParser(base) for key in changes)
        assert ConfigParser.load_config_files([CONFIGS / f"{part}.json" for part in (name, overlay)]) != base
