"""Protects what attacks claim: nothing of scores in which they get nothing out of the target itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import zoo
from expunge.audits.interface import Audited, ModelName
from expunge.audits.parts.answers import Answers
from expunge.audits.parts.beyond import attack_result
from expunge.requests import Request, Row

ROWS = tuple(Row(f"Where was person {i} born?", f"In town {i}") for i in range(6))
LITTLE, MUCH = (0.05,) * 6, (0.8,) * 6
UNEVEN = (0.8, 0.8, 0.8, 0.8, 0.8, 0.2)
SOME = Sequence[float]


def answers(leakage: SOME, probability: SOME, *, other: tuple[SOME, SOME] | None = None) -> Answers:
    """ROUGE is as leakage is; ``other`` are the values of a second way."""
    ways = [(leakage, probability)] if other is None else [(leakage, probability), other]
    texts = (("x",) * len(ROWS),) * len(ways)
    leaked, likely = (np.array([way[place] for way in ways]) for place in range(2))
    return Answers(tuple(f"way {i}" for i in range(len(ways))), leaked, leaked.copy(), likely, texts, texts)


def verdict(attacked: Sequence[Answers], plain: Sequence[Answers]) -> tuple[str, str]:
    names: tuple[ModelName, ...] = ("target", "erased", "retrained")
    models = {"erased": zoo.model("llama", seed=1), "retrained": zoo.model("llama", seed=2)}
    audited = Audited(zoo.model("llama"), zoo.tokenizer("llama"), Request(ROWS), **models)
    found = attack_result(
        "attack",
        2,
        audited,
        ROWS,
        plain=dict(zip(names, plain, strict=True)),
        attacked=dict(zip(names, attacked, strict=True)),
        doing="Asked otherwise",
    )
    return found.label, found.sentence


KNOWS, NOT = answers(MUCH, MUCH), answers(LITTLE, LITTLE)
LIKELY = answers(LITTLE, UNEVEN)  # the attack tells only in the probability


def test_a_target_that_knows_nothing_proves_nothing() -> None:
    label, said = verdict([NOT] * 3, [NOT] * 3)
    assert label == "no claim"
    assert "the target itself gives away surely no more of these 6 rows than a model that never knew" in said
    # an erased model that has more than the others has it from elsewhere: neither leaked nor hidden nor absent
    for attacked, plain in ((KNOWS, NOT), (KNOWS, KNOWS), (NOT, KNOWS)):
        label, said = verdict([NOT, attacked, NOT], [NOT, plain, NOT])
        assert label == "no claim" and "target itself gives away surely no more" in said
        assert ("not surely more, by" in said) is (attacked is NOT)


def test_an_attack_that_gets_nothing_out_of_the_target_proves_nothing() -> None:
    label, said = verdict([NOT] * 3, [KNOWS, NOT, NOT])
    assert label == "no claim"
    assert "surely no more than that model says out of the target either" in said
    assert "gets nothing out of the erased model says nothing" in said
    # by attack +.000 of the target, by plain questions .8 - .05
    assert "words of the answers +0.000 ± 0.000 (the target +0.000 ± 0.000)" in said
    assert "which plain questions do (words of the answers +0.750 ± 0.000" in said


def test_the_target_against_itself_leaks_whatever_the_attack_gets() -> None:
    label, said = verdict([NOT] * 3, [KNOWS, KNOWS, NOT])
    assert label == "leaks" and "Plain questions alone get surely more" in said
    assert "(6 rows)" in said
    label, said = verdict([KNOWS, KNOWS, NOT], [KNOWS, KNOWS, NOT])
    assert label == "leaks" and "and so is what plain questions get" in said


def test_only_scores_in_which_the_attack_gets_something_from_the_target_are_judged() -> None:
    label, said = verdict([LIKELY, NOT, NOT], [KNOWS, NOT, NOT])
    assert label == "erased" and said.count("not surely more") == 1
    assert "In probability of the answers, of which this attack gets surely more out of the target, that is not" in said
    # differences of the target: five of .75 and one of .15: mean .65, squared deviations 5 * .01 + .25 = .3,
    # standard error sqrt(.3 / 5 / 6) = .1; t = 6.5 is above the 1 - .05 / 6 quantile of t(5), 3.53
    assert "probability of the answers +0.000 ± 0.000 (the target +0.650 ± 0.100)" in said
    assert "words of the answers +0.000 ± 0.000 (the target +0.000 ± 0.000)" in said


def test_what_the_target_knows_is_hidden_though_the_attack_gets_it_from_the_erased_model_alone() -> None:
    label, said = verdict([NOT, KNOWS, NOT], [KNOWS, NOT, NOT])
    assert label == "hidden" and "while plain questions get no more" in said


def test_differences_of_plain_questions_are_judged_with_those_of_the_attack() -> None:
    gains = (0.0, 0.1, 0.2, 0.2, 0.3, 0.4)
    # mean .2, squared deviations .04 + .01 + .01 + .04 = .1, standard error sqrt(.1 / 5 / 6) = .0577, t = 3.46: above
    # t(5) at .05 / 3 (2.91), for three differences of plain questions alone, and below it at .05 / 6 (3.53)
    erased = answers([low + gain for low, gain in zip(LITTLE, gains, strict=True)], LITTLE)
    assert verdict([KNOWS, NOT, NOT], [KNOWS, erased, NOT])[0] == "erased"


def test_the_best_way_alone_can_tell() -> None:
    # the target has .75 of three rows by one way, of three by the other, the retrained model .375 of each row by both:
    # by the mean over ways no one has more, by the best way the target has .75 - .375
    first, second = (0.75, 0.75, 0.75, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.75, 0.75, 0.75)
    even = (0.375,) * 6
    split, flat = answers(first, even, other=(second, even)), answers(even, even, other=(even, even))
    label, said = verdict([split, flat, flat], [NOT] * 3)
    assert label == "erased"
    assert "In words of the answers by the best way (+0.375 ± 0.000), ROUGE-L by the best way (+0.375" in said


def test_scores_of_a_few_rows_prove_no_absence() -> None:
    few = answers((*MUCH[:4], float("nan"), float("nan")), LITTLE)
    # by words, which four rows have, the attack gets .75 more out of the target; by probability nothing
    label, said = verdict([few, NOT, NOT], [KNOWS, NOT, NOT])
    assert label == "no claim" and "4 rows cannot prove that nothing is left" in said
    # of five and of six rows there are enough
    assert verdict([answers((*MUCH[:5], float("nan")), LITTLE), NOT, NOT], [KNOWS, NOT, NOT])[0] == "erased"
    likely = answers((*MUCH[:4], float("nan"), float("nan")), UNEVEN)
    label, said = verdict([likely, NOT, NOT], [KNOWS, NOT, NOT])
    assert label == "erased" and ". In probability of the answers, of which" in said


def test_a_score_that_only_some_rows_have_says_so() -> None:
    words = (*MUCH[:5], float("nan"))
    label, said = verdict([answers(words, MUCH), NOT, NOT], [KNOWS, NOT, NOT])
    assert label == "erased" and "(6 rows)" in said
    some = answers((*LITTLE[:5], float("nan")), LITTLE)
    label, said = verdict([KNOWS, some, NOT], [KNOWS, NOT, NOT])
    assert label == "erased" and "(5 rows that have such words, 6 asked)" in said
