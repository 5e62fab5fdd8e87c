"""Prices of model calls: per million tokens, given by hand or read from a kept table.

Unknown stays `None`, never 0, and asking for a price or a cost never raises and never uses the network. Prices are in
units of `currency` **per million tokens** (`per_call` alone is per call). The table is the one that the `genai-prices`
package carries; it is imported when a price is first asked for (about 0.4 s, see `warm`), never before.
"""

from __future__ import annotations

import datetime as dt
import math
import re
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, TypeVar, cast

from cascade_agent._log import LOG
from cascade_agent.core.scoring import is_number
from cascade_agent.errors import ConfigurationError, RecordError

if TYPE_CHECKING:
    from collections.abc import Callable

    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import ModelInfo, ModelPrice

    from cascade_agent.core.clean_json import JsonMapping, JsonObject
    from cascade_agent.core.records import Usage

__all__ = ["Price", "PriceTier", "price_of", "table_version", "warm"]


T = TypeVar("T")
_MILLION = 1_000_000
_MAX_TOKENS = 2**53
"""Above this a count is a fault of the provider, not a number of tokens."""
_RATES = ("input", "output", "cached_input", "cache_write", "per_call")


def _check_rates(price: Price | PriceTier) -> None:
    for name in _RATES:
        value = getattr(price, name, 0.0)
        if not is_number(value) and not (value is None and name.startswith("cache")):
            mend = "expected a finite number >= 0 (a price per million tokens, per call for per_call)"
            msg = f"{type(price).__name__}.{name} is {value!r}; {mend}"
            raise ConfigurationError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceTier:
    """The prices that hold for **all** tokens of a call whose input is longer than `above` tokens (long context).

    Prices are per million tokens. `cached_input` and `cache_write` fall back to this tier's `input`.

    Raises:
        ConfigurationError: a price that is not finite or below 0, or `above` that is no count of tokens.
    """

    above: int
    input: float
    output: float
    cached_input: float | None = None
    cache_write: float | None = None

    def __post_init__(self) -> None:
        """Refuse what no cost could be computed from."""
        if isinstance(self.above, bool) or not isinstance(self.above, int) or self.above < 0:
            msg = f"PriceTier.above is {self.above!r}; expected a number of tokens >= 0"
            raise ConfigurationError(msg)
        _check_rates(self)


@dataclass(frozen=True, slots=True)
class Price:
    """The price of one million tokens of a model.

    Args:
        input: price of a million input tokens.
        output: price of a million output tokens.
        cached_input: price of a million input tokens read from the provider's cache; None charges them as `input`.
        cache_write: price of a million input tokens written to the provider's cache; None charges them as `input`.
        per_call: price of one call, on top of its tokens.
        tiers: other prices for long inputs, ascending; the last one whose `above` is exceeded holds for the whole call.
        currency: the unit of all prices, an ISO 4217 code.
        source: where the price was read (a table with its version, a contract, a URL).
        date: ISO 8601 day the price was read. Of a table: the day of the newest price change that it knows.

    Raises:
        ConfigurationError: a price that is not finite or below 0, tiers out of order, an empty currency, no ISO day.
    """

    input: float
    output: float
    _: KW_ONLY
    cached_input: float | None = None
    cache_write: float | None = None
    per_call: float = 0.0
    tiers: tuple[PriceTier, ...] = ()
    currency: str = "USD"
    source: str | None = None
    date: str | None = None

    def __post_init__(self) -> None:
        """Refuse what no cost could be computed from."""
        _check_rates(self)
        starts = [tier.above for tier in self.tiers]
        if starts != sorted(set(starts)):
            msg = f"Price.tiers start above {starts} tokens; expected each once, in ascending order"
            raise ConfigurationError(msg)
        if not isinstance(self.currency, str) or not self.currency:
            msg = f"Price.currency is {self.currency!r}; expected an ISO 4217 code such as 'USD'"
            raise ConfigurationError(msg)
        if self.date is not None:
            try:
                dt.date.fromisoformat(self.date)
            except (TypeError, ValueError) as error:
                msg = f"Price.date is {self.date!r}; expected an ISO 8601 day such as '2026-01-31'"
                raise ConfigurationError(msg) from error

    def cost(self, usage: Usage) -> float | None:
        """Return what these tokens cost, in `currency`; None when the count of input or output tokens is unknown.

        Cached tokens are part of `input_tokens`; an unknown number of them counts as none. Counts that contradict each
        other are cut so that nothing is charged twice and nothing below 0. A sum over several calls is None where it
        could hide one call in a long-context tier. Fees outside of tokens and calls (a provider's own web search) are
        not part of a usage and therefore of no cost.
        """
        tokens_in, tokens_out = _count(usage.input_tokens), _count(usage.output_tokens)
        if tokens_in is None or tokens_out is None:
            return None
        rates: Price | PriceTier = next((tier for tier in reversed(self.tiers) if tokens_in > tier.above), self)
        if rates is not self and usage.calls != 1:
            return None
        read = min(_count(usage.cache_read_tokens) or 0, tokens_in)
        write = min(_count(usage.cache_write_tokens) or 0, tokens_in - read)
        total = (tokens_in - read - write) * rates.input + tokens_out * rates.output
        total += read * (rates.input if rates.cached_input is None else rates.cached_input)
        total += write * (rates.input if rates.cache_write is None else rates.cache_write)
        total = total / _MILLION + self.per_call * max(usage.calls, 0)
        return total if math.isfinite(total) else None

    def to_json(self) -> JsonObject:
        """As plain JSON; fields that hold their default are left out. Prices are per million tokens."""
        out = _given(self)
        if self.tiers:
            out["tiers"] = [_given(tier) for tier in self.tiers]
        return out

    @classmethod
    def from_json(cls, data: JsonMapping) -> Price:
        """Read what `to_json` wrote. Unknown keys are refused: a misspelled price would cost money.

        Raises:
            RecordError: not a price.
        """
        try:
            values = _known(cls, data)
            tiers = tuple(PriceTier(**_known(PriceTier, tier)) for tier in values.pop("tiers", ()))
            return cls(**values, tiers=tiers)
        except (TypeError, ValueError) as error:
            msg = f"not a price: {error}"
            raise RecordError(msg) from error


def _given(price: Price | PriceTier) -> JsonObject:
    return {f.name: value for f in fields(price) if (value := getattr(price, f.name)) != f.default}


def _known(cls: type[Price | PriceTier], data: object) -> JsonObject:
    if not isinstance(data, Mapping):
        msg = f"expected a JSON object for a {cls.__name__}, found {type(data).__name__}"
        raise TypeError(msg)
    names = {f.name for f in fields(cls)}
    if unknown := sorted(str(key) for key in data if key not in names):
        msg = f"{cls.__name__} has no {unknown}; it has {sorted(names)}"
        raise ValueError(msg)
    return dict(data)


def _count(tokens: object) -> int | None:
    """A plausible number of tokens, or None: counts come from providers and are checked by nobody before."""
    return tokens if type(tokens) is int and 0 <= tokens <= _MAX_TOKENS else None


# ---- the kept table -------------------------------------------------------------------------------------------------

_PROVIDERS = {
    "amazon_bedrock": "aws",
    "anthropic_bedrock": "aws",
    "azure_openai": "azure",
    "bedrock": "aws",
    "bedrock_converse": "aws",
    "google_anthropic_vertex": "google",
    "google_genai": "google",
    "google_vertexai": "google",
    "mistralai": "mistral",
    "xai": "x-ai",
}
"""The host's names of providers (`ls_provider`, `init_chat_model`) that the table calls otherwise."""

_NAMES = dict(zip(_RATES, ("input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok"), strict=False))
_UNSEEN = ("output_reasoning_mtok", "output_citation_mtok")
"""Text prices for tokens that a usage does not tell apart: a model that has one cannot be priced from a usage."""


def price_of(
    model_name: str | None,
    provider: str | None = None,
    *,
    base_url: str | None = None,
    at: dt.datetime | None = None,
) -> Price | None:
    """The table's price of a model at the time `at` (default now), or None.

    The same weights cost nothing on one's own machine and something else at every host, so **the host must be known**:
    a name alone (`provider` and `base_url` both None) has no price, however famous. With a `base_url` only the address
    decides; one that belongs to no host in the table (a local server, a gateway) has no price. Otherwise `provider` is
    a name as LangChain writes it (`ls_provider`, the prefix of `init_chat_model`) and must be known exactly. The name
    of the model is matched by the table's own rules for that host, which know aliases and dated names only.

    Cheap after the first call (about 2 us): call it per step rather than keep the result; some prices change by the
    hour.
    """
    if not model_name or not (provider or base_url):
        return None
    return _read(lambda table: _prices_of(table).find((model_name, provider, base_url), at))


def warm() -> None:
    """Load the table in a daemon thread, so that the first step does not wait 0.4 s for it. Returns at once."""
    with suppress(RuntimeError):  # no more threads: the first step waits
        threading.Thread(target=table_version, name="cascade-agent-prices", daemon=True).start()


def table_version() -> tuple[str, str | None] | None:
    """(source, day) of the table in use, as `Price.source` and `Price.date` name them; None when it cannot be read."""
    return _read(lambda table: (_source(table), _date(table)))


@cache
def _warn_once(fault: str) -> None:
    LOG.warning("no price can be read from the table of genai-prices (%s); costs stay unknown", fault)


def _read(look: Callable[[DataSnapshot], T]) -> T | None:
    """Look into the table in use: the one in the package, or the one that the user's own `UpdatePrices` fetched."""
    try:
        from genai_prices.data_snapshot import get_snapshot

        return look(get_snapshot())
    except Exception as error:  # noqa: BLE001 - pricing never fails a step
        _warn_once(f"{type(error).__name__}: {error}")
        return None


_MAX_MODELS = 1024
_Key = tuple[str, str | None, str | None]


class _Prices:
    """The prices of one table in our form, each made when it is first needed."""

    def __init__(self, table: DataSnapshot) -> None:
        self.table = table
        self.models: dict[_Key, tuple[ModelInfo, str] | None] = {}
        self._made: dict[tuple[int, str], Price | None] = {}  # by identity: the table keeps its price objects alive

    def find(self, key: _Key, at: dt.datetime | None) -> Price | None:
        if key not in self.models:
            self.models[key] = _find(self.table, *key)
        found = self.models[key]
        if found is None:
            return None
        table_price, source = found[0].get_prices(at or dt.datetime.now(dt.UTC)), found[1]
        made = id(table_price), source
        if made not in self._made:
            self._made[made] = _from_table(table_price, source, _date(self.table))
        return self._made[made]


_prices: _Prices | None = None
"""The table in use and what was looked up in it: replaced whole, so that a thread sees the old one or the new."""


def _prices_of(table: DataSnapshot) -> _Prices:
    global _prices  # noqa: PLW0603 - one memory per process, of one table
    if _prices is None or _prices.table is not table or len(_prices.models) >= _MAX_MODELS:
        _prices = _Prices(table)
    return _prices


def _find(table: DataSnapshot, name: str, provider: str | None, base_url: str | None) -> tuple[ModelInfo, str] | None:
    """Return a model of the table and where it stands there."""
    wanted = (provider or "").strip().lower()
    wanted = _PROVIDERS.get(wanted, wanted)
    for host in table.providers:
        if re.match(host.api_pattern, base_url) if base_url else host.id == wanted:
            model = host.find_model(name.removeprefix("models/"), all_providers=table.providers)
            return None if model is None else (model, f"{_source(table)} {host.id}/{model.id}")
    return None


def _source(table: DataSnapshot) -> str:
    import genai_prices

    return f"genai-prices {genai_prices.__version__}{' (updated)' if table.from_auto_update else ''}"


def _date(table: DataSnapshot) -> str | None:
    """The day of an updated table; of the one in the package, which has no date, the newest change that it knows."""
    if table.from_auto_update:
        return table.timestamp.date().isoformat()
    today = dt.datetime.now(dt.UTC).date()
    prices = [model.prices for host in table.providers for model in host.models]
    days = [getattr(p.constraint, "start_date", None) for listed in prices if isinstance(listed, list) for p in listed]
    newest = max((day for day in days if day is not None and day <= today), default=None)
    return None if newest is None else newest.isoformat()


def _from_table(table_price: ModelPrice, source: str, date: str | None) -> Price | None:
    """The table's price as ours, or None where a usage does not say enough to apply it."""
    given = {key: value for key, value in vars(table_price).items() if value is not None}
    if "input_mtok" not in given or "output_mtok" not in given or any(key in given for key in _UNSEEN):
        return None
    names = {ours: theirs for ours, theirs in _NAMES.items() if theirs in given}
    starts = sorted({tier.start for key in names.values() for tier in getattr(given[key], "tiers", ())})

    def rates(tokens: int) -> JsonObject:
        return {ours: _rate(given[theirs], tokens) for ours, theirs in names.items()}

    return Price(
        **rates(0),
        per_call=float(given.get("requests_kcount", 0)) / 1000,
        tiers=tuple(PriceTier(above=start, **rates(start + 1)) for start in starts),
        source=source,
        date=date,
    )


def _rate(value: object, tokens: int) -> float:
    """The price per million that holds for a call with that many input tokens."""
    price = getattr(value, "base", value)
    for tier in getattr(value, "tiers", ()):
        if tokens > tier.start:
            price = tier.price
    return float(cast("float", price))
