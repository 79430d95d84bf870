"""2-D networks on the slices of a volume."""

from typing import Optional, Union

import torch
from torch import Tensor, nn

from monai_fusenet.networks.nets.fusenet import FuseNetOutput
from monai_fusenet.utils.checks import check_whole

__all__ = ["SlicewiseNetwork", "by_slices"]


class SlicewiseNetwork(nn.Module):
    """Runs a 2-D network on all slices of a volume as one batch, each slice beside its neighbours (2.5-D).

    The slices share weights and, in training mode, batch statistics, so that a cluster means the same in all of them.

    Args:
        network: of 2-D images with (2 * neighbours + 1) times the channels of the volume, such as a `FuseNet`.
        neighbours: slices at either side that are added as channels, in the order of the slices. Beyond the ends, the
            first and the last slice are repeated.

    Shape:
        `forward(volume)`: (B, C, X, Y, Z), with slices along Z -> scores (B, K, X, Y, Z).
        `forward(volume, augmented)`: two such volumes -> the named tuple of the 2-D network. Its maps (scores and
        others of four axes) are put back on the volume. The rest is per slice, such as the tokens (B * Z, patches,
        features) of a `FuseNetOutput`. TorchScript supports only `FuseNetOutput`.

    Raises:
        ValueError: when `neighbours` is no whole number of at least 0.
    """

    def __init__(self, network: nn.Module, neighbours: int = 1) -> None:
        super().__init__()
        check_whole("neighbours", neighbours, 0)
        self.network = network
        self.neighbours = neighbours

    # TorchScript reads these annotations (as objects, so this file must not postpone them) and knows no `X | Y`.
    def forward(self, volume: Tensor, augmented: Optional[Tensor] = None) -> Union[Tensor, FuseNetOutput]:  # noqa: UP007, UP045
        """Scores for one volume; the whole output of the 2-D network for a pair."""
        if augmented is None:
            scores = self.network(self._slices(volume))
            assert isinstance(scores, Tensor)
            return self._volume(scores, volume)
        output = self.network(self._slices(volume), self._slices(augmented))
        if not torch.jit.is_scripting():
            return output._make(self._volume(part, volume) if part.ndim == 4 else part for part in output)
        assert isinstance(output, FuseNetOutput)
        return FuseNetOutput(self._volume(output.scores, volume), output.image_tokens, output.augmented_tokens)

    @torch.jit.export
    def merge(self, scores: Tensor) -> Tensor:
        """Merges clusters of scores (B, K, *spatial) as the 2-D network does; without `merge` they stay as they are."""
        if hasattr(self.network, "merge"):
            return self.network.merge(scores)  # type: ignore[operator]
        return scores

    def _slices(self, volume: Tensor) -> Tensor:
        """(B, C, X, Y, Z) -> (B * Z, (2 * neighbours + 1) * C, X, Y)"""
        depth = volume.shape[4]
        positions = torch.arange(depth, device=volume.device)
        shifted = [
            volume[:, :, :, :, (positions + offset).clamp(0, depth - 1)]
            for offset in range(-self.neighbours, self.neighbours + 1)
        ]
        return torch.cat(shifted, dim=1).movedim(4, 1).flatten(0, 1)

    def _volume(self, slices: Tensor, like: Tensor) -> Tensor:
        """(B * Z, K, X, Y) -> (B, K, X, Y, Z)"""
        return slices.unflatten(0, [like.shape[0], like.shape[4]]).movedim(1, 4)


def by_slices(network: nn.Module, neighbours: Optional[int] = None) -> nn.Module:  # noqa: UP045
    """A 2-D network for volumes, see `SlicewiseNetwork`; the network itself where `neighbours` is `None`."""
    return network if neighbours is None else SlicewiseNetwork(network, neighbours)
