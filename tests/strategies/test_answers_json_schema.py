"""Which JSON values mean the same under a schema."""

from typing import Any

import pytest

from strategies.answers.json_answer import find_json
from strategies.answers.json_schema import MAX_DEFAULTS, normal_form


def _alike(schema: dict[str, Any], *texts: str) -> bool:
    keys = [found.key if (found := find_json(text, schema)) else None for text in texts]
    return None not in keys and len(set(keys)) == 1


def _of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def test_a_member_left_out_is_its_default() -> None:
    schema = _of(a={"type": "number", "default": 1.0}, b={"default": {"c": [2.0]}})

    assert _alike(schema, "{}", '{"a": 1}', '{"a": 1.0, "b": {"c": [2]}}')
    assert not _alike(schema, "{}", '{"a": 2}')


def test_so_is_one_within_a_default_or_a_list_or_a_reference() -> None:
    inner = _of(unit={"default": "km"})
    schema = {**_of(one={"$ref": "#/$defs/in/x~1y", "default": {}}, many={"type": "array", "items": inner})}
    schema["$defs"] = {"in": {"x/y": inner}}

    assert _alike(schema, "{}", '{"one": {}}', '{"one": {"unit": "km"}}')
    assert _alike(schema, '{"many": [{}]}', '{"many": [{"unit": "km"}]}')


def test_a_default_that_is_a_set_has_no_order() -> None:
    schema = _of(a={"type": "array", "uniqueItems": True, "default": [2, 1]})

    assert _alike(schema, "{}", '{"a": [1, 2]}', '{"a": [2.0, 1]}')


def test_only_sets_have_no_order() -> None:
    assert not _alike(_of(a={"type": "array"}), '{"a": [1, 2]}', '{"a": [2, 1]}')
    assert _alike(_of(a={"uniqueItems": True}), '{"a": [{"x": 1}, [2]]}', '{"a": [[2], {"x": 1.0}]}')


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (_of(a={"type": "integer"}), '{"a": 1.5}'),
        (_of(a={"type": "integer"}), '{"a": true}'),
        (_of(a={"type": ["string", "null"]}), '{"a": 1}'),
        (_of(a={"enum": [1, "x"]}), '{"a": 2}'),
        (_of(a={"enum": [1]}), '{"a": true}'),
        (_of(a={"const": True}), '{"a": 1}'),
        ({**_of(), "required": ["a"]}, "{}"),
        ({"type": "array"}, "{}"),
    ],
)
def test_what_breaks_its_schema_abstains(schema: dict[str, Any], text: str) -> None:
    assert find_json(text) is not None
    assert find_json(text, schema) is None


def test_one_zero_is_an_integer() -> None:
    assert find_json('{"a": 1.0}', _of(a={"type": "integer"})) is not None


def test_the_whole_schema_may_be_referred_to() -> None:
    tree = _of(left={"$ref": "#"}, tag={"default": "x"})

    assert _alike(tree, '{"left": {}}', '{"left": {"tag": "x"}, "tag": "x"}')


def test_a_default_that_breaks_its_own_schema_stands_as_it_is() -> None:
    assert normal_form({}, _of(a={"type": "string", "default": None})) == {"a": None}


def test_defaults_of_their_own_kind_come_to_an_end() -> None:
    """Two such members would double at every level: such a value abstains instead."""
    schema = _of(left={"$ref": "#", "default": {}}, right={"$ref": "#", "default": {}})

    with pytest.raises(ValueError, match="too many defaults"):
        normal_form({}, schema)
    assert MAX_DEFAULTS >= 100


def test_a_reference_to_itself_comes_to_an_end() -> None:
    with pytest.raises(ValueError, match="too deeply"):
        normal_form(1, {"$ref": "#/a", "a": {"$ref": "#/a"}})


@pytest.mark.parametrize("schema", [{"required": 5}, {"required": None}, {"type": {}}, {"type": [[]]}, {"enum": 5}])
def test_a_member_that_is_no_schema_says_nothing(schema: dict[str, Any]) -> None:
    assert normal_form({"a": 1}, schema) == {"a": 1}
