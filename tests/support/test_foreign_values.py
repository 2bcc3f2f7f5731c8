"""Values of files in messages: short ones whole, others cut, and not gone through where they share their parts."""

import json
from typing import Any

import pytest

from fastat.support.files import differences
from fastat.support.files.foreign_json import check_json, shortly


def shared(value: Any, levels: int = 30, kind: type = list) -> Any:
    """10^levels items, of a few hundred places in memory."""
    for _ in range(levels):
        value = kind([value] * 10)
    return value


@pytest.mark.parametrize("kind", [list, tuple])
def test_lists_that_share_their_items_are_named_at_once(kind):
    value = {"a": shared("x", kind=kind)}
    assert len(shortly(value)) <= 300
    assert all(len(text) < 700 for text in differences(value, {"a": 1, **shared({}, 0)}))
    with pytest.raises(ValueError, match=r"here must be a number, got [(\[]"):
        check_json(value["a"], float, "here")
    with pytest.raises(ValueError, match="here is nested too deeply, or too large"):
        check_json(shared("x", 15, kind), object, "here")
    check_json(shared("x", 3, kind), object, "here")


def test_texts_are_said_as_they_are():
    path = f"folder:/data/{'Bilder/' * 20}größer"
    assert shortly(path) == f"'{path}'"
    assert shortly("a\nb\x1b[1m\u202e") == r"'a\nb\x1b[1m\u202e'"
    assert len(shortly("x" * 10**6)) == 300 and shortly(10**5000) == "a int"
    assert shortly({"a": [1, None]}) == "{'a': [1, None]}"


def test_nested_json_is_refused():
    with pytest.raises(ValueError, match="nested too deeply"):
        check_json(json.loads("[" * 30 + "]" * 30), object, "here")
