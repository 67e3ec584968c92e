"""Protects the verdict of attacks: paired differences by hand, when they are sure, and which words follow from them."""

from __future__ import annotations

import math

import numpy as np
import pytest

import zoo
from expunge.audits.interface import Audited, ModelName
from expunge.audits.parts.answers import Answers
from expunge.audits.parts.beyond import Beyond, attack_result, beyond, mean_score, unproven
from expunge.requests import Request, Row

ROWS = tuple(Row(f"Where was person {i} born?", f"In town {i}") for i in range(5))


def answers(*ways: list[float]) -> Answers:
    """The same values of every metric, [V, n]."""
    values = np.array(ways)
    names = tuple(f"way {i}" for i in range(len(ways)))
    texts = tuple(tuple("x" for _ in way) for way in ways)
    return Answers(names, values, values.copy(), values.copy(), texts, texts)


def audited(**given: object) -> Audited:
    values = {"erased": zoo.model("llama", seed=1), "retrained": zoo.model("llama", seed=2), **given}
    return Audited(zoo.model("llama"), zoo.tokenizer("llama"), Request(ROWS), **values)  # type: ignore[arg-type]


def test_paired_differences_by_hand() -> None:
    erased, retrained = np.array([0.5, 0.7, 0.3, 0.5]), np.array([0.1, 0.3, 0.1, 0.1])
    # differences .4 .4 .2 .4: mean .35, squared deviations 3 * .0025 + .0225 = .03, sd .1, standard error .05, t = 7
    found = beyond(erased, retrained)
    assert found.value == pytest.approx(0.35) and found.stderr == pytest.approx(0.05) and found.n == 4
    assert found.sure and found.statistic == pytest.approx(7)  # t(3) is above 2.353 with 5%
    # shared among 20 tests t(3) must be above the 99.75% quantile, 7.453
    assert not beyond(erased, retrained, tests=20).sure
    # the fourth row defines nothing: .4 .4 .2 remain, mean 1/3, sd sqrt(.02667/2)
    undefined = beyond(np.array([0.5, 0.7, 0.3, np.nan]), retrained)
    assert undefined.n == 3 and undefined.value == pytest.approx(1 / 3)
    assert undefined.stderr == pytest.approx(math.sqrt(2 * (0.4 - 1 / 3) ** 2 + (0.2 - 1 / 3) ** 2) / math.sqrt(6))


def test_what_is_equal_or_of_no_use_is_not_more() -> None:
    same = np.array([0.2, 0.4, 0.6])
    assert beyond(same, same) == beyond(same, same.copy())
    assert (beyond(same, same).value, beyond(same, same).stderr, beyond(same, same).sure) == (0, 0, False)
    assert not beyond(same + 0.009, same).sure  # beyond doubt, and less than 0.01
    assert beyond(same + 0.02, same).sure
    assert not beyond(same - 0.02, same).sure
    assert not beyond(np.array([1.0]), np.array([0.0])).sure  # one row
    assert beyond(np.array([np.nan]), np.array([0.0])).n == 0


def results(attacked: dict[ModelName, Answers], plain: dict[ModelName, Answers], **given: object) -> tuple[str, str]:
    found = attack_result("attack", 1, audited(**given), ROWS, plain=plain, attacked=attacked, doing="Asked")
    return found.label, found.sentence


NOTHING, MUCH = [0.1, 0.2, 0.1, 0.2, 0.1], [0.8, 0.9, 0.7, 0.9, 0.8]


def test_the_label_follows_from_attack_and_plain_questions() -> None:
    knows, not_ = answers(MUCH), answers(NOTHING)
    forgot: dict[ModelName, Answers] = {"target": knows, "erased": not_, "retrained": not_}
    brought: dict[ModelName, Answers] = {"target": knows, "erased": knows, "retrained": not_}
    assert results(forgot, forgot)[0] == "erased"
    assert results(brought, forgot)[0] == "hidden"
    assert results(brought, brought)[0] == "leaks"
    # differences .7 .7 .6 .7 .7: mean .68, squared deviations 4 * .0004 + .0064 = .008, standard error sqrt(.002 / 5)
    assert "words of the answers +0.680 ± 0.020" in results(brought, forgot)[1]
    assert "of the answers' words (5 rows)" in results(brought, forgot)[1]
    # what the retrained model can be made to say as well is no leak, and this attack tells nothing apart
    everyone: dict[ModelName, Answers] = {"target": knows, "erased": knows, "retrained": knows}
    assert results(everyone, forgot)[0] == "no claim"
    alone: dict[ModelName, Answers] = {"target": knows, "erased": knows}
    assert results(alone, alone, retrained=None)[0] == "no claim"


def test_nothing_is_erased_from_a_target_that_does_not_know_or_by_a_few_rows() -> None:
    not_ = answers(NOTHING)
    nobody: dict[ModelName, Answers] = {"target": not_, "erased": not_, "retrained": not_}
    label, sentence = results(nobody, nobody)
    assert label == "no claim" and "target itself gives away surely no more of these 5 rows" in sentence
    few: dict[ModelName, Answers] = {"target": answers(MUCH[:4]), "erased": answers(NOTHING[:4])}
    few["retrained"] = few["erased"]
    label, sentence = results(few, few)
    assert label == "no claim" and "4 rows cannot prove that nothing is left. Pass 5 at least" in sentence
    few["erased"] = few["target"]  # to find something, few rows can do
    assert results(few, few)[0] == "leaks"


def test_what_makes_an_absence_mean_something() -> None:
    nothing, much = Beyond(0.0, 0.0, 5, False), Beyond(0.7, 0.02, 5, True)
    assert unproven([nothing, much]) is None
    assert "nothing to erase" in str(unproven([nothing, nothing]))
    assert "1 row cannot" in str(unproven([Beyond(0.7, None, 1, False)]))


def test_answers_without_words_are_judged_by_their_probability() -> None:
    def cyrillic(probability: float) -> Answers:
        undefined, texts = np.full((1, 5), np.nan), (("x",) * 5,)
        return Answers(("way",), undefined, undefined, np.full((1, 5), probability), texts, texts)

    asked: dict[ModelName, Answers] = {"target": cyrillic(0.5), "erased": cyrillic(0.1), "retrained": cyrillic(0.1)}
    label, sentence = results(asked, asked)
    assert label == "erased" and "nan" not in sentence
    assert "no words that leakage counts, a probability of 0.100 (5 rows)" in sentence
    assert results(asked | {"erased": cyrillic(0.3)}, asked)[0] == "hidden"


def test_the_score_of_values_leaves_out_what_is_undefined() -> None:
    found = mean_score(np.array([1.0, np.nan, 3.0]), 4)  # mean 2, sd sqrt(2), two values
    assert (found.value, found.n, found.version) == (2, 2, 4) and found.stderr == pytest.approx(1)
    assert math.isnan(mean_score(np.array([np.nan]), 1).value)


def test_mean_and_best_over_ways_have_the_same_control() -> None:
    attacked: dict[ModelName, Answers] = {
        "target": answers(MUCH[:4], MUCH[:4]),
        "erased": answers([1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0]),
        "retrained": answers([0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]),
    }
    plain: dict[ModelName, Answers] = dict.fromkeys(attacked, answers(NOTHING[:4]))
    found = attack_result("attack", 3, audited(), ROWS, plain=plain, attacked=attacked, doing="Asked")
    erased, retrained = found.rows["erased"], found.rows["retrained"]
    # by row the means over ways are .5 .5 0 1 and 0 0 .5 0, the best 1 1 0 1 and 0 0 1 0
    assert (erased["attack_leakage"].value, erased["attack_best_leakage"].value) == (0.5, 0.75)
    assert (retrained["attack_leakage"].value, retrained["attack_best_leakage"].value) == (0.125, 0.25)
    assert erased["attack_leakage_beyond_retrained"].value == 0.375  # of .5 .5 -.5 1
    assert erased["attack_best_leakage_beyond_retrained"].value == 0.5  # of 1 1 -1 1
    assert erased["attack_best_rouge_beyond_retrained"].stderr == pytest.approx(0.5)  # sd 1, four rows
    assert erased["forget_probability_beyond_retrained"].value == 0
    assert {score.version for score in erased.values()} == {3}
    # the row of which most leaks comes first, in the way that gets it
    assert found.samples[0]["expected"] == "In town 0" and found.samples[0]["way"] == "way 0"
    assert found.curves[0]["series"]["erased"] == [["way 0", 0.5, pytest.approx(1 / math.sqrt(12))], ["way 1", 0.5, pytest.approx(1 / math.sqrt(12))]]  # fmt: skip  # noqa: E501
