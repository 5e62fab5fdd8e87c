"""Measure the check of a tool call, and what a corpus of hostile schemas does to it, next to plain jsonschema.

    python benchmarks/schema.py [--rounds 2000] [--out schema.json]

Times are medians and maxima over the rounds of one process, in microseconds, on valid arguments. The hostile cases run
one by one in a process of their own that is killed after a second; `survived` means: no hang, no exception, no attempt
to reach a file or the network, under 250 ms of CPU. `judged` also means: the good value passed and the bad one did not.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import json
import multiprocessing
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.unit.validators import hostile_schemas

LIMIT = 0.250
KILL = 1.0

ORDINARY: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "one text": (
        {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
        {"query": "opening hours of the city library"},
    ),
    "five mixed": (
        {
            "type": "object",
            "properties": {
                "city": {"type": "string", "minLength": 1},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 14},
                "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 8},
                "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            },
            "required": ["city"],
            "additionalProperties": False,
        },
        {"city": "Utrecht", "unit": "celsius", "days": 3, "tags": ["rain", "wind"], "note": None},
    ),
    "patterns": (
        {
            "type": "object",
            "properties": {
                "order": {"type": "string", "pattern": "^[A-Z]{2}-\\d{4,8}$"},
                "mail": {"type": "string", "pattern": "^[^@\\s]+@[^@\\s]+\\.[a-z]{2,}$"},
                "date": {"type": "string", "pattern": "^\\d{4}-\\d{2}-\\d{2}$"},
            },
            "required": ["order", "mail"],
        },
        {"order": "NL-204418", "mail": "ann@example.org", "date": "2031-05-17"},
    ),
    "nested, $ref": (
        {
            "type": "object",
            "properties": {
                "customer": {"$ref": "#/$defs/person"},
                "lines": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/line"}},
            },
            "required": ["customer", "lines"],
            "$defs": {
                "person": {
                    "type": "object",
                    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
                    "required": ["name"],
                },
                "line": {
                    "type": "object",
                    "properties": {
                        "sku": {"type": "string", "maxLength": 12},
                        "count": {"type": "integer", "minimum": 1},
                        "price": {"type": "number", "multipleOf": 0.5},
                    },
                    "required": ["sku", "count"],
                },
            },
        },
        {
            "customer": {"name": "Ada", "age": 36},
            "lines": [{"sku": f"S{i}", "count": i + 1, "price": 19.5} for i in range(4)],
        },
    ),
}


def timed(call: Any, rounds: int) -> dict[str, float]:
    """Median, 99th percentile and maximum of one call in microseconds."""
    for _ in range(50):
        call()
    gc.collect()
    gc.disable()
    try:
        seen = []
        for _ in range(rounds):
            start = time.perf_counter()
            call()
            seen.append((time.perf_counter() - start) * 1e6)
    finally:
        gc.enable()
    seen.sort()
    return {
        "median": round(statistics.median(seen), 1),
        "p99": round(seen[int(len(seen) * 0.99)], 1),
        "max": round(seen[-1], 1),
    }


def speed(rounds: int) -> dict[str, Any]:
    import jsonschema
    from langchain_core.messages import AIMessage

    from cascade_agent.core.records import Draft, StepContext
    from cascade_agent.models.tool_spec import tool_specs
    from cascade_agent.validators.json_schema.schema import Schema
    from cascade_agent.validators.tool_call_schema import ToolCallSchema

    out: dict[str, Any] = {}
    for name, (schema, args) in ORDINARY.items():
        ours, plain, validator = Schema(schema), jsonschema.Draft202012Validator(schema), ToolCallSchema()
        context = StepContext(tools=tool_specs([{"name": "tool", "parameters": schema}]))
        message = AIMessage(content="", tool_calls=[{"name": "tool", "args": args, "id": "1"}])

        def step(v: Any = validator, m: Any = message, c: Any = context) -> Any:
            return v(Draft(message=m), c)

        if step() is not None:
            sys.exit(f"{name}: valid arguments were refused")
        out[name] = {
            "engine": timed(lambda s=ours, a=args: s.check(a), rounds),
            "ToolCallSchema": timed(step, rounds),
            "jsonschema, compiled": timed(lambda p=plain, a=args: list(p.iter_errors(a)), rounds),
            "jsonschema.validate()": timed(lambda s=schema, a=args: jsonschema.validate(a, s), max(50, rounds // 10)),
        }
    return out


# ---- the hostile corpus ---------------------------------------------------------------------------------------------


def worker(engine: str, pipe: Any) -> None:
    """Run the cases that are asked for, until the pipe closes."""
    from jsonschema import Draft202012Validator

    from cascade_agent.validators.json_schema.schema import Schema

    def ours(schema: Any, values: list[Any]) -> list[bool]:
        compiled = Schema(schema)
        return [not compiled.check(v).faults for v in values]

    def plain(schema: Any, values: list[Any]) -> list[bool]:
        compiled = Draft202012Validator(schema)
        return [not list(itertools.islice(compiled.iter_errors(v), 10)) for v in values]

    reached: list[str] = []
    active = False

    def hook(event: str, args: tuple[Any, ...]) -> None:
        outside = event == "open" and not str(args[0]).startswith((sys.prefix, sys.base_prefix))
        if active and (outside or event.startswith(("socket.", "urllib."))):
            reached.append(event)
            raise PermissionError(event)

    run = ours if engine == "ours" else plain
    run({"$ref": "#/$defs/a", "$defs": {"a": {"pattern": "a"}}}, ["a"])  # imports on first use
    sys.addaudithook(hook)
    with contextlib.suppress(EOFError):
        while True:
            case = hostile_schemas.CASES[pipe.recv()]
            wanted = [(v, w) for v, w in ((case.good, True), (case.bad, False)) if v is not hostile_schemas.NONE]
            schema, values = case.schema(), [hostile_schemas.made(v) for v, _ in wanted] or [{}]
            reached.clear()
            active, start = True, time.process_time()
            try:
                found = run(schema, values)
                outcome = "ok" if not wanted or found == [w for _, w in wanted] else "misjudged"
            except Exception:
                outcome = "raised"
            seconds, active = time.process_time() - start, False
            pipe.send(("reached out" if reached else outcome, seconds))


def hostile(engine: str) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    counts: Counter[str] = Counter()
    slowest, bad = 0.0, []
    process = pipe = None
    for index, case in enumerate(hostile_schemas.CASES):
        if process is None:
            pipe, other = context.Pipe()
            process = context.Process(target=worker, args=(engine, other), daemon=True)
            process.start()
            other.close()
            pipe.send(0)
            pipe.recv()  # started up
        outcome, seconds = "hung", KILL
        pipe.send(index)
        try:
            if pipe.poll(KILL):
                outcome, seconds = pipe.recv()
        except EOFError:
            outcome = "crashed"
        if outcome in ("hung", "crashed"):
            process.kill()
            process.join()
            process = None
        elif seconds > LIMIT:
            outcome = "slow"
        counts[outcome] += 1
        slowest = max(slowest, seconds)
        if outcome != "ok":
            bad.append(
                {"case": f"{case.group}: {case.name}"[:80].encode("ascii", "replace").decode(), "outcome": outcome}
            )
    if process is not None:
        process.kill()
    total = len(hostile_schemas.CASES)
    return {
        "cases": total,
        "survived": counts["ok"] + counts["misjudged"],
        "judged": counts["ok"],
        "outcomes": dict(counts),
        "slowest_ms": round(slowest * 1e3, 1),
        "not_ok": bad,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    result: dict[str, Any] = {"speed_us": speed(options.rounds)}
    print(
        f"{'microseconds, median / p99 / max':32}"
        + "".join(f"{name:>26}" for name in next(iter(result["speed_us"].values())))
    )
    for name, row in result["speed_us"].items():
        cells = [f"{v['median']:.1f} / {v['p99']:.1f} / {v['max']:.0f}" for v in row.values()]
        print(f"{name:32}" + "".join(f"{cell:>26}" for cell in cells))
    result["hostile"] = {engine: hostile(engine) for engine in ("ours", "jsonschema")}
    print()
    for engine, found in result["hostile"].items():
        print(
            f"hostile schemas, {engine}: survived {found['survived']} and judged right {found['judged']} "
            f"of {found['cases']}, slowest {found['slowest_ms']} ms, {found['outcomes']}"
        )
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
