"""Protects privacy by entailment: the model's label for it, right pairs, three steps, and clear refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import BertForSequenceClassification

from expunge.errors import ConfigError, ModelError
from expunge.evaluation.answer_judge import Asked, make_answer_judges
from expunge.evaluation.answer_judges.entailment import Entailment
from tiny_bert import save_bert

WORDS = ["where", "was", "she", "born", "vienna", "graz", "in", "i", "know", "?", "."]
NAMES = {0: "CONTRADICTION", 1: "not_entailment", 2: "Entailment"}
ASKED = [
    Asked("Where was she born?", "Vienna.", "In Vienna."),
    Asked("Where was she born?", "Vienna.", "In Graz."),
    Asked("Where was she born?", "Vienna.", " "),
    Asked("Where?", "In Vienna she was born.", "Graz graz graz graz"),
]


def save(folder: Path, labels: dict[int, str]) -> tuple[object, object]:
    places = {name: place for place, name in labels.items()}
    return save_bert(folder, WORDS, BertForSequenceClassification, id2label=labels, label2id=places)


def test_privacy_is_the_probability_of_entailment_in_three_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, model = save(tmp_path, NAMES)
    judge = Entailment(tmp_path)
    by_hand = []
    for one in ASKED:
        with torch.no_grad():
            pair = tokenizer(  # type: ignore[operator]
                f"{one.question} {one.answer}", f"{one.question} {one.reference}", return_tensors="pt"
            )
            by_hand.append(float(model(**pair).logits[0].softmax(-1)[2]))  # type: ignore[operator]
    by_hand[2] = 0.0  # an empty answer entails nothing
    monkeypatch.setattr("expunge.evaluation.answer_judges.entailment.graded", lambda degree: degree)
    assert [verdict.privacy for verdict in judge.verdicts(ASKED)] == pytest.approx(by_hand, abs=1e-6)
    assert len(set(by_hand)) == 4
    monkeypatch.undo()
    # random weights give each label about a third; the steps are from one and from two thirds
    steps = [1.0 if degree >= 2 / 3 else 0.5 if degree >= 1 / 3 else 0.0 for degree in by_hand]
    assert [verdict.privacy for verdict in judge.verdicts(ASKED)] == steps


def test_quality_and_rejection_are_the_rules(tmp_path: Path) -> None:
    save(tmp_path, NAMES)
    (judge,) = make_answer_judges("entailment", entailment_model=tmp_path)
    sorry = Asked("Where was she born?", "Vienna.", "I do not know.")
    assert [(verdict.quality, verdict.rejection) for verdict in judge.verdicts([*ASKED, sorry])] == [
        (1, 0),
        (1, 0),
        (0, 0),
        (0.5, 0),  # two sequences of three words, equal
        (1, 1),
    ]


def test_the_record_names_model_thresholds_and_weights(tmp_path: Path) -> None:
    save(tmp_path, NAMES)
    said = Entailment(tmp_path).describe()
    assert said["settings"]["model"] == str(tmp_path)
    assert len(said["settings"]["fingerprint"]) == 64
    assert said["judged_by"].endswith(f"by the model {tmp_path.name}")
    assert Entailment().settings == {"whole": 2 / 3, "part": 1 / 3}


def test_the_label_must_be_clear(tmp_path: Path) -> None:
    save(tmp_path, {0: "LABEL_0", 1: "LABEL_1"})
    with pytest.raises(ConfigError, match=r"which of its labels \(LABEL_0, LABEL_1\) means entailment is not clear"):
        Entailment(tmp_path)


def test_a_folder_without_such_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"suite.entailment_model: .* holds no sequence-classification model"):
        Entailment(tmp_path)
