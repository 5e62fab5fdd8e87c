"""`benchmarks/self_consistency.py` on samples made up here."""

import gzip
import json
from pathlib import Path

import self_consistency as benchmark

PROMPTS = ("cot1", "cot2", "pot1", "pot2")


def test_samples_that_agree_stay_with_small(tmp_path: Path) -> None:
    """Where kinds of prompt disagree large is asked; every sample is paid."""

    def row(question: str, answers: dict[str, str]) -> dict[str, object]:
        small = {prompt: [answers[prompt]] * 4 for prompt in PROMPTS}
        return {
            "question": question,
            "truth": "01/02/2021",
            "small": small,
            "small_chars": {prompt: [40] * 4 for prompt in PROMPTS},
            "large": {"cot1": ["01/02/2021"] * 3},
            "large_chars": {"cot1": [40] * 3},
        }

    agree = dict.fromkeys(PROMPTS, "01/02/2021")
    rows = [row("One?", agree), row("Two?", {**agree, "cot1": "01/03/2021"})]
    prices = {"small": [0.001, 0.002], "large": [0.01, 0.02]}
    head = {"prompt_chars": dict.fromkeys(PROMPTS, 400), "price_per_1k_tokens": prices}
    path = tmp_path / "samples.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as out:
        out.writelines(json.dumps(line) + "\n" for line in (head, *rows))
    figures = benchmark.measure(path, 1)
    assert (figures["one sample"]["success"], figures["one sample"]["escalated"]) == (0.5, 0.0)
    two = figures["1 + 1 of two kinds"]
    assert (two["success"], two["escalated"]) == (1.0, 0.5)
    assert figures["one sample"]["each"] < two["each"] < 1.0
    staged = figures["the same, staged"]
    assert (staged["success"], staged["escalated"]) == (1.0, 0.0), "three of four agree on the right answer"
    assert staged["each"] < figures["1 + 1 + 1 + 1 of four prompts"]["each"]
