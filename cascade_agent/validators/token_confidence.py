"""`TokenConfidence`: how sure the model was of the tokens that act, from the log-probabilities of its provider.

A provider that gives no log-probabilities is unknown, never sure and never unsure.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import TYPE_CHECKING, ClassVar

from cascade_agent.core.records import Verdict
from cascade_agent.core.scoring import Weight
from cascade_agent.errors import ConfigurationError
from cascade_agent.validators._words import walk

if TYPE_CHECKING:
    from langchain_core.messages import ToolCall

    from cascade_agent.core.records import Draft, StepContext

_MAX_TOKENS = 4_096
_MAX_WORD = 32
_MAX_VALUES = 64
_MAX_NODES = 500
_MAX_DEPTH = 32
_MAX_NEEDLE = 2_000
_IMPOSSIBLE = -10_000

_LOGPROB = ("logprob", "log_probability", "logProbability")
Tokens = list[tuple[str, float]]

_QUANTILE = 0.1
_UNSURE = 0.15
"""Probability at the lowest tenth of the tokens under which a draft fails.

A calibrated model is right about a token as often as it says, and instruction-tuned ones claim more than that (OpenAI,
*GPT-4 Technical Report*, 2023, figure 8), so of such tokens at most 15 in 100 are the right ones: the precision that
the shipped soft fails have, and a margin.
"""
_FAILED_MEAN = -1.0
"""Mean log-probability under which a draft fails: the bar under which Whisper takes its own decoding for failed
(`logprob_threshold`; Radford et al., *Robust Speech Recognition via Large-Scale Weak Supervision*, 2022, section 4.5).
Text that a model decodes surely lies far above it; -2.5 is the perplexity of open-ended prose (12)."""
_RARE = -10.0
"""Least log-probability that counts in the mean: some providers write -9999 for tokens outside of their top ones."""
_MANY = 10
"""Tokens of a text from which on its lowest tenth counts: a single token may just have many synonyms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenConfidence:
    """Scores the draft with the probability of its least sure tokens, and fails it where they are hardly ever right.

    The score is `exp` of a low quantile of the tokens' log-probabilities: a mean hides the one wrong token of a call
    behind many sure ones, a sum punishes length (Gupta et al., *Language Model Cascades: Token-level uncertainty and
    beyond*, ICLR 2024, arXiv:2404.10136, there "Chow-Quantile"; `quantile=0` is the least sure token).

    Of an answer with tool calls only the tokens that spell the tools' names and the values of their arguments count
    (single-sample confidence is better so: *Uncertainty Quantification for LLM Function-Calling*, arXiv:2604.22985);
    when the provider reports none of these (some report the prose alone), nothing is known. Log-probabilities are
    read from `response_metadata["logprobs"]` (OpenAI, vLLM, Groq: `{"content": [{"token", "logprob"}]}`; Ollama: the
    list alone; legacy completions: `{"tokens", "token_logprobs"}`) and `["logprobs_result"]` (Gemini). Ask for them,
    for example with `ChatOpenAI(logprobs=True)`. At most the last 4,096 tokens are read.

    Codes: `token_confidence` (a soft fail where the mean is below -1 or the lowest tenth of the tokens below .15, a
    single token of a call among them; else a pass with a score), `no_logprobs` (abstain without one).

    Args:
        quantile: which quantile of the log-probabilities the score is, in [0, 1).
        graded: False gives the soft fail alone and is silent otherwise, as in the default set: a draft is never lifted.

    Raises:
        ConfigurationError: `quantile` is outside [0, 1).
    """

    quantile: float = _QUANTILE
    graded: bool = True
    shipped: ClassVar[bool] = True
    escalates_as: ClassVar[str] = "low_confidence"
    weights: ClassVar[Mapping[str, Weight]] = {
        "token_confidence": Weight(3.0, "sure tokens are a little more often right; models overrate it", neutral=0.8),
    }

    def __post_init__(self) -> None:
        """Refuse what is no quantile."""
        if not 0.0 <= self.quantile < 1.0:
            msg = f"TokenConfidence.quantile is {self.quantile!r}; expected a number in [0, 1), for example 0.1"
            raise ConfigurationError(msg)

    @property
    def lifts(self) -> bool:
        """Return whether a finding may raise the confidence: a calibrated policy must know such a one."""
        return self.graded

    def __call__(self, draft: Draft, context: StepContext) -> Verdict | None:
        """Return one verdict; without log-probabilities an abstain, or nothing where it is not graded."""
        del context  # the answer alone counts
        meta = draft.message.response_metadata
        tokens = _tokens(meta.get("logprobs")) or _tokens(meta.get("logprobs_result"))
        if not tokens and not self.graded:
            return None
        calls = draft.tool_calls
        values = sorted(_action_tokens(tokens, calls) if calls else [logprob for _, logprob in tokens])
        if not values:
            reason = "the provider reports no log-probabilities" + (" of the call" if tokens else "")
            return Verdict(outcome="abstain", code="no_logprobs", reason=reason) if self.graded else None
        score, lowest = (math.exp(values[int(share * len(values))]) for share in (self.quantile, _QUANTILE))
        mean = math.fsum(max(_RARE, value) for value in values) / len(values)
        fails = mean < _FAILED_MEAN or (lowest < _UNSURE and bool(calls or len(values) >= _MANY))
        if not fails and not self.graded:
            return None
        reason = f"quantile {self.quantile:g} of {len(values)} tokens of the {'call' if calls else 'answer'}"
        return Verdict(outcome="fail" if fails else "pass", code="token_confidence", reason=reason, score=score)


def _tokens(data: object) -> Tokens:
    """Return the tokens that a provider reports in any shape, each with a number between impossible and certain."""
    if isinstance(data, Mapping):
        logprobs, texts = data.get("token_logprobs"), data.get("tokens")
        if not isinstance(logprobs, list):
            lists = (data.get(key) for key in ("content", "chosen_candidates", "chosenCandidates"))
            return _tokens(next((found for found in lists if isinstance(found, list)), None))
        if not isinstance(texts, list) or len(texts) != len(logprobs):
            texts = [""] * len(logprobs)
        data = [{"token": text, "logprob": logprob} for text, logprob in zip(texts, logprobs, strict=True)]
    out: Tokens = []
    for item in data[-_MAX_TOKENS:] if isinstance(data, list) else ():
        token = item if isinstance(item, dict) else {"logprob": item}
        text = token.get("token", token.get("text"))
        logprob = next((token[key] for key in _LOGPROB if key in token), None)
        if isinstance(logprob, bool) or not isinstance(logprob, int | float) or not logprob <= math.inf:  # NaN
            continue
        word = text[:_MAX_WORD] if isinstance(text, str) else ""
        if not word.isascii():  # byte-level vocabularies write a leading space as one of these two letters
            word = word.replace("Ġ", " ").replace("▁", " ")
        out.append((word, float(max(_IMPOSSIBLE, min(0, logprob)))))
    return out


def _action_tokens(tokens: Tokens, calls: Sequence[ToolCall]) -> list[float]:
    """Return the log-probabilities of the tokens that spell a tool's name or a value of its arguments."""
    if not tokens:
        return []
    text = "".join(token for token, _ in tokens)
    spelled = bytearray(len(text))  # 1 for each letter of a name or a value
    cursor, left = 0, _MAX_VALUES
    for call in calls[:_MAX_VALUES]:
        name = str(call["name"])
        start = text.find(name, cursor)
        if start < 0:
            continue
        cursor = start + len(name)
        needles = _needles(call["args"])[:left]
        left -= len(needles)
        begin, spans = cursor, [(start, cursor)]
        for spellings in needles:  # each is looked for behind the one before it first
            places = ((text.find(n, place), len(n)) for place in (cursor, begin) for n in spellings)
            at, size = next((found for found in places if found[0] >= 0), (-1, 0))
            if at >= 0:
                spans.append((at, at + size))
                cursor = max(cursor, at + size)
        if needles and not spans[1:]:
            continue  # the name stands in prose; the call itself was not reported
        for first, last in spans:
            spelled[first:last] = b"\1" * (last - first)
    ends = accumulate(len(token) for token, _ in tokens)
    return [p for (token, p), end in zip(tokens, ends, strict=True) if 1 in spelled[end - len(token) : end]]


def _needles(args: object) -> list[tuple[str, ...]]:
    """Return the spellings of each value of the arguments: as plain text and as JSON."""
    out: list[tuple[str, ...]] = []
    for _, item, _ in islice(walk(args, {}, "", _MAX_DEPTH), _MAX_NODES):
        if isinstance(item, str):
            if 0 < len(item) <= _MAX_NEEDLE:
                out.append((json.dumps(item)[1:-1], json.dumps(item, ensure_ascii=False)[1:-1], item))
        elif item is None or isinstance(item, bool | float) or (isinstance(item, int) and item.bit_length() < 256):
            out.append((json.dumps(item), str(item)))  # str() of huge ones is refused
    return out[:_MAX_VALUES]
