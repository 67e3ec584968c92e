"""What audits say of a pool's models: each is audited as if the facts had been erased from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from expunge.audits.interface import Audited
from expunge.audits.registry import audit_names, get_audit, make_audit
from expunge.audits.running import Findings, run_audits
from expunge.meta.pool import KNOWING, UNKNOWING, Learned, Member, Pool
from expunge.meta.trust import Estimate, auc, table_lines
from expunge.training.run import Progress, silent

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOO_DEAR = ("soft_prompt",)
"""Audits that ``all`` leaves out: they take minutes a model."""

ALARMS = ("leaks", "hidden", "comes back")
"""The labels by which an audit says that knowledge is there."""

EVIDENCE: Mapping[str, tuple[str, ...]] = {
    "patching": ("krs_both",),
    "restoration": ("krs_*",),
    "unlearning_depth": ("unlearning_depth",),
    "logit_lens": ("logit_lens_best_inner",),
    "membership": ("membership_loss", "membership_zlib", "membership_min_k*", "membership_gradient_norm"),
    "relearning": ("relearning_*_probability",),
    "quantization": ("quantization_int4_probability",),
    "pruning": ("pruning_*_probability",),
    "weight_noise": ("weight_noise_*_probability",),
    "many_shot": ("many_shot_probability",),
    "paraphrase": ("paraphrase_best_leakage",),
    "prefix_injection": ("prefix_injection_best_leakage",),
    "sampling_leakage": ("sampling_leakage_at_64_*",),
}
"""The scores of an audit that are its evidence, chosen before any was measured: the largest counts, less the control's
where it has that score too."""

_LOW = ("unlearning_depth",)  # of these a model that knows has less

COLUMNS = ("audit", "those that know", "reworded facts only", "told nothing", "told false facts", "AUC", "seconds")


class Auditor:
    """Audits members of ``pool``. Each is looked at beside two models of its own base that are no members: a target
    that was told the facts as asked, and a control that was told nothing."""

    def __init__(self, pool: Pool, names: Sequence[str]) -> None:
        self.pool = pool
        self.audits = [make_audit(name) for name in names]
        self.request = replace(pool.world.request(), forget=tuple(pool.forget), holdout=tuple(pool.holdout))

    def look(
        self,
        member: PreTrainedModel,
        target: PreTrainedModel,
        control: PreTrainedModel,
        folder: Path,
        progress: Progress = silent,
    ) -> Findings:
        """What every audit finds in ``member``; one that ``folder`` has already is not run again."""
        audited = Audited(
            target,
            self.pool.tokenizer,
            self.request,
            erased=member,
            retrained=control,
            template="plain",
            max_length=self.pool.world.recipe.model.max_positions,
            max_new_tokens=self.pool.recipe.max_new_tokens,
            seed=self.pool.seed,
        )
        folder.mkdir(parents=True, exist_ok=True)
        return run_audits(audited, self.audits, folder, named_by_user=False, progress=progress)


def wanted_audits(names: str | Sequence[str] | None) -> list[str]:
    """The names of audits: ``"all"`` is every one but :data:`TOO_DEAR`, None is none.

    Raises:
        ConfigError: an audit that there is not.
    """
    if names is None:
        return []
    listed = names.split(",") if isinstance(names, str) else list(names)
    if listed == ["all"]:
        return [name for name in audit_names() if name not in TOO_DEAR]
    for name in listed:
        get_audit(name)
    return list(dict.fromkeys(listed))


def references(base: int, epochs: int) -> tuple[Member, Member]:
    """The target and the control on a base: told the facts as asked, and told nothing, as long as the longest."""
    kinds: tuple[tuple[str, Learned], ...] = (("target", "as asked"), ("control", "nothing"))
    first, second = (
        Member(f"{5000 + 2 * base + place}-{role}", learned, base, epochs)
        for place, (role, learned) in enumerate(kinds)
    )
    return first, second


@dataclass(frozen=True)
class AuditTrust:
    """What is known of one audit.

    ``alarms``: by what models learned, how many of how many it said to have the knowledge (:data:`ALARMS`);
    ``faithfulness``: the AUC of its :data:`EVIDENCE`, undefined for an audit that has none; ``seconds`` of one model,
    the median; ``silent``: models that it said nothing of, since it did not apply or broke off, and why (the first).
    """

    audit: str
    alarms: Mapping[str, tuple[int, int]]
    faithfulness: Estimate
    seconds: float
    silent: tuple[int, str]

    def alarmed(self, kinds: Sequence[str]) -> tuple[int, int]:
        """How many of how many models of these kinds."""
        said = [self.alarms[kind] for kind in kinds if kind in self.alarms]
        return sum(one for one, _ in said), sum(all_of for _, all_of in said)

    @property
    def informedness(self) -> float:
        """The share of alarms among models that know, less that among those that do not (Youden's J)."""
        (right, knowing), (wrong, unknowing) = self.alarmed(KNOWING), self.alarmed(UNKNOWING)
        return right / knowing - wrong / unknowing if knowing and unknowing else float("nan")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "audit": self.audit,
            "alarms": {kind: list(pair) for kind, pair in self.alarms.items()},
            "informedness": self.informedness if isfinite(self.informedness) else None,
            "faithfulness": self.faithfulness.as_dict(),
            "seconds": self.seconds if isfinite(self.seconds) else None,
            "silent": {"models": self.silent[0], "reason": self.silent[1]},
        }

    def cells(self) -> tuple[str, ...]:
        """Its row under :data:`COLUMNS`."""
        shares = [self.alarmed(kinds) for kinds in (KNOWING, ("reworded",), ("nothing",), ("false facts",))]
        said = (f"{some} of {every}" if every else "none asked" for some, every in shares)
        return (self.audit, *said, str(self.faithfulness), f"{self.seconds:.1f}" if isfinite(self.seconds) else "-")


def audit_trusts(
    names: Sequence[str], members: Sequence[Member], found: Sequence[Mapping[str, Any]]
) -> list[AuditTrust]:
    """Judge audits by contents of ``audits.json``, one a member: those whose alarms are right most often first, of
    equals those with the better evidence, then the quicker ones."""
    return sorted((_trust(name, members, found) for name in names), key=_rank)


def markdown(found: Sequence[AuditTrust]) -> str:
    """The table as Markdown."""
    return table_lines(COLUMNS, [one.cells() for one in found])


def evidence(audit: str, entry: Mapping[str, Any]) -> float:
    """The number by which a finding speaks for knowledge, higher for more; NaN where it has none."""
    rows = entry.get("rows", {})
    ours, control = rows.get("erased", {}), rows.get("retrained", {})
    values = [
        one["value"] - (control[key]["value"] if key in control else 0.0)
        for key, one in ours.items()
        if any(fnmatchcase(key, pattern) for pattern in EVIDENCE.get(audit, ())) and not key.endswith("_retrained")
    ]
    return (-1.0 if audit in _LOW else 1.0) * max(values) if values else float("nan")


def _trust(name: str, members: Sequence[Member], found: Sequence[Mapping[str, Any]]) -> AuditTrust:
    said = [one["audits"].get(name) for one in found]
    spoke = [entry is not None and entry["verdict"]["label"] != "failed" for entry in said]
    alarms: dict[str, tuple[int, int]] = {}
    for kind in (*KNOWING, *UNKNOWING):
        labels = [
            entry["verdict"]["label"]
            for entry, member, there in zip(said, members, spoke, strict=True)
            if there and entry and member.learned == kind
        ]
        alarms[kind] = (sum(label in ALARMS for label in labels), len(labels))
    values = np.array([evidence(name, entry) if entry else np.nan for entry in said])
    knows = np.array([one.knows for one in members])
    why = [
        entry["verdict"]["sentence"] if entry else one["left_out"].get(name, "")
        for entry, one, there in zip(said, found, spoke, strict=True)
        if not there
    ]
    seconds = [entry["seconds"] for entry, there in zip(said, spoke, strict=True) if there and entry]
    return AuditTrust(
        name,
        alarms,
        auc(values[knows], values[~knows]),
        float(np.median(seconds)) if seconds else float("nan"),
        (len(why), why[0] if why else ""),
    )


def _rank(one: AuditTrust) -> tuple[float, float, float]:
    return (
        -float(np.nan_to_num(one.informedness, nan=-2.0)),
        -round(float(np.nan_to_num(one.faithfulness.value, nan=-1.0)), 2),
        float(np.nan_to_num(one.seconds, nan=1e9)),
    )
