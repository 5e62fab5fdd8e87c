"""Made-up recordings of models for the benchmarks that judge recorded answers."""

from __future__ import annotations

import gzip
import json
import random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

CITIES = ("Rome", "Oslo", "Bern", "Turin", "Porto", "Lima", "Cairo", "Kyiv")
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "show_weather", "description": "Show the weather of a city.", "parameters": PARAMETERS}
SHOW = {"type": "function", "function": FUNCTION}


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows as compressed JSON lines."""
    with gzip.open(path, "wt", encoding="utf-8") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)


def recordings(path: Path, *, labels: int | None = 0, ids: str = "case", categories: int = 0, large: int = 0) -> Path:
    """Sixteen cases and three models; the numbers shuffle labels, kinds of step and large's answers, `ids` the names.

    With `labels=None` small is wrong where it made its answer up.
    """
    (path / "models").mkdir(parents=True)
    numbers = range(len(CITIES) * 2)
    right = [k % (4 if labels is None else 3) != 0 for k in numbers]
    kinds = ["one" if k % 2 else "two" for k in numbers]
    if labels is not None:
        random.Random(labels).shuffle(right)
    random.Random(categories).shuffle(kinds)
    names = [f"{ids}_{k}" for k in numbers]
    text = [f"Show the weather of {CITIES[k % len(CITIES)]}, version {k}" for k in numbers]
    cases = [
        {"id": n, "category": c, "group": f"g{k // 2}", "messages": [{"role": "user", "content": t}], "tools": [SHOW]}
        for k, (n, c, t) in enumerate(zip(names, kinds, text, strict=True))
    ]
    write_lines(path / "cases.jsonl.gz", cases)
    write_lines(path / "truth.jsonl.gz", [{"id": n, "core": True} for n in names])
    entry = {"usd_per_1m_in": 1.0, "usd_per_1m_out": 1.0, "price_source": "list"}
    models = {name: {**entry, "family": family} for name, family in (("small", "a"), ("large", "b"), ("other", "c"))}
    models["large"]["usd_per_1m_in"] = 20.0
    pairs = [{"small": "small", "large": "large"}]
    manifest = {"core_categories": ["one", "two"], "models": models, "pairs": pairs}
    (path / "manifest.json").write_text(json.dumps(manifest))
    shuffled = list(CITIES)
    random.Random(large).shuffle(shuffled)
    cities = {"small": CITIES, "large": shuffled if large else CITIES, "other": CITIES}
    for model in ("small", "large", "other"):
        rows = []
        for k, n in enumerate(names):
            city = cities[model][k % len(CITIES)] if k % 4 or model == "large" else "Atlantis"
            answer = {"status": "calls", "tool_calls": [{"name": "show_weather", "args": {"city": city}}], "text": ""}
            known = right[k] if model == "small" or large else True
            rows.append({"id": n, **answer, "correct": known, "input_tokens": 100, "output_tokens": 10})
        write_lines(path / "models" / f"{model}.jsonl.gz", rows)
    return path
