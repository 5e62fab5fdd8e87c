"""Policy files: a calibrated policy with its provenance as JSON, and the refusal of one that does not fit.

A threshold is only worth what was measured, so a file is refused where the validators it was measured with are not
the ones in use.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cascade_agent.core.clean_json import clean
from cascade_agent.core.policy import Policy
from cascade_agent.core.records import SCHEMA
from cascade_agent.errors import RecordError
from cascade_agent.journal.format import PathLike, whole_file
from cascade_agent.validators.validator_set import check_fit


def library_version() -> str:
    """Return the version of this library."""
    return str(sys.modules["cascade_agent"].__version__)


def write_policy(policy: Policy, path: PathLike) -> None:
    """Write a policy file, whole or not at all.

    Raises:
        RecordError: it cannot be written there.
    """
    target = Path(path)
    data = {"type": "policy", "schema": SCHEMA, "version": library_version(), "policy": clean(policy.to_json())}
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        with whole_file(target) as part:
            part.write_text(text, encoding="utf-8")
    except OSError as error:
        msg = f"{target}: the policy cannot be written ({error}); give a file in an existing, writable directory"
        raise RecordError(msg) from error


def load_policy(path: PathLike, *, validators: Sequence[Any] | None = None) -> Policy:
    """Read a policy file, or the bare JSON of `Policy.to_json`.

    `validators` is what the cascade judges with, evidence included; None checks nothing (see `check_fit`).

    Raises:
        RecordError: no such file, no policy in it, or one that a newer version wrote.
        ConfigurationError: the policy was not measured with these validators.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path}: cannot be read as a policy file ({error}); write one with `cascade-agent calibrate --out`"
        raise RecordError(msg) from error
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        msg = f"{path}{line}: not JSON ({error}); write the file anew with `cascade-agent calibrate --out`"
        raise RecordError(msg) from error
    try:
        policy = _policy(data)
    except RecordError as error:
        msg = f"{path}: {error}"
        raise RecordError(msg) from error
    if validators is not None:
        check_fit(policy, validators)
    return policy


def _policy(data: object) -> Policy:
    if not isinstance(data, Mapping):
        msg = f"expected a JSON object with a policy, found {type(data).__name__}"
        raise RecordError(msg)
    if data.get("type", "policy") != "policy":
        msg = f"holds a {data['type']!r}, not a policy; a journal goes to `cascade-agent calibrate` first"
        raise RecordError(msg)
    schema = data.get("schema", SCHEMA)
    if isinstance(schema, bool) or not isinstance(schema, int) or schema > SCHEMA:
        msg = (
            f"the policy file has schema {schema!r} (cascade_agent {data.get('version', '?')}), this version "
            f"reads up to {SCHEMA}: upgrade cascade_agent or calibrate anew"
        )
        raise RecordError(msg)
    inner = data.get("policy", data)
    if not isinstance(inner, Mapping) or not ({"threshold", "scorer"} & inner.keys()):
        msg = "no policy in it; write one with `cascade-agent calibrate --out`"
        raise RecordError(msg)
    return Policy.from_json(inner)
