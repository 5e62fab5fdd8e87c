"""Options of a call, read once in one form and handed to each tier in its own; dropped with one warning, or refused."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from cascade_agent._log import LOG
from cascade_agent.errors import ConfigurationError
from cascade_agent.models import prompt_cache
from cascade_agent.models.tool_spec import tool_specs
from cascade_agent.models.traits import OLLAMA_OPTIONS

if TYPE_CHECKING:
    from cascade_agent.core.clean_json import JsonMapping, JsonObject
    from cascade_agent.models.traits import ModelTraits

_WORDS_OF_OPENAI = (
    "web_search web_search_preview file_search computer computer_use_preview code_interpreter mcp image_generation "
    "local_shell shell apply_patch tool_search"
)
_OPENAI_TOOLS = frozenset(_WORDS_OF_OPENAI.split())
_GOOGLE_TOOLS = frozenset({"google_search", "google_search_retrieval", "code_execution", "url_context", "google_maps"})
_DATED = re.compile(r"_\d{8}$")
_FORMATS = {
    "response_format": None,
    "format": "ollama",
    "response_json_schema": "google_genai",
    "response_schema": "google_genai",
    "output_format": "anthropic",
    "output_config": "anthropic",
    "text": "openai",
    "extra_body": None,
    "response_mime_type": "google_genai",
}
"""Options that hold the format of the answer, alone or among others, and whose they are (`text`: of Responses)."""
_NESTED_FORMATS = frozenset({"output_config", "text"})
CONSTRAINING = frozenset({"tool_choice", "tool_config", "parallel_tool_calls", "stop", *_FORMATS})
"""Options that demand something of the answer."""
ANY_OBJECT: Mapping[str, str] = {"type": "object"}


@dataclass(frozen=True, kw_only=True)
class BoundConstraints:
    """The demands that the options of a call make of its answer; `vars` of them are arguments of a `StepContext`."""

    tool_choice: str | None = None
    """`none`, `required`, or the name of the only tool that may be called; None leaves it to the model."""
    allowed_tools: tuple[str, ...] | None = None
    """The tools that may be called, where they are fewer than those on offer."""
    single_call: bool = False
    """At most one call (`parallel_tool_calls=False`)."""
    output_schema: object = None
    """The schema that text must follow: a class or a JSON Schema."""
    stop: tuple[str, ...] = ()


_Mode = Literal["auto", "none", "required", "tool"]
_MODES: Mapping[str, _Mode] = {"any": "required", "required": "required", "auto": "auto", "none": "none"}


@dataclass(frozen=True, slots=True)
class _Choice:
    mode: _Mode
    name: str | None = None
    allowed: tuple[str, ...] | None = None
    single: bool = False


def bound_constraints(options: JsonMapping) -> BoundConstraints:
    """Return what the options given to `bind`, `bind_tools` or a call demand of the answer."""
    choice = _chosen(options)
    mode = None if choice is None or choice.mode == "auto" else choice.mode
    stop = options.get("stop") or ()
    return BoundConstraints(
        tool_choice=choice.name if choice is not None and mode == "tool" else mode,
        allowed_tools=None if choice is None else choice.allowed,
        single_call=options.get("parallel_tool_calls") is False or (choice is not None and choice.single),
        output_schema=_output_schema(options),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
    )


def _output_schema(options: JsonMapping) -> object:
    """Return the schema that text must follow, in any provider's words (OpenAI's form, a class, a bare JSON Schema)."""
    value = next((found for name in _FORMATS if (found := _format_in(name, options.get(name)))), None)
    if value == "json" or (isinstance(value, Mapping) and value.get("type") == "json_object"):
        return ANY_OBJECT
    if not isinstance(value, Mapping):
        return value if isinstance(value, type) else None
    if value.get("type") == "text":
        return None
    inner = value.get("json_schema")
    return inner.get("schema") if isinstance(inner, Mapping) else value.get("schema", value)


def _format_in(name: str, value: Any) -> Any:
    """Return the format that an option holds."""
    if name == "response_mime_type":
        return "json" if value == "application/json" else None
    if name == "extra_body" and isinstance(value, Mapping):  # vLLM's own, and what its client has no option for
        outputs = value.get("structured_outputs")
        inner = outputs.get("json") if isinstance(outputs, Mapping) else None
        return inner or value.get("guided_json") or value.get("response_format")
    if name in _NESTED_FORMATS or name == "extra_body":
        return value.get("format") if isinstance(value, Mapping) else None
    return value


def _chosen(options: JsonMapping) -> _Choice | None:
    """Read the choice of a tool, in Google's `tool_config` too."""
    choice, config = _choice(options.get("tool_choice")), options.get("tool_config")
    if choice is not None or config is None:
        return choice
    config = config if isinstance(config, Mapping) else config.model_dump(mode="json")
    calling = config.get("function_calling_config") or config.get("functionCallingConfig") or {}
    names = calling.get("allowed_function_names") or calling.get("allowedFunctionNames")
    mode = calling.get("mode") or "auto"
    mode = _MODES.get(str(getattr(mode, "value", mode)).lower(), "auto")
    return _Choice(mode, allowed=tuple(names) if names else None)


def _choice(value: object) -> _Choice | None:
    """Read a `tool_choice` in any provider's spelling."""
    if value is None or value is False:
        return None
    if value is True:
        return _Choice("required")
    if isinstance(value, str):
        return _Choice(_MODES[value]) if value in _MODES else _Choice("tool", value)
    if not isinstance(value, Mapping):
        msg = f"tool_choice is a {type(value).__name__}; expected a word, a tool's name, True or a provider's dict"
        raise ConfigurationError(msg)
    if value.get("type") == "allowed_tools":
        inner = value.get("allowed_tools")
        inner = inner if isinstance(inner, Mapping) else value
        names = tuple(name for tool in inner.get("tools") or () if (name := _named(tool)))
        return _Choice("required" if inner.get("mode") in ("required", "any") else "auto", allowed=names or None)
    name = _named(value)
    found = _choice(value.get("type")) if name is None else _Choice("tool", name)
    return found and replace(found, single=value.get("disable_parallel_tool_use") is True)


def _named(value: object) -> str | None:
    if not isinstance(value, Mapping):
        return None
    function = value.get("function")
    name = function.get("name") if isinstance(function, Mapping) else value.get("name")
    return name if isinstance(name, str) else None


# ---- for one tier ---------------------------------------------------------------------------------------------------


def offer_for(
    model: ModelTraits, tools: Sequence[Any], options: JsonMapping, *, mixed: bool = True
) -> tuple[list[Any], JsonObject]:
    """Return tools and options as a model takes them; what was given is left as it is.

    `mixed` says that they may have been made for another kind of model, whose cache marks then go.

    Raises:
        ConfigurationError: a tool that only another provider carries out.
    """
    for tool in tools:
        owner = _carried_out_by(tool)
        if owner is not None and model.known and model.family != owner:
            mend = "offer a tool that runs on your side, or a pair of that provider"
            which = f"the tool {_tool_name(tool)!r}, which {owner} itself carries out"
            msg = f"{model.label} ({model.family}) cannot be offered {which}: {mend}"
            raise ConfigurationError(msg)
    settings = settings_for(model, options, mixed=mixed)
    choice, given = _chosen(options), options.get("tool_choice")
    if choice is not None:
        if choice.allowed is not None and (model.family != "openai" or given is None):
            tools = [tool for tool in tools if _tool_name(tool) in choice.allowed]
        if given is None:  # of Google's own option
            choice, given = replace(choice, allowed=None), choice.mode
        if "tool_config" not in settings:
            settings["tool_choice"] = _choice_for(model, choice, given)
        if choice.single and model.family in ("openai", "mistralai"):
            settings.setdefault("parallel_tool_calls", False)
        if choice.mode == "none" and model.family == "anthropic":
            settings.pop("parallel_tool_calls", None)  # the client would put it into a choice that has no such key
    kept = prompt_cache.for_tools(tools, model.kind) if mixed or model.known else tools
    return [copy.deepcopy(tool) if isinstance(tool, dict) else tool for tool in kept], settings


def settings_for(model: ModelTraits, options: JsonMapping, *, mixed: bool = True) -> JsonObject:
    """Return the options of a call, but for the choice of a tool, as a model takes them."""
    settings = prompt_cache.for_settings(options, model.kind) if mixed or model.known else dict(options)
    if not model.known:
        return settings
    if model.family != "google_genai":
        settings.pop("tool_config", None)
    for name in [n for n, owner in _FORMATS.items() if n in settings and owner not in (None, model.family)]:
        schema = _output_schema({name: settings.pop(name)})
        if schema is ANY_OBJECT:
            settings.setdefault("response_format", {"type": "json_object"})
        elif schema is not None:
            settings["response_format"] = _named_format(schema)
    settings = in_words_of(model, settings)
    schema = settings.get("response_format")
    if schema is not None and model.family in ("google_genai", "mistralai", "ollama"):
        settings |= _response_format_for(model.family, settings.pop("response_format"))
    if model.family == "anthropic" and isinstance(schema, Mapping) and schema.get("type") == "json_object":
        del settings["response_format"]  # it has no such format; the answer is judged by it all the same
    return settings


def _named_format(schema: object) -> object:
    if not isinstance(schema, Mapping):
        return schema
    name = str(schema.get("title") or "answer")
    return {"type": "json_schema", "json_schema": {"name": name, "schema": dict(schema)}}


def _choice_for(model: ModelTraits, choice: _Choice, given: object) -> object:
    if model.family == "anthropic":
        word: JsonObject = {"type": "any" if choice.mode == "required" else choice.mode}
        if choice.name is not None:
            word["name"] = choice.name
        if choice.single:
            word["disable_parallel_tool_use"] = True
        return word
    if not model.known or (model.family == "openai" and choice.allowed is not None):
        return given
    if choice.mode == "tool":
        if model.family != "openai" or not isinstance(given, Mapping):
            return choice.name
        named = {"type": "function", "function": {"name": choice.name}}
        return named if given.get("type") == "tool" else dict(given)
    return "any" if choice.mode == "required" else choice.mode


def _response_format_for(provider: str, value: object) -> JsonObject:
    """Return the setting by which a provider's client takes an output schema."""
    if isinstance(value, Mapping) and value.get("type") == "json_object":
        return {"response_mime_type": "application/json"} if provider == "google_genai" else {"response_format": value}
    schema = _output_schema({"response_format": value})
    if isinstance(schema, type):
        schema = tool_specs([schema])[0].parameters
    if not isinstance(schema, Mapping):
        return {"response_format": value} if provider != "google_genai" else {}
    if provider == "google_genai":
        return {"response_mime_type": "application/json", "response_schema": dict(schema)}
    inner = value.get("json_schema") if isinstance(value, Mapping) else None
    return {"response_format": {"type": "json_schema", "json_schema": dict(inner)} if inner else _named_format(schema)}


def _carried_out_by(tool: object) -> str | None:
    """Return the provider that carries a tool out itself; None for the host's own tools, and where nobody can tell."""
    if not isinstance(tool, Mapping) or "function" in tool:
        return None
    kind = tool.get("type")
    if isinstance(kind, str):
        return "anthropic" if _DATED.search(kind) else "openai" if kind in _OPENAI_TOOLS else None
    return "google_genai" if len(tool) == 1 and _GOOGLE_TOOLS & tool.keys() else None


def _tool_name(tool: object) -> str | None:
    if isinstance(tool, Mapping):
        return _named(tool) or str(tool.get("title") or tool.get("type") or next(iter(tool), "tool"))
    return str(getattr(tool, "name", None) or getattr(tool, "__name__", None) or type(tool).__name__)


# ---- words of the clients --------------------------------------------------------------------------------------------

_LIMITS = frozenset({"max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict"})
_LIMIT = {"openai": "max_tokens", "google_genai": "max_output_tokens", "ollama": "num_predict"}
_WORDS: Mapping[str, frozenset[str]] = {
    family: frozenset(words.split())
    for family, words in {
        "openai": "temperature top_p seed n user logprobs top_logprobs logit_bias frequency_penalty presence_penalty "
        "max_tokens max_completion_tokens reasoning reasoning_effort verbosity service_tier store prediction "
        "modalities truncation include previous_response_id safety_identifier stream_options extra_body extra_headers "
        "timeout parallel_tool_calls strict",
        "anthropic": "temperature top_p top_k max_tokens thinking effort reasoning_effort betas container mcp_servers "
        "context_management service_tier inference_geo extra_body extra_headers timeout parallel_tool_calls strict",
        "google_genai": "temperature top_p top_k seed logprobs frequency_penalty presence_penalty max_output_tokens "
        "safety_settings cached_content labels thinking_budget thinking_level thinking_config include_thoughts "
        "response_modalities image_config media_resolution service_tier timeout",
        "mistralai": "temperature top_p random_seed safe_prompt n frequency_penalty presence_penalty max_tokens "
        "prediction prompt_mode parallel_tool_calls",
        "ollama": "reasoning think logprobs top_logprobs keep_alive options " + " ".join(OLLAMA_OPTIONS),
    }.items()
}
_KNOWN_WORDS = frozenset().union(*_WORDS.values())


def in_words_of(model: ModelTraits, options: JsonMapping) -> JsonObject:
    """Return the options in the words of a model's client; what only another's knows is dropped with one warning.

    Limits of output have a word of their own almost everywhere. A word of nobody is passed on.
    """
    family = model.family or ""
    words = _WORDS.get(family)
    if words is None:
        return dict(options)
    out: JsonObject = {}
    for name, value in options.items():
        word = _LIMIT.get(family, "max_tokens") if name in _LIMITS and name not in words else name
        if word not in _KNOWN_WORDS or word in words:
            out[word] = value
        elif value is not None:
            _warn_dropped(model.label, family, name)
    if family == "ollama" and (given := {key: out.pop(key) for key in OLLAMA_OPTIONS & out.keys()}):
        given |= {"stop": out["stop"]} if out.get("stop") else {}
        out["options"] = {**(out.get("options") or model.own_options), **given}
    return out


@cache
def _warn_dropped(label: str, provider: str, name: str) -> None:
    LOG.warning("%s (%s) does not know the option %r: it is asked without", label, provider, name)
