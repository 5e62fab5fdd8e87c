"""Labels meet their steps: nothing overwritten, nothing invented, contradictions shown."""

import json
from dataclasses import replace

import pytest

from cascade_agent.core.records import Attempt, Decision, Label, Verdict
from cascade_agent.errors import ConfigurationError, RecordError
from cascade_agent.journal.writer import Journal
from cascade_agent.offline.evaluation import load_dataset, same_answers
from cascade_agent.offline.evaluation.dataset import resolve
from tests.builders import recorded


def said(text="", calls=(), **more):
    """An answer as the record keeps it."""
    return {"text": text, "tool_calls": [{"name": n, "args": a, "id": "x"} for n, a in calls], **more}


def step(step_id, small, large=None, **kwargs):
    """A step that small answered, or that escalated to `large`."""
    verdict = Verdict(outcome="pass", code="argument_grounded", score=0.5, validator="Grounding", reason="r", path="/p")
    outcome = "rejected" if large else "accepted"
    attempts = [Attempt(tier="small", model="s", outcome=outcome, answer=small, verdicts=(verdict,))]
    if large is not None:
        attempts.append(Attempt(tier="large", model="l", outcome="accepted", answer=large))
    return recorded(step_id, *attempts, **kwargs)


CITY = [("weather", {"city": "Paris", "days": 5})]


@pytest.mark.parametrize(
    ("small", "large", "same"),
    [
        (said(calls=CITY), said(calls=[("weather", {"days": 5.0, "city": " paris "})]), True),
        (said(calls=CITY), said(calls=[("weather", {"city": "Paris", "days": 6})]), False),
        (said(calls=CITY), said(calls=[("forecast", {"city": "Paris", "days": 5})]), False),
        (said(calls=CITY * 2), said(calls=CITY), False),
        (said(calls=[*CITY, ("time", {})]), said(calls=[("time", {}), *CITY]), True),
        (said("It is warm."), said(calls=CITY), False),
        (said(calls=CITY), said("It is warm."), False),
        (said("42"), said(" 42.0 "), True),
        (said("42"), said("43"), False),
        (said('{"a": 1, "b": [2]}'), said('{"b": [2.0], "a": 1}'), True),
        (said('{"a": 1}'), said('{"a": 2}'), False),
        (said("Yes, it is."), said("yes,  it is."), True),
        (said("It is warm in Paris."), said("Paris is warm."), None),
        (said(""), said("Paris is warm."), False),
        (said("Paris is warm."), said(""), None),
        (said("x", invalid_tool_calls=[{"name": "f", "args": "{", "id": None}]), said(calls=CITY), False),
        (said(calls=CITY), said("x", invalid_tool_calls=[{"name": "f", "args": "{", "id": None}]), None),
        (None, said(calls=CITY), None),
        (said(calls=[("f", None)]), said(calls=[("f", None)]), True),
        ({"text": "hm", "tool_calls": "broken"}, said("hm"), True),
    ],
)
def test_same_answers(small, large, same):
    """Calls, numbers and JSON are compared by meaning; prose that differs says nothing."""
    assert same_answers(step("1", small, large)) is same


def test_prose_is_the_users_to_compare():
    """A function of the user decides about prose, and only about prose."""
    warm = step("1", said("It is warm in Paris."), said("Paris is warm."))
    assert same_answers(warm, same_text=lambda a, b: "warm" in a and "warm" in b) is True
    assert same_answers(step("1", said("1"), said("2")), same_text=lambda a, b: True) is False


@pytest.mark.parametrize(
    "large",
    [
        Attempt(tier="large", outcome="rejected", answer=said(calls=CITY), verdicts=(Verdict(outcome="fail"),)),
        Attempt(tier="large", outcome="error", error="TimeoutError"),
    ],
)
def test_a_large_answer_that_failed_labels_nothing(large):
    """A large draft with a hard fail, or none at all, is no yardstick."""
    trace = step("1", said(calls=CITY), said(calls=CITY))
    assert same_answers(replace(trace, attempts=(trace.attempts[0], large))) is None


def test_escalated_steps_label_themselves(journal):
    """Equal answers make the draft right, different ones harm, prose nothing; accepted steps without label are counted."""
    journal.append(step("same", said(calls=CITY), said(calls=CITY)))
    journal.append(step("other", said(calls=CITY), said("7")))
    journal.append(step("prose", said("a b"), said("c d")))
    journal.append(step("kept", said(calls=CITY)))
    found = load_dataset(journal.path)
    assert {c.id: (c.outcome.right, c.outcome.harm, c.outcome.source) for c in found.steps} == {
        "same": (True, False, "escalation"),
        "other": (False, True, "escalation"),
        "prose": (None, None, None),
    }
    assert (found.total, found.answered, found.unlabelled) == (4, 1, 1)
    assert found.by_source == {"escalation": 2}
    assert sorted(found.paid) == ["l", "s"]
    assert found.codes == {"Grounding": {"argument_grounded"}}


def test_nothing_that_was_said_is_kept(journal):
    """Of a verdict only validator, code, outcome and score come along, and of the answers nothing."""
    journal.append(step("1", said("secret"), said("secret")))
    (case,) = load_dataset(journal.path).steps
    assert case.small.verdicts == (Verdict(outcome="pass", code="argument_grounded", score=0.5, validator="Grounding"),)
    assert "secret" not in repr(case)


def test_labels_stand_side_by_side(journal):
    """Contradicting labels are all shown, the person counts, and none is lost."""
    journal.append(step("1", said(calls=CITY)))
    journal.label("1", source="shadow", right=True, propensity=0.1)
    journal.label("1", source="person", right=False, note="wrong city")
    found = load_dataset(journal.path)
    (case,) = found.conflicts
    out = case.outcome
    assert (out.right, out.harm, out.source, out.propensity) == (False, None, "person", 0.1)
    assert case.loss
    assert [label.source for label in case.labels] == ["shadow", "person"]
    assert found.by_source == {"person": 1}
    found = load_dataset(journal.path, on_conflict="exclude")
    assert (found.steps, found.unlabelled, found.undecided) == ([], 1, 1), "as good as unlabelled"
    with pytest.raises(ConfigurationError, match="on_conflict"):
        load_dataset(journal.path, on_conflict="newest")


@pytest.mark.parametrize(
    ("sources", "counts"),
    [
        (("escalation", "tool_error", "shadow", "evaluator", "person"), "person"),
        (("escalation", "tool_error", "shadow", "evaluator"), "evaluator"),
        (("shadow", "escalation", "tool_error"), "shadow"),
        (("escalation", "tool_error"), "tool_error"),
        (("somebody", "escalation"), "escalation"),
        (("somebody",), "somebody"),
    ],
)
def test_precedence(sources, counts):
    """Person before evaluator before shadow before tool error before escalation, then anybody else."""
    labels = [Label(step_id="1", source=s, right=s == counts) for s in sources]
    assert resolve(labels).source == counts


def test_the_latest_of_one_source_counts():
    """A person who corrects a label is heard; a label that says nothing is not."""
    old = Label(step_id="1", source="person", right=True, at="2026-01-01T00:00:00+00:00")
    new = Label(step_id="1", source="person", right=False, at="2026-02-01T00:00:00+00:00")
    empty = Label(step_id="1", source="person", at="2026-03-01T00:00:00+00:00")
    assert resolve([new, old, empty]) is new
    assert resolve([empty]) is None


def test_same_wrong_answer_is_no_harm(journal):
    """When a person calls a draft wrong that large repeated, escalating would have gained nothing."""
    journal.append(step("1", said(calls=CITY), said(calls=CITY)))
    journal.label("1", source="person", right=False)
    (case,) = load_dataset(journal.path).steps
    assert (case.outcome.right, case.outcome.harm, case.loss) == (False, False, False)


def test_evaluator_labels_what_it_can_tell(journal):
    """The user's function sees the whole trace and may pass."""
    for name in ("good", "bad", "unknown"):
        journal.append(step(name, said(name)))
    found = load_dataset(
        journal.path, evaluator=lambda t: {"good": True, "bad": False}.get(t.attempts[0].answer["text"])
    )
    assert {c.id: c.outcome.right for c in found.steps} == {"good": True, "bad": False}
    assert found.unlabelled == 1


def test_irreversible_calls_are_marked(journal):
    """A draft that calls a tool the policy declares irreversible is one."""
    journal.append(step("1", said(calls=[("pay", {})]), said(calls=[("pay", {})])))
    journal.append(step("2", said(calls=CITY), said(calls=CITY)))
    cases = load_dataset(journal.path, side_effects={"pay": "irreversible", "weather": "read"}).steps
    assert [c.irreversible for c in cases] == [True, False]


def test_steps_are_counted_once(journal, tmp_path):
    """Overlapping paths do not double the evidence, and labels may stand in another file."""
    journal.append(step("1", said(calls=CITY)))
    other = Journal(tmp_path / "labels.jsonl")
    other.label("1", source="person", right=True)
    other.label("gone", source="person", right=True)
    found = load_dataset(tmp_path / "*.jsonl", journal.path)
    assert (found.total, found.repeated, len(found.steps)) == (1, 1, 1)
    assert found.orphans == ("gone",)


def test_unfinished_steps_say_nothing(journal):
    """A step that was interrupted or cancelled is counted and not judged."""
    for outcome in ("interrupted", "cancelled", "error"):
        journal.append(step(outcome, said(calls=CITY), outcome=outcome))
    found = load_dataset(journal.path)
    assert (found.total, found.answered, found.steps) == (3, 0, [])


@pytest.mark.parametrize(
    ("label", "complaint"),
    [
        ({"propensity": 0.0}, "propensity"),
        ({"propensity": 1.5}, "propensity"),
        ({"propensity": "0.1"}, "Label.propensity is '0.1'"),
        ({"right": "yes"}, "Label.right is 'yes'"),
        ({"harm": 1}, "Label.harm is 1"),
        ({"right": True, "harm": True}, "right and harm"),
    ],
)
def test_impossible_labels_are_refused(journal, label, complaint):
    """A label that cannot be true is refused with its line, the fault and the mend."""
    journal.append(step("s7", said(calls=CITY)))
    with journal.path.open("a") as file:
        file.write(json.dumps({"type": "label", "step_id": "s7", "source": "person", **label}) + "\n")
    with pytest.raises(RecordError, match=r"j\.jsonl:2: .*" + complaint):
        load_dataset(journal.path)


def test_an_empty_journal_is_refused(tmp_path):
    """No step is a complaint with its mend, not an empty result."""
    path = tmp_path / "empty.jsonl"
    path.write_text("")
    with pytest.raises(RecordError, match="holds no step yet; set CASCADE_JOURNAL"):
        load_dataset(path)


@pytest.mark.parametrize("reason", ["stays_on_large", "skipped_small"])
def test_steps_that_did_not_ask_small_are_left_out(journal, reason):
    """An economy that leaves small out says nothing about its drafts; a validator that speaks before it does."""
    attempts = Attempt(tier="small", outcome="skipped", cost=0.0), Attempt(tier="large", outcome="accepted")
    for i, why in enumerate((reason, "after_tool_error")):
        journal.append(recorded(str(i), *attempts, decisions=(Decision(action="escalate", reason=why),)))
    found = load_dataset(journal.path)
    (case,) = found.steps
    assert (found.unasked, case.id, case.drafted, case.labelled) == (1, "1", False, False)
