"""Forked children: where there are any, they begin with nothing that only a thread of their parent can go on with."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def after_fork(begin: Callable[[], object]) -> None:
    """Have every forked child call `begin` first; Windows knows no fork."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=begin)
