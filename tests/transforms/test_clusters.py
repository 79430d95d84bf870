import re

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    Flip,
    Invertd,
    Orientation,
    Orientationd,
    Resize,
    Spacing,
    Spacingd,
    SpatialCrop,
)
from torch.nn.functional import interpolate, one_hot

from monai_fusenet.data import LoadMedicalImaged, load_image
from monai_fusenet.networks import FuseNet
from monai_fusenet.transforms import (
    ScoresToClustersd,
    count_clusters,
    guided_upsampling,
    merge_twin_scores,
    upsampled_argmax,
)
from monai_fusenet.utils.arrays import relabel_by_size


def scores_of(labels, count):
    """Scores (B, count, *spatial) whose argmax is `labels`."""
    return one_hot(torch.as_tensor(labels), count).movedim(-1, 1).float()


# Counting.


def test_clusters_are_counted_image_by_image():
    labels = torch.tensor([[[0, 0, 3], [0, 3, 0]], [[1, 2, 4], [0, 3, 3]]])
    assert count_clusters(scores_of(labels, 6)).tolist() == [2, 5]


@pytest.mark.parametrize("spatial", [(7, 5), (4, 3, 5), (1, 1)])
def test_counts_equal_those_of_unique(spatial):
    torch.manual_seed(0)
    scores = torch.randn(4, 20, *spatial)
    expected = [len(image.argmax(dim=0).unique()) for image in scores]
    assert count_clusters(scores).tolist() == expected


def test_a_tie_is_one_cluster():
    assert count_clusters(torch.zeros(1, 5, 3, 4)).tolist() == [1]


# Twins.


def test_twins_are_half_the_channels_apart():
    scores = torch.arange(6.0).reshape(1, 6, 1)
    assert merge_twin_scores(scores).flatten().tolist() == [0 + 3, 1 + 4, 2 + 5]


@pytest.mark.parametrize("spatial", [(7, 5), (4, 3, 5)])
def test_merged_twins_have_half_the_channels(spatial):
    assert merge_twin_scores(torch.randn(2, 8, *spatial)).shape == (2, 4, *spatial)


# Back on the grid of the image.


@pytest.mark.parametrize(
    ("spatial", "size"), [((5, 7), (11, 9)), ((5, 7), (3, 2)), ((3, 4, 5), (5, 9, 4)), ((1, 4), (3, 9))]
)
@pytest.mark.parametrize("values_at_once", [1, 500, 2**25])
def test_upsampled_argmax_is_interpolation_and_argmax(spatial, size, values_at_once):
    torch.manual_seed(0)
    scores = torch.randn(1, 7, *spatial)
    present = scores.argmax(dim=1).unique()
    mode = "bilinear" if len(size) == 2 else "trilinear"
    expected = present[interpolate(scores[:, present], size=size, mode=mode).argmax(dim=1)]
    assert torch.equal(upsampled_argmax(scores, size, values_at_once=values_at_once), expected)


def test_no_cluster_appears_between_the_pixels():
    # Half-way between both pixels the third cluster would win, with 0.6 over 0.5.
    scores = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.6]]).reshape(1, 3, 1, 2)
    assert upsampled_argmax(scores, (1, 6)).flatten().tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("values_at_once", [1, 60, 2**25])
def test_ties_go_to_the_smaller_label(values_at_once):
    scores = torch.zeros(1, 5, 3, 4)
    scores[:, 1] = scores[:, 3] = scores[:, 4] = 1
    assert torch.equal(
        upsampled_argmax(scores, (6, 5), values_at_once=values_at_once), torch.ones(1, 6, 5, dtype=torch.long)
    )


def test_scores_far_below_zero_win_as_well():
    scores = -1e30 * torch.ones(1, 3, 2, 2)
    scores[:, 2] = -1e20
    assert torch.equal(upsampled_argmax(scores, (2, 2)), torch.full((1, 2, 2), 2))


# Along the edges of an image.


def window_means(values, radius):
    """Means over the window around each pixel, cut at the border, the slow way; (*spatial)."""
    means = np.empty_like(values)
    for index in np.ndindex(values.shape):
        reach = [min(radius, (side - 1) // 2) for side in values.shape]
        means[index] = values[tuple(slice(max(0, i - r), i + r + 1) for i, r in zip(index, reach, strict=True))].mean()
    return means


@pytest.mark.parametrize(("spatial", "size"), [((7, 5), (15, 23)), ((4, 3, 5), (9, 7, 11)), ((6, 7), (6, 7))])
def test_guided_upsampling_is_the_fast_guided_filter(spatial, size):
    rng = np.random.default_rng(0)
    scores, guide = rng.standard_normal((1, 2, *spatial)), rng.random((1, 3, *size))
    grey = guide.mean(axis=1)[0]
    small = interpolate(torch.from_numpy(grey)[None, None], size=spatial, mode="area")[0, 0].numpy()
    mode = "bilinear" if len(size) == 2 else "trilinear"
    expected = []
    for channel in scores[0]:
        covariance = window_means(small * channel, 2) - window_means(small, 2) * window_means(channel, 2)
        slope = covariance / (window_means(small**2, 2) - window_means(small, 2) ** 2 + 0.01)
        offset = window_means(channel, 2) - slope * window_means(small, 2)
        maps = torch.from_numpy(np.stack([window_means(slope, 2), window_means(offset, 2)]))[None]
        slope, offset = interpolate(maps, size=size, mode=mode)[0].numpy()
        expected.append(slope * grey + offset)
    actual = guided_upsampling(torch.from_numpy(scores), torch.from_numpy(guide), radius=2, smoothness=0.01)
    np.testing.assert_allclose(actual[0], expected, rtol=0, atol=1e-12)


def test_a_guide_that_is_too_small():
    with pytest.raises(ValueError, match=r"^the guide must be at least as large as the scores, got \(10, 40\) and"):
        guided_upsampling(torch.zeros(1, 2, 20, 20), torch.zeros(1, 3, 10, 40))


def test_scores_that_are_linear_in_the_guide_are_found_again():
    guide = torch.rand(1, 1, 24, 36, dtype=torch.float64)
    scores = 3 * interpolate(guide, size=(8, 12), mode="area") - 1
    torch.testing.assert_close(guided_upsampling(scores, guide, smoothness=1e-12), 3 * guide - 1, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(24, 40), (8, 12, 24)])
def test_labels_follow_an_edge_of_the_image_that_the_scores_only_know_coarsely(shape):
    guide = torch.full((1, 1, *shape), 0.2)
    guide[..., 17 * shape[-1] // 40 :] = 0.8  # not between two pixels of the scores
    coarse = [side // 4 for side in shape]
    small = interpolate(guide, size=coarse, mode="area")
    scores = torch.cat([0.5 - small, small - 0.5], dim=1)
    labels = upsampled_argmax(scores, shape, guide)
    assert torch.equal(labels[0], (guide[0, 0] > 0.5).long())
    scores = torch.cat([(small < 0.5).float(), (small >= 0.5).float()], dim=1)
    assert not torch.equal(upsampled_argmax(scores, shape)[0], (guide[0, 0] > 0.5).long())
    assert torch.equal(upsampled_argmax(scores, shape, guide)[0], (guide[0, 0] > 0.5).long())


# In a pipeline.


def loaded_image(spatial):
    meta = {"spatial_shape": np.array(spatial), "filename_or_obj": "a.nii"}
    return MetaTensor(torch.rand(1, *spatial), affine=torch.diag(torch.tensor([2.0, 3, 4, 1])), meta=meta)


def test_clusters_have_the_grid_of_the_loaded_image():
    scores = scores_of([[[0, 2, 2], [2, 2, 1]]], 3)[0]
    sample = {"image": loaded_image((2, 3)), "scores": scores}
    clusters = ScoresToClustersd()(sample)["clusters"]
    assert "clusters" not in sample
    assert clusters.dtype == torch.uint8
    assert clusters.tolist() == [[[2, 1, 1], [1, 1, 3]]]
    assert clusters.meta["filename_or_obj"] == "a.nii"


@pytest.mark.parametrize(("spatial", "working_size"), [((11, 7), (4, 5)), ((9, 6, 7), (4, 5, 3))])
def test_clusters_of_a_resized_image_have_the_grid_of_the_loaded_one(spatial, working_size):
    torch.manual_seed(0)
    scores = torch.randn(5, *working_size)
    image = loaded_image(spatial)
    sample = {"image": Resize(working_size)(image), "scores": MetaTensor(scores)}
    clusters = ScoresToClustersd(clusters_key="labels")(sample)["labels"]
    expected = relabel_by_size(upsampled_argmax(scores.unsqueeze(0), spatial).numpy())
    np.testing.assert_array_equal(np.asarray(clusters), expected)


def test_clusters_of_a_resized_image_lie_where_it_was_loaded(tmp_path):
    nib.save(nib.Nifti1Image(np.ones((9, 6, 7), np.float32), np.diag([2, 3, 4, 1])), tmp_path / "a.nii")
    image = load_image(tmp_path / "a.nii")
    sample = {"image": Resize((4, 5, 3))(image), "scores": torch.randn(5, 4, 5, 3)}
    torch.testing.assert_close(ScoresToClustersd()(sample)["clusters"].affine, image.affine)


def test_an_affine_that_nobody_recorded_is_that_of_the_image_before_it_was_resized():
    image = Resize((4, 5, 3))(loaded_image((9, 6, 7)))
    clusters = ScoresToClustersd()({"image": image, "scores": torch.randn(5, 4, 5, 3)})["clusters"]
    assert clusters.affine.numpy() == pytest.approx(np.diag([2, 3, 4, 1]), abs=1e-6)


@pytest.mark.parametrize(
    "moved",
    [
        Orientation("LAS", labels=None),
        Orientation("ARS", labels=None),
        Flip(1),
        SpatialCrop(roi_start=(1, 0, 0), roi_end=(9, 6, 7)),
        Spacing((2.5, 2.5, 2.5)),
    ],
)
def test_clusters_of_an_image_that_was_moved_since(moved, tmp_path):
    nib.save(nib.Nifti1Image(np.ones((9, 6, 7), np.float32), np.diag([2, 3, 4, 1])), tmp_path / "a.nii")
    image = Resize((4, 5, 3))(moved(load_image(tmp_path / "a.nii")))
    with pytest.raises(
        ValueError,
        match=r"^the image was turned, mirrored, cropped or resampled since it was loaded, as Orientationd and "
        r"Spacingd do, and its clusters would not lie on it: leave that transform out, take WorkingGridd or Resized "
        r"for another resolution, or put Invertd before this transform, for the scores and the image$",
    ):
        ScoresToClustersd()({"image": image, "scores": torch.randn(5, 4, 5, 3)})


def test_scores_and_image_that_were_taken_back_by_invertd(tmp_path):
    nib.save(nib.Nifti1Image(np.ones((9, 6, 7), np.float32), np.diag([2, 3, 4, 1])), tmp_path / "a.nii")
    before = Compose(
        [LoadMedicalImaged("image"), Orientationd("image", "ARS", labels=None), Spacingd("image", (2,) * 3)]
    )
    sample = before({"image": tmp_path / "a.nii"})
    sample["scores"] = MetaTensor(torch.cat([sample["image"] - 2, sample["image"]]).as_tensor())
    undo = Invertd(["scores", "image"], before, "image", nearest_interp=False)
    clusters = ScoresToClustersd()(undo(sample))["clusters"]
    assert clusters.shape == (1, 9, 6, 7)
    np.testing.assert_allclose(clusters.affine, np.diag([2, 3, 4, 1]), atol=1e-6)


@pytest.mark.parametrize("kind", [lambda image: image, np.asarray, MetaTensor, Resize((4, 5))])
def test_an_image_that_does_not_say_what_grid_it_had(kind):
    sample = {"image": kind(torch.rand(1, 8, 15)), "scores": torch.randn(5, 4, 5)}
    message = (
        "the image has no metadata, so that its clusters get its present shape: a PersistentDataset keeps them with "
        "track_meta=True; guide_key takes the shape of another image, and "
        'MetaTensor(image, meta={"spatial_shape": image.shape[1:]}) says that this one is right'
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        clusters = ScoresToClustersd()(sample)["clusters"]
    assert clusters.shape == (1, *sample["image"].shape[1:])
    clusters = ScoresToClustersd(guide_key="original")({**sample, "original": np.zeros((1, 11, 15))})["clusters"]
    assert clusters.shape == (1, 11, 15)
    assert not isinstance(clusters, MetaTensor)


def test_an_image_in_memory_says_that_it_has_its_own_grid():
    scores = torch.randn(5, 4, 5)
    image = MetaTensor(torch.zeros(1, 8, 15), meta={"spatial_shape": (8, 15)})
    expected = relabel_by_size(upsampled_argmax(scores.unsqueeze(0), (8, 15)).numpy())
    clusters = ScoresToClustersd()({"image": image, "scores": scores.numpy()})["clusters"]
    np.testing.assert_array_equal(clusters, expected)


def test_a_guide_leads_the_clusters():
    guide = torch.full((1, 8, 20), 0.2)
    guide[..., 9:] = 0.8
    scores = torch.cat([guide < 0.5, guide > 0.5])[:, ::4, ::4].float()
    sample = {"image": Resize((2, 5))(loaded_image((8, 20))), "scores": scores, "original": MetaTensor(guide)}
    clusters = ScoresToClustersd(guide_key="original")(sample)["clusters"]
    np.testing.assert_array_equal(np.asarray(clusters), np.where(guide > 0.5, 1, 2))
    assert not np.array_equal(np.asarray(ScoresToClustersd()(sample)["clusters"]), np.where(guide > 0.5, 1, 2))


def test_twins_can_be_merged_first():
    # Cluster 0 and its twin 2 take turns, and so do 1 and 3.
    scores = scores_of([[[0, 2, 0, 1, 3]]], 4)[0]
    sample = {"image": loaded_image((1, 5)), "scores": scores}
    assert ScoresToClustersd()(sample)["clusters"].tolist() == [[[1, 3, 1, 2, 4]]]
    assert ScoresToClustersd(merge_twins=True)(sample)["clusters"].tolist() == [[[1, 1, 1, 2, 2]]]


def test_the_network_says_which_clusters_are_one():
    scores = scores_of([[[0, 2, 0, 1, 3]]], 4)[0]
    sample = {"image": loaded_image((1, 5)), "scores": scores}
    fusenet = FuseNet(features=2, patch_grid=2)
    for network, clusters in ((fusenet, [1, 1, 1, 2, 2]), (torch.nn.Identity(), [1, 3, 1, 2, 4])):
        assert ScoresToClustersd(merge_twins=True, network=network)(sample)["clusters"].tolist() == [[clusters]]
    assert ScoresToClustersd(network=fusenet)(sample)["clusters"].tolist() == [[[1, 3, 1, 2, 4]]]


def test_a_network_without_twins_may_have_an_odd_number_of_clusters():
    sample = {"image": loaded_image((1, 4)), "scores": scores_of([[[2, 2, 0, 1]]], 3)[0]}
    finish = ScoresToClustersd(merge_twins=True, network=torch.nn.Identity())
    assert finish(sample)["clusters"].tolist() == [[[1, 1, 2, 3]]]
    with pytest.raises(ValueError, match="even number of channels, got 3"):
        ScoresToClustersd(merge_twins=True)(sample)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_not_finite(value):
    scores = torch.zeros(3, 4, 5)
    scores[1, 2, 3] = value
    with pytest.raises(
        ValueError, match=r"^the scores are not finite: the fit diverged; try a smaller lr or fewer steps$"
    ):
        ScoresToClustersd()({"image": loaded_image((4, 5)), "scores": scores})
