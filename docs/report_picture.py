"""Makes `docs/report.png`: the demo's journal with labels, its report, and a picture of it.

    python docs/report_picture.py [--out docs/report.png] [--keep DIR] [--theme dark] [--width 1200] [--until reasons]

The demo's models are offline stand-ins with made-up prices. Every small draft that was taken is shadowed: the large
stand-in is asked about the same conversation, and the draft is right when both answers say the same.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade_agent import Draft, Journal, StepContext, default_validators
from cascade_agent.core.records import Attempt, Label, SideCall, StepTrace, Usage
from cascade_agent.offline.evaluation import same_answers
from cascade_agent.offline.report import build_report, render
from graphs import plan_execute, support
from graphs.evaluation.demo import choose
from graphs.evaluation.run import run_task
from graphs.evaluation.tasks import load_tasks
from graphs.standins.models import standin_tiers

if TYPE_CHECKING:
    from cascade_agent import Tier

TITLE = "Demo: a shop's support agents (offline stand-ins, made-up prices)"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")


class Watcher:
    """A validator that has nothing to say and keeps what the small drafts were asked."""

    name = "Watcher"

    def __init__(self) -> None:
        self.asked: list[StepContext] = []

    def __call__(self, draft: Draft, context: StepContext) -> None:
        """Keep the context of a small draft."""
        if draft.tier == "small":
            self.asked.append(context)


def write_journal(path: Path, tasks: int | None = None) -> None:
    """Run so many tasks of the demo (None: all) on cascades and shadow the small drafts that were taken."""
    small, large = standin_tiers()
    for task in choose(load_tasks(), tasks):
        watcher, before = Watcher(), sum(1 for _ in Journal(path)) if path.exists() else 0
        build = {"support": support, "plan_execute": plan_execute}[task.graph].build
        validators = [watcher, *default_validators()]
        os.environ["CASCADE_JOURNAL"] = str(path)
        try:
            run_task(task, partial(build, small, large, validators=validators), thread_id=task.id)
        finally:
            del os.environ["CASCADE_JOURNAL"]
        asked = iter(watcher.asked)
        with Journal(path) as journal:
            for trace in list(journal)[before:]:
                if trace.attempts[0].outcome in ("accepted", "rejected"):
                    label = _shadow(trace, next(asked), large)
                    if not trace.escalated:
                        journal.append_label(label)


def _shadow(trace: StepTrace, context: StepContext, large: Tier) -> Label:
    """Ask large what small answered, and say whether both say the same and what the call cost."""
    model: Any = large.base
    if context.tools:
        model = model.bind_tools([spec.native for spec in context.tools])
    message = model.invoke(list(context.messages))
    other = Attempt(tier="large", outcome="accepted", answer=Draft(message=message, tier="large").to_json())
    right, usage = same_answers(replace(trace, attempts=(trace.attempts[0], other))), Usage.of(message)
    call = SideCall(name="shadow", usage=usage, cost=large.cost(usage))
    harm = None if right is None else not right
    return Label(step_id=trace.id, source="shadow", right=right, harm=harm, propensity=1.0, side_call=call)


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("report.png"))
    parser.add_argument("--keep", type=Path, help="directory in which journal and report are kept")
    parser.add_argument("--journal", type=Path, help="a journal to use instead of running the demo")
    parser.add_argument("--theme", choices=["light", "dark"], default="light")
    parser.add_argument("--width", type=int, default=1200)
    parser.add_argument("--until", default="reasons", help="id of the last section shown; empty: the whole page")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        place = options.keep or Path(scratch)
        place.mkdir(parents=True, exist_ok=True)
        journal = options.journal or place / "journal.jsonl"
        if options.journal is None:
            write_journal(journal)
        page = place / "report.html"
        page.write_text(render(build_report([journal], title=TITLE, made_up_prices=True)), encoding="utf-8")
        take(page, options.out, theme=options.theme, width=options.width, until=options.until)


def take(page: Path, out: Path, *, theme: str = "light", width: int = 1200, until: str = "") -> None:
    """A picture of a page as a browser shows it, to the end of one of its sections."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        scheme: Any = theme
        view = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        view.goto(page.resolve().as_uri())
        end = "document.documentElement.scrollHeight"
        if until:
            end = f"document.getElementById({until!r}).getBoundingClientRect().bottom + scrollY + 12"
        clip: Any = {"x": 0, "y": 0, "width": width, "height": view.evaluate(end)}
        view.screenshot(path=str(out), full_page=True, clip=clip)
        browser.close()


if __name__ == "__main__":
    main()
