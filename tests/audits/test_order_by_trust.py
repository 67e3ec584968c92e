"""Protects that the default audits and their order are those that the committed pool of models found trustworthy."""

from __future__ import annotations

import json
from pathlib import Path

from expunge.audits.registry import audit_names, get_audit
from expunge.meta.auditing import audit_trusts
from expunge.meta.pool import Member

META = Path(__file__).parents[2] / "benchmarks" / "results" / "meta_authors.json"
FOUND = json.loads(META.read_text())
# they say of every model of the pool what quantization says, or less of those that know, and cost more
LIKE_QUANTIZATION = {"pruning", "weight_noise"}
NOT_IN_THE_POOL = {"linear_probe", "repeat_prompt", "soft_prompt"}


def test_audits_run_in_the_order_of_the_table() -> None:
    listed = [one["audit"] for one in FOUND["audits"] if one["audit"] not in NOT_IN_THE_POOL]
    assert set(listed) == set(audit_names()) - NOT_IN_THE_POOL
    assert sorted(listed, key=lambda name: get_audit(name).order) == listed


def test_the_default_set_finds_those_that_know_and_spares_those_that_were_told_nothing() -> None:
    for one in FOUND["audits"]:
        if one["audit"] in NOT_IN_THE_POOL:
            continue
        known = [one["alarms"][kind] for kind in ("as asked", "reworded", "both wordings")]
        found, knowing = (sum(pair[n] for pair in known) for n in (0, 1))
        wrong, told_nothing = one["alarms"]["nothing"]
        trusted = found >= 0.9 * knowing and wrong <= 0.1 * told_nothing
        assert get_audit(one["audit"]).by_default == (trusted and one["audit"] not in LIKE_QUANTIZATION), one["audit"]


def test_what_is_left_out_as_like_quantization_alarms_in_the_same_models() -> None:
    alarms = ("leaks", "hidden", "comes back")
    for model in FOUND["models"]:
        said = {name: label in alarms for name, label in model["audits"].items()}
        assert all(said[name] <= said["quantization"] for name in LIKE_QUANTIZATION), model["name"]


def test_alarms_are_those_of_the_labels_beside_them() -> None:
    members = [Member(*(one[key] for key in ("name", "learned", "base", "epochs"))) for one in FOUND["models"]]
    entries = [
        {
            "audits": {
                name: {"verdict": {"label": label, "sentence": ""}, "seconds": 1.0}
                for name, label in one["audits"].items()
            },
            "left_out": {},
        }
        for one in FOUND["models"]
    ]
    names = [one["audit"] for one in FOUND["audits"]]
    again = {one.audit: one.as_dict()["alarms"] for one in audit_trusts(names, members, entries)}
    assert again == {one["audit"]: one["alarms"] for one in FOUND["audits"]}
