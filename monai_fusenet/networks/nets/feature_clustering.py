"""The network of Kim, Kanezaki and Tanaka 2020: a few convolutions, and scores normalised to one scale."""

from collections.abc import Mapping
from typing import NamedTuple, Optional, Union

from monai.networks.layers.factories import Conv
from torch import Tensor, nn
from torch.nn import functional as F

from monai_fusenet.networks.blocks.inputs import check_images
from monai_fusenet.networks.blocks.layout import channels_last, to_map, to_tokens
from monai_fusenet.networks.blocks.pixel_norm import PixelNorm
from monai_fusenet.networks.published import load_published
from monai_fusenet.utils.checks import check_network

__all__ = ["ConvReLUNorm", "FeatureClusteringNet", "FeatureClusteringOutput"]


class FeatureClusteringOutput(NamedTuple):
    """What training needs: scores (B, features, *spatial)."""

    scores: Tensor


class ConvReLUNorm(nn.Module):
    """3x3 convolution, ReLU and batch norm, in this order.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels in.
        features: channels out.

    Shape:
        (B, in_channels, *spatial) -> (B, features, *spatial)
    """

    def __init__(self, spatial_dims: int, in_channels: int, features: int) -> None:
        super().__init__()
        self.conv = Conv[Conv.CONV, spatial_dims](in_channels, features, kernel_size=3, padding=1)
        self.norm = PixelNorm(features)

    def forward(self, features: Tensor) -> Tensor:
        """Describes each pixel by its neighbourhood."""
        return self.norm(F.relu(self.conv(channels_last(features)), inplace=True))


class FeatureClusteringNet(nn.Module):
    """Scores every pixel of an image for `features` clusters: 3x3 blocks, a linear map, and a last batch norm.

    The last norm gives all clusters the same mean and variance, so that no cluster can take the whole image at the
    start.

    Args:
        spatial_dims: 2 or 3.
        in_channels: image channels.
        features: width of every map, and the number of clusters.
        layers: 3x3 convolution blocks, M of the paper.

    Shape:
        `forward(image)`: (B, in_channels, *spatial) -> scores (B, features, *spatial).
        `forward(image, augmented)`: -> `FeatureClusteringOutput`; the second view is not used.

    Raises:
        ValueError: when `spatial_dims` is not 2 or 3, a count is no whole number above 0, or an image has another
            number of axes or channels.

    Reference:
        Kim, Kanezaki, Tanaka 2020, "Unsupervised Learning of Image Segmentation Based on Differentiable Feature
        Clustering", arXiv 2007.09990.
    """

    def __init__(self, spatial_dims: int = 2, in_channels: int = 3, features: int = 100, layers: int = 2) -> None:
        super().__init__()
        check_network(spatial_dims, in_channels=in_channels, features=features, layers=layers)
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.blocks = nn.Sequential(
            *(ConvReLUNorm(spatial_dims, features if index else in_channels, features) for index in range(layers))
        )
        self.projection = nn.Linear(features, features)
        self.norm = PixelNorm(features)

    # TorchScript reads these annotations (as objects, so this file must not postpone them) and knows no `X | Y`.
    def forward(self, image: Tensor, augmented: Optional[Tensor] = None) -> Union[Tensor, FeatureClusteringOutput]:  # noqa: UP007, UP045
        """Scores for one image; the same scores in a named tuple for a pair."""
        check_images(image, None, self.spatial_dims, self.in_channels)
        tokens = self.projection(to_tokens(self.blocks(image)))
        scores = self.norm(to_map(tokens, list(image.shape[2:])))
        if augmented is None:
            return scores
        return FeatureClusteringOutput(scores)

    def load_published_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Loads weights under the authors' parameter names.

        Args:
            state_dict: the authors' state dict.

        Raises:
            ValueError: names the parameter that is unknown, missing or of another shape than this network's.
        """
        load_published(self, state_dict, published_name, "feature clustering network")


def published_name(published: str) -> str | None:
    """Our name for a parameter of the authors; `None` where they have no parameter of that name."""
    module, _, parameter = published.rpartition(".")
    known = {"conv1": "blocks.0.conv", "bn1": "blocks.0.norm.norm", "conv3": "projection", "bn3": "norm.norm"}
    kind, _, index = module.partition(".")
    if kind in ("conv2", "bn2") and index.isdecimal():
        known[module] = f"blocks.{int(index) + 1}.{'conv' if kind == 'conv2' else 'norm.norm'}"
    return f"{known[module]}.{parameter}" if module in known else None
