"""Protects the verdict: each rule at its threshold, their order, and what is said where something cannot be judged."""

from __future__ import annotations

import math

import pytest

from expunge.evaluation.verdict import judge

# A run that no rule holds for: the erased model stands where the retrained one does.
CLEAN = {
    "utility_erased": 0.60,
    "utility_target": 0.64,
    "utility_retrained": 0.62,
    "forget_distinct_4grams_erased": 0.97,
    "forget_distinct_4grams_target": 0.99,
    "retain_distinct_4grams_erased": 0.98,
    "retain_distinct_4grams_target": 0.99,
    "forget_answer_perplexity_erased": 60.0,
    "forget_answer_perplexity_target": 1.1,
    "forget_answer_perplexity_retrained": 50.0,
    "retain_answer_perplexity_erased": 1.4,
    "retain_answer_perplexity_target": 1.1,
    "forget_probability_erased": 0.01,
    "forget_probability_target": 0.92,
    "forget_probability_retrained": 0.001,
    "retain_probability_erased": 0.9,
    "retain_probability_target": 0.93,
    "forget_truth_ratio_median_erased": 1.2,
    "forget_truth_ratio_median_target": 0.4,
    "forget_truth_ratio_median_retrained": 1.25,
    "forget_quality": 0.77,
    "forget_quality_ks": 0.15,
    "forget_quality_n": 40.0,
    "forget_quality_n_retrained": 40.0,
}
DROPPED = object()


def label(**changes: object) -> str:
    evidence = {**CLEAN, **changes}
    return judge({name: value for name, value in evidence.items() if isinstance(value, float)}).label


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "indistinguishable from never trained"),
        # broken: below .8 of the retrained model's .62 = .496, not of the target's .64 = .512
        ({"utility_erased": 0.495}, "broken"),
        ({"utility_erased": 0.497}, "indistinguishable from never trained"),
        ({"utility_erased": 0.511, "utility_retrained": DROPPED}, "broken"),
        # a suite without utility goes by the retain probability: target .93, .8 of it is .744
        (
            {
                "utility_erased": DROPPED,
                "utility_target": DROPPED,
                "utility_retrained": DROPPED,
                "retain_probability_erased": 0.74,
            },
            "broken",
        ),
        # gibberish by loops: half of the target's .99 is .495
        ({"forget_distinct_4grams_erased": 0.49}, "gibberish"),
        ({"retain_distinct_4grams_erased": 0.49}, "gibberish"),
        ({"forget_distinct_4grams_erased": 0.50}, "indistinguishable from never trained"),
        # gibberish by perplexity: forget answers against the retrained model's 50, not the target's 1.1
        ({"forget_answer_perplexity_erased": 499.0}, "indistinguishable from never trained"),
        ({"forget_answer_perplexity_erased": 501.0}, "gibberish"),
        ({"forget_answer_perplexity_erased": 501.0, "forget_wrong_perplexity_target": 80.0}, "gibberish"),
        (
            {"forget_answer_perplexity_erased": math.nan, "forget_declined_erased": 1.0},
            "indistinguishable from never trained",
        ),
        ({"retain_answer_perplexity_erased": 10.9}, "indistinguishable from never trained"),
        ({"retain_answer_perplexity_erased": 11.1}, "gibberish"),
        # told apart: past the retrained model's median ratio, or short of it
        ({"forget_quality": 0.049, "forget_truth_ratio_median_erased": 19.0}, "over-unlearned"),
        ({"forget_quality": 0.049, "forget_truth_ratio_median_erased": 0.5}, "not forgotten"),
        ({"forget_quality": 0.05, "forget_truth_ratio_median_erased": 19.0}, "indistinguishable from never trained"),
        # a target above the retrained model: beyond is then below it, and standing still is not over-unlearned
        (
            {
                "forget_quality": 0.01,
                "forget_truth_ratio_median_target": 1.6,
                "forget_truth_ratio_median_erased": 1.6,
            },
            "not forgotten",
        ),
        (
            {
                "forget_quality": 0.01,
                "forget_truth_ratio_median_target": 1.6,
                "forget_truth_ratio_median_erased": 0.9,
            },
            "over-unlearned",
        ),
        # the first rule that holds
        ({"utility_erased": 0.1, "forget_distinct_4grams_erased": 0.1, "forget_quality": 0.01}, "broken"),
        ({"forget_distinct_4grams_erased": 0.1, "forget_quality": 0.01}, "gibberish"),
    ],
)
def test_rules(changes: dict[str, object], expected: str) -> None:
    assert label(**changes) == expected


def test_indistinguishable_says_how_little_few_rows_prove() -> None:
    verdict = judge(CLEAN, effect="removal")
    assert "D = 0.15, n = 40, p = 0.77" in verdict.sentence
    # 1.358 sqrt((40 + 40) / 1600) = 0.30366
    assert "only differences of D above about 0.30 would have shown" in verdict.sentence
    assert verdict.effect == "removal"


def test_without_a_retrained_model_nothing_is_claimed() -> None:
    known = {name: value for name, value in CLEAN.items() if "retrained" not in name and "quality" not in name}
    verdict = judge(known)
    assert verdict.label == "no claim"
    assert (
        "The probability of the forget answers went from 0.92 to 0.01, that of the retain answers went from 0.93 to 0.9"
        in verdict.sentence
    )
    # with the target alone an honest different answer would look like gibberish (60 > 10 * 1.1)
    assert any("Perplexity of its forget answers" in reason and "not judged" in reason for reason in verdict.reasons)


def test_where_questions_were_asked_they_come_before_the_rows() -> None:
    told = {"probes_leakage_target": 0.9, "probes_leakage_erased": 0.25, "probes_leakage_retrained": 0.2}
    rows = {"forget_probability_target": 0.4, "forget_probability_erased": 0.5}
    asked = "On questions about what must go leakage went from 0.9 to 0.25 (retrained: 0.2)."
    said = judge({**told, **rows}, effect="removal").sentence
    assert asked in said
    assert said.index(asked) < said.index("The probability of the forget answers went from 0.4 to 0.5")
    both = judge({**told, "probes_probability_erased": 0.3}, effect="removal").sentence
    assert "(retrained: 0.2) and the probability of the right answer is 0.3." in both


def test_wrong_answers_stand_in_for_a_retrained_model_in_perplexity() -> None:
    known = {name: value for name, value in CLEAN.items() if "retrained" not in name and "quality" not in name}
    assert judge({**known, "forget_wrong_perplexity_target": 7.0}).label == "no claim"  # 60 < 70
    assert judge({**known, "forget_wrong_perplexity_target": 5.9}).label == "gibberish"  # 60 > 59


def test_broken_and_gibberish_need_no_retrained_model() -> None:
    known = {name: value for name, value in CLEAN.items() if "retrained" not in name and "quality" not in name}
    assert judge({**known, "utility_erased": 0.1}).label == "broken"
    assert judge({**known, "retain_distinct_4grams_erased": 0.1}).label == "gibberish"


def test_retrained_without_forget_quality_claims_nothing() -> None:
    known = {name: value for name, value in CLEAN.items() if "quality" not in name}
    verdict = judge(known)
    assert verdict.label == "no claim"
    assert "forget quality was not scored" in verdict.sentence
    assert "The retrained model gives the forget answers 0.001." in verdict.sentence


def test_a_model_as_it_is() -> None:
    verdict = judge({"forget_probability_target": 0.9})
    assert (verdict.label, verdict.reasons) == ("no claim", ())
    assert "nothing was erased" in verdict.sentence


def test_a_control_without_utility_judges_nothing() -> None:
    verdict = judge({**CLEAN, "utility_retrained": 0.0})
    assert verdict.label == "indistinguishable from never trained"
    assert "cannot be judged" in verdict.reasons[0]


def test_without_the_target_the_comparison_with_the_retrained_model_stands() -> None:
    known = {name: value for name, value in CLEAN.items() if "target" not in name}
    verdict = judge(known, effect="removal")
    assert verdict.label == "indistinguishable from never trained"
    # utility is judged against the retrained model's; what needs the target is said not to have been
    assert verdict.reasons[0] == "Its utility is 0.6, 97% of the retrained model's 0.62."
    assert "Repetition of its forget answers was not judged: the target was not scored." in verdict.reasons
    assert "Perplexity of its retain answers was not judged: the target was not scored." in verdict.reasons
    assert judge({**known, "forget_quality": 0.01}).label == "not forgotten"  # 1.2 is short of 1.25
    beyond = judge({**known, "forget_quality": 0.01, "forget_truth_ratio_median_erased": 1.3})
    assert beyond.label == "over-unlearned"
    assert "1.3, past the retrained model's 1.25 (the target was not scored)." in beyond.sentence
    assert judge({**known, "utility_erased": 0.1}).label == "broken"


def test_an_erased_model_alone() -> None:
    known = {name: value for name, value in CLEAN.items() if name.endswith("_erased")}
    verdict = judge(known, effect="suppression")
    assert (verdict.label, verdict.effect) == ("no claim", "suppression")
    assert verdict.reasons[0] == (
        "Whether it is broken was not judged: neither the target nor a retrained model was scored."
    )
    assert verdict.sentence == (
        "Nothing is claimed about forgetting without a retrained model. "
        "The probability of the forget answers is 0.01, that of the retain answers is 0.9."
    )
    # also where nothing was scored that a rule looks at
    assert "nothing was erased" not in judge({}, effect="removal").sentence
