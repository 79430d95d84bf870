"""The table of options holds what the configs hold, and checks, spelling and the page are made of it."""

import re
from collections.abc import Mapping

import pytest
import yaml
from bundle_tools import CONFIG_OF, CONFIGS, OVERLAYS, ROOT
from monai.bundle import ConfigParser

from monai_fusenet.bundle import OPTIONS, check_options
from monai_fusenet.bundle.checks import ENTRIES, check_values, references
from monai_fusenet.bundle.options_page import options_page
from monai_fusenet.bundle.student_bundle import student_config
from monai_fusenet.options.table import BLOCKS, GROUPS, WORKFLOWS

TABLE = {option.name: option for option in OPTIONS}


def config_of(workflow, *overlays):
    return ConfigParser.load_config_files([CONFIGS / CONFIG_OF[workflow], *(OVERLAYS / name for name in overlays)])


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_the_table_and_the_configs_name_the_same_options(workflow):
    blocks = {block.name for block in BLOCKS} | ENTRIES
    plain = {name for name, value in config_of(workflow).items() if not isinstance(value, Mapping)} - blocks
    assert plain == {option.name for option in OPTIONS if workflow in option.workflows and not option.overlays}


@pytest.mark.parametrize("name", sorted(option.name for option in OPTIONS if option.overlays))
def test_overlays_bring_the_options_that_the_table_says(name):
    overlays = {path.stem: yaml.safe_load(path.read_text("utf-8")) for path in OVERLAYS.glob("*.yaml")}
    assert set(TABLE[name].overlays) == {overlay for overlay, options in overlays.items() if name in options}


def test_no_option_stands_in_the_table_twice():
    assert len(TABLE) == len(OPTIONS)


def test_each_option_stands_in_one_group():
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(TABLE)


def test_every_block_is_in_some_config():
    configs = [ConfigParser(config_of(workflow)) for workflow in WORKFLOWS]
    assert [block.name for block in BLOCKS if not any(block.name in config for config in configs)] == []


def test_the_page_of_options_is_up_to_date():
    assert (ROOT / "docs" / "options.md").read_text(encoding="utf-8") == options_page()


MISSPELT = [
    ("inference", "dataset_dirr", "dataset_dir"),
    ("inference", "datasetdir", "dataset_dir"),
    ("inference", "ouput_dir", "output_dir"),
    ("inference", "overwrit", "overwrite"),
    ("inference", "check_point", "checkpoint"),
    ("inference", "num_worker", "num_workers"),
    ("inference", "stepps", "steps"),
    ("inference", "resolution", "resolutions"),
    ("inference", "in_channel", "in_channels"),
    ("inference", "working_sise", "working_size"),
    ("inference", "spatial_dim", "spatial_dims"),
    ("inference", "mergetwins", "merge_twins"),
    ("inference", "dicom_ouput", "dicom_output"),
    ("training", "max_epoch", "max_epochs"),
    ("training", "batchsize", "batch_size"),
    ("training", "learning_rat", "learning_rate"),
    ("training", "val_intervall", "val_interval"),
    ("evaluation", "prediction_dir", "predictions_dir"),
    ("evaluation", "seedss", "seeds"),
    ("distillation", "teacher_seed", "teacher_seeds"),
    ("distillation", "student_sise", "student_size"),
    ("distillation", "min_confidense", "min_confidence"),
    ("distillation", "round_step", "round_steps"),
]


@pytest.mark.parametrize(("workflow", "wrong", "right"), MISSPELT)
def test_the_right_option_is_suggested_for_a_misspelt_one(workflow, wrong, right):
    with pytest.raises(ValueError, match=rf"^unknown option {wrong}; did you mean {right}\?$"):
        check_options({**config_of(workflow), wrong: "x"}, [workflow])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("seed", -1, "seed must be a whole number of at least 0, got -1"),
        ("overwrite", "yes", "overwrite must be True or False, got yes"),
        ("lr", "fast", "lr must be a finite number of at least 0, got fast"),
        ("first_step", 0, "first_step must be a whole number of at least 1, got 0"),
        ("second_view_channels", 2, "second_view_channels must be half of in_channels, 0 or 1.5, got 2"),
        ("objects", 0, "objects must be a whole number of at least 1, got 0"),
        ("working_size", [128, 4], "working_size must be 2 whole numbers of at least 8, got [128, 4]"),
        ("resolutions", [4, 128], "resolutions must be whole numbers of at least 8, got [4, 128]"),
    ],
)
def test_a_wrong_value_is_told_by_the_kind_of_its_option(name, value, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_values({**config_of("inference"), name: value})


@pytest.mark.parametrize("name", ["field", "resolutions", "checkpoint"])
def test_null_is_none_on_a_command_line(name):
    told = f"{name} is the word null; on a command line, null is written None: --{name} None"
    with pytest.raises(ValueError, match=f"^{told}$"):
        check_values({**config_of("inference"), name: "null"})
    check_values({**config_of("inference"), name: None})


def test_expressions_are_left_alone():
    check_values({**config_of("inference"), "seed": "$1 - 2", "amp": "@overwrite"})


def test_references_are_the_top_level_keys_that_a_config_refers_to():
    config = {"a": "@first", "b": ["$@second::x + @third#y"], "c": {"_target_": "f", "mail": "some@where.org"}}
    assert references(config) == {"first", "second", "third"}


@pytest.mark.parametrize("replaced", ["inferer", "preprocessing", "network_def", "loss_function"])
def test_an_overlay_may_replace_a_block_and_leave_others_without_effect(replaced):
    check_options({**config_of("inference"), replaced: {"_target_": "monai.inferers.SimpleInferer"}})


def test_a_distilled_network_has_none_of_the_options_of_a_fit():
    student = student_config(config_of("distillation"), config_of("inference"), {}, "weights")
    values = {"student_size": [8, 8], "objects": None, "flip_axes": [0], "student_norm": "batch"}
    check_options({**student, **values}, ["inference"])
    for name in ("working_size", "lr", "min_clusters", "merge_twins"):
        with pytest.raises(ValueError, match=f"^unknown option {name}"):
            check_options({**student, **values, name: 1}, ["inference"])


def test_functions_whose_arguments_nobody_knows_are_left_alone():
    check_options({**config_of("inference"), "inferer": {"_target_": "builtins.dict", "anything": 1}})
