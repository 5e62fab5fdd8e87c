"""Policy files come back as they were, and are refused where they do not fit."""

import json
import stat

import pytest

from cascade_agent.core.policy import Policy
from cascade_agent.core.scoring import Scorer
from cascade_agent.errors import ConfigurationError, RecordError
from cascade_agent.offline.calibration import load_policy, write_policy
from cascade_agent.validators import Grounding, NoRepeat

MEASURED = {"validators": {"Grounding": ["argument_grounded"], "mine": ["tone"]}}


def tone(draft, context):
    """A validator of the user's."""


tone.name = "mine"


def test_round_trip(tmp_path):
    """All settings, scorer and provenance come back, and with them the policy's version; bare policies are read too."""
    path = tmp_path / "policy.json"
    policy = Policy(
        threshold=0.91,
        scorer=Scorer(weights={"a": 1.5}, bias=2.0, means={"a": 0.5}, knots=((0.0, 0.1), (1.0, 0.9))),
        evidence=(0.2, 0.8),
        side_effects={"pay": "irreversible"},
        provenance={"n": 3, "date": "2026-01-01"},
    )
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    write_policy(policy, path)
    assert stat.S_IMODE(path.stat().st_mode) == mode, "a service of another user reads it"
    assert (load_policy(path), load_policy(path).version) == (policy, policy.version)
    assert json.loads(path.read_text())["schema"] == 1
    assert list(tmp_path.iterdir()) == [path]
    path.write_text(json.dumps(policy.to_json()))
    assert load_policy(path) == policy


def test_an_old_file_survives_a_failed_write(tmp_path):
    """A policy that cannot be written leaves the old file as it was and nothing beside it."""
    path = tmp_path / "policy.json"
    path.mkdir()
    with pytest.raises(RecordError, match="cannot be written"):
        write_policy(Policy(), path)
    assert [p.name for p in tmp_path.iterdir()] == ["policy.json"]
    with pytest.raises(RecordError, match="existing, writable directory"):
        write_policy(Policy(), tmp_path / "no" / "policy.json")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", r"policy\.json:1: not JSON"),
        ('{"type": "policy",\n "schema": }', r"policy\.json:2: not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "expected a JSON object"),
        ('{"type": "step", "id": "1"}', "holds a 'step', not a policy; a journal goes to"),
        ("{}", "no policy in it"),
        ('{"policy": 3}', "no policy in it"),
        ('{"schema": 2, "version": "9.0", "policy": {"threshold": 0.5}}', r"schema 2 \(cascade_agent 9\.0\).*upgrade"),
        ('{"schema": "1", "policy": {"threshold": 0.5}}', "schema '1'"),
        ('{"schema": true, "policy": {"threshold": 0.5}}', "schema True"),
        ('{"schema": 1, "policy": {"threshold": 7}}', r"policy\.json: not a policy: .*threshold"),
        ('{"schema": 1, "policy": {"threshold": 0.5, "tresh": 1}}', r"no setting 'tresh'"),
        ('{"schema": 1, "policy": {"threshold": 0.5, "scorer": {"schema": 99}}}', "Scorer has schema 99"),
        ('{"schema": 1, "policy": {"threshold": 0.5, "scorer": {"weights": {"a": -1}, "bias": 0}}}', "weights"),
    ],
)
def test_other_files_are_refused(tmp_path, content, complaint):
    """Whatever is no policy of ours names the file, what is wrong, and the mend."""
    path = tmp_path / "policy.json"
    path.write_text(content)
    with pytest.raises(RecordError, match=complaint):
        load_policy(path)


def test_missing_and_binary_files_are_refused(tmp_path):
    """No file, a directory and bytes are complaints, not tracebacks."""
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none.json", tmp_path, tmp_path / "b.json"):
        with pytest.raises(RecordError, match=r"calibrate --out"):
            load_policy(path)


def test_a_policy_fits_the_validators_it_was_measured_with(tmp_path):
    """All of them present: accepted, in any order and with others; one missing: refused, with name, codes and mend."""
    path = tmp_path / "policy.json"
    write_policy(Policy(threshold=0.5, provenance=MEASURED), path)
    load_policy(path, validators=[tone, NoRepeat(), Grounding()])
    with pytest.raises(ConfigurationError, match=r"not in use: mine \(tone\)\. In use: Grounding\. Add them"):
        load_policy(path, validators=[Grounding()])
    with pytest.raises(ConfigurationError, match="In use: none"):
        load_policy(path, validators=[])
    write_policy(Policy(threshold=0.5), path)
    assert load_policy(path, validators=[]), "made by hand, it has no certificate to protect"
