"""Reads a folder of recorded model answers (cases, answers, manifest) and turns rows into LangChain messages.

The data is read from the path given and from nowhere else; none of it is part of this repository.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, convert_to_messages
from langchain_core.outputs import ChatGeneration, ChatResult

from cascade_agent import Price

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Recorded:
    """A folder of recordings: cases by id, the manifest, and answers per model on demand."""

    folder: Path
    manifest: Row
    cases: dict[str, Row]

    @classmethod
    def load(cls, folder: Path, *, core_only: bool = True) -> Recorded:
        """Read cases and manifest; `core_only` keeps the categories that the manifest calls core."""
        manifest = json.loads((folder / "manifest.json").read_text())
        core = set(manifest["core_categories"])
        cases = {
            case["id"]: case for case in _lines(folder / "cases.jsonl.gz") if not core_only or case["category"] in core
        }
        return cls(folder, manifest, cases)

    def answers(self, model: str) -> dict[str, Row]:
        """Recorded answers of a model by case id, for the cases loaded; missing token counts are guessed."""
        rows = _lines(self.folder / "models" / f"{model}.jsonl.gz")
        found = {row["id"]: row for row in rows if row["id"] in self.cases}
        for name, row in found.items():
            guess = (0, 0) if row["status"] == "error" else None  # a call that failed is taken to be free
            for at, key in enumerate(COUNTS):
                if row.get(key) is None and row.get(f"est_{key}") is None:
                    guess = guess or guessed_tokens(self.cases[name], row)
                    row[f"est_{key}"] = guess[at]
        return found

    def price(self, model: str) -> Price:
        """List price of a model as the manifest gives it, with its source."""
        entry = self.manifest["models"][model]
        return Price(entry["usd_per_1m_in"], entry["usd_per_1m_out"], source=f"manifest: {entry['price_source']}")

    def pairs(self) -> list[tuple[str, str]]:
        """The small -> large pairs of the manifest."""
        return [(pair["small"], pair["large"]) for pair in self.manifest["pairs"]]


def _lines(path: Path) -> Iterator[Row]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def request(case: Row) -> list[BaseMessage]:
    """The messages of a case."""
    return convert_to_messages(case["messages"])


COUNTS = ("input_tokens", "output_tokens")


def tokens(row: Row) -> tuple[int, int]:
    """Input and output tokens, recorded or estimated."""
    used, written = (row[k] if row.get(k) is not None else row[f"est_{k}"] for k in COUNTS)
    return used, written


def guessed_tokens(case: Row, row: Row) -> tuple[int, int]:
    """Return four characters a token of what was sent and answered, for a row without counts."""
    sent = json.dumps([case["messages"], case["tools"]], ensure_ascii=False)
    said = (row["text"] or "") + (json.dumps(row["tool_calls"], ensure_ascii=False) if row["tool_calls"] else "")
    return -(-len(sent) // 4), -(-len(said) // 4)


def answer(row: Row) -> AIMessage:
    """A recorded answer as the message that a chat model would have returned."""
    calls, invalid = [], []
    for index, call in enumerate(row["tool_calls"]):
        call_id = f"call_{index}"
        if isinstance(call.get("args"), dict):
            calls.append({"name": call["name"], "args": call["args"], "id": call_id})
        else:
            raw = call.get("args_raw", "")
            invalid.append({"name": call["name"], "args": raw, "id": call_id, "error": None})
    text = row["text"] or ""
    used, written = tokens(row)
    return AIMessage(
        content=text,
        tool_calls=calls,
        invalid_tool_calls=invalid,
        usage_metadata={"input_tokens": used, "output_tokens": written, "total_tokens": used + written},
    )


class RecordedModel(BaseChatModel):
    """A chat model that gives the recorded answer of the case named in the run's metadata (`{"case": id}`)."""

    model_name: str
    rows: dict[str, Any]

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
        row = self.rows[run_manager.metadata["case"]]
        if row["status"] == "error":
            msg = "the recorded call failed"
            raise RuntimeError(msg)
        return ChatResult(generations=[ChatGeneration(message=answer(row))])

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        """The tools were bound when the answer was recorded."""
        return self.bind(**kwargs)

    @property
    def _llm_type(self) -> str:
        return "recorded"
