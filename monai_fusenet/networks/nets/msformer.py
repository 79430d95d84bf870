"""The network of Karimijafarbigloo et al. 2023: one image at two scales in, scores for clusters out."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Optional, Union

from monai.networks.layers.factories import Conv
from torch import Tensor, nn
from torch.nn import functional as F

from monai_fusenet.networks.blocks.efficient_transformer import EfficientTransformerBlock
from monai_fusenet.networks.blocks.expanding import PatchExpanding
from monai_fusenet.networks.blocks.inputs import check_images
from monai_fusenet.networks.blocks.layout import channels_last, to_map, to_tokens
from monai_fusenet.networks.blocks.pixel_norm import PixelNorm
from monai_fusenet.networks.blocks.projection import ShiftedPatchAttention
from monai_fusenet.networks.published import PATCH_HINT, by_module, load_published
from monai_fusenet.utils.checks import check_network

__all__ = ["MSFormer", "MSFormerOutput"]

# The authors' module names, and ours; in their names s is the fine branch, l the coarse one.
PUBLISHED_NAMES = {
    **{
        f"{theirs}_{letter}{more}": f"{branch}.{ours}"
        for letter, branch in (("s", "fine"), ("l", "coarse"))
        for theirs, more, ours in (
            ("patch_embed", ".proj", "conv"),
            ("patch_embed", ".norm", "norm.norm"),
            *(("bn2", f".{index}", f"norms.{index}.norm") for index in range(2)),
            *(
                ("block", f".{index}.{part}", f"blocks.{index}.{own}")
                for index in range(2)
                for part, own in (
                    ("norm1", "norm1"),
                    ("attn.keys", "keys"),
                    ("attn.queries", "queries"),
                    ("attn.values", "values"),
                    ("attn.reprojection", "reprojection"),
                    ("norm2", "norm2"),
                    ("mlp.fc1", "feed_forward.fc1"),
                    ("mlp.dwconv.dwconv", "feed_forward.depthwise"),
                    ("mlp.norm1", "feed_forward.norm"),
                    ("mlp.fc2", "feed_forward.fc2"),
                )
            ),
        )
    },
    "linear_up": "expansion.linear",
    "linear_down": "head",
    "to_patch_embedding.1": "patches.projection",
    "bn3": "patches.norm",
}


class MSFormerOutput(NamedTuple):
    """What training needs.

    Scores (B, features, *spatial), the contexts (B, features, features) of the last block of each branch, and the
    attention between the patches of two windows (B, patches, patches).
    """

    scores: Tensor
    fine_context: Tensor
    coarse_context: Tensor
    patch_attention: Tensor


class Branch(nn.Module):
    """One scale of MS-Former: a strided convolution, then transformer blocks, each followed by batch norm.

    Args:
        spatial_dims: 2 or 3.
        in_channels: image channels.
        features: channels out.
        stride: of the convolution; sides become ceil(side / stride).
        use_checkpoint: of the blocks.

    Shape:
        (B, in_channels, *spatial) -> (B, features, *strided), and the context of the last block (B, features, features)
    """

    def __init__(self, spatial_dims: int, in_channels: int, features: int, stride: int, use_checkpoint: bool) -> None:
        super().__init__()
        self.conv = Conv[Conv.CONV, spatial_dims](in_channels, features, kernel_size=3, stride=stride, padding=1)
        self.norm = PixelNorm(features)
        self.blocks = nn.ModuleList(
            [EfficientTransformerBlock(spatial_dims, features, use_checkpoint) for _ in range(2)]
        )
        self.norms = nn.ModuleList([PixelNorm(features) for _ in range(2)])

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Describes each pixel of `image` at this scale."""
        features = self.norm(self.conv(channels_last(image)))
        context = features
        for block, norm in zip(self.blocks, self.norms):  # noqa: B905 (TorchScript knows no strict)
            features, context = block(features)
            features = norm(features)
        return features, context


class MSFormer(nn.Module):
    """Scores every pixel of an image for `features` clusters, from the image at two scales.

    Args:
        spatial_dims: 2 or 3.
        in_channels: image channels.
        features: width of every description, and number of clusters.
        img_size: spatial size of all images, for the published patch projection, where the number of weights grows with
            the image; `None` (default): any size.
        patch_grid: patches per axis for the intra-scale loss; `None`: 8 in 2-D and 4 in 3-D, 64 patches either way.
        use_checkpoint: compute all activations of the transformer blocks again in the backward pass instead of keeping
            them. For images and volumes whose training would not fit into memory.

    Shape:
        `forward(image)`: (B, in_channels, *spatial) -> scores (B, features, *spatial).
        `forward(image, augmented)`: -> `MSFormerOutput`; the method has one view, `augmented` is not used.

    Raises:
        ValueError: when `spatial_dims` is not 2 or 3, a count is no whole number above 0, an image has another number
            of axes or channels, or in training does not fit `img_size` or is smaller than the patch grid.

    Reference:
        Karimijafarbigloo et al. 2023, "MS-Former: Multi-Scale Self-Guided Transformer for Medical Image Segmentation",
        PMLR 227:680-694.
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 3,
        features: int = 100,
        img_size: int | Sequence[int] | None = None,
        patch_grid: int | None = None,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        patch_grid = {2: 8, 3: 4}.get(spatial_dims, 1) if patch_grid is None else patch_grid
        check_network(spatial_dims, in_channels=in_channels, features=features, patch_grid=patch_grid)
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.fine = Branch(spatial_dims, in_channels, features, 1, use_checkpoint)
        self.coarse = Branch(spatial_dims, in_channels, features, 2, use_checkpoint)
        self.expansion = PatchExpanding(spatial_dims, features)
        self.head = nn.Linear(2 * features, features, bias=False)
        self.patches = ShiftedPatchAttention(spatial_dims, features, patch_grid, img_size)

    # TorchScript reads these annotations (as objects, so this file must not postpone them) and knows no `X | Y`.
    def forward(self, image: Tensor, augmented: Optional[Tensor] = None) -> Union[Tensor, MSFormerOutput]:  # noqa: UP007, UP045
        """Scores for one argument; scores, contexts and patch attention for two."""
        check_images(image, None, self.spatial_dims, self.in_channels)
        fine, fine_context = self.fine(image)
        coarse, coarse_context = self.coarse(image)
        coarse_weight, fine_weight = self.head.weight.chunk(2, dim=1)
        # Differs from the published code, whose coarse map is one pixel too large on odd sides alone, and always loses
        # it: here it is cropped to the image, of any size.
        raised = self.expansion(coarse, coarse_weight)
        excess: list[int] = []  # F.pad counts from the last axis
        for axis in range(image.ndim - 1, 1, -1):
            excess += [0, image.shape[axis] - raised.shape[axis]]
        raised = F.pad(raised, excess)
        scores = to_map(F.linear(to_tokens(fine), fine_weight), list(image.shape[2:])) + raised
        scores = scores.to(fine_weight.dtype)  # mixed precision is for products
        if augmented is None:
            return scores
        return MSFormerOutput(scores, fine_context, coarse_context, self.patches(scores))

    def load_published_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Loads weights under the authors' parameter names.

        Args:
            state_dict: the authors' state dict.

        Raises:
            ValueError: names the parameter that is unknown, missing or of another shape than this network's.
        """
        load_published(self, state_dict, by_module(PUBLISHED_NAMES), "MS-Former", PATCH_HINT)
