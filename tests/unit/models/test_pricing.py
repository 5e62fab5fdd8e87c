"""Prices and costs: unknown stays None, and the table's prices are the table's."""

import datetime as dt
import json
import math
import subprocess
import sys
import threading
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_agent.core.records import Usage
from cascade_agent.errors import ConfigurationError, RecordError
from cascade_agent.models import pricing
from cascade_agent.models.pricing import Price, PriceTier, price_of, warm

NOW = dt.datetime(2026, 11, 1, 12, tzinfo=dt.UTC)
rates = st.floats(0, 1e4, allow_nan=False)
tokens = st.integers(0, 10_000_000)


@st.composite
def prices(draw: st.DrawFn) -> Price:
    """Any price that can be built."""
    optional = st.none() | rates
    own = st.fixed_dictionaries({"input": rates, "output": rates, "cached_input": optional, "cache_write": optional})
    starts = draw(st.lists(tokens, max_size=3, unique=True).map(sorted))
    return Price(
        **draw(own),
        per_call=draw(rates),
        tiers=tuple(PriceTier(above=start, **draw(own)) for start in starts),
        currency=draw(st.sampled_from(["USD", "EUR"])),
        source=draw(st.none() | st.text()),
        date=draw(st.none() | st.dates().map(str)),
    )


def used(
    given_in: object = 0, given_out: object = 0, read: object = None, write: object = None, calls: int = 1
) -> Usage:
    """A usage as a provider may report it."""
    counts = {"cache_read_tokens": read, "cache_write_tokens": write, "calls": calls}
    return Usage(input_tokens=given_in, output_tokens=given_out, **counts)


@pytest.mark.parametrize(
    ("price", "usage", "expected"),
    [
        (Price(0.15, 0.6), used(1_000_000), 0.15),
        (Price(0.15, 0.6), used(0, 1_000_000), 0.6),
        (Price(1, 2), used(), 0.0),
        *((Price(1, 2), used(*counts), None) for counts in ((None, None), (5, None), (None, 5))),
        *((Price(1, 2), used(count, 5), None) for count in (-1, 2**70, True, math.nan, "5")),
        (Price(10, 0, cached_input=1), used(100, 0, 90), 190e-6),
        (Price(10, 0), used(100, 0, 90), 1000e-6),
        (Price(10, 0, cached_input=0), used(100, 0, 100), 0),
        (Price(10, 0, cache_write=12.5), used(100, 0, None, 80), 1200e-6),
        (Price(10, 0), used(100, 0, None, 80), 1000e-6),
        (Price(10, 0, cached_input=1, cache_write=12.5), used(100, 0, 50, 40), (10 * 10 + 50 * 1 + 40 * 12.5) / 1e6),
        (Price(10, 0, cached_input=1), used(10, 0, 90), 10e-6),
        (Price(10, 0, cached_input=1), used(10, 0, -90), 100e-6),
        (Price(0, 0, per_call=2), used(calls=3), 6),
    ],
)
def test_cost_is_per_million_tokens(price: Price, usage: Usage, expected: float | None) -> None:
    """Cached tokens are part of the input and charged once, at their own price where known; what is no count has no cost."""
    assert price.cost(usage) == (None if expected is None else pytest.approx(expected))


def test_tiers_of_a_price() -> None:
    """One token over the edge moves the whole call; a sum of calls is priced where none can have reached a tier."""
    price = Price(
        1, 2, tiers=(PriceTier(above=100, input=3, output=4, cached_input=1), PriceTier(above=200, input=5, output=6))
    )
    costs = [price.cost(usage) for usage in (used(100, 10), used(101, 10), used(101, 0, 100), used(201, 0, 100))]
    assert costs == [pytest.approx(cost) for cost in (120e-6, 343e-6, 103e-6, 1005e-6)]
    price, half = Price(1, 2, tiers=(PriceTier(above=100, input=3, output=4),)), used(50)
    assert price.cost(half + half) == pytest.approx(100e-6)
    assert price.cost(half + half + half) is None


@given(price=prices(), read=st.none() | tokens, write=st.none() | tokens, given_in=tokens, given_out=tokens)
def test_cost_is_never_negative_and_never_above_the_dearest_rate(
    price: Price, read: int | None, write: int | None, given_in: int, given_out: int
) -> None:
    """Whatever a provider reports, a cost lies between 0 and every token at the dearest price."""
    cost = price.cost(used(given_in, given_out, read, write))
    assert cost is not None
    dearest = max(
        value or 0.0 for p in (price, *price.tiers) for value in (p.input, p.output, p.cached_input, p.cache_write)
    )
    assert 0 <= cost <= (dearest * (given_in + given_out) / 1e6 + price.per_call) * (1 + 1e-9)


@given(prices())
def test_json_both_ways(price: Price) -> None:
    """A price survives JSON; a plain one is two numbers."""
    assert Price.from_json(json.loads(json.dumps(price.to_json()))) == price
    assert Price(1, 2).to_json() == {"input": 1, "output": 2}


@pytest.mark.parametrize("bad", [-1, math.nan, math.inf, True, "1", None, Decimal(1)])
@pytest.mark.parametrize("name", ["input", "output", "cached_input", "cache_write", "per_call"])
def test_impossible_prices_are_refused_at_construction(name: str, bad: object) -> None:
    """A price that is not a finite number from 0 up is refused, naming the field."""
    if bad is None and name.startswith("cache"):
        assert Price(**{"input": 1, "output": 1, name: None}).to_json() == {"input": 1, "output": 1}
        return
    with pytest.raises(ConfigurationError, match=rf"Price\.{name} is"):
        Price(**{"input": 1, "output": 1, name: bad})


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"currency": ""}, "currency"),
        ({"date": "last week"}, "date"),
        ({"date": 5}, "date"),
        *(({"tiers": [above, 5]}, "ascending") for above in (5, 6)),
        *(({"tiers": [above]}, r"PriceTier\.above") for above in (-1, True, 1.5)),
    ],
)
def test_impossible_facts_are_refused_at_construction(kwargs: dict[str, Any], match: str) -> None:
    """Currency, date, order and edges of the tiers are checked before any cost is computed."""

    def made(tiers: Any = (), **facts: Any) -> Price:
        return Price(1, 1, tiers=tuple(PriceTier(above=above, input=1, output=1) for above in tiers), **facts)

    with pytest.raises(ConfigurationError, match=match):
        made(**kwargs)


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"input": 1},
        {"input": 1, "output": -1},
        {"input": 1, "output": 1, "cached": 1},
        {"input": 1, "output": 1, "tiers": 5},
        {"input": 1, "output": 1, "tiers": [5]},
        {"input": 1, "output": 1, "tiers": [{"above": 5}]},
    ],
)
def test_what_is_no_price_is_not_read(data: object) -> None:
    """A misspelled or impossible price in a file is an error, not a guess."""
    with pytest.raises(RecordError, match="not a price"):
        Price.from_json(data)


# ---- the kept table -------------------------------------------------------------------------------------------------
def test_a_hosted_model_has_the_tables_price() -> None:
    """A model at its provider has a price that says which table it came from and how old that is."""
    price = price_of("gpt-4o-mini", "openai")
    assert (price.input, price.output, price.currency) == (0.15, 0.6, "USD")
    assert price.source.startswith("genai-prices ")
    assert price.source.endswith(" openai/gpt-4o-mini")
    assert price.date is not None
    assert dt.date.fromisoformat(price.date) <= dt.datetime.now(dt.UTC).date()


LOCAL, PROXY = "http://localhost:11434/v1", "https://gateway.example.com/v1"


@pytest.mark.parametrize(
    ("known", "names"),
    [
        (False, [("gpt-4o-mini", None), ("deepseek-r1:8b", None), (None, None), ("", "openai"), (None, "openai")]),
        (False, [("llama3", "ollama"), ("llama3", "openai", LOCAL), ("gpt-4o-mini", "openai", PROXY)]),
        (False, [("gpt-4o-mini", "my-openai-proxy"), ("gpt-4o-mini", "groq"), ("gpt-4o-mini-of-our-own", "openai")]),
        (False, [("ft:gpt-4o-mini:us:x", "openai"), ("stand-in-small", "openai")]),
        (False, [("sonar-deep-research", "perplexity")]),  # has prices for tokens that a usage does not tell apart
        (False, [("text-embedding-3-small", "openai")]),  # has no price of output
        (True, [("gpt-4o-mini-2024-07-18", "openai"), ("GPT-4o-mini", "OpenAI"), ("gpt-4o-mini", "azure_openai")]),
        (True, [("gpt-4o-mini", "ollama", "https://api.openai.com/v1"), ("mistral-small-latest", "mistralai")]),
        (True, [("gemini-2.5-flash", "google_genai"), ("models/gemini-2.5-flash", "google_vertexai")]),
        (True, [("claude-haiku-4-5-20251001", "anthropic"), ("grok-4", "xai")]),
        (True, [("us.anthropic.claude-haiku-4-5-20251001-v1:0", "bedrock_converse")]),
    ],
)
def test_a_price_is_known_by_model_and_host(known: bool, names: list[Any]) -> None:
    """As the host and LangChain write them; none for a name without a known host, a private address or a fine-tune."""
    for name, provider, *base_url in names:
        price = price_of(name, provider, base_url=base_url[0] if base_url else None)
        assert (price is not None) is known, name


def _text_models() -> list[tuple[str, object]]:
    from genai_prices.data_snapshot import get_snapshot

    return [(p.id, m) for p in get_snapshot().providers for m in p.models]


@settings(max_examples=4, deadline=None)  # each over more than 1,000 models
@given(
    given_in=st.integers(0, 1_500_000),
    given_out=st.integers(0, 200_000),
    shares=st.tuples(st.floats(0, 0.5), st.floats(0, 0.5)),
    hour=st.integers(0, 23),
)
def test_costs_equal_the_tables_own_computation(
    given_in: int, given_out: int, shares: tuple[float, float], hour: int
) -> None:
    """For every priced model of the table our cost is the cost that the table's library computes, to 12 digits."""
    from genai_prices import Usage as TableUsage

    read, write = (int(given_in * share) for share in shares)
    counts = {"input_tokens": given_in, "output_tokens": given_out}
    counts |= {"cache_read_tokens": read, "cache_write_tokens": write}
    ours, theirs = Usage(**counts), TableUsage(**counts)
    at, priced = NOW.replace(hour=hour), 0
    for _, model in _text_models():
        table_price = model.get_prices(at)
        price = pricing._from_table(table_price, "test", None)
        if price is None:
            continue
        priced += 1
        assert price.cost(ours) == pytest.approx(float(table_price.calc_price(theirs)["total_price"]), rel=1e-12)
    assert priced > 1000


def test_prices_follow_the_clock() -> None:
    """Where the table knows a change of price, the time of the call decides."""
    changed = [
        (host, model)
        for host, model in _text_models()
        if isinstance(model.prices, list)
        and pricing._from_table(model.prices[0].prices, "", None)
        and model.prices[0].prices.input_mtok != model.prices[-1].prices.input_mtok
        and hasattr(model.prices[-1].constraint, "start_date")
        and price_of(model.id, host) is not None
    ]
    host, model = changed[0]
    start = dt.datetime.combine(model.prices[-1].constraint.start_date, dt.time(), dt.UTC)
    before = price_of(model.id, host, at=start - dt.timedelta(days=3650))
    after = price_of(model.id, host, at=start)
    assert before.to_json() != after.to_json()


def test_an_updated_table_replaces_the_old_one() -> None:
    """A table that the user's own code fetched is used at once and says so."""
    from genai_prices.data_snapshot import DataSnapshot, get_snapshot, set_custom_snapshot

    assert price_of("gpt-4o-mini", "openai") is not None
    try:
        set_custom_snapshot(DataSnapshot(providers=get_snapshot().providers[:1], from_auto_update=True))
        assert price_of("gpt-4o-mini", "openai") is None
        price = price_of("claude-haiku-4-5", "anthropic")
        assert price.source is not None
        assert "(updated)" in price.source
    finally:
        set_custom_snapshot(None)
    assert price_of("gpt-4o-mini", "openai") is not None


@pytest.mark.parametrize("missing", [True, False])
def test_a_table_that_cannot_be_read_is_an_unknown_price(
    missing: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the package of the table, and with a broken table, every price is None and one warning says so."""
    from genai_prices.data_snapshot import DataSnapshot, set_custom_snapshot

    pricing._warn_once.cache_clear()
    if missing:  # as if it were not installed
        monkeypatch.setitem(sys.modules, "genai_prices.data_snapshot", None)
        assert pricing.table_version() is None
    try:
        set_custom_snapshot(DataSnapshot(providers=[object()], from_auto_update=False))  # what a faulty update leaves
        assert price_of("gpt-4o-mini", "openai") is price_of("gpt-4o", "openai") is None
    finally:
        set_custom_snapshot(None)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_the_memory_of_prices() -> None:
    """Bounded for ever new names; warming is a daemon thread that ends by itself; every alias leads to a host of the table."""
    for index in range(pricing._MAX_MODELS + 10):
        price_of(f"model-{index}", "openai")
    assert 0 < len(pricing._prices.models) <= pricing._MAX_MODELS
    warm()
    for thread in threading.enumerate():
        if thread.name == "cascade-agent-prices":
            assert thread.daemon
            thread.join(30)
            assert not thread.is_alive()
    from genai_prices.data_snapshot import get_snapshot

    assert set(pricing._PROVIDERS.values()) <= {provider.id for provider in get_snapshot().providers}


def test_the_table_is_imported_on_first_use_only() -> None:
    """Importing the module, hand-made prices and unknown hosts never import the table; `warm` does, next to the caller."""
    code = """
import sys, threading
from cascade_agent.models.pricing import Price, price_of, warm
Price(1, 2); price_of("gpt-4o-mini"); price_of(None, "openai")
assert "genai_prices" not in sys.modules
warm()
[t.join() for t in threading.enumerate() if t.name == "cascade-agent-prices"]
assert "genai_prices.data" in sys.modules
assert price_of("gpt-4o-mini", "openai").input == 0.15
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
