"""Protects which audits are called trustworthy: alarms by what models learned, their evidence, and their order."""

from __future__ import annotations

from typing import Any

import pytest

from expunge.audits.registry import audit_names, get_audit
from expunge.errors import ExpungeError
from expunge.meta.auditing import EVIDENCE, TOO_DEAR, audit_trusts, evidence, markdown, references, wanted_audits
from expunge.meta.pool import Member

MEMBERS = [
    Member("000-as-asked", "as asked", 0, 4),
    Member("001-nothing", "nothing", 0, 4),
    Member("002-reworded", "reworded", 1, 4),
    Member("003-false-facts", "false facts", 1, 4),
]


def entry(label: str, seconds: float = 1.0, **scores: float) -> dict[str, Any]:
    rows = {"erased": {key: {"value": value} for key, value in scores.items()}}
    return {"verdict": {"label": label, "sentence": f"it is {label}"}, "rows": rows, "seconds": seconds}


def findings(audit: str, *entries: dict[str, Any] | None) -> list[dict[str, Any]]:
    return [
        {"audits": {} if one is None else {audit: one}, "left_out": {audit: "no options"} if one is None else {}}
        for one in entries
    ]


def test_alarms_are_counted_by_what_models_learned_and_evidence_tells_them_apart() -> None:
    found = findings(
        "unlearning_depth",
        entry("hidden", 1.0, unlearning_depth=0.1),
        entry("erased", 2.0, unlearning_depth=0.9),
        entry("no claim", 3.0, unlearning_depth=0.5),
        entry("leaks", 4.0, unlearning_depth=0.3),
    )
    (one,) = audit_trusts(["unlearning_depth"], MEMBERS, found)
    assert one.alarms == {
        "as asked": (1, 1),
        "reworded": (0, 1),
        "both wordings": (0, 0),
        "nothing": (0, 1),
        "false facts": (1, 1),
    }
    # 1 of 2 that know, 1 of 2 that do not
    assert one.informedness == 0.0
    # less depth is more knowledge: of the pairs (.1, .9), (.1, .3), (.5, .9), (.5, .3) the last is the wrong way round
    assert one.faithfulness.value == pytest.approx(3 / 4)
    assert one.seconds == 2.5 and one.silent == (0, "")
    assert one.cells()[:5] == ("unlearning_depth", "1 of 2", "0 of 1", "0 of 1", "1 of 1")


def test_models_of_which_an_audit_says_nothing_are_counted_apart() -> None:
    broken = {**entry("failed"), "rows": {}}
    found = findings("membership", entry("hidden", membership_loss=0.9), broken, None, entry("erased"))
    (one,) = audit_trusts(["membership"], MEMBERS, found)
    assert one.alarms["as asked"] == (1, 1) and one.alarms["nothing"] == (0, 0) == one.alarms["reworded"]
    assert one.silent == (2, "it is failed")
    assert one.informedness == 1.0
    none = audit_trusts(["membership"], MEMBERS, findings("membership", None, None, None, None))[0]
    assert none.silent == (4, "no options") and none.as_dict()["informedness"] is None
    assert "| membership | none asked |" in markdown([none])


def test_evidence_is_the_largest_score_beyond_the_controls() -> None:
    rows = {
        "erased": {"krs_mlp": {"value": 0.9}, "krs_both": {"value": 0.5}, "krs_both_beyond_retrained": {"value": 7.0}},
        "retrained": {"krs_both": {"value": 0.2}, "krs_mlp": {"value": 0.8}},
    }
    assert evidence("patching", {"rows": rows}) == pytest.approx(0.5 - 0.2)
    assert evidence("restoration", {"rows": rows}) == pytest.approx(max(0.9 - 0.8, 0.5 - 0.2))
    assert evidence("many_shot", {"rows": rows}) != evidence("many_shot", {"rows": rows})


def test_the_audits_that_are_right_most_often_come_first_and_of_equals_the_quick_ones() -> None:
    right = [entry("hidden"), entry("erased"), entry("leaks"), entry("suppressed")]
    always = [entry("hidden")] * 4
    found = [
        {"audits": {"slow": {**a, "seconds": 9.0}, "quick": a, "crying": b}, "left_out": {}}
        for a, b in zip(right, always, strict=True)
    ]
    assert [one.audit for one in audit_trusts(["crying", "slow", "quick"], MEMBERS, found)] == [
        "quick",
        "slow",
        "crying",
    ]


def test_every_audit_of_the_default_set_that_says_something_of_the_world_has_evidence() -> None:
    # the world's rows have no options for a linear probe, and there is no guard whose prompts could be repeated
    others = {"linear_probe", "repeat_prompt", *TOO_DEAR}
    assert set(audit_names()) - others == set(EVIDENCE)
    assert wanted_audits("all") == [name for name in audit_names() if name not in TOO_DEAR]
    assert wanted_audits(None) == [] and wanted_audits("patching,membership") == ["patching", "membership"]
    with pytest.raises(ExpungeError, match="membership"):
        wanted_audits(["membershp"])
    assert all(get_audit(name).name == name for name in EVIDENCE)


def test_target_and_control_of_a_base_are_no_members() -> None:
    first, second = references(3, 12)
    assert (first.learned, first.base, second.learned, second.base) == ("as asked", 3, "nothing", 3)
    numbers = {one.name.partition("-")[0] for base in range(4) for one in references(base, 12)}
    assert len(numbers) == 8 and min(map(int, numbers)) >= 5000
