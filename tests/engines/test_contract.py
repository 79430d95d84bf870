"""What passes between engine, network and loss."""

from typing import NamedTuple

import torch

from monai_fusenet.engines.contract import Scores, map_tensors, named_output, network_inputs


class Output(NamedTuple):
    scores: torch.Tensor
    tokens: tuple
    name: str


def test_a_network_sees_the_image_and_a_second_view_where_there_is_one():
    image, augmented = torch.zeros(2, 3, 5, 4), torch.ones(2, 3, 5, 4)
    views = {"correspondence": torch.zeros(2, 1, 5, 4), "image": image}
    assert [id(view) for view in network_inputs(views)] == [id(image)]
    assert [id(view) for view in network_inputs({"augmented": augmented, **views})] == [id(image), id(augmented)]


def test_a_tensor_gets_a_name_and_a_tuple_stays():
    scores = torch.zeros(1, 3, 5, 4)
    assert named_output(scores).scores is scores
    assert Scores._fields == ("scores",)
    for output in ((scores, scores), Output(scores, (), "a")):
        assert named_output(output) is output


def test_tensors_change_and_types_stay():
    one = torch.ones(2)
    output = map_tensors(torch.neg, Output(one, (one, 2 * one), "a"))
    assert type(output) is Output
    assert output.scores.tolist() == [-1, -1]
    assert [part.tolist() for part in output.tokens] == [[-1, -1], [-2, -2]]
    assert output.name == "a"
    assert map_tensors(torch.neg, one).tolist() == [-1, -1]
    for kind in (tuple, list):
        assert type(map_tensors(torch.neg, kind([one, one]))) is kind
