"""The report in a real browser: Chromium shows it without a request, people can sort, filter and read it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from typing import TYPE_CHECKING

import pytest

from cascade_agent.core.policy import Policy
from cascade_agent.journal.reader import read
from cascade_agent.offline.report import build_report, render
from tests.report_journals import START, hostile, ordinary

if TYPE_CHECKING:
    from pathlib import Path

sync_api = pytest.importorskip("playwright.sync_api", reason="the report's browser tests need playwright")

CHROMIUM = os.environ.get("CHROMIUM") or next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
pytestmark = [
    pytest.mark.slow,  # in CI, which installs a Chromium
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH (Debian: chromium), and CHROMIUM is unset"),
    pytest.mark.xdist_group("browser"),  # one process starts one Chromium
]

PHONE, DESK = {"width": 360, "height": 740}, {"width": 1200, "height": 900}
KINDS = ("ordinary", "hostile")


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    """Reports of both journals, next to these, and of the ordinary one under another policy."""
    place = tmp_path_factory.mktemp("browser")
    journals = {"ordinary": ordinary(place / "ordinary.jsonl"), "hostile": hostile(place / "hostile.jsonl")}
    policy = {"policy": Policy(threshold=0.7), "policy_name": "policies/production.json", "made_up_prices": True}
    found = {}
    for name, more in {"ordinary": {}, "hostile": {"on_error": "skip"}, "policy": policy}.items():
        report = build_report([journals.get(name, journals["ordinary"])], now=START, **more)
        found[name] = place / f"{name}.html"
        found[name].write_text(render(report), encoding="utf-8")
    return found


@pytest.fixture(scope="module")
def browser():
    """Chromium, without a window."""
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"], timeout=60_000
        )
        yield chromium
        chromium.close()


@pytest.fixture
def show(browser, pages):
    """Opens a report: `show("ordinary", viewport=..., color_scheme=...)`; notes what the page complains of and asks for."""
    words = {
        "console": lambda message: f"{message.type}: {message.text}",
        "pageerror": lambda error: f"error: {error}",
        "requestfailed": lambda request: f"refused: {request.url} {request.failure}",
        "dialog": lambda dialog: f"dialog: {dialog.message}",
    }
    with contextlib.ExitStack() as contexts:

        def opened(name: str = "ordinary", **settings: object):
            context = browser.new_context(viewport=settings.pop("viewport", DESK), **settings)
            contexts.callback(context.close)
            page = context.new_page()
            page.complaints, page.requests = [], []
            page.on("request", lambda request: page.requests.append(request.url))
            for event, say in words.items():
                page.on(event, lambda what, say=say: page.complaints.append(say(what)))
            page.goto(pages[name].as_uri())
            return page

        yield opened


def column(page, section: str, number: int) -> list[str]:
    """The values of a column of the shown steps, as they stand."""
    return page.eval_on_selector_all(
        f"#{section} tbody:not([hidden]) tr.row", "(rows, n) => rows.map(row => row.cells[n].dataset.value)", number
    )


OPEN_ALL = """for (const d of document.querySelectorAll('details')) d.open = true;
    for (const b of document.querySelectorAll('button.open')) b.click()"""


def at_widths(page, measure: str, *widths: int) -> dict[int, object]:
    """Return a measure at each width of the window."""
    found = {}
    for width in widths:
        page.set_viewport_size({"width": width, "height": 900})
        found[width] = page.evaluate(measure)
    return found


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_loads_without_a_word_or_a_request(show, pages, name, scheme):
    """No console message, no error, no dialog, and nothing is asked for but the file itself, whatever is clicked."""
    page = show(name, color_scheme=scheme)
    for summary in page.query_selector_all("summary"):
        summary.click()
    for button in page.query_selector_all("button.open")[:3]:
        button.click()
    page.mouse.move(400, 500)
    assert page.complaints == []
    assert page.requests == [pages[name].as_uri()]
    assert page.evaluate("performance.getEntriesByType('resource').length") == 0


def test_hostile_texts_do_not_act(show):
    """Nothing of a hostile journal ran, no element of it exists, and the page is whole to its end."""
    page = show("hostile")
    assert page.evaluate("window.hacked") is None
    foreign = "document.querySelectorAll('img,iframe,base,object,embed,link,form').length"
    acting = (
        "[...document.querySelectorAll('*')].filter(e => [...e.attributes].some(a => a.name.startsWith('on'))).length"
    )
    assert page.evaluate(f"[{foreign}, {acting}, document.scripts.length]") == [0, 0, 2]
    assert page.query_selector("footer").is_visible()
    assert json.loads(page.text_content("#report-data"))


def test_the_policy_of_the_page_stops_a_foreign_script(show):
    """Even a script that was put into the page does not run: the browser refuses it by the page's own policy."""
    page = show()
    page.evaluate("""() => {
        const script = document.createElement('script'); script.textContent = 'window.hacked = 1'; document.body.append(script);
        const image = new Image(); image.src = 'https://example.invalid/x.png'; document.body.append(image);
    }""")
    page.wait_for_timeout(100)
    assert page.evaluate("window.hacked") is None
    assert any(c.startswith("error") and "Content Security Policy" in c for c in page.complaints)
    assert "refused: https://example.invalid/x.png csp" in page.complaints


def test_shown_figures_are_the_journals(show, pages):
    """Tiles, tables and rows, as rendered, say what a plain count of the journal says."""
    page = show()
    steps = list(read(pages["ordinary"].with_suffix(".jsonl")))
    escalated = [step for step in steps if step.escalated]
    assert page.inner_text("#tile-steps") == str(len(steps))
    assert page.inner_text("#tile-escalated") == f"{len(escalated) / len(steps):.1%}"
    data = json.loads(page.text_content("#report-data"))
    known = sum(step.cost for step in steps if step.cost is not None)
    assert data["totals"]["cost"]["known"] == pytest.approx(known)
    shown = float(re.search(r"[\d.]+", page.inner_text("#tile-cost"))[0])
    assert shown == pytest.approx(known + data["totals"]["shadow"]["known"], rel=5e-3)
    costs = [float(value) for value in column(page, "expensive", 5)]
    assert costs == sorted((s.cost for s in steps if s.cost is not None), reverse=True)[:20]
    rows = page.eval_on_selector_all(
        "#spending-table tbody tr", "rows => rows.map(r => [...r.cells].map(c => c.textContent))"
    )
    assert sum(int(row[1]) for row in rows) == len(steps)
    assert sum(int(row[2]) for row in rows) == len(escalated)


def test_sorting_by_mouse(show):
    """A click on a head sorts, numbers as numbers, a second one turns the order; unknown stands last either way."""
    page = show()
    head = page.locator("#expensive th[data-key=latency]")
    head.locator("button").click()
    down = [float(value) for value in column(page, "expensive", 6)]
    assert down == sorted(down, reverse=True)
    assert head.get_attribute("aria-sort") == "descending"
    head.locator("button").click()
    assert [float(value) for value in column(page, "expensive", 6)] == down[::-1] == sorted(down)
    assert head.get_attribute("aria-sort") == "ascending"
    page.locator("#expensive th[data-key=step] button").click()
    names = column(page, "expensive", 0)
    assert names == sorted(names)
    assert head.get_attribute("aria-sort") is None
    for _ in range(2):
        page.locator("#doubtful th[data-key=cost] button").click()
        values = column(page, "doubtful", 5)
        known = [value for value in values if value]
        assert len(known) < len(values)
        assert values[: len(known)] == known


def test_sorting_and_opening_by_keyboard(show):
    """Heads and steps are reached with Tab and used with Enter and Space, and the focus is seen."""
    page = show()
    page.focus("#doubtful th[data-key=outcome] button")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('th').dataset.key") == "confidence"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    values = [float(v) for v in column(page, "doubtful", 4)]
    assert values == sorted(values, reverse=True)
    page.keyboard.press("Space")
    assert [float(v) for v in column(page, "doubtful", 4)] == sorted(values)
    page.focus("#doubtful tbody button.open")
    detail = page.locator("#doubtful tbody").first.locator("tr.detail")
    assert not detail.is_visible()
    page.keyboard.press("Enter")
    assert detail.is_visible()
    assert page.evaluate("document.activeElement.getAttribute('aria-expanded')") == "true"
    for part in ("First answer", "Decision", "Final answer"):
        assert part in detail.inner_text()
    page.keyboard.press("Space")
    assert not detail.is_visible()


def test_filtering(show):
    """Words and the outcome filter the steps; the count is told to those who listen; emptied, all are back."""
    page = show()
    output = page.locator("#expensive output")
    assert output.get_attribute("aria-live") == "polite"
    page.focus("#expensive [data-filter=text]")
    page.keyboard.type("planner schema")
    names = column(page, "expensive", 0)
    assert 0 < len(names) < 20
    assert set(names) == {"planner"}
    assert output.inner_text() == f"{len(names)} of 20 steps"
    page.fill("#expensive [data-filter=text]", "")
    page.select_option("#expensive [data-filter=outcome]", "exhausted")
    assert column(page, "expensive", 2) == ["exhausted"]
    assert len(column(page, "doubtful", 2)) == 20
    page.select_option("#expensive [data-filter=outcome]", "")
    page.fill("#expensive [data-filter=text]", "no such word anywhere")
    assert column(page, "expensive", 0) == []
    assert output.inner_text() == "0 of 20 steps"
    page.fill("#expensive [data-filter=text]", "")
    assert len(column(page, "expensive", 0)) == 20


def test_themes(show):
    """The system's theme holds until one is chosen, by mouse or keyboard; the choice is kept when the page is reloaded."""
    page = show(color_scheme="dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(paper)
    page.check("input[value=light]", force=True)
    light = page.evaluate(paper)
    assert light != dark
    page.reload()
    assert page.evaluate(paper) == light
    assert page.is_checked("input[value=light]")
    page.focus("input[value=light]")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(paper) == dark
    page.check("input[value=auto]", force=True)
    page.emulate_media(color_scheme="light")
    assert page.evaluate(paper) == light
    assert page.complaints == []


@pytest.mark.parametrize("name", KINDS)
def test_no_width_scrolls_sideways(show, name):
    """From a narrow phone to a wide desk nothing sticks out, also with everything opened."""
    page = show(name)
    page.evaluate(OPEN_ALL)
    widths = (320, 360, 414, 640, 768, 901, 1200, 1920)
    found = at_widths(page, "document.documentElement.scrollWidth", *widths)
    assert {width: needed for width, needed in found.items() if needed > width} == {}


def test_each_chart_has_one_drawing_with_readable_words(show):
    """At every width one drawing of each chart is shown; its words have between 9.5 and 18 pixels and stay inside."""
    measure = """() => [...document.querySelectorAll('svg.chart')].filter(s => s.getClientRects().length).map(s => {
        const scale = s.getBoundingClientRect().width / s.viewBox.baseVal.width, box = s.getBoundingClientRect();
        const texts = [...s.querySelectorAll('text')], sizes = texts.map(t => parseFloat(getComputedStyle(t).fontSize) * scale);
        return [s.classList[1], Math.min(...sizes), Math.max(...sizes),
            texts.filter(t => { const b = t.getBoundingClientRect(); return b.left < box.left - 1 || b.right > box.right + 1; })
                .map(t => t.textContent)];
    })"""
    for width, found in at_widths(show(), measure, 360, 390, 700, 768, 1400).items():
        assert sorted(kind for kind, *_ in found) == ["frontier", "latency", "reliability", "spending"]
        for kind, least, most, outside in found:
            assert 9.5 <= least <= most <= 18, (width, kind)
            assert outside == []


COVERED = """() => {
  const shown = e => e.getClientRects().length, found = [];
  const hits = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 0.5 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2.5;
  for (const svg of [...document.querySelectorAll('svg.chart')].filter(shown)) {
    const texts = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
    const frame = svg.getBoundingClientRect();
    const things = [...svg.querySelectorAll('.mark-run, .mark-small, .mark-large, .mark-policy, .dot, .frontier > .whisker')].map(m => [m.getAttribute('class'), m.getBoundingClientRect()]);
    for (const curve of svg.querySelectorAll('path.curve')) {
      const map = curve.getScreenCTM();
      for (let at = 0; at < curve.getTotalLength(); at += 2) {
        const p = curve.getPointAtLength(at).matrixTransform(map);
        things.push(['curve', {left: p.x - 1, right: p.x + 1, top: p.y - 1, bottom: p.y + 1}]);
      }
    }
    texts.forEach(([words, box], i) => {
      for (const [other, that] of texts.slice(i + 1)) if (hits(box, that)) found.push([words, other]);
      const inside = {left: box.left, right: box.right, top: box.top + 3, bottom: box.bottom - 3};
      const under = things.find(([, that]) => Math.min(inside.right, that.right) > Math.max(inside.left, that.left) && Math.min(inside.bottom, that.bottom) > Math.max(inside.top, that.top));
      if (under) found.push([words, under[0]]);
      if (box.left < frame.left - 1 || box.right > frame.right + 1) found.push([words, 'the edge']);
    });
  }
  return found;
}"""


@pytest.mark.parametrize("name", [*KINDS, "policy"])
def test_no_label_covers_another_or_a_mark(show, name):
    """Bounding boxes as rendered: words of a chart lie on no other words, no mark, no curve, and inside of the chart."""
    page, widths = show(name), (360, 390, 768, 1400)
    assert at_widths(page, COVERED, *widths) == {width: [] for width in widths}
    if name == "ordinary":  # the measure finds a label that is moved onto the curve or another label
        page.evaluate("""() => { for (const svg of document.querySelectorAll('svg.frontier')) {
            const [name, dot] = [svg.querySelector('.name'), svg.querySelectorAll('.dot')[3]];
            name.setAttribute('x', dot.getAttribute('cx')); name.setAttribute('y', dot.getAttribute('cy')); } }""")
        assert page.evaluate(COVERED) != []


def test_no_word_breaks_inside(show):
    """Reasons, pills and heads of tables break between words and behind underscores alone."""
    page = show()
    page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
    torn = """() => [...document.querySelectorAll('.whole, .pill, #made-up, thead th')]
        .filter(e => e.getClientRects().length && !e.closest('.hidden'))
        .filter(e => { const range = document.createRange();
            return [...e.querySelectorAll('*'), e].flatMap(x => [...x.childNodes]).filter(n => n.nodeType === 3).some(node =>
                [...node.data.matchAll(/[^\\s_]+_?/g)].some(({index, 0: word}) => {
                    range.setStart(node, index); range.setEnd(node, index + word.length);
                    return new Set([...range.getClientRects()].map(r => Math.round(r.top))).size > 1; })); })
        .map(e => e.textContent)"""
    widths = (320, 390, 768, 1400)
    assert at_widths(page, torn, *widths) == {width: [] for width in widths}


def test_what_is_touched_is_large_enough(show):
    """On a phone controls are at least 24 pixels high (WCAG 2.2, target size)."""
    page = show(viewport=PHONE)
    small = page.evaluate("""() => [...document.querySelectorAll('button, select, input[type=search], .theme label, summary')]
        .filter(e => e.getClientRects().length)
        .map(e => [e.textContent.trim(), e.getBoundingClientRect().height]).filter(([, height]) => height < 24)""")
    assert small == []


CONTRAST = """() => {
  const channel = v => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  const parse = c => { const m = c.match(/[\\d.]+/g).map(Number); return [m[0], m[1], m[2], m.length > 3 ? m[3] : 1]; };
  const over = (top, under) => [0, 1, 2].map(i => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
  const light = c => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
  const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
  const paper = e => {
    const layers = [];
    for (let at = e; at; at = at.parentElement) {
      const c = parse(getComputedStyle(at).backgroundColor);
      if (c[3] > 0) layers.push(c);
      if (c[3] === 1) break;
    }
    return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255, 1]);
  };
  const shown = e => e.getClientRects().length && getComputedStyle(e).visibility !== 'hidden';
  const words = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !shown(e) || e.closest('.hidden, .skip, script, title')) continue;
    const style = getComputedStyle(e), svg = e.closest('svg');
    const ink = parse(svg ? style.fill : style.color), under = paper(svg || e);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
    words.push([ratio(over(ink, under), under), large ? 3 : 4.5, walker.currentNode.data.trim().slice(0, 40)]);
  }
  for (const e of document.querySelectorAll('input[type=search]')) {
    words.push([ratio(parse(getComputedStyle(e, '::placeholder').color), paper(e)), 4.5, 'placeholder']);
  }
  const marks = [];
  for (const e of document.querySelectorAll('svg rect, svg circle, svg polygon, svg line, svg .curve')) {
    if (!shown(e) || e.matches('.grid')) continue;
    const style = getComputedStyle(e), under = paper(e.closest('svg'));
    const inks = [style.fill, style.stroke].filter(c => c.startsWith('rgb')).map(parse).filter(c => c[3] > 0.9);
    marks.push([Math.max(...inks.map(ink => ratio(ink, under))), 3, e.getAttribute('class')]);
  }
  for (const e of document.querySelectorAll('.swatch, .pill, select, input[type=search]')) {
    const style = getComputedStyle(e), under = paper(e.parentElement);
    const inks = [style.backgroundColor, style.borderTopWidth === '0px' ? '' : style.borderTopColor];
    marks.push([Math.max(...inks.filter(Boolean).map(parse).map(c => ratio(over(c, under), under))), 3, e.className]);
  }
  return [words, marks];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(show, scheme):
    """WCAG AA as rendered: every shown word has 4.5 : 1 (large ones 3 : 1), every mark and border of a control 3 : 1."""
    page = show(color_scheme=scheme)
    page.evaluate(OPEN_ALL)
    for words, marks in at_widths(page, CONTRAST, 1200, 360).values():
        assert len(words) > 500
        assert len(marks) > 100
        assert [word for word in words if word[0] < word[1]] == []
        assert sorted({(mark[2], round(mark[0], 2)) for mark in marks if mark[0] < mark[1]}) == []
    if scheme == "light":  # the measure finds a word in a paler ink
        page.evaluate("document.querySelector('h1').style.color = '#999'")
        words, _ = page.evaluate(CONTRAST)
        assert [word[2] for word in words if word[0] < word[1]] == ["Cascade report"]


def test_assistive_names(show):
    """Each section has its heading, each control a name, each table a caption, each figure a row and a column head."""
    page = show()
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.evaluate("document.querySelectorAll('h1').length") == 1
    nameless = page.evaluate("""() => [
        ...[...document.querySelectorAll('section')].filter(s => !document.getElementById(s.getAttribute('aria-labelledby'))),
        ...[...document.querySelectorAll('input, select')].filter(e => !e.labels.length),
        ...[...document.querySelectorAll('button')].filter(e => !e.textContent.trim()),
        ...[...document.querySelectorAll('table')].filter(t => !t.caption),
        ...[...document.querySelectorAll('svg')].filter(s => !s.getAttribute('aria-label') && s.getAttribute('aria-hidden') !== 'true'),
        ...[...document.querySelectorAll('thead th')].filter(h => h.scope !== 'col'),
    ].map(e => e.outerHTML.slice(0, 100))""")
    assert nameless == []
    doubles = page.evaluate("""() => { const ids = [...document.querySelectorAll('[id]')].map(e => e.id);
        return ids.filter((id, at) => ids.indexOf(id) !== at); }""")
    assert doubles == []


@pytest.mark.parametrize("wish", ["reduce", "no-preference"])
def test_less_motion_is_no_motion(show, wish):
    """Those who ask for less motion get none."""
    moves = "[...document.querySelectorAll('*')].some(e => parseFloat(getComputedStyle(e).transitionDuration) > 0)"
    assert show(reduced_motion=wish).evaluate(moves) is (wish == "no-preference")


def test_without_script_all_is_shown(show):
    """Where scripts are off, every step stands open and no dead control is shown."""
    page = show(java_script_enabled=False)
    assert page.locator("tr.detail").first.is_visible()
    assert not page.locator(".tools").first.is_visible()
    assert not page.locator(".theme").is_visible()
