import math

import pytest
import torch

from monai_fusenet.networks import PatchTokens, ProjectionHead


@pytest.mark.parametrize("spatial", [(5, 8), (1, 7), (3, 5, 4), (3, 1, 1)])
def test_head_keeps_the_shape(spatial):
    assert ProjectionHead(4)(torch.rand(2, 4, *spatial)).shape == (2, 4, *spatial)


def gelu(x):
    return x * (1 + math.erf(x / math.sqrt(2))) / 2


def linear(layer, vector):
    return [
        sum(w * v for w, v in zip(row, vector, strict=True)) + bias
        for row, bias in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
    ]


def test_head_equals_its_formula_pixel_by_pixel():
    torch.manual_seed(0)
    head = ProjectionHead(3, dropout=0.0).double()
    head.norm.weight.data.uniform_(0.5, 2)
    head.norm.bias.data.uniform_(-1, 1)
    features = torch.randn(2, 3, 2, 5, dtype=torch.float64)
    projected = head(features)
    for image in range(2):
        for row in range(2):
            for column in range(5):
                u = linear(head.projection, features[image, :, row, column].tolist())
                inner = linear(head.fc, [gelu(value) for value in u])
                e = [a + b for a, b in zip(inner, u, strict=True)]
                mean = sum(e) / 3
                deviation = math.sqrt(sum((value - mean) ** 2 for value in e) / 3 + 1e-5)
                expected = [
                    weight * (value - mean) / deviation + bias
                    for value, weight, bias in zip(e, head.norm.weight.tolist(), head.norm.bias.tolist(), strict=True)
                ]
                assert projected[image, :, row, column].tolist() == pytest.approx(expected, rel=1e-9)


def test_head_drops_values_in_training_only():
    torch.manual_seed(0)
    head, features = ProjectionHead(4, dropout=0.5), torch.randn(1, 4, 6, 5)
    assert not torch.equal(head(features), head(features))
    head.eval()
    assert torch.equal(head(features), head(features))


@pytest.mark.parametrize("spatial", [(5, 8), (11, 3), (3, 5, 4)])
@pytest.mark.parametrize("fixed", [False, True], ids=["any size", "img_size"])
def test_tokens_are_unit_vectors_one_for_each_patch(spatial, fixed):
    patches = PatchTokens(len(spatial), features=4, patch_grid=3, img_size=spatial if fixed else None)
    tokens = patches(torch.randn(2, 4, *spatial))
    assert tokens.shape == (2, 3 ** len(spatial), 4)
    torch.testing.assert_close(tokens.norm(dim=-1), torch.ones(tokens.shape[:2]))


def test_one_size_free_projection_serves_all_sizes():
    patches = PatchTokens(2, features=4, patch_grid=2)
    assert patches.projection.weight.shape == (4, 4)
    for spatial in [(2, 2), (3, 17), (40, 2)]:
        assert patches(torch.randn(1, 4, *spatial)).shape == (1, 4, 4)


def normalized(patches, embedding):
    """Batch norm of the training mode, by its formula, as (B, *spatial, channels)."""
    axes = [0, *range(2, embedding.ndim)]
    mean, variance = embedding.mean(axes, keepdim=True), embedding.var(axes, keepdim=True, unbiased=False)
    channels = ((embedding - mean) / (variance + patches.norm.eps).sqrt()).movedim(1, -1)
    return channels * patches.norm.weight + patches.norm.bias


def drawn_patches(spatial_dims, img_size=None):
    torch.manual_seed(0)
    patches = PatchTokens(spatial_dims, features=2, patch_grid=2, img_size=img_size).double()
    patches.norm.weight.data.uniform_(0.5, 2)
    patches.norm.bias.data.uniform_(-1, 1)
    return patches


def unit(vector):
    return vector / vector.norm()


@pytest.mark.parametrize("size", [(4, 6), (5, 3), (3, 2)])
def test_published_cut_is_row_column_channel(size):
    patches = drawn_patches(2, size)
    embedding = torch.randn(2, 2, *size, dtype=torch.float64)
    pixels = normalized(patches, embedding)
    tokens = patches(embedding)
    height, width = math.ceil(size[0] / 2), math.ceil(size[1] / 2)
    for image in range(2):
        for token in range(4):
            numbers = []
            for row in range(height):
                for column in range(width):
                    y, x = token // 2 * height + row, token % 2 * width + column
                    for channel in range(2):
                        inside = y < size[0] and x < size[1]
                        numbers.append(pixels[image, y, x, channel] if inside else torch.tensor(0.0))
            expected = unit(patches.projection(torch.stack(numbers).double()))
            torch.testing.assert_close(tokens[image, token], expected, rtol=1e-9, atol=1e-12)


def test_published_cut_in_3d_is_depth_row_column_channel():
    size = (3, 4, 5)
    patches = drawn_patches(3, size)
    embedding = torch.randn(2, 2, *size, dtype=torch.float64)
    pixels = normalized(patches, embedding)
    tokens = patches(embedding)
    for image in range(2):
        for token in range(8):
            z0, y0, x0 = token // 4 * 2, token // 2 % 2 * 2, token % 2 * 3
            numbers = []
            for z in range(z0, z0 + 2):
                for y in range(y0, y0 + 2):
                    for x in range(x0, x0 + 3):
                        inside = z < 3 and y < 4 and x < 5
                        numbers += pixels[image, z, y, x].tolist() if inside else [0.0, 0.0]
            expected = unit(patches.projection(torch.tensor(numbers, dtype=torch.float64)))
            torch.testing.assert_close(tokens[image, token], expected, rtol=1e-9, atol=1e-12)


def test_size_free_tokens_average_their_patch():
    patches = drawn_patches(2)
    embedding = torch.randn(2, 2, 4, 5, dtype=torch.float64)
    pixels = normalized(patches, embedding)
    tokens = patches(embedding)
    # Five columns in two patches: the middle one belongs to both.
    for token, (rows, columns) in enumerate([(r, c) for r in ((0, 2), (2, 4)) for c in ((0, 3), (2, 5))]):
        for image in range(2):
            mean = pixels[image, slice(*rows), slice(*columns)].mean(dim=(0, 1))
            torch.testing.assert_close(tokens[image, token], unit(patches.projection(mean)), rtol=1e-9, atol=1e-12)


def test_size_free_tokens_average_their_patch_in_3d():
    patches = drawn_patches(3)
    embedding = torch.randn(1, 2, 2, 4, 3, dtype=torch.float64)
    pixels = normalized(patches, embedding)
    mean = pixels[0, 1:2, 0:2, 1:3].mean(dim=(0, 1, 2))  # last in depth, first in height, last in width
    token = patches(embedding)[0, 4 + 0 + 1]
    torch.testing.assert_close(token, unit(patches.projection(mean)), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("img_size", [None, (6, 6)])
def test_too_small_a_map(img_size):
    patches = PatchTokens(2, features=2, patch_grid=3, img_size=img_size)
    with pytest.raises(ValueError, match=r"^images must have at least 3 pixels along each axis, got \[2, 9\]$"):
        patches(torch.rand(1, 2, 2, 9))


def test_another_size_than_img_size():
    patches = PatchTokens(2, features=2, patch_grid=2, img_size=(6, 8))
    with pytest.raises(ValueError, match=r"^this network takes images of img_size = \[6, 8\] only, got \[8, 6\]$"):
        patches(torch.rand(1, 2, 8, 6))


def test_too_small_an_img_size():
    with pytest.raises(ValueError, match=r"^img_size must be at least patch_grid = 4 along each axis, got \[9, 3\]$"):
        PatchTokens(2, features=2, patch_grid=4, img_size=(9, 3))
