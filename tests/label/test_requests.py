"""What clients' requests say; no server, no monailabel."""

import pytest

from monai_fusenet.label.requests import label_names, read_clicks, read_switch


@pytest.mark.parametrize("name", ["Segment_1", "Лёгкое", "左肺", "/etc/passwd", "../a.png", "Foreground", " "])
def test_the_object_has_the_name_that_the_client_gave_it(name):
    assert label_names({"label": name}) == {name: 1}


@pytest.mark.parametrize(
    "request_", [{}, {"label": None}, {"label": ""}, {"label": "background"}, {"label": "Background"}]
)
def test_without_a_name_it_is_the_foreground(request_):
    assert label_names(request_) == {"foreground": 1}


@pytest.mark.parametrize("name", [5, True, ["liver"], {"liver": 1}])
def test_a_name_is_text(name):
    with pytest.raises(ValueError, match=r"^label must be the name of the object, got "):
        label_names({"label": name})


def test_clicks_come_as_json_or_as_its_text():
    for clicks in ([[12, 10.5, 8]], "[[12, 10.5, 8]]"):
        assert read_clicks({"foreground": clicks}, "foreground") == [[12, 10.5, 8]]
    for nothing in ([], "", "[]", None):
        assert read_clicks({"foreground": nothing}, "foreground") == []


@pytest.mark.parametrize(
    "clicks", ["here", "[" * 100000, "5", "null", {"liver": [[1, 2]]}, [1, 2], [["1", "2"]], 7, True]
)
def test_what_are_no_clicks_is_told_in_one_line(clicks):
    with pytest.raises(ValueError, match=r"^background must be a list of clicks, as .*, got ") as told:
        read_clicks({"background": clicks}, "background")
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 250


@pytest.mark.parametrize(("value", "meant"), [(True, True), ("true", True), ("False", False), (None, True), ("", True)])
def test_a_switch_is_true_or_false_or_absent(value, meant):
    assert read_switch({"save_label": value}, "save_label", True) is meant


@pytest.mark.parametrize("value", ["yes", "1", 1, 0, [], {}, 0.0])
def test_anything_else_is_no_switch(value):
    with pytest.raises(ValueError, match=r"^save_label must be true or false, got "):
        read_switch({"save_label": value}, "save_label", True)
