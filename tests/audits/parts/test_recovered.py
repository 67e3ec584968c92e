"""Protects the verdict of patching and restoration: each label with scores by hand, and when none is due."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from expunge.audits.interface import AuditResult
from expunge.audits.parts.beyond import upper_end
from expunge.audits.parts.comparing import Change, Errors
from expunge.audits.parts.recovered import Meaning, recovery_result
from expunge.requests.rows import Row

WHAT = {"mlp": "keys of {layers}", "outside": "head", "residual": "states after {layers}", "all": "parameters"}
ZERO, ONE = Change("mlp", 0, range(1)), Change("mlp", 1, range(1, 2))
NONE = (0.0, 0.0, 0.0, 0.0)
SMALL = (0.02, 0.06, 0.02, 0.06)  # mean .04, squared deviations 4 * .0004, sd .02309, standard error .01155
WIDE = (-0.1, 0.18, -0.1, 0.18)  # mean .04, squared deviations 4 * .0196, sd .16166, standard error .08083
LARGE = (0.8, 0.9, 0.8, 0.9)


def errors(
    scores: dict[Change, Sequence[float]],
    *,
    gone: Sequence[bool] = (),
    logps: Sequence[float] = (),
    target: float = -0.1,
) -> Errors:
    """Errors of 1 in each example as it is, and so of 1 less the score with each change; 0 where ``gone`` says so."""
    n = len(next(iter(scores.values())))
    erased = np.where(gone, 0.0, 1.0) if gone else np.ones(n)
    changed = {change: 1 - np.array(values) for change, values in scores.items()}
    own = np.array(logps) if logps else np.full(n, -7.5)
    return Errors(erased, changed, np.ones(n), 1e-6, True, 0, own, np.full(n, target))


def judged(ours: Errors, control: Errors | None, *, inference: bool = False, **given: Any) -> AuditResult:
    rows = [Row(f"Who is {place}?", "Somebody.") for place in range(len(ours.erased))]
    meaning = Meaning("patching", 2, "Putting in {what}", WHAT, given.pop("least", 0.1), given.pop("skipped", {}))
    audited: Any = SimpleNamespace(at_inference=inference, cleared="suppressed" if inference else "erased")
    return recovery_result(meaning, audited, rows, ours, control, details={}, **given)


def said(*scores: tuple[Change, Sequence[float], Sequence[float]], **given: Any) -> tuple[str, str]:
    ours = errors({change: values for change, values, _ in scores})
    found = judged(ours, errors({change: values for change, _, values in scores}), **given)
    return found.label, found.sentence


def test_the_upper_end_by_hand() -> None:
    # t(3) is below 2.353 with 95%, and below 7.453 with 99.75%: .35 + 2.353 * .05, .35 + 7.453 * .05
    assert upper_end(0.35, 0.05, 4) == pytest.approx(0.4677, abs=1e-4)
    assert upper_end(0.35, 0.05, 4, tests=20) == pytest.approx(0.7227, abs=1e-4)
    assert upper_end(0.35, 0.0, 4) == 0.35
    assert upper_end(0.35, None, 1) == np.inf


def test_erased_is_said_where_every_window_is_surely_below() -> None:
    # one window: .04 + 2.353 * .01155 = .067 (t of 3 degrees, 95%); two share the 5%: .04 + 3.182 * .01155 = .077
    assert said((ZERO, SMALL, NONE))[0] == "erased"
    label, sentence = said((ZERO, SMALL, NONE), (ONE, NONE, NONE))
    assert label == "erased"
    assert sentence.endswith(
        "and 0% in the retrained model. Nowhere is it surely 10% or more beyond the retrained model."
    )
    # .04 + 2.353 * .08083 = .23 may be .1 or more; so may a single window of two
    for scores in ([(ZERO, WIDE, NONE)], [(ZERO, SMALL, NONE), (ONE, WIDE, NONE)]):
        label, sentence = said(*scores)
        assert label == "no claim"
        assert sentence.endswith("but 4 examples are too few to rule it out: pass more.")
    # seven windows: t of 3 degrees at 1 - .05 / 7 is 5.14, .04 + 5.14 * .01155 = .099; eight: 5.39 gives .102
    windows = [(Change("mlp", n, range(n, n + 1)), SMALL, NONE) for n in range(8)]
    assert said(*windows[:7])[0] == "erased"
    assert said(*windows)[0] == "no claim"
    assert said((ZERO, SMALL, NONE), inference=True)[0] == "suppressed"


def test_what_is_surely_more_shares_its_level_among_windows() -> None:
    # mean .15, squared deviations 4 * .01, sd .1155, standard error .0577, t = 2.60: above 2.353, below 3.182
    some = (0.05, 0.25, 0.05, 0.25)
    assert said((ZERO, some, NONE))[0] == "hidden"
    assert said((ZERO, some, NONE), (ONE, NONE, NONE))[0] == "no claim"


def test_a_control_that_is_thrown_off_hides_nothing_and_proves_nothing() -> None:
    """The gain is about .54 and surely more, but what comes back is .04 and surely below .1."""
    assert said((ZERO, SMALL, (-0.5, -0.5, -0.5, -0.5)))[0] == "erased"


def test_one_example_proves_nothing() -> None:
    for score in (0.0, 0.9):
        label, sentence = said((ZERO, [score], [0.0]))
        assert label == "no claim"
        assert "(1 example)" in sentence
        assert sentence.endswith("One example proves nothing: pass more.")
    # of two examples one is the target's already
    one = judged(errors({ZERO: [0.9, 1.0]}, gone=[False, True]), errors({ZERO: [0.0, 0.0]}))
    assert one.label == "no claim"
    assert "(1 example; 1 more, in which nothing changed, is left out)" in one.sentence
    assert one.details["undefined"] == {"erased": 1, "retrained": 0}
    gone = judged(errors({ZERO: [1.0]}, gone=[True]), errors({ZERO: [0.0]}))
    assert gone.sentence.startswith("The erased model gives the target's logits in the one example")


def test_a_retrained_model_that_is_the_target_is_no_control() -> None:
    same = errors({ZERO: [1.0, 1.0, 1.0]}, gone=[True] * 3, logps=[-0.1] * 3)
    found = judged(errors({ZERO: [0.0, 0.0, 0.0]}), same)
    assert found.label == "no claim"
    assert found.sentence.endswith("The retrained model gives the target's logits: is it the target?")


def test_what_is_said_plainly_leaks() -> None:
    control = errors({ZERO: NONE})
    # -.3 lies (7.5 - .3) / (7.5 - .1) = 97% of the way from the retrained model's -7.5 to the target's -.1
    for scores in (NONE, LARGE):
        found = judged(errors({ZERO: scores}, logps=[-0.2, -0.4, -0.2, -0.4]), control)
        assert found.label == "leaks"
        assert found.sentence.startswith(
            "It still gives the answers plainly (mean log-probability -0.30; target -0.10, retrained -7.50). "
        )
        wanted = {"target": -0.1, "erased": -0.3, "retrained": -7.5}
        assert found.details["log_probability"] == pytest.approx(wanted)
    # -3.9 is surely more than -7.5, but 3.6 of 7.4 is less than half; -3.7 is 3.8, more than half
    assert judged(errors({ZERO: LARGE}, logps=[-4.0, -3.8, -4.0, -3.8]), control).label == "hidden"
    assert judged(errors({ZERO: LARGE}, logps=[-3.8, -3.6, -3.8, -3.6]), control).label == "leaks"
    # 2.7 more on average, but by one example: not sure
    assert judged(errors({ZERO: LARGE}, logps=[-7.5, -7.5, -7.5, 3.3]), control).label == "hidden"
    # a target that itself knows no more than the retrained model has no answers to leak
    blank = errors({ZERO: NONE}, logps=[-7.3, -7.1, -7.3, -7.1], target=-7.5)
    assert judged(blank, control).label != "leaks"
    # the target's logits themselves: nothing was erased at all
    whole = errors({ZERO: (1.0, 1.0, 1.0, 1.0)}, gone=[True] * 4, logps=[-0.1] * 4)
    found = judged(whole, control)
    assert found.label == "leaks"
    assert "nothing was erased there" in found.sentence


def test_checks_are_never_judged() -> None:
    checks = [Change("residual", n, range(n, n + 1)) for n in range(20)]
    ours, control = dict.fromkeys(checks, LARGE), dict.fromkeys(checks, NONE)
    found = judged(errors(ours), errors(control))
    assert found.label == "no claim"
    assert found.sentence.startswith("With residual the target's logits come back by construction")
    assert found.rows["erased"]["krs_residual"].value == pytest.approx(0.85)
    # nor counted: one window with a limit of .067, as above, and not the .13 of 21 that share the 5%
    found = judged(errors({**ours, ZERO: SMALL}), errors({**control, ZERO: NONE}))
    assert found.label == "erased"
    assert found.sentence.startswith("Putting in keys of layer 0 brings back 4%")
    everything = Change("all", None, range(2))
    assert judged(errors({everything: LARGE}), errors({everything: NONE})).label == "no claim"


def test_windows_that_were_left_out_are_named_and_rule_out_erased() -> None:
    skipped = {"mlp 0": "layer 0 routes tokens to experts", "mlp 1": "layer 1 does"}
    label, sentence = said((ONE, SMALL, NONE), skipped=skipped)
    assert label == "no claim"
    assert "but not every window was looked at." in sentence
    assert sentence.endswith("Left out: keys of windows around layers 0-1 (layer 0 routes tokens to experts).")
    label, sentence = said((ONE, LARGE, NONE), skipped=skipped)
    assert label == "hidden"
    assert "hidden in layer 1. Left out: " in sentence


def hidden(*windows: range, component: str = "mlp", centre: bool = True) -> str:
    """Where knowledge is hidden when what comes back in all windows is as large."""
    changes = [Change(component, layers[len(layers) // 2] if centre else None, layers) for layers in windows]
    label, sentence = said(*((change, LARGE, NONE) for change in changes))
    assert label == "hidden"
    return sentence.rpartition("is hidden in ")[2]


def test_where_it_is_hidden() -> None:
    assert hidden(range(1, 2), range(3, 4)) == "layers 1, 3."  # each by itself
    assert hidden(range(5), range(1, 6), range(2, 7)) == "layers 2-4."  # what all three share
    assert hidden(range(3), range(2, 5)) == "layer 2."
    assert hidden(range(3), range(4, 7)) == "windows around layers 1, 5."  # they share none
    assert hidden(range(2), component="outside", centre=False) == "the head."


def test_a_control_of_another_shape_is_said_with_its_reason() -> None:
    found = judged(errors({ZERO: LARGE}), None, left_out="layers: 2 and 3. Pass two models of one size.")
    assert found.label == "no claim"
    assert found.sentence.endswith(
        "The retrained model is no control here: layers: 2 and 3. Pass two models of one size."
    )
    assert "--retrained" not in found.sentence
    assert found.details["control_left_out"].startswith("layers: 2 and 3")
    assert judged(errors({ZERO: LARGE}), None).sentence.endswith(
        "takes a retrained one to tell: pass it (--retrained)."
    )
