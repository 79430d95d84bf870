import dataclasses
import inspect
import pickle

import numpy as np
import pytest

from monai_fusenet.transforms import ClustersToMaskd, choose_foreground
from monai_fusenet.transforms.foreground import Rule
from monai_fusenet.transforms.foreground.rule import shows_rule

FIELDS = {field.name: field.default for field in dataclasses.fields(Rule)}


@pytest.mark.parametrize(
    ("function", "own"),
    [(choose_foreground, ["clusters", "image"]), (ClustersToMaskd, ["keys", "mask_key", "image_key"])],
)
def test_the_fields_of_the_rule_stand_in_the_signature(function, own):
    parameters = inspect.signature(function).parameters
    assert [name for name in parameters if name != "field_key"] == [*own, *FIELDS]
    assert {name: parameters[name].default for name in FIELDS} == FIELDS
    kinds = {parameters[name].kind for name in (*own, *FIELDS)}
    assert kinds == {inspect.Parameter.POSITIONAL_OR_KEYWORD}


def test_a_shown_rule_changes_no_call():
    @shows_rule
    def describe(name: str, *args, **kwargs) -> tuple[str, Rule]:
        return name, Rule(*args, **kwargs)

    assert describe("lesion", 1, "dark", growth=0.1) == ("lesion", Rule(1, "dark", growth=0.1))
    assert str(inspect.signature(describe)).startswith("(name: str, objects: ")
    assert inspect.signature(describe).return_annotation == tuple[str, Rule]


def test_a_misspelt_name_is_refused_at_once():
    with pytest.raises(TypeError, match="unexpected keyword argument 'polarty'"):
        ClustersToMaskd(polarty="dark")
    with pytest.raises(TypeError, match="unexpected keyword argument 'polarty'"):
        choose_foreground(np.ones((5, 7), int), np.zeros((1, 5, 7)), polarty="dark")


def test_a_value_that_makes_no_sense_is_refused_by_the_rule_itself():
    with pytest.raises(ValueError, match=r'^polarity must be "dark", "bright" or "any", got "black"$'):
        Rule(polarity="black")
    with pytest.raises(ValueError, match=r"^objects must be None or a whole number of at least 1, got True$"):
        Rule(objects=True)
    with pytest.raises(ValueError, match=r"^growth must be a finite number from 0 to 0.4, got 0.5$"):
        dataclasses.replace(Rule(), growth=0.5)


def test_a_rule_stays_as_it_was_checked():
    rule = ClustersToMaskd(objects=2).rule
    with pytest.raises(dataclasses.FrozenInstanceError):
        rule.objects = 0
    assert pickle.loads(pickle.dumps(rule)) == rule  # to workers of a data loader
