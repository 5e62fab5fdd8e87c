"""From verdicts to P(this draft is right): one linear rule in logits, shipped with reasoned numbers, or fitted.

Law: the confidence is finite, the same for the same verdicts in any order, and never falls when a score rises; it reads
codes and scores alone, never a text, a user or a model's name.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self, cast

from cascade_agent.core.clean_json import Json, clean
from cascade_agent.core.records import SCHEMA
from cascade_agent.errors import ConfigurationError, RecordError

if TYPE_CHECKING:
    from cascade_agent.core.records import Verdict

HARD_FAIL: Final = "hard_fail"
"""The code under which every hard fail of a shipped validator is weighed."""

_PRIOR: Final = "the score of this code is itself an estimate of P(right); this weight hands it on"

RULES: Final[Mapping[str, tuple[float, float, str]]] = {
    HARD_FAIL: (8.0, 1.0, "cannot be executed or stored: no other sign outweighs it"),
    # Local signs: silent or 1 is "nothing to object".
    "call_in_prose": (4.0, 1.0, "a call written into the text never runs; the model meant to call"),
    "part_open": (4.0, 1.0, "the request speaks of a tool's subject and that tool was not called: a call is missing"),
    "number_unused": (4.0, 1.0, "numbers in a request are nearly always meant for an argument"),
    "date_invented": (3.0, 1.0, "a model knows no date that it was not told; such values are guesses"),
    "placeholder_value": (3.0, 1.0, "a template was copied, the value is not known"),
    "required_empty": (3.0, 1.0, "the model had nothing to fill in and called all the same"),
    "calls_alike": (2.5, 1.0, "the same values twice ask for nothing new"),
    "choice_unused": (2.5, 1.0, "the request names an option in the tool's own words and it was passed over"),
    "percent_as_written": (2.0, 1.0, "8 % is 0.08 to a formula; a parameter that means percent mostly says so"),
    "question_open": (3.0, 1.0, "each question wants a call; questions in passing exist"),
    "quote_unused": (2.0, 1.0, "what stands in quotation marks is wanted literally; titles in passing exist"),
    "calls_split": (2.0, 1.0, "a list parameter asks for one call; several calls also work with many tools"),
    "description_match": (2.0, 1.0, "a fitting tool is described in words of the request; synonyms are the exception"),
    "argument_grounded": (1.5, 1.0, "values out of nowhere are guesses; normalised and translated ones look like them"),
    "off_topic": (1.0, 1.0, "several weak signs at once; each of them is weighed already"),
    "tool_match": (1.0, 1.0, "the name says the same as the description in fewer words"),
    "request_covered": (0.5, 1.0, "words left over ask for something else; a story around a request leaves words too"),
    "several_calls": (0.5, 1.0, "each of several calls must be right; one call is right more often than three"),
    "sibling_unused": (1.0, 1.0, "one item of a list was used and its neighbour not; appositions look like lists"),
    "optional_grounded": (1.0, 1.0, "an optional value that nobody mentioned is seldom wanted, and often harmless"),
    "other_tool_fits": (1.0, 1.0, "shared words prefer another tool; descriptions of unequal length blur it"),
    "no_call": (0.5, 1.0, "prose that was chosen freely is mostly right, also beside a tool with like words"),
    # Signs whose validators say how likely the draft is right.
    "duplicate_call": (6.0, 1.0, _PRIOR),
    "call_loop": (6.0, 1.0, _PRIOR),
    "repeated_call": (6.0, 1.0, _PRIOR),
    "repeated_answer": (6.0, 1.0, _PRIOR),
    "plan_steps_open": (6.0, 1.0, _PRIOR),
    "plan_argument_differs": (6.0, 1.0, _PRIOR),
    "after_tool_error": (6.0, 1.0, _PRIOR),
    "turn_progress": (6.0, 1.0, _PRIOR),
    "call_skipped": (6.0, 1.0, _PRIOR),
    "figure_unsupported": (6.0, 1.0, _PRIOR),
    # Evidence speaks for a draft as well as against it: it is weighed from the score that says nothing.
    "token_confidence": (
        3.0,
        0.8,
        "tokens chosen without doubt are a little more often right; models are overconfident",
    ),
    "agreement": (7.0, 0.8, "models of two families seldom make the same mistake; four fifths of an answer agree"),
    "judged_right": (3.0, 0.5, "a judge that is unsure says one half; judges are lenient and see less than they say"),
}
"""Code -> (weight in logits, score that says nothing, reason). What is not here is the user's validator."""

LOOP: Final = "turn_progress"
"""The code that speaks in a loop, and only there: a later user turn, or a turn in which calls were made."""

_IN_LOOPS: Final[Mapping[str, float]] = {
    code: 0.0
    for code in (
        "argument_grounded",
        "choice_unused",
        "description_match",
        "no_call",
        "number_unused",
        "optional_grounded",
        "other_tool_fits",
        "part_open",
        "percent_as_written",
        "question_open",
        "quote_unused",
        "request_covered",
        "several_calls",
        "sibling_unused",
        "tool_match",
    )
}
"""Weights that differ in loops: there a call serves a step of the request, not the whole of it, so what compares the
call with the request says nothing (of 703 later turns of a recorded 20b model, AUROC .35-.51)."""

_BIAS: Final = 3.5
"""Logit of a draft nobody objects to: 97 % right, as about 97 of 100 recorded answers without a sign were."""

SHIPPED: Final = frozenset(
    {
        "CompleteResponse",
        "ToolCallSchema",
        "StructuredOutput",
        "NoRepeat",
        "PlanConsistency",
        "AfterToolError",
        "SkippedCall",
        "TurnProgress",
        "Grounding",
        "ToolRelevance",
        "TokenConfidence",
    }
)
"""Local validators of this library: their plain passes are no opinion about P(right), their hard fails are weighed."""

_LIMIT: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """What one code moved the confidence by, in logits: `weight * (score - mean)`."""

    code: str
    weight: float
    score: float
    logit: float

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"code": self.code, "weight": self.weight, "score": self.score, "logit": self.logit}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """`logit P(right) = bias + sum of weight * (score - mean)` over the codes that spoke, then a table of knots.

    The least score of a code counts when it spoke several times. A code that did not speak moves nothing: its mean is
    the score that says nothing, 1 where none is given. The shipped rules and a fitted scorer are this same value.

    Verdicts whose code is not in `weights` come from the user's validators and are taken at their word: the least of
    their scores (1 for a plain pass, 0 for a plain fail, an abstain says nothing) is an upper bound of the confidence.

    Attributes:
        weights: Code -> logits per unit of score, finite and not negative.
        bias: Logit of a draft on which all codes are silent.
        means: Code -> score in [0, 1] that says nothing; 1 for codes that are not here.
        knots: Points (p, calibrated p), both ascending, read with straight lines between them; empty: p stays.
        in_loops: Code -> its weight where the code `turn_progress` spoke, for those that weigh otherwise in loops.
        provenance: Where the numbers come from (data hash, date, n ...), plain JSON.

    Raises:
        ConfigurationError: a number that breaks the law of this module.
    """

    weights: Mapping[str, float] = field(hash=False)
    bias: float
    means: Mapping[str, float] = field(default_factory=dict, hash=False)
    knots: tuple[tuple[float, float], ...] = ()
    in_loops: Mapping[str, float] = field(default_factory=dict, hash=False)
    provenance: Mapping[str, Json] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuse numbers that would break monotony or finiteness."""
        for code, weight in [*self.weights.items(), *self.in_loops.items()]:
            if not _number(weight) or not 0.0 <= weight < math.inf:
                msg = f"Scorer.weights[{code!r}] is {weight!r}; expected a finite number >= 0"
                raise ConfigurationError(msg)
        if not _number(self.bias) or not math.isfinite(self.bias):
            msg = f"Scorer.bias is {self.bias!r}; expected a finite number"
            raise ConfigurationError(msg)
        for code, mean in self.means.items():
            if not _number(mean) or not 0.0 <= mean <= 1.0:
                msg = f"Scorer.means[{code!r}] is {mean!r}; expected a number in [0, 1]"
                raise ConfigurationError(msg)
        flat = [v for knot in self.knots for v in knot]
        if not all(_number(v) and 0.0 <= v <= 1.0 for v in flat) or any(
            b[0] <= a[0] or b[1] < a[1] for a, b in zip(self.knots, self.knots[1:], strict=False)
        ):
            msg = "Scorer.knots must be pairs in [0, 1] with rising first and not falling second numbers"
            raise ConfigurationError(msg)

    @classmethod
    def rules(cls) -> Self:
        """The shipped rules: `RULES` with its reasons, nothing fitted."""
        return cls(
            weights={code: weight for code, (weight, _, _) in RULES.items()},
            bias=_BIAS,
            means={code: mean for code, (_, mean, _) in RULES.items() if mean != 1.0},
            in_loops=_IN_LOOPS,
            provenance={"kind": "rules"},
        )

    def confidence(self, verdicts: Iterable[Verdict]) -> float | None:
        """P(the draft is right), in [0, 1]; None when no verdict says anything about it."""
        scores, user = self._read(verdicts)
        if not scores:
            return user
        if HARD_FAIL in scores and HARD_FAIL not in self.weights:
            return 0.0
        logit, weights = self.bias, self._weights(scores)
        for code in sorted(scores):  # one order, so that the sum is the same to the last bit
            logit += weights[code] * (scores[code] - self.means.get(code, 1.0))
        p = self._calibrated(1.0 / (1.0 + math.exp(-max(-_LIMIT, min(_LIMIT, logit)))))
        return p if user is None else min(p, user)

    def read(self, verdicts: Iterable[Verdict]) -> dict[str, float]:
        """The features: each code of `weights` that spoke, with the score in [0, 1] that counts (its least one).

        A hard fail counts as 0, under its own code where that is weighed, else as `HARD_FAIL` if a shipped validator
        found it. The user's own verdicts are no features: they bound the confidence from above. Nothing else of a
        verdict is looked at, and nothing of the step.
        """
        return self._read(verdicts)[0]

    def explain(self, verdicts: Iterable[Verdict]) -> list[Contribution]:
        """What each code added to `bias`, the greatest loss first; codes that moved nothing are left out.

        The sum of `bias` and all `logit` is the logit of the confidence before `knots`, and before the bound that the
        user's own verdicts set. Each row goes to plain JSON by `to_json`.
        """
        scores, _ = self._read(verdicts)
        weights, means = self._weights(scores), self.means
        rows = [
            Contribution(code=c, weight=weights[c], score=s, logit=weights[c] * (s - means.get(c, 1.0)))
            for c, s in scores.items()
            if c in weights
        ]
        return sorted((r for r in rows if r.logit), key=lambda r: (r.logit, r.code))

    def _weights(self, scores: Mapping[str, float]) -> Mapping[str, float]:
        """Return the weights that hold for these features: those of a loop, or of a single step."""
        return {**self.weights, **self.in_loops} if self.in_loops and LOOP in scores else self.weights

    def _read(self, verdicts: Iterable[Verdict]) -> tuple[dict[str, float], float | None]:
        """Least score of each known code, and the least of the user's own; None where there is none."""
        scores: dict[str, float] = {}
        user: float | None = None
        weights = self.weights
        for verdict in verdicts:
            code, score = verdict.code, verdict.score
            if code in weights and score is not None:
                scores[code] = min(score, scores.get(code, 1.0))
            elif verdict.outcome == "abstain":
                continue
            elif code in weights or verdict.validator in SHIPPED:
                if not verdict.hard:
                    continue  # a pass, or a graded code that this scorer was fitted without
                if code not in weights:
                    code = HARD_FAIL
                scores[code] = 0.0
            else:
                told = score if score is not None else float(verdict.outcome == "pass")
                user = told if user is None else min(user, told)
        return scores, user

    def _calibrated(self, p: float) -> float:
        knots = self.knots
        if not knots:
            return p
        place = bisect_right(knots, p, key=lambda k: k[0])
        if place == 0:
            return knots[0][1]
        if place == len(knots):
            return knots[-1][1]
        (x0, y0), (x1, y1) = knots[place - 1], knots[place]
        return min(y1, max(y0, y0 + (y1 - y0) * (p - x0) / (x1 - x0)))

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "schema": SCHEMA,
            "bias": self.bias,
            "weights": dict(self.weights),
            "means": dict(self.means),
            "knots": [list(k) for k in self.knots],
            "in_loops": dict(self.in_loops),
            "provenance": clean(self.provenance),
        }

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Read what `to_json` wrote.

        Raises:
            RecordError: not a scorer, impossible numbers, or written by a newer version.
        """
        if not isinstance(data, Mapping):
            msg = f"expected a JSON object for a Scorer, found {type(data).__name__}"
            raise RecordError(msg)
        schema = data.get("schema", SCHEMA)
        if not isinstance(schema, int) or schema > SCHEMA:
            msg = f"Scorer has schema {schema!r}, this version reads up to {SCHEMA}: upgrade cascade_agent"
            raise RecordError(msg)
        try:
            return cls(
                weights=dict(_mapping(data, "weights")),
                bias=data["bias"],
                means=dict(_mapping(data, "means")),
                in_loops=dict(_mapping(data, "in_loops")),
                knots=tuple((x, y) for x, y in cast("Any", data.get("knots", ()))),
                provenance=dict(_mapping(data, "provenance")),
            )
        except (KeyError, TypeError, ValueError) as error:
            msg = f"not a Scorer: {error!r}"
            raise RecordError(msg) from error


def _mapping(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = data.get(key, {})
    if not isinstance(value, Mapping):
        msg = f"{key} is a {type(value).__name__}; expected an object"
        raise TypeError(msg)
    return value


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
