"""`cascade-agent trace`: every format, labels, rules, inner cascades, hostile texts, large files, files that grow."""

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
from pathlib import Path
from typing import Self

import pytest

from cascade_agent.cli._tree import harmless_json, plain
from cascade_agent.core.records import Attempt, Decision, DecisionInputs, SideCall, StepTrace, Verdict
from cascade_agent.journal.writer import Journal

ROOT = Path(__file__).parent.parent
SPANS = Path(__file__).parent / "data" / "spans.otlp.jsonl"
COMMAND = [sys.executable, "-c", "from cascade_agent.cli import main; main()", "trace"]


def environment(**more: str) -> dict[str, str]:
    """The environment of the command, without what colours and widths depend on."""
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def run(*args: object, **env: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(  # noqa: S603 - our own command
        [*COMMAND, *map(str, args)], env=environment(**env), capture_output=True, text=True, timeout=120, check=False
    )


def step(number: int, *, thread: str | None = "t", **changes: object) -> StepTrace:
    """A step that small answered."""
    fields: dict = {
        "id": f"id{number}", "step": f"step{number}", "outcome": "accepted", "reason": "accepted", "thread_id": thread,
        "attempts": (Attempt(tier="small", model="tiny", outcome="accepted", cost=0.001),), "final": 0, "cost": 0.001,
    }  # fmt: skip
    return StepTrace(**{**fields, **changes})


def written(path: Path, *steps: StepTrace) -> Journal:
    """A journal with these steps."""
    journal = Journal(path)
    for one in steps:
        assert journal.append(one)
    return journal


# ---- formats --------------------------------------------------------------------------------------------------------


def test_spans_are_shown_as_a_journal_is():
    """A file of the official exporter: threads, outcomes, reasons, costs, verdicts, the cascade inside of a tier."""
    result = run(SPANS)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    for part in (
        "t-1, 2 steps, 1 escalated, 0.001320 USD",
        "desk: accepted by small (accepted), 0.000110 USD, ",
        "desk: exhausted by nobody (odd), 0.001210 USD, ",
        "refuse fail odd at /text: it begins badly",
        "small tiny: error, cost unknown, ",
        "ladder: escalated by large (odd), 0.001430 USD, ",
        "small medium: rejected, P(right) 0.00, 0.000330 USD, ",
    ):
        assert part in result.stdout
    (tier,) = (line.index("large medium->huge") for line in result.stdout.splitlines() if "large medium->huge" in line)
    (inner,) = (line.index("ladder:") for line in result.stdout.splitlines() if "ladder:" in line)
    assert inner > tier


def test_formats_are_told_apart_line_by_line(tmp_path):
    """A journal, OTLP and the SDK's JSON may even stand in one file, beside metrics and logs."""
    mixed = tmp_path / "all.jsonl"
    written(mixed, step(1))
    sdk = {
        "name": "cascade.step other", "context": {"trace_id": "0x1", "span_id": "0x2"}, "parent_id": None,
        "start_time": "2026-01-01T00:00:00.000000Z", "end_time": "2026-01-01T00:00:02.000000Z", "events": [],
        "attributes": {"cascade.step.outcome": "accepted", "cascade.step.name": "other"},
    }  # fmt: skip
    with mixed.open("ab") as file:
        file.write(b'{"resourceMetrics":[{}]}\n' + SPANS.read_bytes() + json.dumps(sdk).encode() + b"\n")
    steps = [StepTrace.from_json(record) for record in json.loads(run(mixed, "--json").stdout)]
    assert [s.step for s in steps] == ["step1", "desk", "desk", "desk", "desk", "other"]
    assert steps[-1].latency == 2.0


def test_filters_work_on_spans():
    """`--thread`, `--escalated` and `--last` choose steps of either format."""
    for args, count in (((), 4), (("--escalated",), 3), (("--thread", "t-1"), 2), (("--last", 1), 1)):
        assert len(json.loads(run(SPANS, "--json", *args).stdout)) == count


def test_compressed_and_rotated_files_are_read_by_pattern(tmp_path):
    """All files of a rotated journal, the compressed ones too, oldest first."""
    journal = Journal(tmp_path / "j.jsonl", max_bytes=700)
    for number in range(6):
        journal.append(step(number))
    old = sorted(tmp_path.glob("j.2*.jsonl"))
    assert len(old) >= 2
    old[0].with_name(f"{old[0].name}.gz").write_bytes(gzip.compress(old[0].read_bytes()))
    old[0].unlink()
    data = json.loads(run(tmp_path / "j*.jsonl*", "--json").stdout)
    assert [record["id"] for record in data] == [f"id{number}" for number in range(6)]
    listed = json.loads(run(*sorted(tmp_path.glob("j.*")), "--json").stdout)
    assert listed == data


@pytest.mark.parametrize("source", ["journal", "spans"])
def test_a_torn_last_line_is_left_out_and_said(tmp_path, source):
    """A killed writer costs its own last line only."""
    file = tmp_path / "torn.jsonl"
    if source == "journal":
        written(file, step(1))
    else:
        file.write_bytes(SPANS.read_bytes())
    whole = json.loads(run(file, "--json").stdout)
    with file.open("ab") as stream:
        stream.write(SPANS.read_bytes()[:200])
    result = run(file, "--json")
    assert result.returncode == 0
    assert json.loads(result.stdout) == whole
    assert "unfinished" in result.stderr


def test_what_comes_through_a_pipe_is_read():
    """A name that can be read once only: labels behind their steps are not seen there, all else is."""
    with SPANS.open("rb") as stream:
        piped = subprocess.Popen(["cat"], stdin=stream, stdout=subprocess.PIPE)  # noqa: S607
        done = subprocess.run(  # noqa: S603 - our own command
            [*COMMAND, "/dev/stdin", "--json"], stdin=piped.stdout, env=environment(), capture_output=True, check=True
        )
        piped.communicate()
    assert len(json.loads(done.stdout)) == 4


def test_a_broken_line_among_spans_is_left_out_and_counted(tmp_path):
    """A process that was killed and started again writes on behind its own half line; the rest is shown."""
    first, second = SPANS.read_bytes().splitlines(keepends=True)
    file = tmp_path / "x.jsonl"
    file.write_bytes(first + second[:100] + b"\n" + second)
    result = run(file, "--json")
    assert (result.returncode, len(json.loads(result.stdout))) == (0, 4)
    assert "1 lines are no JSON" in result.stderr


@pytest.mark.parametrize(
    "text", ['{"a": 1}\n', "{\n", "hello\n", '{"resourceSpans": [{"scopeSpans": [{"spans": [1]}]}]}\n']
)
def test_what_is_neither_is_refused_with_what_is_expected(tmp_path, text):
    """The file, the line and what would be read; exit code 2."""
    file = tmp_path / "x.jsonl"
    file.write_text(text + text, encoding="utf-8")
    result = run(file)
    assert result.returncode == 2
    assert "x.jsonl:1" in result.stderr
    assert "expected a journal" in result.stderr or "not a span" in result.stderr


def test_attempts_whose_step_is_missing_are_said(tmp_path):
    """Spans of a step that still runs, or that another file holds."""
    data = json.loads(SPANS.read_text(encoding="utf-8").splitlines()[0])
    (scope,) = (s for s in data["resourceSpans"][0]["scopeSpans"] if s["scope"]["name"] == "cascade_agent")
    scope["spans"] = [span for span in scope["spans"] if not span["name"].startswith("cascade.step")]
    file = tmp_path / "x.jsonl"
    file.write_text(json.dumps({"resourceSpans": [{"scopeSpans": [scope]}]}) + "\n", encoding="utf-8")
    result = run(file)
    assert result.stdout == "No steps.\n"
    assert "5 attempts belong to steps" in result.stderr


# ---- what is shown --------------------------------------------------------------------------------------------------


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
        first, second = lines.index("step1: accepted by small (accepted), 0.001000 USD"), next(
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


def test_threads_that_interleave_are_put_together(tmp_path):
    """Each under one heading, in the order in which they began, with what they cost together."""
    steps = [step(n, thread=f"t{n % 3}") for n in range(9)]
    written(tmp_path / "j.jsonl", *steps, step(9, thread=None))
    text = run(tmp_path / "j.jsonl").stdout
    headings = [line for line in text.splitlines() if line and line[0] not in " │├└"]
    assert headings == [f"t{n}, 3 steps, 0.003000 USD" for n in range(3)] + ["(no thread) id9"]


def test_a_thread_beyond_the_room_gets_a_second_heading(tmp_path):
    """Printing begins before the file ends: steps wait in a room of fixed size."""
    steps = [step(n, thread="long" if n % 2 else f"t{n % 7}") for n in range(2300)]
    written(tmp_path / "j.jsonl", *steps)
    text = run(tmp_path / "j.jsonl").stdout
    assert len(re.findall(r"step\d+: accepted", text)) == 2300
    assert "long (continued), " in text


# ---- texts of others ------------------------------------------------------------------------------------------------

HOSTILE = "[red]x[/red] :smile: \x1b[31mred\x1b]0;title\x07 \x9b2J \u202eback\u2066 a\rb\nc\td \ud800 [link=http://x]y[/link]\u200b"


def hostile_step() -> StepTrace:
    """A step every text of which is hostile."""
    verdict = Verdict(outcome="fail", code=HOSTILE, reason=HOSTILE, path=HOSTILE, validator=HOSTILE)
    call = {"name": HOSTILE, "args": {HOSTILE: HOSTILE}}
    return step(
        1, thread=HOSTILE, step=HOSTILE, reason=HOSTILE, currency=HOSTILE, policy=HOSTILE,
        attempts=(
            Attempt(tier=HOSTILE, model=HOSTILE, outcome="error", error=HOSTILE, verdicts=(verdict,), answer={"tool_calls": [call]}),
            Attempt(tier="small", answer={"text": HOSTILE}),
        ),
        decisions=(Decision(action="escalate", reason="stays_on_large", detail=HOSTILE),),
        evidence=(SideCall(name=HOSTILE),),
    )  # fmt: skip


ACTS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2060-\u2069]")


@pytest.mark.parametrize("args", [(), ("--json",), ("--last", "1")], ids=str)
def test_no_text_of_others_reaches_the_terminal_as_a_command(tmp_path, args):
    """Escapes, controls, bidi marks and markup are shown, never acted on; each step stays on its own lines."""
    journal = written(tmp_path / "j.jsonl", hostile_step())
    journal.label("id1", source=HOSTILE, right=True, note=HOSTILE)
    result = run(journal.path, *args, FORCE_COLOR="1" if not args else "")
    assert result.returncode == 0, result.stderr
    text = re.sub("\x1b\\[[0-9;]*m", "", result.stdout) if not args else result.stdout
    assert ACTS.search(text) is None
    assert "\n\n" not in text
    assert "[red]x[/red] :smile:" in text
    if args != ("--json",):
        assert "\\x1b[31mred\\x1b]0;title\\x07 \\x9b2J \\u202eback\\u2066" in text
    else:
        (record,) = json.loads(text)
        assert record["labels"][0]["note"] == StepTrace.from_json(record).step == HOSTILE.replace("\ud800", "\ufffd")


def test_harmless_texts_are_left_as_they_are():
    """Scripts of the world, combined emoji and quotes pass; JSON reads back as the same."""
    said = 'Grüße 你好 مرحبا 👩\u200d🚀 "x" [y]'
    assert plain(said) == said
    assert json.loads(harmless_json({"a": said + "\x9b\u202e"})) == {"a": said + "\x9b\u202e"}
    assert plain("a" * 1000, 10) == "a" * 9 + "…"


def on_a_terminal(*args: object, **env: str) -> str:
    """What the command writes to a terminal."""
    own, theirs = pty.openpty()
    process = subprocess.Popen(  # noqa: S603 - our own command
        [*COMMAND, *map(str, args)], stdout=theirs, stderr=theirs, env=environment(TERM="xterm-256color", **env)
    )
    os.close(theirs)
    text = b""
    try:
        while piece := os.read(own, 65536):
            text += piece
    except OSError:  # the other end was closed
        pass
    process.wait(timeout=60)
    os.close(own)
    return text.decode()


def test_colours_are_for_terminals():
    """A terminal gets them unless NO_COLOR is set; a pipe gets none."""
    colour = re.compile("\x1b\\[[0-9;]*3[0-9]")
    assert colour.search(on_a_terminal(SPANS))
    assert not colour.search(on_a_terminal(SPANS, NO_COLOR="1"))
    assert "\x1b" not in run(SPANS).stdout


def test_an_output_that_cannot_show_a_character_escapes_it(tmp_path):
    """A terminal of ASCII alone is no error."""
    written(tmp_path / "j.jsonl", step(1, thread="Grüße"))
    result = run(tmp_path / "j.jsonl", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert result.returncode == 0, result.stderr
    assert "Gr\\xfc\\xdfe" in result.stdout


# ---- large files ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("source", ["journal", "spans"])
def test_a_large_file_is_read_in_bounded_memory(tmp_path, source):
    """300 MB of steps with labels: the command's peak stays below 100 MB."""
    file = tmp_path / "big.jsonl"
    with file.open("wb") as stream:
        number = 0
        lines = SPANS.read_bytes() if source == "spans" else b""
        while stream.tell() < 300 * 2**20:
            number += 1
            if source == "spans":
                text = lines.replace(b'"traceId":"', b'"traceId":"%08x' % number)
            else:
                one = step(
                    number, thread=f"t{number % 1000}", attempts=(Attempt(tier="small", answer={"text": "x" * 3000}),)
                )
                label = {"type": "label", "step_id": one.id, "source": "person", "right": True}
                text = "".join(json.dumps(r) + "\n" for r in ({"type": "step", **one.to_json()}, label)).encode()
            stream.write(text)
    code = (
        "import os, sys\n"
        f"pid = os.posix_spawn(sys.executable, {[*COMMAND, str(file), '--last', '3', '--json']!r}, os.environ)\n"
        "_, status, usage = os.wait4(pid, 0)\n"
        "assert status == 0\n"
        "sys.stderr.write(str(usage.ru_maxrss))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)  # noqa: S603
    assert len(json.loads(done.stdout)) == 3
    assert int(done.stderr) < 100_000  # kilobytes


# ---- files that grow ------------------------------------------------------------------------------------------------


class Followed:
    """`trace --follow` as a process whose lines are waited for; ended with the `with` block, whatever happened."""

    def __init__(self, out: Path, *args: object) -> None:
        self.out = out
        with out.open("wb") as stream, out.with_suffix(".err").open("wb") as errors:
            # Where this process ignores SIGINT (a background job of a shell), its children would do so too.
            before = signal.signal(signal.SIGINT, signal.default_int_handler)
            try:
                self.process = subprocess.Popen(  # noqa: S603 - our own command
                    [*COMMAND, "--follow", *map(str, args)], stdout=stream, stderr=errors, env=environment()
                )
            finally:
                signal.signal(signal.SIGINT, before)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(timeout=60)

    @property
    def text(self) -> str:
        return self.out.read_text(encoding="utf-8")

    @property
    def errors(self) -> str:
        return self.out.with_suffix(".err").read_text(encoding="utf-8")

    def until(self, part: str) -> None:
        """Wait until something is printed."""
        until = time.monotonic() + 60
        while part not in self.text + self.errors:
            assert self.process.poll() is None, self.errors
            assert time.monotonic() < until, (part, self.text, self.errors)
            time.sleep(0.05)

    def stop(self) -> int:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=60)


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


def test_spans_are_followed_with_inner_cascades_in_their_place(tmp_path):
    """A step from spans waits a moment for those that belong to it, however the batches cut it."""
    first, second = SPANS.read_bytes().splitlines(keepends=True)
    path = tmp_path / "spans.jsonl"
    path.write_bytes(first)
    with Followed(tmp_path / "out", path) as follow:
        follow.until("exhausted by nobody")
        data = json.loads(second)
        (scope,) = (s for s in data["resourceSpans"][0]["scopeSpans"] if s["scope"]["name"] == "cascade_agent")
        for span in scope["spans"]:
            with path.open("ab") as stream:
                stream.write(json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}).encode() + b"\n")
                stream.flush()
        follow.until("escalated by large (model_error)")
        assert follow.stop() == 0
        assert follow.text.count("ladder:") == 1
        assert follow.text.index("model_error") < follow.text.index("ladder:")


@pytest.mark.parametrize("what", ["directory", "compressed", "table", "two"])
def test_what_cannot_be_followed_is_said(tmp_path, what):
    """Exit code 2 and the reason."""
    file = tmp_path / "x.gz"
    file.write_bytes(gzip.compress(b"{}"))
    table = tmp_path / "x.parquet"
    table.write_bytes(b"PAR1...")
    args = {"directory": [tmp_path], "compressed": [file], "table": [table], "two": [file, file]}[what]
    result = run("--follow", *args)
    assert result.returncode == 2
    assert "--follow takes" in result.stderr
