"""The check that a network can take its images."""

from typing import Optional

from torch import Tensor

__all__ = ["check_images"]


# TorchScript reads this annotation as an object, so this file must not postpone it, and knows no `X | Y`.
def check_images(image: Tensor, augmented: Optional[Tensor], spatial_dims: int, in_channels: int) -> None:  # noqa: UP045
    """Checks the views of a network.

    Args:
        image: (B, in_channels, *spatial).
        augmented: a second view, of the same shape; `None` where there is none or it is not used.
        spatial_dims: 2 or 3.
        in_channels: image channels.

    Raises:
        ValueError: when the number of axes or channels is wrong, or the views differ in shape.
    """
    if image.ndim != 2 + spatial_dims or image.shape[1] != in_channels:
        raise ValueError(
            f"images must have {in_channels} channels and {spatial_dims} spatial axes, got {list(image.shape)}"
        )
    if augmented is not None and augmented.shape != image.shape:
        raise ValueError(
            f"image and augmented must have the same shape, got {list(image.shape)} and {list(augmented.shape)}"
        )
