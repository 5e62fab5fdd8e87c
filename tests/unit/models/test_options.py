"""Options: read in every spelling, put in each provider's words, and never changed for the caller."""

import copy
import logging

import pytest
from langchain_core.tools import tool
from pydantic import BaseModel

from cascade_agent.errors import ConfigurationError
from cascade_agent.models.options import BoundConstraints, bound_constraints, offer_for, settings_for
from cascade_agent.models.traits import ModelTraits


class City(BaseModel):
    """A city."""

    name: str


@tool
def look(city: str) -> str:
    """Look."""
    return city


@tool
def send(text: str) -> str:
    """Send."""
    return text


FUNCTION = {"type": "function", "function": {"name": "look"}}
ALLOWED = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [FUNCTION]}}
FLAT = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "look"}]}
GOOGLE = {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["look"]}}
SCHEMA = City.model_json_schema()
FORMAT = {"type": "json_schema", "json_schema": {"name": "City", "schema": SCHEMA}}


def traits(family: str, label: str = "m") -> ModelTraits:
    """A model of a provider."""
    return ModelTraits(label=label, family=family, form=family)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {}),
        *(({"tool_choice": word}, {}) for word in (None, False, "auto", {"type": "auto"})),
        *(({"tool_choice": word}, {"tool_choice": "required"}) for word in ("any", "required", True, {"type": "any"})),
        *(({"tool_choice": word}, {"tool_choice": "none"}) for word in ("none", {"type": "none"})),
        *(
            ({"tool_choice": word}, {"tool_choice": "look"})
            for word in ("look", FUNCTION, {"type": "tool", "name": "look"}, {"type": "function", "name": "look"})
        ),
        ({"tool_choice": ALLOWED}, {"tool_choice": "required", "allowed_tools": ("look",)}),
        ({"tool_choice": FLAT}, {"allowed_tools": ("look",)}),
        ({"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}, {"single_call": True}),
        ({"parallel_tool_calls": False}, {"single_call": True}),
        ({"parallel_tool_calls": True}, {}),
        *(({"response_format": form}, {"output_schema": SCHEMA}) for form in (FORMAT, SCHEMA)),
        ({"response_format": City}, {"output_schema": City}),
        *(
            (given, {"output_schema": {"type": "object"}})
            for given in ({"response_format": {"type": "json_object"}}, {"format": "json"})
        ),
        *(
            ({name: SCHEMA}, {"output_schema": SCHEMA})
            for name in ("format", "response_schema", "response_json_schema", "output_format")
        ),
        *(
            ({name: {"format": {"type": "json_schema", "schema": SCHEMA}}}, {"output_schema": SCHEMA})
            for name in ("output_config", "text")
        ),
        *(
            ({"extra_body": body}, {"output_schema": SCHEMA})
            for body in ({"guided_json": SCHEMA}, {"structured_outputs": {"json": SCHEMA}}, {"response_format": FORMAT})
        ),
        ({"response_mime_type": "application/json"}, {"output_schema": {"type": "object"}}),
        ({"response_mime_type": "application/json", "response_schema": SCHEMA}, {"output_schema": SCHEMA}),
        ({"response_mime_type": "text/plain"}, {}),
        ({"extra_body": {"x": 1}}, {}),
        ({"tool_config": GOOGLE}, {"tool_choice": "required", "allowed_tools": ("look",)}),
        ({"tool_config": {"function_calling_config": {"mode": "NONE"}}}, {"tool_choice": "none"}),
        ({"tool_config": {}}, {}),
        ({"output_config": {"effort": "low"}}, {}),
        ({"response_format": {"type": "text"}}, {}),
        ({"tool_choice": {}}, {}),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": 3}}, {}),
        ({"stop": "END"}, {"stop": ("END",)}),
        ({"stop": ["a", "b"]}, {"stop": ("a", "b")}),
    ],
)
def test_what_is_bound_is_read_in_every_spelling(options, expected):
    """Of OpenAI, Anthropic, Google, vLLM and LangChain; a choice of no known kind is refused with what was expected."""
    assert bound_constraints(options) == BoundConstraints(**expected)
    with pytest.raises(ConfigurationError, match="tool_choice is a int; expected a word"):
        bound_constraints({**options, "tool_choice": 3})


@pytest.mark.parametrize(
    ("given", "openai", "anthropic", "others"),
    [
        ("required", "any", {"type": "any"}, "any"),
        (True, "any", {"type": "any"}, "any"),
        ("none", "none", {"type": "none"}, "none"),
        ("look", "look", {"type": "tool", "name": "look"}, "look"),
        (FUNCTION, FUNCTION, {"type": "tool", "name": "look"}, "look"),
        ({"type": "tool", "name": "look"}, FUNCTION, {"type": "tool", "name": "look"}, "look"),
        (ALLOWED, ALLOWED, {"type": "any"}, "any"),
    ],
)
def test_the_choice_of_a_tool_is_put_in_each_providers_words(given, openai, anthropic, others):
    """Where a provider cannot name the allowed tools, only those are offered; a stranger is given what was given."""
    before = copy.deepcopy(given)
    for family, expected in {"openai": openai, "anthropic": anthropic, "mistralai": others, "x": given}.items():
        tools, settings = offer_for(traits(family), [look, send], {"tool_choice": given})
        assert settings["tool_choice"] == expected, family
        assert len(tools) == (1 if given is ALLOWED and family != "openai" else 2)
    assert given == before


def test_one_call_alone_is_asked_for_in_the_providers_words():
    """Anthropic's key in its choice is OpenAI's option; with `none` there is no such key."""
    single = {"tool_choice": {"type": "any", "disable_parallel_tool_use": True}}
    assert offer_for(traits("openai"), [look], single)[1] == {"tool_choice": "any", "parallel_tool_calls": False}
    assert offer_for(traits("anthropic"), [look], single)[1] == single
    none = {"tool_choice": "none", "parallel_tool_calls": False}
    assert offer_for(traits("anthropic"), [look], none)[1] == {"tool_choice": {"type": "none"}}


@pytest.mark.parametrize("family", ["mistralai", "ollama", "google_genai"])
def test_an_option_that_a_provider_does_not_know_is_dropped_with_one_warning(family, caplog):
    """Naming tier and option."""
    options = {"strict": True, "temperature": 0}
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            kept = settings_for(traits(family, f"model of {family}"), options)
            assert kept == ({"options": {"temperature": 0}} if family == "ollama" else {"temperature": 0})
    assert [r.getMessage() for r in caplog.records] == [
        f"model of {family} ({family}) does not know the option 'strict': it is asked without"
    ]
    assert options == {"strict": True, "temperature": 0}


@pytest.mark.parametrize("family", ["openai", "anthropic", "google_genai", "mistralai", "ollama"])
def test_googles_choice_is_a_choice_elsewhere(family):
    """Only the tool that may be called is offered, in the words of the provider that is asked."""
    tools, settings = offer_for(traits(family), [look, send], {"tool_config": GOOGLE})
    word = {"type": "any"} if family == "anthropic" else "any"
    assert settings == ({"tool_config": GOOGLE} if family == "google_genai" else {"tool_choice": word})
    assert [tool.name for tool in tools] == ["look"]


WORDS = {"temperature": 0, "max_tokens": 9, "seed": 1, "thinking": {"type": "disabled"}, "safe_prompt": True, "new": 2}


@pytest.mark.parametrize(
    ("family", "kept"),
    [
        ("openai", {"temperature": 0, "max_tokens": 9, "seed": 1, "new": 2}),
        ("anthropic", {"temperature": 0, "max_tokens": 9, "thinking": {"type": "disabled"}, "new": 2}),
        ("google_genai", {"temperature": 0, "max_output_tokens": 9, "seed": 1, "new": 2}),
        ("mistralai", {"temperature": 0, "max_tokens": 9, "safe_prompt": True, "new": 2}),
        ("ollama", {"new": 2, "options": {"temperature": 0, "num_predict": 9, "seed": 1, "num_ctx": 8192}}),
        ("x", WORDS),
    ],
)
def test_options_are_put_in_the_words_of_the_client(family, kept):
    """Options that only another's client knows stay behind, unknown ones go on; Ollama's own options stand."""
    own = {"num_ctx": 8192, "temperature": 0.8} if family == "ollama" else {}
    model = ModelTraits(label="w", family=family, form=family, own_options=own)
    assert settings_for(model, WORDS) == kept


READS = {
    "openai": {"response_format"},
    "anthropic": {"response_format", "output_format"},
    "google_genai": {"response_schema", "response_json_schema", "response_mime_type"},
    "mistralai": {"response_format"},
    "ollama": {"response_format", "format"},
}


@pytest.mark.parametrize("family", READS)
@pytest.mark.parametrize("name", ["response_json_schema", "output_format", "format", "response_format"])
def test_a_format_in_the_words_of_one_client_reaches_every_other(name, family):
    """In an option that its client reads."""
    options = {name: SCHEMA, **({"response_mime_type": "application/json"} if "json" in name else {})}
    kept = settings_for(traits(family), options)
    assert kept.keys() <= READS[family]
    assert bound_constraints(kept).output_schema == SCHEMA


@pytest.mark.parametrize("given", [City, FORMAT, SCHEMA])
def test_an_output_schema_is_put_in_each_providers_words(given):
    """A class, OpenAI's form and a bare schema; those that read all three are given what was given."""
    options = {"response_format": given}
    assert settings_for(traits("openai"), options) == options
    google = settings_for(traits("google_genai"), options)
    assert (google["response_mime_type"], set(google["response_schema"]["properties"])) == (
        "application/json",
        {"name"},
    )
    mistral = settings_for(traits("mistralai"), options)["response_format"]
    assert (mistral["type"], set(mistral["json_schema"]["schema"]["properties"])) == ("json_schema", {"name"})


def test_formats_that_few_clients_have():
    """Anthropic's `output_config` becomes `response_format` elsewhere, effort stays behind; it has none for any object."""
    options = {"output_config": {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}}}
    assert settings_for(traits("anthropic"), options) == options
    assert settings_for(traits("openai"), options) == {"response_format": FORMAT}
    assert settings_for(traits("openai"), {"output_config": {"effort": "low"}}) == {}
    assert settings_for(traits("anthropic"), {"response_format": {"type": "json_object"}}) == {}


@pytest.mark.parametrize(
    ("given", "owner"),
    [
        ({"type": "web_search"}, "openai"),
        ({"type": "web_search_20250305", "name": "web_search"}, "anthropic"),
        ({"google_search": {}}, "google_genai"),
    ],
)
def test_a_tool_that_another_provider_carries_out_is_refused_by_name(given, owner):
    """When it is offered, naming tier and tool; its own provider and a stranger are offered a copy of it."""
    for family in ("openai", "anthropic", "google_genai", "mistralai", "ollama", "x"):
        if family in (owner, "x"):
            (offered,), _ = offer_for(traits(family), [given], {})
            assert (offered == given, offered is given) == (True, False)
            continue
        with pytest.raises(ConfigurationError, match=r"m \(.*\) cannot be offered the tool '(web|google)_search'"):
            offer_for(traits(family), [given], {})
