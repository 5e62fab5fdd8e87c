"""Reads what the model is offered: any tool that LangChain can bind becomes a `ToolSpec`.

Reading a tool never runs it, never resolves a reference in its schema and never fails on a tool that the provider
itself carries out; it fails, naming the tool, only on what no provider could be offered.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from cascade_agent.core.records import ToolSpec
from cascade_agent.errors import ConfigurationError

if TYPE_CHECKING:
    from langchain_core.tools import BaseTool

    from cascade_agent.core.clean_json import JsonMapping, JsonObject

ToolLike = Any
"""A LangChain tool, a function, a pydantic or TypedDict class, or a tool as a dict in a provider's or MCP's form."""

_PARAMETER_KEYS = ("parameters", "input_schema", "inputSchema", "parametersJsonSchema", "parameters_json_schema")
_SEVERAL = ("function_declarations", "functionDeclarations")
_SIMPLE_TOOL: JsonObject = {"type": "object", "properties": {"__arg1": {"type": "string"}}, "required": ["__arg1"]}
"""The schema that LangChain offers for a `Tool` without one of its own."""

_MEMO_SIZE = 256
_memo: dict[int, tuple[object, tuple[object, ...], ToolSpec]] = {}
_memo_lock = threading.Lock()


def tool_specs(tools: Sequence[ToolLike]) -> tuple[ToolSpec, ...]:
    """Describe each tool as the model sees it.

    Accepts LangChain tools, plain functions, pydantic and TypedDict classes, and dicts in the forms of OpenAI (nested
    and flat), Anthropic, Bedrock Converse, Gemini (`function_declarations` gives several), MCP (`inputSchema`) and
    plain JSON Schema with a `title`. The schema of a LangChain tool is its `tool_call_schema`: injected arguments
    (state, runtime, call id) are not part of it. A tool that the provider runs itself (such as
    `{"type": "web_search_20250305"}`) becomes a spec whose arguments are unchecked.

    The same tool object gives the same `ToolSpec` again (the last 256 are remembered), so what is compiled per spec is
    compiled once. A dict is read anew each time, but its schema is passed on as the same object.

    Args:
        tools: What is bound to the model, in order.

    Returns:
        The specs, in order.

    Raises:
        ConfigurationError: something that is no tool, a tool without a usable name, or a schema that cannot be read.
    """
    if isinstance(tools, str | bytes | Mapping) or not isinstance(tools, Sequence):
        msg = f"tools is a {type(tools).__name__}; expected a sequence of tools: put a single tool into a list"
        raise ConfigurationError(msg)
    out: list[ToolSpec] = []
    for index, tool in enumerate(tools):
        if isinstance(tool, ToolSpec):
            out.append(tool)
        elif isinstance(tool, Mapping):
            out.extend(_from_mapping(tool, f"tools[{index}]"))
        else:
            out.append(_remembered(tool, f"tools[{index}]"))
    return tuple(out)


def _remembered(tool: ToolLike, where: str) -> ToolSpec:
    # What, when reassigned on the same object, makes it another tool, is compared on each look-up.
    stamp = (getattr(tool, "name", None), getattr(tool, "description", None), id(getattr(tool, "args_schema", None)))
    known = _memo.get(id(tool))
    if known is not None and known[0] is tool and known[1] == stamp:
        return known[2]
    spec = _from_object(tool, where)
    with _memo_lock:
        while len(_memo) >= _MEMO_SIZE:
            del _memo[next(iter(_memo))]
        _memo[id(tool)] = (tool, stamp, spec)
    return spec


# ---- dicts ----------------------------------------------------------------------------------------------------------


def _from_mapping(tool: JsonMapping, where: str) -> tuple[ToolSpec, ...]:
    """Read one dict; the forms differ in which key holds name and schema."""
    for key in _SEVERAL:
        if isinstance(tool.get(key), list | tuple):
            return tuple([_declared(t, f"{where}.{key}[{i}]") for i, t in enumerate(tool[key])])
    if isinstance(spec := tool.get("toolSpec"), Mapping):
        inner = spec.get("inputSchema")
        schema = inner.get("json") if isinstance(inner, Mapping) else inner
        return (_declared({**spec, "inputSchema": schema}, f"{where}.toolSpec", strict=False),)
    if isinstance(tool.get("function"), Mapping):
        return (_declared(tool["function"], f"{where}.function", strict=tool.get("strict")),)
    return (_flat(tool, where),)


def _flat(tool: JsonMapping, where: str) -> ToolSpec:
    """Read a dict that is a tool itself, a JSON Schema, or the provider's own tool."""
    kind = tool.get("type")
    if any(key in tool for key in _PARAMETER_KEYS):
        return _declared(tool, where)
    if "title" in tool and ("properties" in tool or kind == "object"):
        return ToolSpec(_name(tool["title"], where), _text(tool.get("description")), tool)
    if isinstance(kind, str) and kind not in ("function", "object"):
        return ToolSpec(str(tool.get("name") or kind), _text(tool.get("description")))
    if isinstance(tool.get("name"), str):
        return _declared(tool, where)
    if len(tool) == 1 and not {"type", "properties"} & set(tool):
        name, value = next(iter(tool.items()))
        if isinstance(name, str) and (value is None or isinstance(value, Mapping)):
            return ToolSpec(name, _text(tool.get("description")))  # {"google_search": {}}, {"cachePoint": {...}}
    mend = "give it a `name` and `parameters`, or a JSON Schema with a `title`"
    keys = sorted(str(key)[:40] for key in tool)[:8]
    msg = f"{where} is a dict with the keys {keys} and no tool in it: {mend}"
    raise ConfigurationError(msg)


def _declared(tool: object, where: str, *, strict: object = None) -> ToolSpec:
    """Read `{name, description, parameters | input_schema}`."""
    if not isinstance(tool, Mapping):
        msg = f"{where} is a {type(tool).__name__}; expected a dict with a `name` and `parameters`"
        raise ConfigurationError(msg)
    name = _name(tool.get("name"), where)
    schema = next((tool[key] for key in _PARAMETER_KEYS if tool.get(key) is not None), None)
    strict = (tool.get("strict") if strict is None else strict) is True
    return ToolSpec(name, _text(tool.get("description")), _schema(schema, f"{where} ({name!r})"), strict=strict)


def _name(name: object, where: str) -> str:
    if isinstance(name, str) and name:
        return name
    msg = f"{where} has no usable name (found a {type(name).__name__}): give the tool a non-empty string as `name`"
    raise ConfigurationError(msg)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _schema(schema: object, where: str) -> JsonMapping:
    if schema is None:
        return {}
    if isinstance(schema, Mapping):
        return schema
    if isinstance(schema, type) and hasattr(schema, "model_json_schema"):
        return cast("JsonMapping", schema.model_json_schema())
    msg = f"{where} has a {type(schema).__name__} as parameters; expected a JSON Schema: pass a dict"
    raise ConfigurationError(msg)


# ---- objects --------------------------------------------------------------------------------------------------------


def _from_object(tool: ToolLike, where: str) -> ToolSpec:
    """Read a LangChain tool, a class or a function; imports LangChain, which whoever holds such a tool has done."""
    from langchain_core.tools import BaseTool

    name = str(getattr(tool, "name", None) or getattr(tool, "__name__", None) or type(tool).__name__)
    if not isinstance(tool, BaseTool) and not callable(tool):
        msg = f"{where} is a {type(tool).__name__} and no tool: pass a LangChain tool, a function, a class or a dict"
        raise ConfigurationError(msg)
    try:
        if isinstance(tool, BaseTool):
            return _from_base_tool(tool)
        if inspect.isclass(tool):
            return _from_class(tool)
        return _from_base_tool(_function_tool(tool))
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        mend = "annotate them, or pass a dict"
        msg = f"the arguments of {where} ({name!r}) cannot be read as a JSON Schema ({reason}): {mend}"
        raise ConfigurationError(msg) from error


def _from_base_tool(tool: BaseTool) -> ToolSpec:
    from langchain_core.tools import Tool

    name = _name(tool.name, "a tool")
    if (tool.metadata or {}).get("type") == "custom_tool":
        return ToolSpec(name, tool.description)  # free text in the provider's own grammar
    if isinstance(tool, Tool) and not tool.args_schema:
        return ToolSpec(name, tool.description, _SIMPLE_TOOL, native=tool)
    model = tool.tool_call_schema
    strict = (getattr(tool, "extras", None) or {}).get("strict") is True
    schema = model if isinstance(model, Mapping) else _json_schema_of(model)
    native = None if isinstance(model, Mapping) else tool
    if "runtime" in (schema.get("properties") or {}) and _takes_runtime(tool):
        schema, native = _without_runtime(schema), None  # the tool's own model would miss it
    return ToolSpec(name, tool.description, schema, native=native, strict=strict)


def _takes_runtime(tool: BaseTool) -> bool:
    """Tell whether `ToolNode` injects its runtime by the name of a parameter: `runtime`, without annotation."""
    function = getattr(tool, "func", None) or getattr(tool, "coroutine", None) or tool._run
    found = inspect.signature(function).parameters.get("runtime")
    return found is not None and found.annotation is inspect.Parameter.empty


def _without_runtime(schema: JsonMapping) -> JsonMapping:
    properties = {key: value for key, value in schema["properties"].items() if key != "runtime"}
    required = [key for key in schema.get("required") or () if key != "runtime"]
    return {**schema, "properties": properties, "required": required}


def _json_schema_of(model: Any) -> JsonMapping:
    make = getattr(model, "model_json_schema", None) or model.schema  # the second for pydantic's v1 classes
    return cast("JsonMapping", make())


def _from_class(tool: type) -> ToolSpec:
    """A pydantic class stands for a tool whose arguments it holds; any other class (a TypedDict) is only described."""
    from langchain_core.tools import StructuredTool
    from langchain_core.utils.function_calling import convert_to_openai_function

    function = convert_to_openai_function(tool)
    name, description = _name(function.get("name"), "a class"), _text(function.get("description"))
    if not hasattr(tool, "model_validate"):
        return ToolSpec(name, description, function.get("parameters") or {})
    native = StructuredTool(name=name, description=description, args_schema=tool, func=None)
    return ToolSpec(name, description, _json_schema_of(tool), native=native)


def _function_tool(function: Any) -> BaseTool:
    """Build the tool that an agent builds from a plain function."""
    from langchain_core.tools import StructuredTool

    is_async = inspect.iscoroutinefunction(function)
    return StructuredTool.from_function(
        func=None if is_async else function,
        coroutine=function if is_async else None,
        description=None if inspect.getdoc(function) else getattr(function, "__name__", type(function).__name__),
        parse_docstring=bool(inspect.getdoc(function)),
        error_on_invalid_docstring=False,
    )
