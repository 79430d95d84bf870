"""Weights under the names of a published code, checked one by one before any is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

__all__ = ["IGNORED", "load_published"]

IGNORED = ""  # what `rename` returns for weights that the published code has and never uses


def load_published(
    network: nn.Module, state_dict: Mapping[str, Tensor], rename: Callable[[str], str | None], title: str
) -> None:
    """Loads weights under the authors' parameter names.

    Args:
        network: gets the weights, all of them or none.
        state_dict: the authors'; 1x1 convolutions may stand for the linear or affine maps that they are.
        rename: from the authors' name of a parameter or buffer to the network's own; `None` for a name that the
            published code does not know, `IGNORED` for what is left out.
        title: of the published method.

    Raises:
        ValueError: names the parameter that is unknown, missing or of another shape than the network's.
    """
    own = network.state_dict()
    loaded = {}
    for published, value in state_dict.items():
        name = rename(published)
        if name == IGNORED:
            continue
        if name is None or name not in own:
            raise ValueError(f"{published} is no parameter of the published {title}")
        ones = (1,) * (value.ndim - own[name].ndim)
        if tuple(value.shape) != (*own[name].shape, *ones):
            hint = "; its patch projection needs the img_size it was made with" if "patch" in name else ""
            raise ValueError(
                f"{published} has shape {tuple(value.shape)}, but {name} has {tuple(own[name].shape)}{hint}"
            )
        loaded[name] = value.reshape(own[name].shape)
    missing = [name for name in own if name not in loaded and not name.endswith("num_batches_tracked")]
    if missing:
        raise ValueError(f"the published state dict lacks the weights of {missing[0]}")
    network.load_state_dict(loaded, strict=False)
