"""The network of Kazerouni et al. 2023: two views of one image in, scores for clusters out."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Optional, Union

import torch
from torch import Tensor, nn

from monai_fusenet.networks.blocks.fusion import FusionBlock
from monai_fusenet.networks.blocks.inputs import check_images
from monai_fusenet.networks.blocks.pixel_encoder import PixelEncoder
from monai_fusenet.networks.blocks.projection import PatchTokens, ProjectionHead
from monai_fusenet.networks.published import IGNORED, PATCH_HINT, by_module, load_published
from monai_fusenet.utils.checks import check_network
from monai_fusenet.utils.scores import merge_twin_scores

__all__ = ["FuseNet", "FuseNetOutput"]

# The authors' module names, and ours.
PUBLISHED_NAMES = {
    "img_enc.conv1": "encoder.conv",
    "img_enc.bn1": "encoder.norm1",
    "img_enc.conv2": "encoder.affine",
    "img_enc.bn2": "encoder.norm2",
    "aug_enc.conv1": "augmented_encoder.conv",
    "aug_enc.bn1": "augmented_encoder.norm1",
    "aug_enc.conv2": "augmented_encoder.affine",
    "aug_enc.bn2": "augmented_encoder.norm2",
    "image_projection.projection": "image_head.projection",
    "image_projection.fc": "image_head.fc",
    "image_projection.layer_norm": "image_head.norm",
    "aug_projection.projection": "augmented_head.projection",
    "aug_projection.fc": "augmented_head.fc",
    "aug_projection.layer_norm": "augmented_head.norm",
    "bn1": "image_patches.norm",
    "bn2": "augmented_patches.norm",
    "to_patch_embedding_img.1": "image_patches.projection",
    "to_patch_embedding_aug.1": "augmented_patches.projection",
    "cross_attn.norm1": "fusion.norm1",
    "cross_attn.attn.reprojection": "fusion.reprojection",
    "cross_attn.attn.norm": "fusion.attention_norm",
    "cross_attn.norm2": "fusion.norm2",
    "cross_attn.mlp.fc1": "fusion.feed_forward.fc1",
    "cross_attn.mlp.dwconv.dwconv": "fusion.feed_forward.depthwise",
    "cross_attn.mlp.norm1": "fusion.feed_forward.norm",
    "cross_attn.mlp.fc2": "fusion.feed_forward.fc2",
}


class FuseNetOutput(NamedTuple):
    """What training needs: scores (B, 2 * features, *spatial) and unit tokens (B, patches, features) of each view."""

    scores: Tensor
    image_tokens: Tensor
    augmented_tokens: Tensor


class FuseNet(nn.Module):
    """Scores every pixel of an image for `2 * features` clusters, from the image and an augmented view of it.

    Args:
        spatial_dims: 2 or 3.
        in_channels: image channels.
        features: width of every description; there are twice as many clusters.
        img_size: spatial size of all images, for the published patch projection, where the number of weights grows with
            the image; `None` (default): any size.
        patch_grid: patches per axis for the cross-modal loss; `None`: 8 in 2-D and 4 in 3-D, 64 patches either way.
        dropout: dropout of the projection heads.
        image_weight: factor of the image's embedding before fusion.
        augmented_weight: factor of the augmented view's embedding before fusion.
        shared_encoder: one pixel encoder for both views (the published code builds two and uses one); `False`: one
            for each, for views of different modality or phase.
        use_checkpoint: compute the activations of encoder, heads and fusion again in the backward pass instead of
            keeping them. For images and volumes whose training would not fit into memory; takes about half more time.

    Shape:
        `forward(image)`: (B, in_channels, *spatial) -> scores (B, 2 * features, *spatial); the image is both views.
        `forward(image, augmented)`: two such images -> `FuseNetOutput`.

    Raises:
        ValueError: when `spatial_dims` is not 2 or 3, a count is no whole number above 0, or the views of a pair differ
            in shape, have another number of axes or channels, do not fit `img_size` or are smaller than the patch grid.

    Reference:
        Kazerouni et al. 2023, "FuseNet: Self-Supervised Dual-Path Network for Medical Image Segmentation",
        arXiv 2311.13069.
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 3,
        features: int = 64,
        img_size: int | Sequence[int] | None = None,
        patch_grid: int | None = None,
        dropout: float = 0.1,
        image_weight: float = 3.0,
        augmented_weight: float = 0.8,
        shared_encoder: bool = True,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        patch_grid = {2: 8, 3: 4}.get(spatial_dims, 1) if patch_grid is None else patch_grid
        check_network(spatial_dims, in_channels=in_channels, features=features, patch_grid=patch_grid)
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.encoder = PixelEncoder(spatial_dims, in_channels, features, use_checkpoint)
        self.augmented_encoder = (
            None if shared_encoder else PixelEncoder(spatial_dims, in_channels, features, use_checkpoint)
        )
        self.image_head = ProjectionHead(features, dropout, use_checkpoint)
        self.augmented_head = ProjectionHead(features, dropout, use_checkpoint)
        self.image_patches = PatchTokens(spatial_dims, features, patch_grid, img_size)
        self.augmented_patches = PatchTokens(spatial_dims, features, patch_grid, img_size)
        self.fusion = FusionBlock(spatial_dims, features, (image_weight, augmented_weight), use_checkpoint)

    # TorchScript reads these annotations (as objects, so this file must not postpone them) and knows no `X | Y`.
    def forward(self, image: Tensor, augmented: Optional[Tensor] = None) -> Union[Tensor, FuseNetOutput]:  # noqa: UP007, UP045
        """Scores for one image; scores and the tokens of both views for a pair."""
        check_images(image, augmented, self.spatial_dims, self.in_channels)
        image_features = self.encoder(image)
        if self.augmented_encoder is not None:
            augmented_features = self.augmented_encoder(image if augmented is None else augmented)
        else:
            augmented_features = image_features if augmented is None else self.encoder(augmented)
        image_embedding = self.image_head(image_features)
        augmented_embedding = self.augmented_head(augmented_features)
        scores = self.fusion(image_embedding, augmented_embedding)
        if augmented is None:
            return scores
        return FuseNetOutput(scores, self.image_patches(image_embedding), self.augmented_patches(augmented_embedding))

    @torch.jit.export
    def merge(self, scores: Tensor) -> Tensor:
        """Adds the scores of twin clusters: (B, 2 * features, *spatial) -> (B, features, *spatial)."""
        return merge_twin_scores(scores)

    def load_published_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Loads weights under the authors' parameter names.

        Args:
            state_dict: the authors' state dict; the second encoder (`aug_enc.*`), which their code never uses, is
                ignored where the encoder is shared.

        Raises:
            ValueError: names the parameter that is unknown, missing or of another shape than this network's.
        """
        own_name = by_module(PUBLISHED_NAMES)

        def rename(published: str) -> Optional[str]:  # noqa: UP045
            name = own_name(published)
            idle = self.augmented_encoder is None and str(name).startswith("augmented_encoder.")
            return IGNORED if idle else name

        load_published(self, state_dict, rename, "FuseNet", PATCH_HINT)
