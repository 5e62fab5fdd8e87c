"""The report: its figures are the journal's, unknown stays unknown, and nothing that was read can act in the page."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import html
import html.parser
import importlib
import json
import math
import random
import re
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cascade_agent.core.policy import Policy
from cascade_agent.core.records import Attempt, Label, SideCall, StepTrace, Usage
from cascade_agent.errors import RecordError
from cascade_agent.journal.reader import read, read_labels
from cascade_agent.offline.calibration import write_policy
from cascade_agent.offline.drift import watch
from cascade_agent.offline.evaluation import compare
from cascade_agent.offline.evaluation.replay import replay
from cascade_agent.offline.report import build_report, render
from cascade_agent.offline.report import format as fmt
from cascade_agent.offline.report.collect import MAX_PERIODS, WIDTHS, Counts, Least, Timeline, percentiles
from cascade_agent.offline.report.markup import Placer, Scale, breakable, el, escape, log_ticks, ticks
from cascade_agent.offline.report.page import templates
from cascade_agent.validators import shipped_scorer
from tests.builders import ROOT, command, written
from tests.report_journals import HOSTILE, START, hostile, ordinary, step

if TYPE_CHECKING:
    from pathlib import Path

run = partial(command, "report")


@pytest.fixture
def reported(tmp_path):
    """Builds the report of these records."""

    def built(*records: StepTrace | Label):
        steps, labels = ([r for r in records if isinstance(r, kind)] for kind in (StepTrace, Label))
        return build_report([written(tmp_path / f"{sum(1 for _ in tmp_path.iterdir())}.jsonl", steps, labels)])

    return built


@pytest.fixture(scope="module")
def journal(tmp_path_factory) -> Path:
    """The ordinary journal."""
    return ordinary(tmp_path_factory.mktemp("report") / "journal.jsonl")


@pytest.fixture(scope="module")
def report(journal):
    """Its report."""
    return build_report([journal], now=START)


# ---- figures are the journal's --------------------------------------------------------------------------------------
def test_counts_and_sums_are_the_journals(journal, report):
    """Steps, outcomes, answers, escalations and their reasons, costs and labels equal a plain recount of the lines."""
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    steps = [line for line in lines if line["type"] == "step"]
    totals = report.totals
    assert totals.steps == len(steps) == 121
    assert totals.threads == len({s["thread_id"] for s in steps})
    assert totals.escalated == sum(s["escalated"] for s in steps)
    assert totals.by_outcome == Counter(s["outcome"] for s in steps)
    assert totals.cost.known == pytest.approx(sum(s["cost"] for s in steps if s["cost"] is not None))
    assert totals.cost.unknown == sum(s["cost"] is None for s in steps) == 7
    side_calls = [line["side_call"]["cost"] for line in lines if "side_call" in line]
    assert totals.shadow_calls == len(side_calls)
    assert totals.shadow.known == pytest.approx(sum(side_calls))
    assert totals.labels == sum(line["type"] == "label" for line in lines)
    large = sum(len(s["attempts"]) - 1 for s in steps)
    assert totals.models == {"small": {"tiny-1": len(steps)}, "large": {"huge-1": large}}
    found = {(row.step, reason): n for row in report.escalations for reason, n in row.reasons.items()}
    assert found == Counter((t.step, t.reason) for t in read(journal) if t.escalated)
    assert {row.step: row.steps for row in report.escalations} == Counter(t.step for t in read(journal))


def test_percentiles_are_values_of_the_journal(journal, report):
    """p50, p95 and p99 of each tier are the nearest ranks of the recorded latencies."""
    found = {row.who: row for row in report.latency}
    small = sorted(t.attempts[0].latency for t in read(journal))
    for share in (50, 95, 99):
        assert getattr(found["small"], f"p{share}") == small[math.ceil(share / 100 * len(small)) - 1]
    assert found["small"].exact
    assert found["evidence"].n == sum(len(t.evidence) for t in read(journal))
    whole = sorted(t.latency for t in read(journal) if t.escalated)
    assert found["step, escalated"].p50 == whole[math.ceil(0.5 * len(whole)) - 1]


def test_spend_over_time_adds_up(report):
    """The periods hold what the totals hold: steps, escalations, costs by part, unknown ones."""
    periods = report.spending.periods
    assert sum(p.steps for p in periods) == report.totals.steps
    assert sum(p.escalated for p in periods) == report.totals.escalated
    assert sum(p.unknown for p in periods) == report.totals.cost.unknown
    paid = sum(p.small + p.large + p.evidence for p in periods)
    assert paid == pytest.approx(report.totals.cost.known)
    with_evidence = [n for n in range(120) if n % 10 == 3 and n % 17 != 5]
    assert sum(p.evidence for p in periods) == pytest.approx(0.0005 * len(with_evidence))
    assert sum(p.shadow for p in periods) == pytest.approx(report.totals.shadow.known)
    assert periods[0].start.startswith("2026-03-02T08:00:00")


def test_the_curve_is_what_the_comparison_says(journal, report):
    """Each point of the curve and each way to answer has the escalations, cost and harm of `compare` on that journal."""
    points = [point for point in report.frontier.curve if point.threshold is not None]
    assert len(points) > 10
    found = compare(journal, Policy(), grid=[point.threshold for point in points], resamples=0)
    rows = {row.title: row.all for row in (*found.baselines, *found.policies)}
    titles = {"as it ran": "as recorded", "shipped policy": "policy"}
    for point in (*points, *report.frontier.marks):
        grid = f"threshold {point.threshold:g}" if point.threshold is not None else point.name
        figures = rows[titles.get(point.name, grid)]
        assert point.escalated == figures.escalation.value
        assert point.cost == pytest.approx(1 - figures.saving.point)
        assert point.quality.value == pytest.approx(1 - figures.harm.point)
    assert report.always_large.share == pytest.approx(1 - rows["as recorded"].saving.point)


def test_the_shown_twenty(journal, report, reported):
    """The dearest by cost and the least sure by confidence; a step that returned nothing comes first."""
    costs = sorted((t.cost for t in read(journal) if t.cost is not None), reverse=True)
    assert [s.cost for s in report.expensive] == costs[:20]
    assert [s.confidence for s in report.doubtful] == sorted(t.confidence for t in read(journal))[:20]
    nothing = replace(step(1, escalated=True, outcome="exhausted"), final=None, confidence=None)
    found = reported(step(0, confidence=0.1), nothing, step(2, confidence=0.2))
    assert [s.id for s in found.doubtful] == ["step-1", "step-0", "step-2"]
    assert found.totals.by_answer == {"small": 2, "nobody": 1}
    assert "No answer was returned." in render(found)


# ---- always large ---------------------------------------------------------------------------------------------------
def test_always_large_is_what_the_shadow_calls_say(reported):
    """A drawn step stands for one over its probability; without any draw the share lies between two numbers."""
    records = [step(0, escalated=True, large_cost=0.012), *(step(n, small_cost=0.002) for n in (1, 2, 3))]
    spend = SideCall(name="shadow", cost=0.02)
    found = reported(
        *records, Label(step_id="step-2", source="shadow", right=True, propensity=0.5, side_call=spend)
    ).always_large
    assert (found.large, found.cascade) == pytest.approx((0.012 + 3 * 0.02, 0.013 + 3 * 0.002))
    assert found.share == pytest.approx((found.cascade + 0.02) / found.large)
    assert (found.steps, found.measured, found.drawn, found.estimated, found.left_out) == (4, 2, 1, 2, 0)
    found = reported(*records, step(4, escalated=True, large_cost=0.03)).always_large
    assert (found.low, found.high) == pytest.approx((0.050 / (0.042 + 3 * 0.03), 0.050 / (0.042 + 3 * 0.001)))
    assert found.share is None
    assert "no shadow call" in found.why


def test_unknown_stays_unknown(reported):
    """Without escalations large's price is unknown, without costs there is no sum, other currencies stand apart."""
    page = render(reported(step(0), step(1)))
    assert "so its price is not in the journal" in page
    assert "No step of this journal escalated." in page
    report = reported(*(step(n, small_cost=None, confidence=n / 10, at=None) for n in range(10)))
    page = render(report)
    assert page.count('id="tile-cost">unknown<') == page.count('id="tile-share">unknown<') == 1
    assert "share of steps that escalate" in page
    assert (report.spending.undated, report.totals.first) == (10, None)
    report = reported(step(0), step(1), step(2, currency="EUR", small_cost=5.0))
    assert report.currency == "USD"
    assert report.totals.cost.known == pytest.approx(0.002)
    assert report.totals.other_currencies["EUR"].known == 5.0
    assert "not converted" in " ".join(report.notes)
    assert sum(p.small for p in report.spending.periods) == pytest.approx(0.002)


# ---- quality --------------------------------------------------------------------------------------------------------
def test_quality_needs_labels_of_accepted_steps(reported):
    """Escalated steps label themselves; without a label of an accepted one quality is unknown and the page says why."""
    report = reported(*(step(n, escalated=n % 2 == 0, confidence=0.5 + n / 40) for n in range(20)))
    assert (report.frontier.basis, report.frontier.marks[0].quality.value) == ("none", None)
    assert report.reliability.n == 10
    assert "set shadow_rate" in render(report)


def test_quality_weighs_shadow_labels(reported):
    """Shadow labels stand for accepted steps by one over their propensity; escalated steps are never harm."""
    records = [step(n, confidence=0.9, escalated=n > 7, thread=f"t{n}") for n in range(10)]
    records += [
        Label(step_id="step-0", source="shadow", right=False, harm=True, propensity=0.5),
        Label(step_id="step-1", source="shadow", right=True, propensity=0.25),
        Label(step_id="step-2", source="shadow", right=True, propensity=0.25),
    ]
    frontier = reported(*records).frontier
    assert frontier.basis == "propensity"
    quality = frontier.marks[0].quality
    assert quality.value == pytest.approx(1 - 0.8 * 2 / (2 + 4 + 4))
    assert quality.n == 3
    assert quality.low < quality.value < quality.high


def test_a_judged_share_and_its_interval(reported, report):
    """Labels of people count alike; ten right of twenty are ten independent looks; the highest threshold is as good as large."""
    records = [step(n, confidence=0.9, thread=f"t{n}") for n in range(20)]
    judged = reported(*records[:10], *(Label(step_id=f"step-{n}", source="person", right=n > 0) for n in range(4)))
    assert (judged.frontier.basis, judged.totals.labelled) == ("share", {"person": 4})
    assert judged.frontier.marks[0].quality.value == pytest.approx(0.75)
    drawn = (Label(step_id=f"step-{n}", source="shadow", right=True, propensity=0.5) for n in range(10))
    quality = reported(*records, *drawn).frontier.marks[0].quality
    assert (quality.value, quality.high) == (1.0, 1.0)
    assert quality.low == pytest.approx(1 - 0.5 * stats.binomtest(0, 10).proportion_ci(method="exact").high)
    last = report.frontier.curve[-1]
    assert min(last.escalated, last.quality.value, last.cost) > 0.95


def test_intervals_of_the_calibration_curve_are_exact(report):
    """Each bin has the Clopper-Pearson interval of its counts, and the bins hold all labelled drafts."""
    assert sum(b.n for b in report.reliability.bins) == report.reliability.n > 0
    for b in report.reliability.bins:
        wanted = stats.binomtest(b.right, b.n).proportion_ci(method="exact")
        assert b.share == b.right / b.n
        assert (b.interval_low, b.interval_high) == pytest.approx((wanted.low, wanted.high), abs=1e-6)
        assert b.low <= b.confidence <= b.high


def test_a_policy_brings_its_scorer_and_its_place(reported, journal):
    """Its threshold is a point, confidences are rescored, prices named; where another scorer wrote them the page says so."""
    prices = {"tiny-1": {"source": "contract 7", "date": "2026-01-31", "currency": "USD"}}
    policy = Policy(threshold=0.95, provenance={"prices": prices})
    report = build_report([journal], policy=policy, policy_name="policy.json")
    mark = next(p for p in report.frontier.marks if p.name == "policy.json")
    done = [replay(trace, policy) for trace in read(journal)]
    assert mark.escalated == pytest.approx(sum(r.escalated for r in done) / len(done))
    assert mark.cost > report.frontier.marks[0].cost
    assert "contract 7, 2026-01-31" in report.spending.prices
    assert report.policy["version"] == policy.version
    trace = step(0)
    same = shipped_scorer().confidence(trace.attempts[0].verdicts)
    right = replace(trace, attempts=(replace(trace.attempts[0], confidence=same),))
    assert reported(right).frontier.agrees
    other = reported(trace)
    assert not other.frontier.agrees
    assert "give its policy file" in render(other)


# ---- bounded memory -------------------------------------------------------------------------------------------------
def test_a_repeated_step_counts_once(journal):
    """The same file given twice is noted, not counted twice."""
    twice = build_report([journal, journal])
    assert twice.totals.steps == 121
    assert twice.totals.repeated == 121
    assert "counted once" in " ".join(twice.notes)


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 2)), max_size=100))
def test_the_least_of_parts_are_the_least(keys):
    """The values of the least keys are kept, whole or in parts, and the count is of all; percentiles are nearest ranks."""
    whole, parts = Least(7), [Least(7), Least(7), Least(7)]
    for key, part in keys:
        whole.add(key, key)
        parts[part].add(key, key)
    for part in parts[1:]:
        parts[0].merge(part)
    assert whole.items() == parts[0].items() == sorted(key for key, _ in keys)[:7]
    assert whole.n == parts[0].n == len(keys)
    assert percentiles(range(100), 0.5, 0.95, 1.0) == [49, 94, 99]


@given(
    st.lists(st.tuples(st.floats(1e9, 4e9), st.integers(1, 5)), min_size=1, max_size=60),
    st.lists(st.tuples(st.floats(1e9, 4e9), st.integers(1, 5)), max_size=10),
)
def test_a_timeline_loses_nothing(one, two):
    """Whatever the times, sums are kept, periods are in order and not too many, and each holds its times."""
    timeline, other = Timeline(), Timeline()
    for line, steps in ((timeline, one), (other, two)):
        for time, cost in steps:
            line.at(time)["x"] += cost
    timeline.merge(other)
    cells = timeline.cells()
    starts = [start for start, _ in cells]
    assert starts == sorted(set(starts))
    assert (starts[-1] - starts[0]) / timeline.width < MAX_PERIODS
    assert sum(cell["x"] for _, cell in cells) == sum(cost for _, cost in [*one, *two])
    first = min(time for time, _ in [*one, *two])
    assert starts[0] - 1e-3 <= first <= starts[0] + timeline.width + 1e-3


def test_periods_and_names_are_bounded(reported):
    """Each period divides the next; names beyond the limit are put together; a clock that was never set stretches nothing."""
    for short, long in pairwise(WIDTHS):
        assert long / short == pytest.approx(round(long / short))
    counts = Counts(3)
    for name in "aabcdefg":
        counts.add(name)
    assert counts.ordered() == {"(others)": 4, "a": 2, "b": 1, "c": 1}
    spending = reported(step(0), replace(step(1), started_at="0001-01-01T00:00:00")).spending
    assert (len(spending.periods), spending.undated) == (1, 1)


# ---- nothing that was read can act ----------------------------------------------------------------------------------
class Reader(html.parser.HTMLParser):
    """Reads a page as a browser would and notes elements, attributes and the text of scripts."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_data(self, data) -> None:
        if self.cdata_elem == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        else:
            self.text.append(data)


def read_page(page: str) -> Reader:
    """The page, read."""
    reader = Reader()
    reader.feed(page)
    return reader


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """The report of a hostile journal, under a hostile title."""
    path = hostile(tmp_path_factory.mktemp("hostile") / "<img src=x onerror=hacked()>.jsonl")
    policy = Policy(threshold=0.5, provenance={"kind": HOSTILE[0], "date": HOSTILE[1], "prices": {HOSTILE[2]: {"source": HOSTILE[4], "date": HOSTILE[5]}}})  # fmt: skip
    with pytest.raises(RecordError, match=r"jsonl:\d+: .*(cost|latency|confidence)"):
        build_report([path])
    return build_report([path], title=HOSTILE[0], policy=policy, policy_name=HOSTILE[3], on_error="skip")


def test_hostile_texts_are_texts(attacked, journal):
    """Whatever stands in a field: only a harmless page's elements and scripts, no handler, no address; the text is shown."""
    page, harmless = render(attacked), render(build_report([journal], policy=Policy(threshold=0.5)))
    reader = read_page(page)
    assert reader.tags.keys() <= read_page(harmless).tags.keys()
    assert [attributes.get("type") for attributes, _ in reader.scripts] == ["application/json", None]
    assert json.loads(reader.scripts[0][1]) == attacked.to_json(), "the figures stand in the page as they are"
    assert not [
        a for a in reader.attributes if a[1].startswith("on") or a[1] in ("src", "action", "formaction", "style")
    ]
    assert {value for _, name, value in reader.attributes if name in ("href", "xlink:href")} == {"#main"}
    visible = "".join(reader.text)
    for text in HOSTILE[:9]:
        assert text in visible or text.replace("\u2028", "\n") in visible
    assert "\u202e" not in page
    assert "\x00" not in page
    page.encode("utf-8")


def test_the_page_asks_nobody(report):
    """No address of any kind stands in the page, and its policy forbids every request and every foreign script."""
    page = render(report)
    assert not re.search(r"(?i)https?:|url\(|@import|//[a-z]|<link|<iframe|<img", page)
    rules = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)[1].replace("&#39;", "'")
    assert rules.startswith("default-src 'none';")
    assert "unsafe" not in rules
    for element in ("style", "script"):
        inside = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
        assert len(inside) == 1
        digest = base64.b64encode(hashlib.sha256(inside[0].encode()).digest()).decode()
        assert f"{element}-src 'sha256-{digest}'" in rules


def test_content_can_be_left_out(tmp_path):
    """Without content no answer, error, reason or detail is in the page, in no form."""
    trace = step(0, escalated=True)
    secret = "SECRET-4711"
    small = replace(trace.attempts[0], answer={"text": secret, "tool_calls": []}, error=f"ValueError: {secret}")
    entry = replace(trace.decisions[1], detail=secret)
    trace = replace(trace, attempts=(small, trace.attempts[1]), decisions=(trace.decisions[0], entry))
    path = written(tmp_path / "j.jsonl", [trace])
    assert secret in render(build_report([path]))
    bare = render(build_report([path], content=False))
    assert secret not in bare
    assert "ValueError" in bare
    assert "not a number" not in bare


@given(st.text(), st.text())
@settings(max_examples=30, deadline=None)
def test_an_element_holds_its_text_and_nothing_else(attribute, text):
    """Any text is one attribute or one content of the page, cleaned of what no page may hold."""
    for page in (
        el("div", {"title": attribute}, text),
        templates().from_string('<div title="{{ a }}">{{ t }}</div>').render(a=attribute, t=text),
    ):
        reader = read_page(page)
        assert reader.tags == {"div": 1}
        assert reader.attributes == [("div", "title", html.unescape(escape(attribute)))]
        assert "".join(reader.text) == html.unescape(escape(text))


# ---- the page -------------------------------------------------------------------------------------------------------
def test_plots_and_tables(report):
    """Each chart carries a sentence and a table that says what the report says."""
    page = render(report)
    charts = re.findall(r'<svg [^>]*class="chart (\w+)"[^>]*>', page)
    assert set(charts) == {"frontier", "reliability", "latency", "spending"}
    assert len(re.findall(r'<svg [^>]*role="img" aria-label="[^"]{20,}"', page)) == len(charts)
    for name in ("frontier", "reasons", "calibration", "confidence", "latency", "spending", "drift"):
        assert f'<table id="{name}-table"' in page
    table = re.search(r'<table id="reasons-table".*?</table>', page, re.DOTALL)[0]
    assert all(f"<td>{row.steps}</td><td>{row.escalated}</td>" in table for row in report.escalations)


def test_the_page_begins_with_the_saving(report, reported):
    """An amount, its share and its interval; where nothing can be compared it says why."""
    headline = re.compile(r'class="headline">(.*?)</p>', re.DOTALL)
    assert re.match(
        r"Saved an estimated [\d.]+ USD \(\d+%, \d+\W+\d+%\)\. The small model", headline.search(render(report))[1]
    )
    assert re.search(r"Without shadow calls, which only measure, it would have saved \d+%\.", render(report))
    unknown = render(reported(step(0, small_cost=None)))
    assert headline.search(unknown)[1].startswith("What was saved is unknown: ")


def test_stand_ins_mark_the_page_by_themselves(report, reported):
    """The models of the demo are no language models: the page says so next to the sum, whoever asks for it."""
    trace = step(0, escalated=True)
    tiers = zip(trace.attempts, ("standin-small", "standin-large"), strict=True)
    page = render(reported(replace(trace, attempts=tuple(replace(attempt, model=name) for attempt, name in tiers))))
    assert "offline stand-ins, no language models; made-up prices</p>" in page
    assert "at made-up prices (" in page
    assert "made-up" not in render(report)


def test_plots_and_legends_show_what_is_there(report, reported):
    """A journal without a confidence has no empty plot; a mark that no plot shows has no swatch."""
    page = render(reported(step(0, confidence=None)))
    assert "No threshold can be tried: no finished step has a draft with a confidence." in page
    assert not re.search('class="chart (frontier|sweep)"', page)
    assert "always small" in page
    page = render(reported(*(step(n) for n in range(5))))
    calibration = page.partition('id="calibration"')[2].partition("</section>")[0]
    assert "draft taken" in calibration
    assert "escalated</li>" not in calibration
    ways = page.partition('class="aside"')[2].partition("</section>")[0]
    assert "swatch" not in ways
    assert "swatch-run" in render(report)


def test_words_of_the_page(report):
    """Names break behind their underscores; the price table in use stands there with its source and day."""
    assert breakable("plan_<b") == '<span class="whole">plan_</span><wbr><span class="whole">&lt;b</span>'
    assert breakable("x" * 30) == f"<span>{'x' * 30}</span>"
    assert re.search(r"genai-prices [\d.]+, with prices as of \d{4}-\d\d-\d\d\.", report.spending.prices)
    assert dt.date.fromisoformat(report.spending.prices[-11:-1])


def test_figures_of_people():
    """Three digits that count, small ones never as 0; seconds, milliseconds or microseconds; a log axis has something to read by."""
    figures = {
        0.0: "0",
        1234567.0: "1,234,567",
        0.3010299: "0.301",
        12.345: "12.3",
        999.6: "1,000",
        5e-9: "5.0e-09",
        None: "unknown",
    }
    times = {0.0: "0 s", 2.5: "2.50 s", 0.0213: "21.3 ms", 4e-5: "40.0 µs", None: "unknown"}
    assert [fmt.figure(value) for value in figures] == list(figures.values())
    assert [fmt.seconds(value) for value in times] == list(times.values())
    assert log_ticks(0.001, 10) == [0.001, 0.01, 0.1, 1.0, 10.0]
    assert log_ticks(0.15, 0.6) == [0.2, 0.5]
    assert Scale(1, 100, 0, 10, log=True)(10) == 5


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_and_inside(low, size):
    """Round numbers inside of the range, two to eleven of them."""
    found = ticks(low, low + size)
    assert 2 <= len(found) <= 11
    assert all(low - size / 1e6 <= t <= low + size * (1 + 1e-6) for t in found)


def test_labels_keep_out_of_each_others_way():
    """Labels of marks that lie close together do not cover each other while there is room."""
    placer = Placer(0, 0, 600, 300)
    assert len({placer.put(x, 150, "a label")[:2] for x in (300, 310, 320)}) == 3
    for a, b in combinations(placer.taken, 2):
        assert min(a[2], b[2]) <= max(a[0], b[0]) or min(a[3], b[3]) <= max(a[1], b[1])


@pytest.mark.parametrize(
    "trace",
    [
        step(0, outcome="cancelled"),
        replace(step(0), final=None, attempts=()),
        step(0, at=None, small_cost=None),
        replace(step(0), attempts=(Attempt(tier="small", outcome="skipped", cost=0.0), step(0, escalated=True).attempts[1]), final=1, outcome="escalated"),
        replace(step(0), attempts=(Attempt(tier="large", outcome="accepted", usage=Usage(), cost=0.1),)),
    ],
    ids=["cancelled", "no attempt", "nothing known", "small skipped", "large only"],
)  # fmt: skip
def test_a_journal_of_one_odd_step_has_a_page(reported, trace):
    """Whatever a single step lacks, there is a page, and it counts one step."""
    report = reported(trace)
    assert report.totals.steps == 1
    assert "<h2" in render(report)
    with pytest.raises(RecordError, match="no step yet"):
        reported(Label(step_id=trace.id, source="person", right=True))


# ---- the command ----------------------------------------------------------------------------------------------------


def test_the_command_writes_the_page(tmp_path, journal):
    """It names the file and what is in it; the page is for its owner only, and an older one is replaced, not its link."""
    write_policy(Policy(threshold=0.7), tmp_path / "policy.json")
    page, link = tmp_path / "page.html", tmp_path / "link.html"
    link.symlink_to(page)
    for title in ("Monday", "Tuesday"):
        result = run(journal, "-o", "link.html", "--policy", "policy.json", "--title", title, cwd=tmp_path)
        assert (result.exit_code, result.stdout) == (0, "link.html: 121 steps, 35 escalated\n"), result.stderr
    assert link.is_symlink()
    assert "<title>Tuesday</title>" in page.read_text(encoding="utf-8")
    assert "policy.json" in page.read_text(encoding="utf-8")
    assert page.stat().st_mode & 0o777 == 0o600
    assert {file.name for file in tmp_path.iterdir()} == {"page.html", "link.html", "policy.json"}


def test_the_command_prints_the_figures(tmp_path, journal, report):
    """`--json` prints the report's figures and writes no page unless asked."""
    printed = json.loads(run(journal, "--json", cwd=tmp_path).stdout)
    assert {**printed, "made_at": ""} == {**json.loads(json.dumps(report.to_json())), "made_at": ""}
    assert list(tmp_path.iterdir()) == []
    assert run(journal, "--json", "-o", "x.html", cwd=tmp_path).exit_code == 0
    assert (tmp_path / "x.html").exists()


def test_the_labels_of_the_picture_are_true(tmp_path, monkeypatch):
    """The journal behind `docs/report.png` has shadow labels on taken small drafts alone, some of them wrong, and the frontier is drawn."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    monkeypatch.delenv("CASCADE_JOURNAL", raising=False)
    path = tmp_path / "journal.jsonl"
    importlib.import_module("report_picture").write_journal(path, tasks=12)
    steps, labels = {trace.id: trace for trace in read(path)}, list(read_labels(path))
    assert {(label.source, label.propensity) for label in labels} == {("shadow", 1.0)}
    assert {label.right for label in labels} >= {True, False}
    assert not any(steps[label.step_id].escalated for label in labels)
    assert len({label.step_id for label in labels}) == len(labels)
    report = build_report([path])
    assert (report.frontier.basis, report.frontier.known, report.made_up_prices) == ("propensity", True, True)
    assert "made-up prices" in render(report)


# ---- drift ----------------------------------------------------------------------------------------------------------
def test_drift_is_what_the_monitors_say(journal, report):
    """The monitors of the report are those of `watch` over the same journal, each with its row in the table."""
    wanted = watch(read(journal), read_labels(journal))
    assert report.drift == wanted
    assert report.to_json()["drift"] == wanted.to_json()
    table = re.search(r'<table id="drift-table".*?</table>', render(report), re.DOTALL)[0]
    assert table.count('<th scope="row"') == len(wanted.monitors) > 5
    assert ">no alarm<" in render(report)


def test_an_alarm_is_shown_with_its_advice(reported):
    """When escalations rise from one in ten to six in ten the page shows the alarm and its advice, all of it escaped."""
    draw = random.Random(3)
    bad = (draw.random() < (0.1 if number < 400 else 0.7) for number in range(700))
    report = reported(*(step(n, escalated=b, name="<b onclick=x>", thread=f"t{n}") for n, b in enumerate(bad)))
    assert report.drift.alarmed
    page = render(report)
    section = re.search(r'<section class="card" id="drift".*?</section>', page, re.DOTALL)[0]
    for alarm in report.drift.alarms[-20:]:
        assert escape(alarm.what) in section
        assert escape(alarm.advice) in section
    assert "<b onclick" not in page
