"""Labels meet their steps: nothing overwritten, nothing invented, contradictions shown."""

import json
from dataclasses import replace

import pytest

from cascade_agent.core.records import Attempt, Decision, Label, Usage, Verdict
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
    usage = Usage(input_tokens=3)
    attempts = [Attempt(tier="small", model="s", outcome=outcome, answer=small, verdicts=(verdict,), usage=usage)]
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


def test_prose_is_the_users_to_compare_and_a_failed_answer_is_no_yardstick():
    """A function of the user decides about prose alone; a large draft with a hard fail, or none, labels nothing."""
    warm = step("1", said("It is warm in Paris."), said("Paris is warm."))
    assert same_answers(warm, same_text=lambda a, b: "warm" in a and "warm" in b) is True
    assert same_answers(step("1", said("1"), said("2")), same_text=lambda a, b: True) is False
    same = step("1", said(calls=CITY), said(calls=CITY))
    for changes in (
        {"outcome": "rejected", "verdicts": (Verdict(outcome="fail"),)},
        {"outcome": "error", "answer": None},
    ):
        large = replace(same.attempts[1], error="x" if changes["outcome"] == "error" else None, **changes)
        assert same_answers(replace(same, attempts=(same.attempts[0], large))) is None


def test_escalated_steps_label_themselves(journal):
    """Equal answers make the draft right, different ones harm, prose nothing; nothing that was said is kept."""
    journal.append(step("same", said(calls=CITY), said(calls=CITY)))
    journal.append(step("other", said(calls=CITY), said("7")))
    journal.append(step("prose", said("a secret"), said("c d")))
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
    kept = Verdict(outcome="pass", code="argument_grounded", score=0.5, validator="Grounding")
    assert {case.small.verdicts for case in found.steps} == {(kept,)}
    assert "secret" not in repr(found.steps)


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
    """Person before evaluator, shadow, tool error, escalation, then anybody else; of one source the latest that speaks."""
    assert resolve([Label(step_id="1", source=s, right=s == counts) for s in sources]).source == counts
    old, new, empty = (
        Label(step_id="1", source=sources[0], right=right, at=f"2026-0{month}-01T00:00:00+00:00")
        for month, right in ((1, True), (2, False), (3, None))
    )
    assert resolve([new, old, empty]) is new
    assert resolve([empty]) is None


def test_same_wrong_answer_is_no_harm(journal):
    """When a person calls a draft wrong that large repeated, escalating would have gained nothing."""
    journal.append(step("1", said(calls=CITY), said(calls=CITY)))
    journal.label("1", source="person", right=False)
    (case,) = load_dataset(journal.path).steps
    assert (case.outcome.right, case.outcome.harm, case.loss) == (False, False, False)


def test_evaluator_labels_what_it_can_tell(journal):
    """The user's function sees the whole trace, texts too, and may pass."""
    for name in ("good", "bad", "unknown"):
        journal.append(step(name, said(name)))

    def evaluator(trace):
        assert (trace.attempts[0].verdicts[0].reason, trace.attempts[0].usage.input_tokens) == ("r", 3)
        return {"good": True, "bad": False}.get(trace.attempts[0].answer["text"])

    found = load_dataset(journal.path, evaluator=evaluator)
    assert {c.id: c.outcome.right for c in found.steps} == {"good": True, "bad": False}
    assert found.unlabelled == 1


def test_irreversible_calls_are_marked(journal):
    """A draft that calls a tool the policy declares irreversible is one."""
    for name, calls in (("1", [("pay", {})]), ("2", CITY)):
        journal.append(step(name, said(calls=calls), said(calls=calls)))
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


def test_steps_that_say_nothing_of_small_are_left_out(journal):
    """Unfinished ones, and those where an economy left small out; a validator that speaks before it does count."""
    for outcome in ("interrupted", "cancelled", "error"):
        journal.append(step(outcome, said(calls=CITY), outcome=outcome))
    attempts = Attempt(tier="small", outcome="skipped", cost=0.0), Attempt(tier="large", outcome="accepted")
    for why in ("stays_on_large", "skipped_small", "after_tool_error"):
        journal.append(recorded(why, *attempts, decisions=(Decision(action="escalate", reason=why),)))
    found = load_dataset(journal.path)
    (case,) = found.steps
    assert (found.total, found.answered, found.unasked) == (6, 0, 2)
    assert (case.id, case.drafted, case.labelled) == ("after_tool_error", False, False)
