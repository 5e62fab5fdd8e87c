"""Words that the clients of the known providers have for the options of a call: what one of them has no word for."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from cascade_agent._log import LOG
from cascade_agent.models.traits import OLLAMA_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cascade_agent.models.traits import ModelTraits

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


def in_words_of(model: ModelTraits, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options in the words of a model's client; what only another's knows is dropped with one warning.

    Limits of output have a word of their own almost everywhere. A word of nobody is passed on.
    """
    family = model.family or ""
    words, out = _WORDS.get(family), dict[str, Any]()
    if words is None:
        return dict(options)
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
