"""Every kind of tool that can be bound becomes a spec; what is no tool is refused by name."""

from __future__ import annotations

import functools
import gc
import subprocess
import sys
import threading
import weakref
from typing import Annotated, Any

import pytest
from langchain_core.tools import BaseTool, InjectedToolCallId, StructuredTool, Tool, tool
from langgraph.prebuilt import InjectedState, ToolRuntime
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from cascade_agent.core.records import ToolSpec
from cascade_agent.errors import ConfigurationError
from cascade_agent.models import tool_spec as toolspec
from cascade_agent.models.tool_spec import tool_specs

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


class Book(BaseModel):
    """Book a seat."""

    seats: int = Field(ge=1, description="how many")


class Typed(TypedDict):
    """A typed dict."""

    seats: int


@tool
def weather(city: str, days: int = 1) -> str:
    """Tell the weather."""
    return f"{city} {days}"


@pytest.mark.parametrize(
    "given",
    [
        {"type": "function", "function": {"name": "weather", "description": "d", "parameters": SCHEMA}},
        {"type": "function", "name": "weather", "description": "d", "parameters": SCHEMA},
        {"name": "weather", "description": "d", "parameters": SCHEMA},
        {"name": "weather", "description": "d", "input_schema": SCHEMA},
        {"name": "weather", "description": "d", "input_schema": SCHEMA, "type": "custom", "cache_control": {"type": "ephemeral"}},
        {"name": "weather", "description": "d", "inputSchema": SCHEMA},
        {"toolSpec": {"name": "weather", "description": "d", "inputSchema": {"json": SCHEMA}}},
        {"function_declarations": [{"name": "weather", "description": "d", "parameters": SCHEMA}]},
        ToolSpec("weather", "d", SCHEMA),
    ],
)  # fmt: skip
def test_every_dialect_of_a_dict_gives_the_same_spec(given: Any):
    """Name, description and schema are found in each provider's form; the schema is passed on as the same object."""
    (spec,) = tool_specs([given])
    assert (spec.name, spec.description, spec.native, spec.strict) == ("weather", "d", None, False)
    assert spec.parameters is SCHEMA


def test_unusual_schemas():
    """A titled schema, a dict schema, one argument, free text and a class inside of a dict are each read as what they are."""
    schema = {"title": "weather", "description": "d", **SCHEMA}
    (spec,) = tool_specs([schema])
    assert (spec.name, spec.description, spec.parameters) == ("weather", "d", schema)
    remote = StructuredTool(name="remote", description="d", args_schema=SCHEMA, func=print)
    (spec,) = tool_specs([remote])
    assert spec.native is None
    assert spec.parameters["properties"] == SCHEMA["properties"]
    (spec,) = tool_specs([Tool(name="t", func=str, description="d")])
    assert list(spec.parameters["properties"]) == ["__arg1"]
    assert spec.native is not None
    (spec,) = tool_specs([Tool(name="t", func=str, description="d", metadata={"type": "custom_tool"})])
    assert (spec.parameters, spec.native) == ({}, None)
    (spec,) = tool_specs([{"name": "book", "parameters": Book}])
    assert list(spec.parameters["properties"]) == ["seats"]
    specs = tool_specs([{"function_declarations": [{"name": "a"}, {"name": "b", "parametersJsonSchema": SCHEMA}]}])
    assert [s.name for s in specs] == ["a", "b"]
    assert specs[1].parameters is SCHEMA


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"type": "web_search_20250305", "name": "web_search", "max_uses": 3}, "web_search"),
        ({"type": "computer_20250124", "name": "computer", "display_width_px": 1}, "computer"),
        ({"type": "web_search"}, "web_search"),
        ({"type": "mcp", "server_label": "x", "server_url": "https://example.com"}, "mcp"),
        ({"type": "custom", "name": "grep", "format": {"type": "text"}}, "grep"),
        ({"google_search": {}}, "google_search"),
        ({"cachePoint": {"type": "default"}}, "cachePoint"),
        ({"name": "ping"}, "ping"),
        ({"type": "function", "function": {"name": "ping", "parameters": None}}, "ping"),
    ],
)
def test_a_tool_without_a_schema_is_offered_with_unchecked_arguments(given: Any, name: str):
    """Tools that the provider runs itself, and functions without parameters, have an empty schema."""
    (spec,) = tool_specs([given])
    assert (spec.name, spec.parameters, spec.native) == (name, {}, None)


def test_strict_is_read_from_the_function_from_the_tool_and_from_a_tool_s_extras():
    """All places where providers put it count, and only a true boolean does."""
    inside = {"type": "function", "function": {"name": "a", "strict": True}}
    beside = {"type": "function", "strict": True, "function": {"name": "a"}}
    flat = {"type": "function", "name": "a", "parameters": {}, "strict": True}
    extra = StructuredTool.from_function(lambda x: x, name="a", description="d", extras={"strict": True})
    assert [s.strict for s in tool_specs([inside, beside, flat, extra])] == [True] * 4
    assert [s.strict for s in tool_specs([{"name": "a", "strict": "yes"}])] == [False]


def test_a_langchain_tool_is_offered_without_what_the_host_injects():
    """State, runtime and call id are no arguments of the model; the tool itself is kept."""

    @tool
    def look(
        query: str,
        state: Annotated[dict[str, Any], InjectedState],
        runtime: ToolRuntime,
        call: Annotated[str, InjectedToolCallId],
    ) -> str:
        """Look."""
        return query

    (spec,) = tool_specs([look])
    assert list(spec.parameters["properties"]) == ["query"]
    assert spec.native is look
    assert spec.description == "Look."


def test_a_runtime_that_is_injected_by_name_is_not_asked_of_the_model():
    """`ToolNode` fills a bare parameter `runtime`; an annotated one (a film's length) is an argument like others."""

    def injected(city: str, runtime):
        """Look up."""

    def film(title: str, runtime: int):
        """Look up."""

    bare, annotated = tool_specs([injected, film])
    assert (set(bare.parameters["properties"]), bare.parameters["required"], bare.native) == ({"city"}, ["city"], None)
    assert set(annotated.parameters["properties"]) == {"title", "runtime"}


def test_a_tool_class_without_args_schema_is_read_from_its_method():
    """A subclass of BaseTool may only write `_run`."""

    class Own(BaseTool):
        name: str = "own"
        description: str = "d"

        def _run(self, query: str, limit: int = 1) -> str:
            return query * limit

    (spec,) = tool_specs([Own()])
    assert list(spec.parameters["properties"]) == ["query", "limit"]


def test_functions_and_classes_are_read_as_an_agent_reads_them():
    """Plain, async and undocumented functions, methods, pydantic and TypedDict classes."""

    async def later(when: str) -> str:
        """Do it later.

        Args:
            when: a date
        """
        return when

    def bare(a: int, b: str = "x") -> str:
        return b * a

    class Desk:
        def ask(self, question: str) -> str:
            """Ask the desk."""
            return question

    specs = tool_specs([later, bare, Desk().ask, Book, Typed])
    assert [s.name for s in specs] == ["later", "bare", "ask", "Book", "Typed"]
    assert [list(s.parameters["properties"]) for s in specs] == [
        ["when"],
        ["a", "b"],
        ["question"],
        ["seats"],
        ["seats"],
    ]
    assert specs[0].description == "Do it later."
    assert specs[0].parameters["properties"]["when"]["description"] == "a date"
    assert [s.native is None for s in specs] == [False, False, False, False, True]
    assert specs[3].native is not None
    assert specs[3].native.args_schema is Book


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "tools is a NoneType"),
        ("weather", "tools is a str"),
        ({"name": "weather"}, "put a single tool into a list"),
        (7, "tools is a int"),
        ([5], r"tools\[0\] is a int and no tool"),
        ([weather, None], r"tools\[1\] is a NoneType and no tool"),
        ([{}], r"tools\[0\] is a dict with the keys \[\]"),
        ([{"properties": {}}], "JSON Schema with a `title`"),
        ([{"google_search": 5}], r"keys \['google_search'\]"),
        ([{"type": "object", "properties": {}}], "JSON Schema with a `title`"),
        ([{"type": "function", "function": {"description": "d"}}], "give the tool a non-empty string as `name`"),
        ([{"name": 5, "parameters": {}}], "no usable name"),
        ([{"name": "a", "parameters": "x"}], r"\('a'\) has a str as parameters; expected a JSON Schema"),
        ([{"name": "a", "input_schema": [1]}], "has a list as parameters"),
        ([{"function_declarations": ["x"]}], r"function_declarations\[0\] is a str"),
        ([{"toolSpec": {"inputSchema": {}}}], "toolSpec has no usable name"),
        ([{"title": "", "type": "object", "properties": {}}], "no usable name"),
        ([int], r"the arguments of tools\[0\] \('int'\) cannot be read"),
        ([functools.partial(print, "x")], r"\('partial'\) cannot be read as a JSON Schema"),
    ],
)
def test_what_is_no_tool_is_refused_by_name_and_with_a_mend(given: Any, words: str):
    """The message names the place, what was found and what to do."""
    with pytest.raises(ConfigurationError, match=words):
        tool_specs(given)


def test_the_memory_of_tools():
    """The same tool gives the same spec until it is changed; tools made per request are forgotten in turn."""
    own = StructuredTool.from_function(lambda x: x, name="own", description="d")
    first = tool_specs([own])[0]
    assert tool_specs([own])[0] is first
    own.description = "another"
    second = tool_specs([own])[0]
    assert second is not first
    assert second.description == "another"
    first = StructuredTool.from_function(lambda x: x, name="own", description="d")
    gone = weakref.ref(first)
    tool_specs([first])
    del first
    for _ in range(toolspec._MEMO_SIZE + 1):
        tool_specs([Tool(name="t", func=str, description="d")])
    gc.collect()
    assert len(toolspec._memo) <= toolspec._MEMO_SIZE
    assert gone() is None


def test_many_threads_read_the_same_tools():
    """Sixteen threads describe the same tools at once; each gets all of them."""
    tools = [weather, Book, {"name": "a"}]
    names: list[list[str]] = []
    threads = [threading.Thread(target=lambda: names.append([s.name for s in tool_specs(tools)])) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names == [["weather", "Book", "a"]] * 16


def test_importing_the_module_imports_no_host():
    """Neither LangChain nor pydantic is loaded until a tool object is read."""
    code = "import sys, cascade_agent.models.tool_spec as t; t.tool_specs([{'name': 'a'}]); print([m for m in ('langchain_core', 'pydantic', 'langgraph') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
