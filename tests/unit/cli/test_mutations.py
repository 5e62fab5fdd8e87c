"""Journals, labels, policies and prices that a stranger changed: every command answers, or names the file and line."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from cascade_agent.cli import app
from cascade_agent.core.policy import Policy
from cascade_agent.core.records import Label, StepTrace
from tests.journals import world

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SKIPPED = ("--skip-bad",)
READERS = (
    ("trace",), ("trace", "--json"), ("trace", "--quiet", "--last", "3"), ("replay", "--resamples", "5"), ("replay", "--resamples", "5", "--json"),
    ("calibrate", "--max-loss", ".3"), ("calibrate", "--max-loss", ".3", "--json"), ("drift",), ("drift", "--json"),
    ("report", "--out", "page.html"), ("report", "--json"), ("label",), ("label", "--order", "random", "--json"),
    ("label", "id0", "--right"),
)  # fmt: skip
POLICY = (
    ("replay", "--resamples", "5", "--policy", "x.policy"), ("calibrate", "--max-loss", ".3", "--policy", "x.policy", "--json"),
    ("calibrate", "--max-loss", ".3", "--out", "x.policy"), ("drift", "--policy", "x.policy"),
    ("report", "--policy", "x.policy", "--json"),
)  # fmt: skip
COMMANDS = {
    "j.jsonl": READERS,
    "j.jsonl.gz": READERS,
    "labels.jsonl": (
        ("replay", "--resamples", "5", "--labels", "labels.jsonl", "--json"), ("calibrate", "--max-loss", ".3", "--labels", "labels.jsonl"),
        ("label", "--from", "labels.jsonl", "--json"), ("label", "id0", "--wrong", "--out", "labels.jsonl"),
    ),
    "labels.csv": (("label", "--from", "labels.csv"), ("label", "--from", "labels.csv", "--json")),
    "x.policy": POLICY,
    "prices.json": (("drift", "--prices", "prices.json"), ("drift", "--prices", "prices.json", "--json")),
}  # fmt: skip
"""The commands that read a file of this name, the journal being given to each of them."""

ODD: tuple[Any, ...] = (
    None, True, "", "x", "1", -1, 0, 1.5, 10**400, -(10**30), 1e308, -0.0, 5e-324, float("nan"), float("inf"), [], {},
    [1], {"a": 1}, [[]], "\ud800", "\x1b[2K\x1b]0;t\x07", "\x00", "é" * 300, "2026-13-45T99:99", "9999-12-31T23:59:59+00:00",
)  # fmt: skip
ACTS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ud800-\udfff]")


@cache
def whole() -> dict[str, bytes]:
    """Files that are well: steps and labels of two currencies, labels of people, a policy, prices."""
    steps, labels, _ = world(8, shadow=0.5)
    records: list[dict[str, Any]] = [{"type": "step", **step.to_json()} for step in steps]
    records[0]["id"] = "id0"
    records[-1]["currency"] = "EUR"
    records += [{"type": "label", **label.to_json()} for label in labels]
    ids = [record["id"] for record in records if record["type"] == "step"]
    people = [
        Label(step_id=name, source="person", right=n % 3 > 0, note="seen").to_json() for n, name in enumerate(ids)
    ]
    journal = b"".join(json.dumps(record).encode() + b"\n" for record in (*records, people[0]))
    policy = Policy(threshold={"text": 0.8, "default": 0.9}, provenance={"kind": "calibrated", "target": 0.1})
    return {
        "j.jsonl": journal,
        "j.jsonl.gz": gzip.compress(journal, mtime=0),
        "labels.jsonl": b"".join(json.dumps(label).encode() + b"\n" for label in people[:6]),
        "labels.csv": b"step_id,right,note\n" + b"".join(f"{name},yes,ok\n".encode() for name in ids[:6]),
        "x.policy": json.dumps({"type": "policy", "schema": 1, "policy": policy.to_json()}, indent=1).encode(),
        "prices.json": json.dumps(
            {"tiny": {"input": 0.1, "output": 0.4}, "huge": {"input": 2, "output": 8.0}}
        ).encode(),
    }


def change_value(rng: random.Random, data: Any) -> Any:
    """Change, drop, wrap or move one value anywhere in a JSON value."""
    at: Any = data
    while isinstance(at, dict | list) and at:
        key = rng.choice(sorted(at)) if isinstance(at, dict) else rng.randrange(len(at))
        if isinstance(at[key], dict | list) and at[key] and rng.random() < 0.7:
            at = at[key]
            continue
        how = rng.random()
        if how < 0.15:
            del at[key]
        elif how < 0.25:
            at[key] = {"a": at[key]} if rng.random() < 0.5 else [at[key]]
        elif how < 0.35 and isinstance(at, dict):
            at[rng.choice(sorted(at))], at["unknown"] = at[key], rng.choice(ODD)
        else:
            at[key] = rng.choice(ODD)
        break
    return data


def change_line(rng: random.Random, line: bytes, others: list[bytes]) -> bytes:
    """Change a line of JSON or of CSV: its values, its bytes, its end, its depth."""
    how = rng.random()
    if how < 0.6 and line.startswith(b"{"):
        try:
            changed = json.dumps(change_value(rng, json.loads(line)))
        except (ValueError, RecursionError):  # changed before, into what is no JSON, or too deep
            return line
        return changed.encode()
    if how < 0.7:
        return line[: rng.randrange(len(line) + 1)]
    if how < 0.8 and line:
        at = rng.randrange(len(line))
        return line[:at] + bytes([rng.randrange(256)]) + line[at + rng.randrange(3) :]
    if how < 0.85:
        return line + rng.choice(others)
    odd: tuple[bytes, ...] = (
        b"", b"null", b"[1]", b"{}", b'{"a":' * 5000, b"\xff\xfe{}", b'{"type":"step"}', b'"', b'{"type":"moon","id":"a"}', b"1e999",
        b'{"type":"step","schema":99,"id":"a"}', b'{"type":"label","step_id":"id0","source":"person","right":"x"}',
    )  # fmt: skip
    return rng.choice(odd)


def mutate(rng: random.Random, name: str) -> bytes:
    """Return a file with one to four changes."""
    data = whole()[name]
    zipped = data[:2] == b"\x1f\x8b"
    if zipped and rng.random() < 0.4:  # the archive itself: cut off, or damaged
        at = rng.randrange(len(data))
        return data[:at] if rng.random() < 0.6 else data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    plain = gzip.decompress(data) if zipped else data
    if name in ("x.policy", "prices.json"):  # one JSON value over many lines
        text = json.dumps(json.loads(plain), separators=(",", ":")).encode()
        for _ in range(rng.randint(1, 3)):
            text = change_line(rng, text, [text])
        return text
    lines = plain.split(b"\n")
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(lines))
        lines[at] = change_line(rng, lines[at], lines)
    plain = b"\n".join(lines)
    return gzip.compress(plain, mtime=0) if zipped else plain


def faults(place: Path, name: str, changed: bytes, commands: tuple[tuple[str, ...], ...]) -> list[str]:
    """Run the commands on these files, and return what is wrong with how they ended."""
    found = []
    journal = name if name.startswith("j.") else "j.jsonl"
    for command in commands:
        for file, content in whole().items():
            (place / file).write_bytes(changed if file == name else content)
        head, *args = command
        done = CliRunner().invoke(app, [head, journal, *args], input="r\nw\ns\nq\n")
        out, err = done.stdout, done.stderr
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            found.append(f"{command}: {done.exception!r}")
        elif done.exit_code not in (0, 1, 2, 3) or ACTS.search(out + err):
            found.append(f"{command}: code {done.exit_code}, {err!r}")
        elif done.exit_code == 2 and not (err.startswith("cascade-agent: ") and (name in err or journal in err)):
            found.append(f"{command}: no file is named in {err!r}")
        elif any(err.count(line) > 1 for line in err.splitlines() if line.startswith("cascade-agent: ")):
            found.append(f"{command}: a complaint came twice in {err!r}")
        elif "--json" in command and out and not is_json(out):
            found.append(f"{command}: no JSON: {out[:200]!r}")
        elif done.exit_code == 2 and "give --skip-bad" in err and not re.search(re.escape(name) + r":\d+: ", err):
            found.append(f"{command}: no line is named in {err!r}")
    return found


def is_json(text: str) -> bool:
    """Return whether a text is one JSON value of the standard."""
    try:
        json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    except ValueError:
        return False
    return True


def run_seeds(place: Path, seeds: range, chosen: Callable[[random.Random, str], tuple[tuple[str, ...], ...]]) -> None:
    """Try mutations by number; the number of one that fails is in the message."""
    names = sorted(whole())
    for seed in seeds:
        rng = random.Random(seed)
        name = names[seed % len(names)]
        changed = mutate(rng, name)
        assert faults(place, name, changed, chosen(rng, name)) == [], f"seed {seed}: {name}: {changed[-300:]!r}"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of its own, which the commands run in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_files_that_are_well_are_read_by_every_command(place: Path) -> None:
    """Without a change no command ends with an error: what the others find is the change."""
    for name, commands in COMMANDS.items():
        assert faults(place, name, whole()[name], commands) == []


def test_a_mutated_file_is_an_answer_or_a_line_that_names_the_place(place: Path) -> None:
    """Each of 36 mutations through two commands drawn from those that read the file, with and without `--skip-bad`."""

    def two(rng: random.Random, name: str) -> tuple[tuple[str, ...], ...]:
        first, second = rng.choice(COMMANDS[name]), rng.choice(COMMANDS[name])
        return first, (*second, *SKIPPED)

    run_seeds(place, range(36), two)


@pytest.mark.slow
def test_no_mutation_of_300_ends_in_a_traceback(place: Path) -> None:
    """Each mutation through every command that reads the file, with and without `--skip-bad`."""

    def all_of_them(_: random.Random, name: str) -> tuple[tuple[str, ...], ...]:
        return tuple((*command, *more) for command in COMMANDS[name] for more in ((), SKIPPED))

    first = int(os.environ.get("MUTATION_SEED", "0"))
    run_seeds(place, range(first, first + 300), all_of_them)


def test_the_files_hold_what_they_should() -> None:
    """The files that are mutated are journals of steps and labels, so that a mutation meets real code."""
    lines = whole()["j.jsonl"].splitlines()
    assert sum(StepTrace.from_json(json.loads(line)).escalated for line in lines if b'"attempts"' in line) > 2
