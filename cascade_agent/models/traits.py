"""Facts of a model that must be known before it is asked: its provider, host and API, and their peculiarities."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

    from cascade_agent.core.clean_json import JsonMapping

RESPONSES = "openai/responses"
"""The form of OpenAI's Responses API, whose items carry ids that only their own host can resolve."""

NESTED = "cascade"
"""The kind of a tier that is itself a cascade."""

_KNOWN = frozenset({"openai", "anthropic", "google_genai", "mistralai", "ollama"})
_OPENAI_HOSTS = ("https://api.openai.com", "https://eu.api.openai.com", "https://us.api.openai.com")
_ADDRESSES = ("openai_api_base", "base_url", "anthropic_api_url", "azure_endpoint", "endpoint_url", "endpoint")
_TIMEOUTS = {"openai": "request_timeout", "anthropic": "default_request_timeout"}
_WORDS_OF_OLLAMA = (
    "num_predict num_ctx num_gpu num_thread temperature top_p top_k min_p tfs_z seed mirostat mirostat_eta "
    "mirostat_tau repeat_last_n repeat_penalty presence_penalty frequency_penalty"
)
OLLAMA_OPTIONS = frozenset(_WORDS_OF_OLLAMA.split())
"""Options that Ollama's client takes in a dict of their own, which replaces the model's; `stop` is given apart."""
_SAME = {"azure": "openai", "openai-codex": "openai", "mistral": "mistralai", "google_vertexai": "google_genai"}


def family(provider: object) -> str | None:
    """Return one name for a provider, which integrations write differently on models and on messages."""
    return _SAME.get(provider, provider) if isinstance(provider, str) and provider else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTraits:
    """The peculiarities of one model at its host."""

    label: str
    """The model's name for people."""
    model_name: str | None = None
    kind: str = ""
    """LangChain's name for the kind of model (`_llm_type`), or `NESTED`."""
    family: str | None = None
    """The provider, by the name that messages carry."""
    form: str | None = None
    """The form in which the model writes and reads answers: its family, or `openai/responses`."""
    base_url: str | None = None
    plain_strings: bool = False
    """Its server may take text as a plain string only, as many do that imitate OpenAI's chat API."""
    manual_thinking: bool = False
    """It is asked with Anthropic's manual thinking, which must begin every turn of the model's own."""
    sees_images: bool = True
    timeout_setting: str = ""
    """Name of the model's own timeout, where its client takes a `timeout` in each call too."""
    own_options: JsonMapping = field(default_factory=dict, hash=False)
    """The model's own options of a call where its client takes those of a call in place of all of them (Ollama)."""

    @classmethod
    def of(cls, base: BaseChatModel, bound: JsonMapping, *, name: str | None, provider: str | None) -> Self:
        """Read the traits of a model with these bound arguments."""
        own_url = getattr(base, "openai_api_base", None)
        uses_responses = getattr(base, "_use_responses_api", None)
        nested = getattr(base, "is_cascade", None) is True
        known_as = None if nested else family(provider)  # its own tiers put things into their words
        responses = known_as == "openai" and callable(uses_responses) and bool(uses_responses({**bound}))
        thinking = bound.get("thinking") or getattr(base, "thinking", None)
        imitation = isinstance(own_url, str) and not own_url.startswith(_OPENAI_HOSTS) and provider != "azure"
        timeout = _TIMEOUTS.get(known_as or "", "")
        profile = base.profile if isinstance(base.profile, dict) else {}
        return cls(
            label=name or type(base).__name__,
            model_name=name,
            kind=NESTED if nested else str(getattr(base, "_llm_type", "")),
            family=known_as,
            form=RESPONSES if responses else known_as,
            base_url=_base_url(base),
            plain_strings=imitation and not responses,
            manual_thinking=isinstance(thinking, dict) and thinking.get("type") == "enabled",
            timeout_setting=timeout if hasattr(base, timeout) else "",
            sees_images=profile.get("image_inputs") is not False,
            own_options={
                name: value
                for name in ((*OLLAMA_OPTIONS, "stop") if known_as == "ollama" else ())
                if (value := getattr(base, name, None)) is not None
            },
        )

    @property
    def known(self) -> bool:
        """Return whether the provider is one whose forms and options are known here."""
        return self.family in _KNOWN

    def same_host(self, other: ModelTraits) -> bool:
        """Tell whether another model stands at the same provider and address."""
        return self.family == other.family and self.base_url == other.base_url


def _base_url(base: BaseChatModel) -> str | None:
    found = [getattr(base, name, None) for name in _ADDRESSES]
    options = getattr(base, "client_options", None)  # Google's
    found.append(options.get("api_endpoint") if isinstance(options, dict) else None)
    return next((url for url in found if isinstance(url, str) and url), None)
