"""Paths for the record: names that nobody declared are the model's own words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_agent.core.records import StepContext, ToolSpec
from cascade_agent.validators._safe_path import redact_path


def of(pointer: str, *names: str, schema=None) -> str:
    """The pointer as it is recorded where these names are declared."""
    parameters = schema or {"properties": {name: {} for name in names}}
    return redact_path(pointer, StepContext(tools=[ToolSpec("act", "", parameters)]))


@pytest.mark.parametrize(
    ("pointer", "visible"),
    [
        ("", ""),
        ("/tool_calls/0/args/city", "/tool_calls/0/args/city"),
        ("/tool_calls/0/args/made_up", "/tool_calls/0/args/made_up"),
        ("/tool_calls/0/args/jo@mail.example", "/tool_calls/0/args/*"),
        ("/tool_calls/0/args/people/jo", "/tool_calls/0/args/people/*"),
        ("/tool_calls/0/args/people/jo/age", "/tool_calls/0/args/people/*/age"),
        ("/tool_calls/0/args/list/3", "/tool_calls/0/args/list/3"),
        ("/tool_calls/0/args/phones/4915112345678", "/tool_calls/0/args/phones/*"),
        ("/tool_calls/0/args/people/args/jo", "/tool_calls/0/args/people/args/*"),
        ("/tool_calls/0/args/steps/2/args/x/y", "/tool_calls/0/args/steps/2/args/x/*"),
        ("/parsed/a~1b", "/parsed/a~1b"),
        ("/parsed/a~0b", "/parsed/*"),
        ("/text/steps/1/tool", "/text/steps/1/tool"),
    ],
)
def test_what_is_shown(pointer, visible):
    """Declared names, positions, and the name of an argument that looks like one."""
    assert of(pointer, "city", "people", "age", "list", "phones", "a/b") == visible


@given(keys=st.lists(st.text(min_size=1), max_size=20))
def test_nothing_undeclared_is_named_below_an_argument(keys):
    """Whatever the keys are, only positions and stars come out, and never more than 16 parts."""
    pointer = "/tool_calls/0/args/x" + "".join("/" + k.replace("~", "~0").replace("/", "~1") + "q@" for k in keys)
    parts = of(pointer, "x").split("/")[1:]
    assert parts[:4] == ["tool_calls", "0", "args", "x"]
    assert set(parts[4:]) <= {"*"}
    assert len(parts) <= 16


def test_names_are_found_at_any_depth():
    """Declared is what stands in `$defs`, items and branches too."""
    schema = {
        "$defs": {"a": {"properties": {"deep": {}}}},
        "anyOf": [{"properties": {"b": {"items": {"required": ["c"]}}}}],
    }
    assert of("/parsed/deep/b/c/d", schema=schema) == "/parsed/deep/b/c/*"
