"""The network of Karimijafarbigloo et al. 2023 (S3-Net): large kernels, deformable ones, and a second head."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Optional, Union

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from monai_fusenet.networks.blocks.deformable import DeformableConv
from monai_fusenet.networks.blocks.inputs import check_images
from monai_fusenet.networks.blocks.large_kernel import InceptionLargeKernelAttention
from monai_fusenet.networks.blocks.layout import channels_last, to_map, to_tokens
from monai_fusenet.networks.blocks.pixel_norm import PixelNorm
from monai_fusenet.networks.published import load_published
from monai_fusenet.utils.checks import check_network, check_switch

__all__ = ["S3Net", "S3NetOutput"]

# The authors' module names, and ours.
PUBLISHED_NAMES = {
    "conv1": "stem",
    "bn1": "stem_norm.norm",
    **{
        f"conv2.{block}.{published}": f"attention.{block}.{own}"
        for block in (0, 1)
        for published, own in {
            "proj_1x1_1": "projection",
            "spatial_gating.conv0": "first",
            "spatial_gating.spatial_convs.0": "scales.0",
            "spatial_gating.spatial_convs.1": "scales.1",
            "spatial_gating.spatial_convs.2": "scales.2",
            "spatial_gating.conv1": "gate",
            "proj_1x1_2": "output",
        }.items()
    },
    "bn2.0": "attention_norms.0.norm",
    "bn2.1": "attention_norms.1.norm",
    "convdeform": "deformable",
    "bn3": "deformable_norm.norm",
    "conv3": "head",
    "bn4": "head_norm.norm",
    "conv_aux": "auxiliary",
    "bn_aux": "auxiliary_norm.norm",
}
BLOCKS = 2
HINTS = {"deformable.": "free offsets need the img_size they were made with"}


class S3NetOutput(NamedTuple):
    """What training needs: scores (B, K, *spatial) of the image, and the auxiliary head's of the second view."""

    scores: Tensor
    auxiliary_scores: Tensor


class S3Net(nn.Module):
    """Scores every pixel of an image for `features` clusters, and a second view of it with a separate head.

    3x3 convolution and batch norm; two blocks of large-kernel attention, each with a batch norm; then the main head:
    deformable convolution, batch norm, linear map, batch norm. The auxiliary head is a linear map with a batch norm.

    Differs from the published code, where both heads see the same image, so that the transform between them cancels.
    Here the auxiliary head sees the second view. Each view has its own batch statistics.

    On one core, a step of 32 features takes 3.1 s for a pair of 32 x 32 x 32 voxels, and 1.0 s for as many pixels in
    2-D. The deformable convolution alone takes five times as long as in 2-D: it has 27 taps with 8 corners each.

    Args:
        spatial_dims: 2 or 3.
        in_channels: image channels.
        features: width of every description, and the number of clusters.
        img_size: spatial size of all images, for free offsets; `None`: any size.
        offsets: "predicted" (default) or "free", the published form with its initial values; see `DeformableConv`.
        second_view: `False`: the auxiliary head sees the image instead of the second view, as published.

    Shape:
        `forward(image)`: (B, in_channels, *spatial) -> scores (B, features, *spatial).
        `forward(image, augmented)`: two such images -> `S3NetOutput`.

    Raises:
        ValueError: when `spatial_dims` is not 2 or 3, a count is no whole number above 0, `offsets` and `img_size` do
            not fit together (see `DeformableConv`), or the views of a pair differ in shape or are not of `img_size`.

    Reference:
        Karimijafarbigloo et al. 2023, "Self-supervised Semantic Segmentation: Consistency over Transformation",
        arXiv 2309.00143.
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 3,
        features: int = 64,
        img_size: int | Sequence[int] | None = None,
        offsets: str = "predicted",
        second_view: bool = True,
    ) -> None:
        super().__init__()
        check_network(spatial_dims, in_channels=in_channels, features=features)
        check_switch("second_view", second_view)
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.second_view = second_view
        self.stem = Conv[Conv.CONV, spatial_dims](in_channels, features, kernel_size=3, padding=1)
        self.stem_norm = PixelNorm(features)
        self.attention = nn.ModuleList([InceptionLargeKernelAttention(spatial_dims, features) for _ in range(BLOCKS)])
        self.attention_norms = nn.ModuleList([PixelNorm(features) for _ in range(BLOCKS)])
        self.deformable = DeformableConv(spatial_dims, features, features, offsets, img_size)
        self.deformable_norm = PixelNorm(features)
        self.head = nn.Linear(features, features)
        self.head_norm = PixelNorm(features)
        self.auxiliary = nn.Linear(features, features)
        self.auxiliary_norm = PixelNorm(features)

    # TorchScript reads these annotations (as objects, so this file must not postpone them) and knows no `X | Y`.
    def forward(self, image: Tensor, augmented: Optional[Tensor] = None) -> Union[Tensor, S3NetOutput]:  # noqa: UP007, UP045
        """Scores for one image; these and the scores of the auxiliary head for a pair."""
        check_images(image, augmented, self.spatial_dims, self.in_channels)
        spatial = list(image.shape[2:])
        features = self._describe(image)
        hidden = to_tokens(self.deformable_norm(self.deformable(features)))
        scores = self.head_norm(to_map(self.head(hidden), spatial))
        if augmented is None:
            return scores
        one_view = not self.second_view
        if not torch.jit.is_scripting():
            one_view = one_view or augmented is image
        if not one_view:
            features = self._describe(augmented)
        auxiliary = to_map(self.auxiliary(to_tokens(features)), spatial)
        return S3NetOutput(scores, self.auxiliary_norm(auxiliary))

    def _describe(self, image: Tensor) -> Tensor:
        """All that both heads see: (B, in_channels, *spatial) -> (B, features, *spatial)."""
        features = self.stem_norm(self.stem(channels_last(image)))
        for attention, norm in zip(self.attention, self.attention_norms):  # noqa: B905  TorchScript knows no strict
            features = norm(attention(features))
        return features

    def load_published_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Loads weights under the authors' parameter names.

        Args:
            state_dict: the authors' state dict; needs free offsets, and the `img_size` it was made with.

        Raises:
            ValueError: names the parameter that is unknown, missing or of another shape than this network's.
        """
        load_published(self, state_dict, _own_name, "S3-Net", HINTS)


def _own_name(published: str) -> str | None:
    """Our name of a parameter or buffer of the published network; `None` for what it does not have."""
    module, _, parameter = published.rpartition(".")
    if module not in PUBLISHED_NAMES:
        return None
    if published == "convdeform.mask":
        parameter = "modulation"
    return f"{PUBLISHED_NAMES[module]}.{parameter}"
