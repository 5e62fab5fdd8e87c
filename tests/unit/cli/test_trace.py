"""`cascade-agent trace`: labels, rules, inner cascades, hostile texts, large files, files that grow."""

from __future__ import annotations

import gzip
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Self

import pytest

from cascade_agent.cli._app import safe_json, safe_text
from cascade_agent.core.records import Attempt, Decision, DecisionInputs, SideCall, StepTrace, Verdict
from cascade_agent.journal.writer import Journal
from tests.builders import ROOT, command, recorded

if TYPE_CHECKING:
    from pathlib import Path

run = partial(command, "trace", NO_COLOR=None)

COMMAND = [sys.executable, "-m", "cascade_agent", "trace"]


def environment(**more: str) -> dict[str, str]:
    """The environment of the command, without what colours and widths depend on."""
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def step(number: int, *, thread: str | None = "t", **changes: object) -> StepTrace:
    """A step that small answered."""
    small = Attempt(tier="small", model="tiny", outcome="accepted", cost=0.001)
    fields: dict = {"attempts": (small,), "step": f"step{number}", "reason": "accepted", "cost": 0.001, **changes}
    return recorded(
        f"id{number}", *fields.pop("attempts"), **{"outcome": "accepted", "final": 0, "thread_id": thread, **fields}
    )


def written(path: Path, *steps: StepTrace) -> Journal:
    """A journal with these steps."""
    journal = Journal(path)
    for one in steps:
        assert journal.append(one)
    return journal


# ---- files --------------------------------------------------------------------------------------------------------
def test_what_comes_through_a_pipe_is_read(tmp_path):
    """A name that can be read once only: labels behind their steps are not seen there, all else is."""
    journal = written(tmp_path / "j.jsonl", step(1), step(2))
    done = subprocess.run(
        [*COMMAND, "/dev/stdin", "--json"],
        input=journal.path.read_bytes(), env=environment(), capture_output=True, check=True,
    )  # fmt: skip
    assert len(json.loads(done.stdout)) == 2


@pytest.mark.parametrize(
    ("tail", "args", "code", "ids", "error"),
    [
        (b'{"type":"step","id"', (), 0, ["id1", "id2"], "j.jsonl:3: the last line is unfinished"),
        (b"nonsense\n", (), 2, ["id1", "id2"], "j.jsonl:3: not a line of JSON"),
        (b'{"type":"step","id":"x","cost":[]}\n', ("--skip-bad",), 0, ["id1", "id2"], "1 lines are no records"),
        (b"\x1f\x8b", (), 2, ["id1"], "the compressed file is cut off"),
        (b"\x1f\x8b", ("--skip-bad",), 0, ["id1"], "what is whole was read"),
    ],
)
def test_a_line_that_is_no_record_is_named_and_the_output_stays_json(tmp_path, tail, args, code, ids, error):
    """File, line and mend on standard error; with --json one value, whatever comes; --skip-bad goes on."""
    journal = written(tmp_path / "j.jsonl", step(1), step(2))
    whole = journal.path.read_bytes()
    if tail == b"\x1f\x8b":
        noise = b"".join(b'{"x": "%d"}\n' % n for n in range(3))
        journal.path.write_bytes(gzip.compress(whole.splitlines()[0] + b"\n") + gzip.compress(noise)[:12])
    else:
        journal.path.write_bytes(whole + tail)
    result = run(journal.path, "--json", *args)
    assert result.exit_code == code
    assert [record["id"] for record in json.loads(result.stdout)] == ids
    assert error in result.stderr
    assert "Traceback" not in result.stderr


# ---- what is printed --------------------------------------------------------------------------------------------------
def test_labels_stand_at_their_step_with_who_says_so(tmp_path):
    """Several sources side by side; a label behind its step in the file, and one before it."""
    journal = Journal(tmp_path / "j.jsonl")
    journal.label("id2", source="tool_error", right=False, note="it failed")
    journal.append(step(1))
    journal.append(step(2))
    journal.label("id1", source="person", right=True)
    journal.label("id1", source="shadow", right=False, harm=True)
    journal.label("id9", source="nobody", right=False)
    for args in ((), ("--last", 5)):
        lines = [line.strip(" │├└─") for line in run(journal.path, *args).stdout.splitlines()]
        first, second = lines.index("step1: accepted by small, 0.001000 USD"), next(
            n for n, line in enumerate(lines) if line.startswith("step2")
        )  # fmt: skip
        assert lines[first + 2 : second] == [
            "label: small was right (person)",
            "label: small was wrong, large right (shadow)",
        ]
        assert lines[second + 2 :] == ["label: small was wrong (tool_error)  it failed"]
    data = json.loads(run(journal.path, "--json").stdout)
    assert [[label["source"] for label in record["labels"]] for record in data] == [
        ["person", "shadow"],
        ["tool_error"],
    ]


def test_a_rule_that_acted_is_shown_with_what_was_known(tmp_path):
    """Skipped, stays_on_large, budget, deadline: the rule, its reason and the situation; a plain acceptance shows neither."""
    inputs = DecisionInputs(
        escalation=0.62, small_cost=0.0001, large_cost=0.002, time_left=3.25, money_left=0.5, retry=False
    )
    skipped = (Attempt(tier="small", outcome="skipped"), Attempt(tier="large", outcome="accepted"))
    plain_one = step(2, inputs_seen=(inputs,), decisions=(Decision(action="accept", reason="accepted"),))
    by_rule = step(
        1, attempts=skipped, outcome="escalated", reason="skipped_small", final=1, inputs_seen=(inputs,),
        decisions=(Decision(action="escalate", reason="skipped_small", detail="P(escalate) >= 0.620 > 0.500"),),
        evidence=(SideCall(name="cross_check", cost=0.0004, latency=0.5),),
    )  # fmt: skip
    stays_on_large = step(
        3,
        inputs_seen=(DecisionInputs(stays_on_large=True, probe=True),),
        decisions=(Decision(action="escalate", reason="stays_on_large", wait=2.0),),
    )
    beside = Decision(action="ask_small", reason="draft", hedge=1.5)
    hedged = step(4, decisions=(beside, plain_one.decisions[0]), evidence=(SideCall(name="hedge"),))
    probe = step(
        6, decisions=(Decision(action="ask_small", reason="draft"),), inputs_seen=(DecisionInputs(probe=True),)
    )
    written(tmp_path / "j.jsonl", by_rule, plain_one, stays_on_large, hedged, step(5, decisions=(beside,)), probe)
    text = run(tmp_path / "j.jsonl").stdout
    assert "rule skipped_small: P(escalate) >= 0.620 > 0.500" in text
    assert (
        "known then: no more retries, P(escalate) >= 0.62, small costs 0.000100 USD, large costs 0.002000 USD, "
        "3.25 s left, 0.500000 USD left"
    ) in text
    assert "asked cross_check: 0.000400 USD, 500.0 ms" in text
    assert "rule stays_on_large: waited 2 s" in text
    assert "small asked to see whether it pays again, a step of this turn escalated" in text
    assert text.count("known then") == 3
    assert text.count("rule hedge: large asked too after 1.5 s") == 1
    assert "rule probe" in text


def test_the_cascade_inside_of_a_tier_is_nested(tmp_path):
    """Its steps stand below the attempt; a record that cannot be read says so."""
    inner = step(7, thread=None).to_json(content=False)
    middle = step(6, attempts=(Attempt(tier="large", outcome="accepted", inner=inner),)).to_json(content=False)
    tiers = (Attempt(tier="small", outcome="error", inner={"attempts": 3}), Attempt(tier="large", inner=middle))
    written(tmp_path / "j.jsonl", step(5, attempts=tiers))
    lines = run(tmp_path / "j.jsonl").stdout.splitlines()
    places = [next(line.index(name) for line in lines if name in line) for name in ("step5", "step6", "step7")]
    assert places == sorted(set(places))
    assert any("a cascade whose record cannot be read" in line for line in lines)


def test_a_step_is_printed_with_its_findings_and_filtered(tmp_path):
    """Attempts, verdicts that object, answers, an unknown cost; `--escalated`, `--thread` and `--last` choose steps."""
    bad = Verdict(outcome="fail", validator="Schema", code="missing", reason="city is required", path="/args")
    call = {"tool_calls": [{"name": "look", "args": {"q": 1}, "id": "x"}]}
    tiers = (Attempt(tier="small", outcome="rejected", verdicts=(bad,), answer=call), Attempt(tier="large"))
    second = step(2, thread="b-1", attempts=tiers, outcome="escalated", final=1, cost=None)
    path = written(tmp_path / "j.jsonl", step(1, thread="a-1"), second).path
    text = run(path).stdout
    for part in ("a-1", "b-1", "step2: escalated by large (accepted), cost unknown", 'look({"q": 1})',
                 "Schema refuses it: city is required [missing at /args]"):  # fmt: skip
        assert part in text
    for args, ids in (((), ["id1", "id2"]), (("--escalated",), ["id2"]), (("--thread", "a"), ["id1"]), (("--last", 1), ["id2"])):  # fmt: skip
        assert [StepTrace.from_json(item).id for item in json.loads(run(path, "--json", *args).stdout)] == ids


def test_threads(tmp_path):
    """Put together under one heading with their cost; beyond the room they get a second one."""
    steps = [step(n, thread=f"t{n % 3}") for n in range(9)]
    written(tmp_path / "j.jsonl", *steps, step(9, thread=None))
    text = run(tmp_path / "j.jsonl").stdout
    headings = [line for line in text.splitlines() if line and line[0] not in " │├└"]
    assert headings == [f"t{n}, 3 steps, 0.003000 USD" for n in range(3)] + ["(no thread) id9"]
    steps = [step(n, thread="long" if n % 2 else f"t{n % 7}") for n in range(2300)]
    written(tmp_path / "k.jsonl", *steps)
    text = run(tmp_path / "k.jsonl").stdout
    assert len(re.findall(r"step\d+: accepted", text)) == 2300
    assert "long (continued), " in text


# ---- terminals ------------------------------------------------------------------------------------------------------


def test_terminals(tmp_path):
    """Colours are for terminals unless NO_COLOR is set; harmless scripts pass; ASCII alone is escaped."""
    text = 'Grüße 你好 مرحبا 👩\u200d🚀 "x" [y]'
    assert safe_text(text) == text
    assert json.loads(safe_json({"a": text + "\x9b\u202e"})) == {"a": text + "\x9b\u202e"}
    assert safe_text("a" * 1000, 10) == "a" * 9 + "…"
    written(tmp_path / "j.jsonl", step(1, thread="Grüße"))
    ascii_only = environment(PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    done = subprocess.run([*COMMAND, tmp_path / "j.jsonl"], env=ascii_only, capture_output=True, check=True)
    assert b"Gr\\xfc\\xdfe" in done.stdout
    colour, path = re.compile("\x1b\\[[0-9;]*3[0-9]"), written(tmp_path / "j.jsonl", step(1)).path
    assert colour.search(on_a_terminal(path))
    assert not colour.search(on_a_terminal(path, NO_COLOR="1"))
    assert "\x1b" not in run(path).stdout


def on_a_terminal(*args: object, **env: str) -> str:
    """Return what the command writes to a terminal."""
    own, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *map(str, args)], stdout=theirs, stderr=theirs, env=environment(TERM="xterm-256color", **env)
    )
    os.close(theirs)
    text = b""
    try:
        while piece := os.read(own, 65536):
            text += piece
    except OSError:  # the other end was closed
        pass
    process.wait(timeout=180)
    os.close(own)
    return text.decode()


def test_quiet_prints_a_line_a_step(tmp_path):
    """Thread, step, outcome, tier, reason, cost and time; the filters hold."""
    path = written(tmp_path / "j.jsonl", step(1), step(2, thread=None, latency=0.5)).path
    assert run(path, "--quiet").stdout.splitlines() == [
        "t step1: accepted by small, 0.001000 USD",
        "- step2: accepted by small, 0.001000 USD, 500.0 ms",
    ]
    assert len(run(path, "-q", "--last", 1).stdout.splitlines()) == 1


# ---- large files ----------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_large_file_is_read_in_bounded_memory(tmp_path):
    """300 MB of steps with labels: the command's peak stays below 100 MB."""
    file = tmp_path / "big.jsonl"
    with file.open("w") as stream:
        number = 0
        while stream.tell() < 300 * 2**20:
            number += 1
            attempts = (Attempt(tier="small", answer={"text": "x" * 3000}),)
            one = step(number, thread=f"t{number % 1000}", attempts=attempts)
            label = {"type": "label", "step_id": one.id, "source": "person", "right": True}
            stream.write("".join(json.dumps(r) + "\n" for r in ({"type": "step", **one.to_json()}, label)))
    code = (
        "import os, sys\n"
        f"pid = os.posix_spawn(sys.executable, {[*COMMAND, str(file), '--last', '3', '--json']!r}, os.environ)\n"
        "_, status, usage = os.wait4(pid, 0)\n"
        "assert status == 0\n"
        "sys.stderr.write(str(usage.ru_maxrss))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert len(json.loads(done.stdout)) == 3
    assert int(done.stderr) < 100_000  # kilobytes


# ---- files that grow ------------------------------------------------------------------------------------------------
class Followed:
    """`trace --follow` as a process whose lines are waited for; ended with the `with` block, whatever happened."""

    def __init__(self, out: Path, *args: object) -> None:
        self.out = out
        with out.open("wb") as stream, out.with_suffix(".err").open("wb") as errors:
            code = (
                "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # it may be ignored here
                "from cascade_agent.cli import main; main()"
            )
            command = [sys.executable, "-c", code, "trace", "--follow", *map(str, args)]
            self.process = subprocess.Popen(command, stdout=stream, stderr=errors, env=environment())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(timeout=180)

    @property
    def text(self) -> str:
        return self.out.read_text(encoding="utf-8")

    @property
    def errors(self) -> str:
        return self.out.with_suffix(".err").read_text(encoding="utf-8")

    def until(self, part: str) -> None:
        """Wait until something is printed."""
        until = time.monotonic() + 180
        while part not in self.text + self.errors:
            assert self.process.poll() is None, self.errors
            assert time.monotonic() < until, (part, self.text, self.errors)
            time.sleep(0.05)

    def stop(self) -> int:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=180)


def test_a_journal_is_followed_from_before_it_is_there(tmp_path):
    """Waits for the file, prints each step as it comes, over a rotation and a truncation; Ctrl-C is a clean end."""
    path = tmp_path / "j.jsonl"
    with Followed(tmp_path / "out", path) as follow:
        follow.until("waiting for")
        journal = written(path, step(1))
        follow.until("step1: accepted")
        journal.append(step(2, thread="u"))
        follow.until("step2: accepted")
        journal.label("id1", source="person", right=False)
        follow.until("label: small was wrong (person)  for t, step1")
        with path.open("ab") as stream:
            stream.write(b'{"type": "step", "id"')
        path.rename(tmp_path / "j.old.jsonl")  # with a line that nobody will finish
        written(path, step(3))
        follow.until("step3: accepted")
        path.write_bytes(b"")
        with path.open("ab") as stream:
            stream.write(b"nonsense\n")
        follow.until("a line is left out")
        Journal(path).append(step(4))
        follow.until("step4: accepted")
        assert follow.stop() == 0
        assert [line for line in follow.text.splitlines() if line[0] != " "] == [
            "t", "u", "label: small was wrong (person)  for t, step1", "t"
        ]  # fmt: skip
        assert [follow.text.count(f"step{n}: accepted") for n in (1, 2, 3, 4)] == [1, 1, 1, 1]
        assert "Traceback" not in follow.errors


def test_following_begins_with_the_last_steps(tmp_path):
    """The last ten, or as many as `--last` says; the filters hold for what comes."""
    journal = written(tmp_path / "j.jsonl", *(step(n, thread=f"t{n % 2}") for n in range(40)))
    with Followed(tmp_path / "out", journal.path, "--thread", "t1", "--last", 2, "--json") as follow:
        follow.until("id39")
        for n in (40, 41):
            journal.append(step(n, thread=f"t{n % 2}"))
        follow.until("id41")
        assert follow.stop() == 0
        assert [json.loads(line)["id"] for line in follow.text.splitlines()] == ["id37", "id39", "id41"]
