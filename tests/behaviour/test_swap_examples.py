"""The scripts of `examples/swap`: a swap changes nothing where small is always accepted, or always down."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import BaseMessage

from cascade_agent.testing import ScriptedChatModel

SCRIPTS = sorted((Path(__file__).parents[2] / "examples" / "swap").glob("*.py"))


def loaded(script: Path) -> Any:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(f"swap_{script.stem}", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def seen(value: Any) -> Any:
    """A state as its reader sees it: without ids that are made up, and without the record of steps."""
    if isinstance(value, BaseMessage):
        return value.type, value.name, value.content, getattr(value, "tool_calls", None)
    if isinstance(value, dict):
        return {key: seen(item) for key, item in value.items()}
    return [seen(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
@pytest.mark.parametrize("small_is", ["accepted", "down"])
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
async def test_a_swap_changes_nothing(script: Path, small_is: str, way: str) -> None:
    """The final state is the one of large alone; large is asked as often, or only where nothing was swapped."""
    example = loaded(script)
    paid, large = (ScriptedChatModel([example.answer], loop=True, name="large") for _ in range(2))
    reply = example.answer if small_is == "accepted" else ConnectionError("down")
    small = ScriptedChatModel([reply], loop=True, name="small")
    before, after = example.alone(paid), example.swapped(small, large)
    if way == "invoke":
        states = before.invoke(example.QUESTION), after.invoke(example.QUESTION)
    else:
        states = await before.ainvoke(example.QUESTION), await after.ainvoke(example.QUESTION)
    assert seen(states[1]) == seen(states[0])
    if small_is == "down":
        assert large.asked == paid.asked
    else:
        assert large.asked + small.asked == paid.asked
        assert small.asked > 0


def test_all_six_shapes_are_there() -> None:
    """A loop by hand, `create_agent`, supervisor, map-reduce, router, deep agent."""
    names = [script.stem for script in SCRIPTS]
    assert names == ["create_agent", "deep_agent", "map_reduce", "react_loop", "router", "supervisor"]
