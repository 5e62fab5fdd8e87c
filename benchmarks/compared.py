"""Ten faults of a small model in an agent's step: who still gets the large model's answer, each tool run as it is.

    python benchmarks/compared.py [--json]

A server on the loopback plays both models of an agent that has one tool result behind it. The small model answers with
one fault at a time: four that fail the call, six that are an answer and wrong. `large` stands where large was asked for
the same step, `acted` where the agent went on with small's faulty answer, `raised` where the run ended in an error.
What is not installed is left out: `pip install langchain langchain-openai litellm langchain-router nemo-switchyard`.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from langchain.agents import create_agent
from langchain.agents.middleware import ModelFallbackMiddleware
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from rich.console import Console
from rich.table import Table

from cascade_agent import CascadeChatModel, Policy
from tests.loopback import Handler, Loopback

if TYPE_CHECKING:
    from collections.abc import Callable

Json = dict[str, Any]
TIMEOUT = 1.0
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "refund",
            "description": "Refund an order.",
            "parameters": {
                "type": "object",
                "properties": {"order_id": {"type": "integer"}, "reason": {"enum": ["late", "broken"]}},
                "required": ["order_id", "reason"],
            },
        },
    }
]


@tool
def find_order(name: str) -> str:
    """Find the order of a customer."""
    return name


@tool
def refund(order_id: int, reason: str) -> str:
    """Refund an order; the reason is late or broken."""
    return f"{order_id} {reason}"


def call(name: str, arguments: str) -> Json:
    """Return an answer that calls a tool."""
    function = {"name": name, "arguments": arguments}
    return {
        "message": {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "s1", "type": "function", "function": function}],
        },
        "finish_reason": "tool_calls",
    }


def text(words: str, end: str = "stop") -> Json:
    """Return an answer in words."""
    return {"message": {"role": "assistant", "content": words}, "finish_reason": end}


FAULTS: dict[str, Json | int | str] = {
    "error 500": 500,
    "error 429": 429,
    "context too long (400)": 400,
    "no answer in time": "hang",
    "unknown tool": call("refund_order", '{"order_id": 4711, "reason": "late"}'),
    "arguments cut off": call("refund", '{"order_id": 4711, "rea'),
    "wrong type": call("refund", '{"order_id": "the last one", "reason": "late"}'),
    "argument missing": call("refund", '{"reason": "late"}'),
    "empty answer": text(""),
    "cut off at the limit": text("I have looked at the order of Ann and", "length"),
}
GOOD = call("refund", '{"order_id": 4711, "reason": "late"}')
DONE = text("Order 4711 was refunded.")
HISTORY = [
    HumanMessage("My order came a week late, refund it please. I am Ann."),
    AIMessage("", tool_calls=[{"name": "find_order", "args": {"name": "Ann"}, "id": "a1"}]),
    ToolMessage('{"order_id": 4711, "state": "delivered late"}', tool_call_id="a1"),
]


class _Handler(Handler):
    def answer(self) -> None:
        self.owner.answer(self, self.payload())


class Server(Loopback):
    """Both models: `small` has the fault of the moment on the step in question, `large` answers it well."""

    handler = _Handler

    def __init__(self) -> None:
        self.fault: Json | int | str = 500
        self.asked: list[tuple[str, int]] = []
        super().__init__()
        self.url = f"{self.address}/v1"

    def answer(self, handler: Handler, body: Json) -> None:
        """Answer one request."""
        model, length = body["model"], sum(m["role"] != "system" for m in body["messages"])
        self.asked.append((model, length))
        step = length == len(HISTORY)
        said: Json | int | str = (GOOD if step else DONE) if model == "large" or not step else self.fault
        if said == "hang":
            threading.Event().wait(3 * TIMEOUT)
            said = DONE
        status = said if isinstance(said, int) else 200
        reply: Json = {"error": {"message": "no", "type": "x", "code": "context_length_exceeded"}}
        if isinstance(said, dict):
            usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
            choice = {"index": 0, **said}
            reply = {"id": "1", "object": "chat.completion", "created": 1, "model": model}
            reply |= {"choices": [choice], "usage": usage}
        with suppress(OSError):  # whoever asked has gone
            handler.reply(reply, status)


def client(url: str, name: str) -> ChatOpenAI:
    """Return a model of the server."""
    return ChatOpenAI(model=name, base_url=url, api_key="none", max_retries=0, timeout=TIMEOUT)  # type: ignore[arg-type]


def agent(model: Any, *middleware: Any) -> Callable[[], Any]:
    """Return a run of an agent from the step in question on."""
    graph: Any = create_agent(model, [find_order, refund], middleware=middleware)
    return lambda: graph.invoke({"messages": list(HISTORY)}, {"recursion_limit": 8})


def ways(url: str) -> dict[str, Callable[[], Any]]:
    """Return each way of answering that is installed."""
    small, large = client(url, "small"), client(url, "large")

    class Fallbacks(ChatOpenAI):
        """`with_fallbacks` behind `bind_tools`, as an agent binds them."""

        def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
            return small.bind_tools(tools, **kwargs).with_fallbacks([large.bind_tools(tools, **kwargs)])

    found: dict[str, Callable[[], Any]] = {
        "cascade_agent": agent(CascadeChatModel(small=small, large=large, policy=Policy(skip_small=False))),
        "with_fallbacks": agent(Fallbacks(model="small", base_url=url, api_key="none")),  # type: ignore[arg-type]
        "ModelFallbackMiddleware": agent(small, ModelFallbackMiddleware(large)),
    }
    if importlib.util.find_spec("langchain_router"):
        from langchain_router import RouterMiddleware

        found["langchain-router"] = agent(large, RouterMiddleware(fast=small))
    if importlib.util.find_spec("litellm"):
        found["LiteLLM Router"] = litellm_router(url)
    if importlib.util.find_spec("switchyard"):
        found["NeMo Switchyard"] = switchyard(url)
    return found


def wire(messages: list[Any]) -> list[Json]:
    """Return messages as OpenAI takes them."""
    from langchain_core.messages import convert_to_openai_messages

    return convert_to_openai_messages(messages)  # type: ignore[return-value]


def litellm_router(url: str) -> Callable[[], Any]:
    """Return one step asked through LiteLLM's router with large as the fallback of small."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # its prices are not fetched
    from litellm import Router

    models = [
        {"model_name": n, "litellm_params": {"model": f"openai/{n}", "api_base": url, "api_key": "x"}}
        for n in ("small", "large")
    ]
    router = Router(
        model_list=models,
        fallbacks=[{"small": ["large"]}],
        context_window_fallbacks=[{"small": ["large"]}],
        num_retries=0,
        timeout=TIMEOUT,
    )
    return lambda: router.completion(model="small", messages=wire(HISTORY), tools=TOOLS)


def switchyard(url: str) -> Callable[[], Any]:
    """Return one step through the stage router, each of its calls made as it says."""
    from switchyard.libsy import Step
    from switchyard.libsy.algorithms import stage_router

    algorithm = stage_router(picker="efficient_first", confidence_threshold=0.5)
    models = {"efficient": ["small"], "capable": ["large"], "any": ["small", "large"]}

    human, made, result = HISTORY
    call, answered = made.tool_calls[0], result.text  # type: ignore[union-attr]
    messages = [  # in the words of its own protocol
        {"role": "user", "content": [{"type": "text", "text": human.text}]},
        {
            "role": "assistant",
            "content": [{"type": "tool_call", "id": "a1", "name": call["name"], "arguments": json.dumps(call["args"])}],
        },
        {
            "role": "tool",
            "content": [{"type": "tool_result", "tool_call_id": "a1", "content": [{"type": "text", "text": answered}]}],
        },
    ]

    async def run() -> None:
        async for step in algorithm.run_stream({"model": "auto", "messages": messages}, models):
            match step:
                case Step.Done(chosen):
                    name = chosen.selected_model_ids[0]
                    await client(url, name).bind_tools([find_order, refund]).ainvoke(HISTORY)

    return lambda: asyncio.run(run())


def outcome(server: Server, run: Callable[[], Any], fault: Json | int | str) -> str:
    """Return what became of the step."""
    server.fault, server.asked = fault, []
    error = ""
    try:
        run()
    except Exception as raised:
        error = type(raised).__name__
    step = [model for model, length in server.asked if length == len(HISTORY)]
    return "large" if "large" in step else "raised" if error else "acted"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with Server() as server:
        names = ways(server.url)
        found = {name: {f: outcome(server, run, fault) for f, fault in FAULTS.items()} for name, run in names.items()}
    if args.json:
        print(json.dumps(found))
        return
    table = Table("fault of small", *found)
    for fault in FAULTS:
        table.add_row(fault, *(found[name][fault] for name in found))
    table.add_row(
        "large answered", *(f"{sum(o == 'large' for o in found[n].values())} of {len(FAULTS)}" for n in found)
    )
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
