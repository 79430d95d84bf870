"""From a coarse grid to one twice as fine."""

from typing import Optional

from torch import Tensor, nn
from torch.nn import functional as F

from monai_fusenet.networks.blocks.layout import to_tokens

__all__ = ["PatchExpanding"]


class PatchExpanding(nn.Module):
    """Turns each pixel into 2 x 2 pixels, 2 x 2 x 2 in a volume: a linear map without bias, then depth to space.

    The channels of the linear map run (row offset, column offset, feature), which is not the order of torch's
    `PixelShuffle`.

    Args:
        spatial_dims: 2 or 3.
        features: channels in and out.

    Shape:
        (B, features, *spatial) -> (B, features, *twice each side)

    Reference:
        Karimijafarbigloo et al. 2023, PMLR 227:680-694.
    """

    def __init__(self, spatial_dims: int, features: int = 100) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self.features = features
        self.linear = nn.Linear(features, 2**spatial_dims * features, bias=False)

    # TorchScript reads these annotations and knows no `X | Y`.
    def forward(self, coarse: Tensor, projection: Optional[Tensor] = None) -> Tensor:  # noqa: UP045
        """Expands each pixel of `coarse`.

        Args:
            coarse: (B, features, *spatial).
            projection: (out, features), a linear map for each new pixel, so that the result has `out` channels. It is
                applied to the weights, because there are fewer weights than pixels.
        """
        weight = self.linear.weight
        channels = self.features
        if projection is not None:
            weight = (projection @ weight.view(-1, self.features, self.features)).flatten(0, 1)
            channels = projection.shape[0]
        raised = F.linear(to_tokens(coarse), weight)
        spatial = list(coarse.shape[2:])
        raised = raised.unflatten(1, spatial).unflatten(-1, [2] * self.spatial_dims + [channels])
        # (B, *spatial, *offsets, C) -> (B, row, row offset, column, column offset, ..., C)
        order = [0]
        for axis in range(1, self.spatial_dims + 1):
            order += [axis, self.spatial_dims + axis]
        order.append(2 * self.spatial_dims + 1)
        raised = raised.permute(order)
        for axis in range(self.spatial_dims, 0, -1):
            raised = raised.flatten(2 * axis - 1, 2 * axis)
        return raised.movedim(-1, 1)
