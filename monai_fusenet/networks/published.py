"""Weights under the parameter names of a method's authors."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

__all__ = ["IGNORED", "PATCH_HINT", "by_module", "load_published"]

IGNORED = ""  # the name of weights that the published code has and never uses
PATCH_HINT = {"patch": "its patch projection needs the img_size it was made with"}

Rename = Callable[[str], str | None]


def by_module(names: Mapping[str, str]) -> Rename:
    """Translates an author's parameter name to ours with a table of modules; `None` if the table lacks the module."""

    def rename(published: str) -> str | None:
        module, _, parameter = published.rpartition(".")
        return f"{names[module]}.{parameter}" if module in names else None

    return rename


def load_published(
    network: nn.Module,
    state_dict: Mapping[str, Tensor],
    rename: Rename,
    title: str,
    hints: Mapping[str, str] | None = None,
) -> None:
    """Loads a state dict of the published code into a network; if anything is wrong, nothing is loaded.

    Args:
        network: gets copies of the weights.
        state_dict: the authors' names and values; 1x1 convolutions are accepted for linear or affine maps.
        rename: from an author's name to the network's own; `None` where the published network has no such parameter,
            `IGNORED` for a parameter that is left out.
        title: name of the published network.
        hints: text added to the error when a parameter has another shape, by a part of the network's own parameter
            name.

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
            hint = "".join(f"; {text}" for part, text in (hints or {}).items() if part in name)
            raise ValueError(
                f"{published} has shape {tuple(value.shape)}, but {name} has {tuple(own[name].shape)}{hint}"
            )
        loaded[name] = value.reshape(own[name].shape)
    missing = [name for name in own if name not in loaded and not name.endswith("num_batches_tracked")]
    if missing:
        raise ValueError(f"the published state dict lacks the weights of {missing[0]}")
    network.load_state_dict(loaded, strict=False)
