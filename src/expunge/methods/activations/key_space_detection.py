"""Key space detection: a row whose keys lie where the forget rows' keys lie is not answered."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from expunge.errors import ConfigError, InputError, RequestError
from expunge.methods.activation_method import ActivationMethod
from expunge.methods.interface import Paper, method_fields
from expunge.methods.untrained import Subject

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from expunge.interventions.calibration import Calibration
    from expunge.interventions.hypercube import Hypercube
    from expunge.interventions.interface import Intervention
    from expunge.interventions.row_ratios import Mode, RowRatios
    from expunge.probing.result import ProbeResult
    from expunge.requests import Request, Row

log = logging.getLogger("expunge")

_ROLE = "mlp_key"
_MODES: tuple[Mode, ...] = ("generate", "score")
_HELD_BACK = 5  # one different forget row in so many is not in the hypercube: detection is measured on those
_CHOOSING_ROWS = 400  # retain rows that a layer is chosen on, evenly spread
_POINTS = 100  # of each layer's curve


@method_fields
class KeySpaceDetection(ActivationMethod):
    """Abstains where an MLP key lies in the hypercube around the forget rows' keys, at a calibrated rate."""

    name: ClassVar[str] = "key_space_detection"
    paper: ClassVar[Paper] = Paper("Effective Skill Unlearning through Intervention and Abstention", "arXiv 2503.21730")
    reads_documents: ClassVar[bool] = False

    layers: Literal["last", "all", "auto"] | tuple[int, ...] = Field(
        default="last",
        description="where keys are looked at: the last layer, all, the one that detects most (auto), or numbers from "
        "0; a key must lie in the hypercube of every one",
    )
    keys: Literal["last", "all"] = Field(
        default="last",
        description="what it is made of: the key of each prompt's last token, or of all tokens",
    )
    level: float = Field(default=0.01, gt=0, lt=1, description="the most that false abstention on retain rows may be")
    groups: bool = Field(default=True, description="whether each group of retain rows must meet the level by itself")
    max_scale: float | None = Field(
        default=1.0, gt=0, description="the hypercube's size at most, in units of the farthest forget key's distance"
    )
    scale: float | None = Field(
        default=None, gt=0, description="its size in those units, set by hand instead of calibrated"
    )
    action: Literal["abstain", "steer"] = Field(
        default="abstain", description="decline, or put the retain rows' mean key in the key's place"
    )
    refusal: str = Field(
        default="I'm sorry, I can't help with that.", min_length=1, description="what a row says that is not answered"
    )

    def prepared(self, request: Request) -> Request:
        request = super().prepared(request)
        if self.keys == "last":
            self._check_forget(request.forget)
        if self.scale is not None:
            return request
        split = request.with_calibration()
        if self.groups:
            bare = {row.group for row in request.retain} - {row.group for row in split.calibration}
            if bare and any(row.group for row in request.retain):
                raise RequestError(
                    f"no calibration row is of the group{'s' * (len(bare) > 1)} "
                    f"{', '.join(repr(name) for name in sorted(bare))}, so nothing would bound false abstention there. "
                    "Give calibration rows of every group of retain rows, or set method.groups=false."
                )
        try:
            _calibrated(self, [0.0] * len(split.calibration), split.calibration, k_star=1.0)
        except InputError as error:
            if request.calibration:
                raise
            raise InputError(
                f"{error} These were split off the {len(request.retain)} retain rows, a fifth of each group; pass "
                "--calibration FILE to give others."
            ) from error
        return split

    def _check_forget(self, rows: Sequence[Row]) -> None:
        """The last token of a prompt takes prompts, and a hypercube two of them."""
        bare = [row.source or f"row {place}" for place, row in enumerate(rows, 1) if row.kind == "document"]
        if bare:
            raise RequestError(
                f"{len(bare)} forget rows have no prompt ({', '.join(bare[:5])}{' ..' if len(bare) > 5 else ''}), and "
                "method.keys=last reads the key of a prompt's last token. Set method.keys=all, or give questions."
            )
        if len({row.key for row in rows}) < 2:
            raise RequestError(
                f"a hypercube takes the keys of at least 2 different forget rows, and there is 1 (of {len(rows)}). "
                "Give more, or set method.keys=all."
            )

    def check_sites(self, model: PreTrainedModel) -> None:
        from expunge.models.roles import find_sites

        layers = None if isinstance(self.layers, str) else self.layers
        self.check_layers(layers)
        find_sites(model, _ROLE, layers)

    def interventions(self, subject: Subject) -> Sequence[Intervention]:
        from expunge.interventions.detection import Detection
        from expunge.interventions.hypercube import Hypercubes

        fit = _Fit(self, subject)
        layers = fit.layers()
        cube = fit.cube(layers)
        subject.details.update(layers=list(layers), k_star=cube.k_star, forget_rows=len(fit.made))
        scales: dict[Mode, float] = {}
        calibrations, kept = {}, {}
        for mode in _MODES:
            kept[mode] = fit.ratios(cube, fit.kept, mode)
            if self.scale is None:
                ratios = kept[mode].joint[:, 0].tolist()
                calibrations[mode] = _calibrated(self, ratios, fit.kept, k_star=cube.k_star)
            scales[mode] = self.scale * cube.k_star if self.scale is not None else calibrations[mode].scale
        if max(scales.values()) <= 0:
            log.warning(
                "the hypercube is empty: every size that holds a forget key would refuse more retain rows than "
                "method.level=%g allows. Nothing will be detected; raise the level, or try method.layers=auto.",
                self.level,
            )
        subject.details.update(
            scales=scales,
            calibration={mode: one.as_dict() for mode, one in calibrations.items()},
            **fit.figures(cube, scales["generate"], kept["generate"]),
        )
        tokenizer = subject.tokenizer
        cubes = Hypercubes(
            [cube],
            generation=[scales["generate"]],
            scoring=[scales["score"]],
            refusals=[tuple(tokenizer(self.refusal, add_special_tokens=False)["input_ids"])],
            steer=fit.retain.mean(cube.sites[-1]).float()[None] if self.action == "steer" else None,
        )
        return [Detection(cubes, _end_token(tokenizer))]


class _Fit:
    """The rows of one fit, dealt to what they are for, and what is read of the model on them.

    ``made``: forget rows that the hypercube is made of; ``unseen``: rows of the same kind that it is not made of, on
    which detection is measured; ``kept``: retain rows on which false abstention is.
    """

    def __init__(self, method: KeySpaceDetection, subject: Subject) -> None:
        self.method, self.subject = method, subject
        request = subject.request
        forget = request.forget
        chosen = _held_back(forget)
        held_back = tuple(row for row in forget if row.key in chosen)
        self.made = tuple(row for row in forget if row.key not in chosen)
        self.unseen = held_back or request.holdout or self.made
        self.kept = request.calibration or request.retain

    @cached_property
    def forget(self) -> ProbeResult:
        """The keys that hypercubes are made of, of all layers."""
        return self._probe(self.made)

    @cached_property
    def retain(self) -> ProbeResult:
        return self._probe(self.subject.request.retain)

    @cached_property
    def every(self) -> tuple[int, ...]:
        """All layers."""
        return tuple(dict.fromkeys(site.layer for site in self.forget.sites if site.layer is not None))

    @cached_property
    def curves(self) -> tuple[RowRatios, RowRatios]:
        """How near the unseen forget rows and the kept retain rows come to the hypercubes of all layers."""
        cube = self.cube(self.every)
        return self.ratios(cube, self.unseen, "generate"), self.ratios(cube, self.kept, "generate")

    def cube(self, layers: Sequence[int]) -> Hypercube:
        from expunge.interventions.hypercube import Hypercube

        sites = [site for site in self.forget.sites if site.layer in set(layers)]
        return Hypercube.of(self.forget, sites=sites, retain=self.retain)

    def ratios(self, cube: Hypercube, rows: Sequence[Row], mode: Mode) -> RowRatios:
        from expunge.interventions.hypercube import Hypercubes
        from expunge.interventions.row_ratios import row_ratios

        run = self.subject.run
        return row_ratios(
            self.subject.model,
            self.subject.tokenizer,
            rows,
            Hypercubes([cube], generation=[0.0], scoring=[0.0]),
            mode,
            template=run.template,
            max_length=run.settings.max_length,
            progress=run.progress,
        )

    def layers(self) -> tuple[int, ...]:
        """The layers that the method names; for ``auto`` the one that detects most of the unseen forget rows where it
        abstains on the share ``level`` of some retain rows, which are not those that the scale is set on."""
        wanted = self.method.layers
        if wanted == "auto":
            retain = self.subject.request.retain
            some = retain[:: max(1, len(retain) // _CHOOSING_ROWS)]
            theirs = self.ratios(self.cube(self.every), some, "generate")
            return (best_layer(self.curves[0], theirs, self.method.level),)
        if wanted == "last":
            return self.every[-1:]
        return self.every if wanted == "all" else tuple(sorted(set(wanted)))

    def figures(self, cube: Hypercube, scale: float, kept: RowRatios) -> dict[str, Any]:
        """What the report draws: detection against false abstention, of the hypercube in use and by layer, what its
        scale detects, and its size and distance. ``kept``: how near the kept rows come to it."""
        from expunge.interventions.calibration import box_figures, detection_curve, layer_curves

        groups = [row.group for row in self.kept] if any(row.group for row in self.kept) else None
        found = self.ratios(cube, self.unseen, "generate").joint[:, 0]
        curves = layer_curves(*self.curves, groups, points=_POINTS)
        used = list(kept.layers)
        if all(curve["layers"] != used for curve in curves):
            own = detection_curve(found, kept.joint[:, 0], groups, points=_POINTS)
            curves.insert(0, {"layers": used, **own})
        return {
            "curves": curves,
            "curve_rows": {"forget": len(self.unseen), "retain": len(self.kept)},
            "detected": {
                "share": float((found <= scale).double().mean()),
                "rows": len(self.unseen),
                # a layer that was chosen on these rows has seen them
                "unseen": self.unseen is not self.made and self.method.layers != "auto",
            },
            "boxes": box_figures(cube, scale, self.retain),
        }

    def _probe(self, rows: Sequence[Row]) -> ProbeResult:
        last = self.method.keys == "last"
        return self.subject.probe(
            rows, _ROLE, part="prompt" if last else "all", pooling="last" if last else "all", extremes=True
        )


def _held_back(rows: Sequence[Row]) -> set[tuple[str, ...]]:
    """The keys of one in five different rows, drawn by their texts: equal rows stay together, and a file's order says
    nothing."""
    ranked = sorted({row.key for row in rows}, key=lambda key: hashlib.sha256(repr(key).encode()).digest())
    return set(ranked[: len(ranked) // _HELD_BACK])


def best_layer(forget: RowRatios, retain: RowRatios, level: float) -> int:
    """The layer whose hypercube detects the most forget rows with the scale at which it detects the share ``level`` of
    the retain rows; of equal ones the one that tells most pairs of rows apart, and of those the last.

    Ratios are those of one hypercube over all layers.
    """
    from expunge.interventions.calibration import detection_curve

    ranked = []
    for place, layer in enumerate(forget.layers):
        ours, theirs = forget.by_layer[place, :, 0], retain.by_layer[place, :, 0]
        allowed = int(level * len(theirs))
        limit = theirs.sort().values[allowed]  # detected below it: at most that share
        detected = float((ours < limit).float().mean())
        ranked.append((detected, detection_curve(ours, theirs)["area"], layer))
    found = max(ranked)[2]
    if found is None:  # the sites of a role are in layers
        raise ConfigError("none of the sites is in a layer. Name layers.")
    return found


def _calibrated(
    method: KeySpaceDetection, ratios: Sequence[float], rows: Sequence[Row], *, k_star: float
) -> Calibration:
    import torch

    from expunge.interventions.calibration import conformal_scale

    groups = [row.group for row in rows] if method.groups else None
    return conformal_scale(torch.tensor(ratios), method.level, k_star=k_star, max_scale=method.max_scale, groups=groups)


def _end_token(tokenizer: PreTrainedTokenizerBase) -> int:
    if tokenizer.eos_token_id is None:
        raise ConfigError("the tokenizer has no end token, with which a refusal ends. Set its eos_token.")
    return int(tokenizer.eos_token_id)
