"""Do the forget rows still look like rows that the model was trained on?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

_NO_GRADIENT = (
    "not of an erasure that acts while the model runs: where it acts other gradients flow, whatever the model has seen"
)

Separations = dict[ModelName, dict[str, "Separation"]]


@method_fields
class Membership(Audit):
    """Six membership attacks: forget rows against holdout rows that no model was trained on."""

    name: ClassVar[str] = "membership"
    paper: ClassVar[Paper] = Paper(
        "MUSE: Machine Unlearning Six-Way Evaluation for Language Models", "arXiv:2407.06460"
    )
    control: ClassVar[str] = "the retrained model; without one an AUC of 0.5, if forget and holdout are drawn alike"
    order: ClassVar[int] = 14

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
        if tuple(self.attacks) == ("reference",) and audited.retrained is None:
            raise ControlError("the reference attack compares with the retrained model. Pass one (--retrained).")

    def run(self, audited: Audited, *, progress: Progress = silent) -> AuditResult:
        from expunge.audits.parts.membership_attacks import separation
        from expunge.evaluation.suite import spread

        self.check(audited)
        sets = {
            "forget": spread(audited.request.forget, self.limit, option="limit"),
            "holdout": spread(audited.request.holdout, self.limit, option="limit"),
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
        from expunge.audits.parts.token_statistics import token_statistics
        from expunge.data.batches import pad_id
        from expunge.data.encode import encode_all
        from expunge.models.limits import max_tokens

        rows = [row for some in sets.values() for row in some]
        length = min(
            max_tokens(model, audited.max_length)
            for model in (audited.target, audited.erased, audited.retrained)
            if model is not None
        )
        examples = encode_all(audited.tokenizer, audited.texts, rows, max_length=length)
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
                **({"left_out": {"gradient_norm": _NO_GRADIENT}} if audited.at_inference else {}),
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
    samples hold the same rows. The reference attack compares with that model already: there it is beyond 0.5."""
    found = {}
    for attack, one in erased.items():
        other = control.get(attack)
        auc, draws = (0.5, 0.5) if other is None else (other.auc, other.draws)
        gain = one.auc - auc
        if isfinite(gain):
            least = 0.5 / (one.n * one.others)  # a tie's worth: sets that lie wholly apart leave nothing to draw
            found[attack] = (gain, gain / max(_spread(one.draws - draws) or 0.0, least))
    return found


def _verdict(
    audited: Audited, counts: Mapping[str, int], found: Separations, gains: Mapping[str, tuple[float, float]]
) -> tuple[Label, str]:
    from scipy.stats import norm

    erased = found["erased"]
    known = [name for name in erased if isfinite(erased[name].auc)]
    if not known:
        return "no claim", "No attack gives the erased model's rows a score, so that nothing is known of membership."
    top = max(known, key=lambda name: erased[name].auc)
    said = (
        f"Of the forget rows against the holdout rows ({counts['forget']} and {counts['holdout']}) the attack that "
        f"succeeds best on the erased model, {_shown(top)}, has an AUC of {_auc(erased[top])}"
    )
    if not gains:
        return "no claim", (
            f"{said}; 0.5 is what a model that never saw them has, if both sets are drawn alike. Whether they are "
            "takes a retrained model to tell: pass one (--retrained)."
        )
    if min(counts.values()) < _LEAST:
        return "no claim", f"{said}. That is too few to judge by: pass {_LEAST} rows of each at least."
    critical = float(norm.ppf(1 - _LEVEL / len(gains)))
    sure = {name: gain for name, (gain, z) in gains.items() if z > critical}
    control = found["retrained"]
    if sure:
        worst = max(sure, key=lambda name: sure[name])
        return "hidden", (
            f"{said}. By {_shown(worst)} the forget rows look more like members ({erased[worst].auc:.2f}) than to a "
            f"model that never saw them ({_beside(control, worst)}), which is sure in {len(sure)} of {len(gains)} "
            "attacks."
        )
    worst = min(gains, key=lambda name: gains[name][1])
    less = ""
    if gains[worst][1] < -critical:
        less = (
            f" By {_shown(worst)} they look less like members ({erased[worst].auc:.2f}) than to a model that never saw "
            f"them ({_beside(control, worst)}): that, too, gives away that something was removed."
        )
    end = "No attack finds the forget rows surely more like members than in the retrained model."
    return ("suppressed" if audited.at_inference else "erased"), f"{said}. {end}{less}"


def _shown(attack: str) -> str:
    name, _, percent = attack.rpartition("_")
    if not percent.isdigit():
        return attack.replace("_", " ")
    return f"min-{percent}%{'++' if name.endswith('plus_plus') else ''}"


def _beside(control: Mapping[str, Separation], attack: str) -> str:
    return f"{control[attack].auc:.2f}" if attack in control else "0.50"


def _auc(one: Separation) -> str:
    return f"{one.auc:.2f} ({one.low:.2f} to {one.high:.2f})"
