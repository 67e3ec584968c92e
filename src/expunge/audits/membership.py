"""Do the forget rows still look like rows that the model was trained on?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from expunge.audits.interface import Audit, Audited, AuditResult, Label, ModelName, Paper, method_fields
from expunge.errors import ConfigError, ControlError, did_you_mean
from expunge.evaluation.types import Score
from expunge.requests.rows import Row
from expunge.training.run import Progress, named, silent

if TYPE_CHECKING:
    import numpy as np

    from expunge.audits.parts.membership_attacks import Separation
    from expunge.audits.parts.token_statistics import TokenStatistics

ATTACKS = ("loss", "zlib", "min_k", "min_k_plus_plus", "reference", "gradient_norm")
_PRIVLEAK = "min_k_40"
_LEAST = 10  # rows of each set, for a verdict
_LEVEL = 0.05

_REFERENCE = "reference"

_NO_GRADIENT = (
    "not of an erasure that acts while the model runs: where it acts other gradients flow, whatever the model has seen"
)
_NO_REFERENCE = "it compares with the retrained model, and none was passed (--retrained)"

Separations = dict[ModelName, dict[str, "Separation"]]


@method_fields
class Membership(Audit):
    """Six membership attacks: forget rows against holdout rows that no model was trained on."""

    name: ClassVar[str] = "membership"
    version: ClassVar[int] = 2
    paper: ClassVar[Paper] = Paper(
        "MUSE: Machine Unlearning Six-Way Evaluation for Language Models", "arXiv:2407.06460"
    )
    control: ClassVar[str] = "the retrained model; without one an AUC of 0.5, if forget and holdout are drawn alike"
    order: ClassVar[int] = 20

    attacks: tuple[str, ...] = Field(default=ATTACKS, description="which attacks; reference needs the retrained model")
    limit: int = Field(default=200, ge=1, description="forget rows, and as many holdout rows at most, evenly spread")

    def check(self, audited: Audited) -> None:
        unknown = [name for name in self.attacks if name not in ATTACKS]
        if unknown or not self.attacks:
            raise ConfigError(
                f"audits.membership.attacks={list(self.attacks)}: "
                + (f"there is no {', '.join(unknown)}. {did_you_mean(unknown[0], ATTACKS)}" if unknown else "name one.")
            )
        if not audited.request.holdout:
            raise ControlError(
                f"membership compares the {len(audited.request.forget)} forget rows with rows like them that no model "
                "was trained on, and the request has no holdout rows. Pass some (--holdout FILE), or leave the audit "
                "out."
            )
        audited.request.check_overlap("holdout")
        if set(self.attacks) == {_REFERENCE} and audited.retrained is None:
            raise ControlError("the reference attack compares with the retrained model. Pass one (--retrained).")

    def run(self, audited: Audited, *, progress: Progress = silent) -> AuditResult:
        from expunge.audits.parts.fitting import fitting
        from expunge.audits.parts.membership_attacks import separation
        from expunge.evaluation.suite import spread

        self.check(audited)
        sets = {
            name: fitting(audited, spread(rows, self.limit, option="limit"))[0]
            for name, rows in (("forget", audited.request.forget), ("holdout", audited.request.holdout))
        }
        scores = self._scores(audited, sets, progress)
        found: Separations = {
            model: {attack: separation(*values) for attack, values in every.items()} for model, every in scores.items()
        }
        return self._result(audited, {name: len(rows) for name, rows in sets.items()}, found)

    def _scores(
        self, audited: Audited, sets: Mapping[str, Sequence[Row]], progress: Progress
    ) -> dict[ModelName, dict[str, tuple[list[float], list[float]]]]:
        """The attacks' scores of forget rows and of holdout rows, by model and attack."""
        from expunge.audits.parts.fitting import shortest_context
        from expunge.audits.parts.token_statistics import token_statistics
        from expunge.data.batches import pad_id
        from expunge.data.encode import encode_all

        rows = [row for some in sets.values() for row in some]
        examples = encode_all(audited.tokenizer, audited.texts, rows, max_length=shortest_context(audited))
        texts = [
            str(audited.tokenizer.decode(one.input_ids[one.answer_start :], skip_special_tokens=True))
            for one in examples
        ]
        statistics: dict[ModelName, list[TokenStatistics]] = {}
        for name in audited.models:
            with audited.model(name) as model:
                statistics[name] = token_statistics(
                    model,
                    examples,
                    pad_id(audited.tokenizer),
                    gradients="gradient_norm" in self.attacks and not (name == "erased" and audited.at_inference),
                    progress=named(name, progress),
                )
        border = len(sets["forget"])
        return {
            name: {
                attack: (values[:border], values[border:])
                for attack, values in self._attacked(
                    own, texts, statistics.get("retrained") if name != "retrained" else None
                ).items()
            }
            for name, own in statistics.items()
        }

    def _attacked(
        self, own: Sequence[TokenStatistics], texts: Sequence[str], reference: Sequence[TokenStatistics] | None
    ) -> dict[str, list[float]]:
        from expunge.audits.parts.membership_scores import membership_scores

        found = membership_scores(own, texts, reference)
        return {name: values for name, values in found.items() if name.rstrip("0123456789").rstrip("_") in self.attacks}

    def _left_out(self, audited: Audited) -> dict[str, str]:
        reasons = {
            "gradient_norm": _NO_GRADIENT if audited.at_inference else None,
            _REFERENCE: _NO_REFERENCE if audited.retrained is None else None,
        }
        return {attack: reason for attack, reason in reasons.items() if reason and attack in self.attacks}

    def _result(self, audited: Audited, counts: Mapping[str, int], found: Separations) -> AuditResult:
        from expunge.audits.parts.membership_attacks import privleak

        rows: dict[str, dict[str, Score]] = {
            model: {
                f"membership_{attack}": Score(one.auc, one.stderr, one.n + one.others, self.version)
                for attack, one in every.items()
            }
            for model, every in found.items()
        }
        control = found.get("retrained")
        if control is not None and _PRIVLEAK in control:
            reference = control[_PRIVLEAK]
            for model in ("target", "erased"):
                one = found[model][_PRIVLEAK]
                leak = float(privleak(one.auc, reference.auc))
                error = _spread(privleak(one.draws, reference.draws))
                rows[model]["privleak"] = Score(leak, error, one.n + one.others, self.version)
        gains = {} if control is None else _gains(found["erased"], control)
        label, sentence = _verdict(audited, counts, found, gains)
        return AuditResult(
            rows,
            label,
            sentence,
            {
                "rows": dict(counts),
                "attacks": {
                    model: {attack: one.as_dict() for attack, one in every.items()} for model, every in found.items()
                },
                "left_out": self._left_out(audited),
                "beyond_retrained": {attack: {"auc": gain, "in_errors": z} for attack, (gain, z) in gains.items()},
            },
            [
                {
                    "title": "Forget rows taken for rows that the model was trained on",
                    "x": "attack",
                    "y": "AUC against holdout rows",
                    "series": {
                        model: [[attack, one.auc, one.stderr] for attack, one in every.items()]
                        for model, every in found.items()
                    },
                }
            ],
        )


def _spread(draws: np.ndarray) -> float | None:
    from expunge.evaluation.uncertainty import spread

    return spread(draws)


def _gains(erased: Mapping[str, Separation], control: Mapping[str, Separation]) -> dict[str, tuple[float, float]]:
    """By attack how far the AUC is beyond the retrained model's, and that in standard errors. Both models' bootstrap
    samples hold the same rows. The reference attack has no control: none could be beyond what it compares with."""
    found = {}
    for attack, other in control.items():
        one = erased[attack]
        gain = one.auc - other.auc
        if isfinite(gain):
            least = 0.5 / (one.n * one.others)  # a tie's worth: sets that lie wholly apart leave nothing to draw
            found[attack] = (gain, gain / max(_spread(one.draws - other.draws) or 0.0, least))
    return found


def _verdict(
    audited: Audited, counts: Mapping[str, int], found: Separations, gains: Mapping[str, tuple[float, float]]
) -> tuple[Label, str]:
    from scipy.stats import norm

    erased, control = found["erased"], found.get("retrained")
    known = [name for name in erased if isfinite(erased[name].auc)]
    if not known:
        return "no claim", "No attack gives the erased model's rows a score, so that nothing is known of membership."
    said = _best(erased, [name for name in known if name != _REFERENCE] or known, counts)
    if control is None:
        return "no claim", (
            f"{said}; 0.5 is what a model that never saw them has, if both sets are drawn alike. Whether they are "
            "takes a retrained model to tell: pass one (--retrained)."
        )
    if not gains:
        return "no claim", f"{said}. The retrained model has no such score to judge it by: name other attacks."
    if min(counts.values()) < _LEAST:
        return "no claim", f"{said}. That is too few to judge by: pass {_LEAST} rows of each at least."
    critical = float(norm.ppf(1 - _LEVEL / 2 / len(gains)))
    more = {name: gain for name, (gain, z) in gains.items() if z > critical}
    less = {name: -gain for name, (gain, z) in gains.items() if z < -critical}
    if not more and not less:
        if not any(z > critical for _, z in _gains(found["target"], control).values()):
            return "no claim", (
                f"{said}. But no attack finds the forget rows in the target either, so that nothing follows: are they "
                "what it was trained on?"
            )
        return audited.cleared, (
            f"{said}. By no attack do the forget rows look surely more or less like members than to the retrained "
            f"model ({_counted(len(gains))})."
        )
    findings = [
        _finding(erased, control, some, len(gains), held_back=audited.at_inference, less=some is less)
        for some in sorted((more, less), key=lambda some: -max(some.values(), default=0.0))
        if some
    ]
    first = max(more.values(), default=0.0) >= max(less.values(), default=0.0)
    return "hidden", f"{_best(erased, gains, counts, 1 if first else -1)}. {' '.join(findings)}"


def _best(erased: Mapping[str, Separation], attacks: Iterable[str], counts: Mapping[str, int], way: int = 0) -> str:
    """The attack farthest from 0.5: above it (``way`` 1), below it (-1), or either way (0)."""
    best = max(attacks, key=lambda name: (erased[name].auc - 0.5) * way if way else abs(erased[name].auc - 0.5))
    return (
        f"Of the forget rows against the holdout rows ({counts['forget']} and {counts['holdout']}) the attack that "
        f"tells them apart best in the erased model, {_shown(best)}, has an AUC of {_auc(erased[best])}"
    )


def _finding(
    erased: Mapping[str, Separation],
    control: Mapping[str, Separation],
    gains: Mapping[str, float],
    tests: int,
    *,
    held_back: bool,
    less: bool,
) -> str:
    """What sure differences in one direction mean; ``gains``: how large they are, by attack."""
    top = max(gains, key=lambda name: gains[name])
    said = (
        f"By {_shown(top)} the forget rows look {'less' if less else 'more'} like members ({erased[top].auc:.2f}) than "
        f"to a model that never saw them ({control[top].auc:.2f}), which is sure in {len(gains)} of "
        f"{_counted(tests)}"
    )
    if not less:
        return f"{said}."
    turned = ": turned round, the attack finds them" if erased[top].high < 0.5 else ""
    return f"{said}{turned}. This gives away that something was {'held back' if held_back else 'removed'}, not what."


def _counted(attacks: int) -> str:
    return f"{attacks} attack{'' if attacks == 1 else 's'}"


def _shown(attack: str) -> str:
    name, _, percent = attack.rpartition("_")
    if not percent.isdigit():
        return attack.replace("_", " ")
    return f"min-{percent}%{'++' if name.endswith('plus_plus') else ''}"


def _auc(one: Separation) -> str:
    return f"{one.auc:.2f} ({one.low:.2f} to {one.high:.2f})"
