import errno
import os
import threading

import numpy as np
import pytest
import torch

from monai_fusenet.clicks import ClickSelector
from monai_fusenet.label.cache import ClusterCache, Clusters
from monai_fusenet.label.clustering import Clusterer, check_preset, presets, uncertainty

KEY, OTHER, THIRD = ("0a" * 32, "1b" * 32, "2c" * 32)


def made(seed=0):
    random = np.random.default_rng(seed)
    clusters = np.where(np.indices((31, 44))[1] < 20, 1, 2).astype(np.uint8)
    selector = ClickSelector(clusters, random.random((3, 31, 44)).astype(np.float32))
    return Clusters(clusters, 0.25, np.diag([2.0, 3, 1, 1]), (31, 44, 1), True, bytes(range(256)), selector)


def never():
    raise AssertionError("it is in the cache")


def test_what_one_process_made_another_reads(tmp_path):
    first = ClusterCache(tmp_path).get(KEY, made)
    second = ClusterCache(tmp_path).get(KEY, never)
    assert np.array_equal(first.clusters, second.clusters)
    assert np.array_equal(first.original_affine, second.original_affine)
    assert (second.uncertainty, second.grid_shape, second.has_geometry) == (0.25, (31, 44, 1), True)
    assert second.nifti_header == bytes(range(256))
    assert np.array_equal(first.selector([(10, 10)]), second.selector([(10, 10)]))


def test_the_folder_stays_within_its_bound(tmp_path):
    ClusterCache(tmp_path).get(KEY, made)
    size = (tmp_path / f"{KEY}.npz").stat().st_size
    cache = ClusterCache(tmp_path, max_bytes=int(2.5 * size))
    os.utime(tmp_path / f"{KEY}.npz", (1, 1))
    cache.get(OTHER, lambda: made(1))
    os.utime(tmp_path / f"{OTHER}.npz", (2, 2))
    ClusterCache(tmp_path).get(KEY, never)  # used again, so the other one goes
    cache.get(THIRD, lambda: made(2))
    assert {path.stem for path in tmp_path.glob("*.npz")} == {KEY, THIRD}


def test_a_damaged_file_is_made_anew(tmp_path, caplog):
    ClusterCache(tmp_path).get(KEY, made)
    path = tmp_path / f"{KEY}.npz"
    path.write_bytes(path.read_bytes()[:200])
    assert ClusterCache(tmp_path).get(KEY, made).uncertainty == 0.25
    assert "is damaged" in caplog.text
    ClusterCache(tmp_path).get(KEY, never)


def test_a_file_that_lacks_a_field_is_made_anew(tmp_path, caplog):
    np.savez(tmp_path / f"{KEY}.npz", clusters=np.ones((3, 4), dtype=np.uint8))
    assert ClusterCache(tmp_path).get(KEY, made).uncertainty == 0.25
    assert "is damaged" in caplog.text
    assert "uncertainty" in caplog.text
    ClusterCache(tmp_path).get(KEY, never)


def test_a_folder_that_may_only_be_read_serves_what_it_has(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    ClusterCache(tmp_path).get(KEY, made)
    monkeypatch.setattr(os, "utime", refuse)
    ClusterCache(tmp_path).get(KEY, never)


def test_a_full_disk_costs_the_saving_alone(tmp_path, monkeypatch, caplog):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    cache = ClusterCache(tmp_path)
    assert cache.get(KEY, made).uncertainty == 0.25
    assert "No space left on device" in caplog.text
    assert not list(tmp_path.glob("*.npz"))
    cache.get(KEY, never)  # from memory


def test_two_at_once_make_it_once(tmp_path):
    calls, begun = [], threading.Event()

    def slowly():
        calls.append(1)
        begun.set()
        threading.Event().wait(0.5)
        return made()

    first = threading.Thread(target=lambda: ClusterCache(tmp_path).get(KEY, slowly))
    first.start()
    begun.wait()
    ClusterCache(tmp_path).get(KEY, slowly)
    first.join()
    assert len(calls) == 1


def test_keys_follow_content_options_and_weights(tmp_path):
    image, weights = tmp_path / "a.png", tmp_path / "model.pt"
    image.write_bytes(b"one")
    weights.write_bytes(b"weights")
    clusterer = Clusterer(ClusterCache(tmp_path), "skin", weights)
    key = clusterer.key(image)
    overlay = tmp_path / "own.yaml"
    overlay.write_text("network_def#features: 16\n")
    assert Clusterer(ClusterCache(tmp_path), "generic").key(image) == key  # rules choose, they do not cluster
    assert Clusterer(ClusterCache(tmp_path), "lung").key(image) != key  # its field is the body
    assert Clusterer(ClusterCache(tmp_path), str(overlay)).key(image) != key
    assert Clusterer(ClusterCache(tmp_path), "skin", seed=1).key(image) != key
    adapted = clusterer.key(image, adapt=True)
    assert adapted != key
    weights.write_bytes(b"others")
    assert clusterer.key(image, adapt=True) != adapted
    image.write_bytes(b"two")
    assert clusterer.key(image) != key


def test_presets():
    assert presets() == ["generic", "ct", "lung", "nuclei", "skin"]
    with pytest.raises(ValueError, match=r"preset must be one of generic, ct, lung, nuclei, skin, .* got x"):
        check_preset("x")


def test_uncertainty_by_hand():
    tied = torch.zeros(3, 2, 2)
    tied[0, 0], tied[1, 1] = 1e-6, 1e-6  # two clusters that win, by a hair
    assert uncertainty(tied) == pytest.approx(1, abs=1e-3)
    assert uncertainty(1e8 * tied) == pytest.approx(0, abs=1e-3)
    assert uncertainty(torch.tensor([1.0, 0, 0]).view(3, 1, 1).expand(3, 2, 2)) == 0
