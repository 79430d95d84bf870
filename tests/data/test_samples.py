import numpy as np
import pytest
from skimage.color import rgb2gray

from monai_fusenet.data import draw_phantoms, find_images, load_image, sample_images


def test_sample_images_are_read_where_they_lie():
    items = sample_images()
    assert [item["name"] for item in items] == ["cell", "ihc", "microaneurysms", "retina"]
    shapes = [tuple(load_image(item["image"]).shape) for item in items]
    assert shapes == [(1, 660, 550), (3, 512, 512), (1, 102, 102), (3, 1411, 1411)]
    assert all(item["image"].endswith(f"skimage/data/{item['file']}") for item in items)


def test_missing_sample_images_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr("skimage.__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(ValueError, match=r"^the installed scikit-image does not contain cell.png: give a dataset_dir$"):
        sample_images()


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    draw_phantoms(folder, count=6)
    return [
        (load_image(item["image"]).numpy(), load_image(item["label"]).numpy()[0] > 0) for item in find_images(folder)
    ]


def test_phantoms_come_in_pairs(phantoms):
    assert len(phantoms) == 6
    for image, mask in phantoms:
        assert image.shape == (3, 160, 192)
        assert mask.shape == (160, 192)
        assert 0.05 < mask.mean() < 0.4
        assert not mask[[0, -1]].any()
        assert not mask[:, [0, -1]].any()


def test_no_threshold_finds_the_object_exactly_but_it_can_be_seen(phantoms):
    for image, mask in phantoms:
        grey = rgb2gray(image.transpose(1, 2, 0))
        found = [grey < threshold for threshold in np.linspace(grey.min(), grey.max(), 60)]
        best = max(2 * (guess & mask).sum() / (guess.sum() + mask.sum()) for guess in found)
        assert 0.6 < best < 0.97


def test_a_phantom_depends_on_seed_and_position_only(tmp_path):
    draw_phantoms(tmp_path / "two", count=2, size=(40, 52), seed=3)
    draw_phantoms(tmp_path / "three", count=3, size=(40, 52), seed=3)
    draw_phantoms(tmp_path / "other", count=1, size=(40, 52), seed=4)
    contents = [
        (tmp_path / folder / "images" / file).read_bytes()
        for folder, file in [("two", "phantom_001.png"), ("three", "phantom_001.png"), ("three", "phantom_000.png")]
    ]
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]
    assert (tmp_path / "other/images/phantom_000.png").read_bytes() != contents[2]
    assert load_image(tmp_path / "other/masks/phantom_000.png").unique().tolist() == [0, 255]
