"""Fixtures that the tests of adapters share."""

from importlib.util import find_spec

import pytest


@pytest.fixture(autouse=True)
def watched_loop(request):
    """Watch the loop of an asynchronous run: nothing of the library's own may block it."""
    call = getattr(request.node, "callspec", None)
    way = None if call is None else call.params.get("way", call.params.get("how"))
    if way not in ("async", "astream") or find_spec("blockbuster") is None:
        yield
        return
    from blockbuster import blockbuster_ctx

    with blockbuster_ctx("cascade_agent", excluded_modules=["cascade_agent.testing"]):
        yield
