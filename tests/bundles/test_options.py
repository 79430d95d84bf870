"""Misspelt options get one line that names the nearest known one."""

import pytest
from bundle_tools import CONFIGS
from monai.bundle import ConfigParser
from tqdm import tqdm

from monai_fusenet.bundle import check_options
from monai_fusenet.bundle.faults import close_progress_bars


@pytest.fixture
def config():
    return ConfigParser.load_config_file(CONFIGS / "inference.json")


def test_shipped_config_is_right(config):
    check_options(config)


def test_misspelt_top_level_option(config):
    with pytest.raises(ValueError, match=r"^unknown option dataset_dirr; did you mean dataset_dir\?$"):
        check_options({**config, "dataset_dirr": "x"})


def test_misspelt_argument(config):
    config["inferer"]["stepz"] = 3
    with pytest.raises(ValueError, match=r"^unknown option inferer#stepz; did you mean inferer#steps\?$"):
        check_options(config)


def test_misspelt_argument_inside_a_list(config):
    config["preprocessing"]["transforms"][1]["min_sise"] = 3
    with pytest.raises(
        ValueError,
        match=r"^unknown option (preprocessing#transforms#1#)min_sise; did you mean \1min_size\?$",
    ):
        check_options(config)


def test_own_keys_that_something_refers_to_are_welcome(config):
    config["inferer"]["steps"] = "@my_steps"
    check_options({**config, "my_steps": 3})


def test_other_run_ids_are_welcome(config):
    check_options({**config, "my_run": ["$print(1)"]}, run_ids=["my_run"])


def test_a_preset_may_bring_options_of_a_student_and_no_others(config):
    check_options({**config, "flip_axes": [1], "rounds": 1})
    with pytest.raises(ValueError, match=r"^unknown option seeds; did you mean seed\?$"):
        check_options({**config, "seeds": [0, 1]})


def test_a_bar_that_an_interrupt_left_half_made_is_no_error(capsys):
    half = tqdm.__new__(tqdm)  # known to tqdm before it has its attributes
    assert half in tqdm._instances
    close_progress_bars()
    assert capsys.readouterr().err == ""


def test_a_program_may_give_its_own_images():
    config = ConfigParser.load_config_file(CONFIGS / "train.json")
    check_options({**config, "items": []})
