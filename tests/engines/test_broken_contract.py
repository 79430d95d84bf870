"""A loss that breaks the contract of a method is told in one line, where it is given or at the first step."""

from typing import NamedTuple

import pytest
import torch
from torch import nn
from toy_method import draw_toy_network

from monai_fusenet.engines.contract import check_terms
from monai_fusenet.inferers import PerImageInferer


class Two(NamedTuple):
    total: object
    other: object


class Loss(NamedTuple):
    total: torch.Tensor
    loss: torch.Tensor


class Clusters(NamedTuple):
    total: torch.Tensor
    clusters: torch.Tensor


class Sum(NamedTuple):
    whole: torch.Tensor
    other: torch.Tensor


ONE = torch.ones(())
FORM = "the terms of a loss must be a named tuple of tensors whose first field is total, got "


def test_terms_of_any_other_names_are_right():
    check_terms(Two(ONE, ONE))


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ((ONE, ONE), FORM + "a tuple"),
        (ONE, FORM + "a Tensor"),
        (Sum(ONE, ONE), FORM + "the fields whole, other"),
        (Two(ONE, 0.5), FORM + "the fields total, other"),
        (Loss(ONE, ONE), "a term of a loss may not be named loss: the trainer publishes a number of that name"),
        (Clusters(ONE, ONE), "a term of a loss may not be named clusters: the trainer publishes a number of that name"),
    ],
)
def test_terms_that_break_the_contract(terms, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        check_terms(terms)


def test_a_loss_without_terms_is_refused_where_it_is_given():
    message = r"^loss_function must have a method terms\(output, batch\) that returns a named tuple, got a MSELoss$"
    with pytest.raises(ValueError, match=message):
        PerImageInferer(loss_function=nn.MSELoss())


def test_terms_are_checked_in_a_fit():
    class Wrong:
        def terms(self, output, batch):
            return Loss(output.scores.mean(), output.scores.mean())

    inferer = PerImageInferer(steps=1, loss_function=Wrong(), augmentation=dict)
    with pytest.raises(ValueError, match=r"^a term of a loss may not be named loss"):
        inferer(torch.rand(1, 3, 8, 9), draw_toy_network())
