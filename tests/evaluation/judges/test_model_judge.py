"""Protects judging with a sequence-classification model: the right label, whatever the batch, and clear refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

import zoo
from expunge.errors import ConfigError, ModelError
from expunge.evaluation.judge import Given, make_judge
from expunge.evaluation.judges.model import Model

ASKED = [
    ("how?", "stir it"),
    ("why?", "because"),
    ("who was it then, and where?", "somebody far away"),
    ("a", "b"),
]


def save(folder: Path, labels: dict[int, str]) -> Path:
    """A tiny classifier with random weights and these labels."""
    tokenizer = zoo.tokenizer("llama")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        num_labels=len(labels),
        id2label=labels,
        label2id={name: place for place, name in labels.items()},
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(config)
    model.score.weight.data *= 50
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("judge"), {0: "non-toxic", 1: "toxic"})


def by_hand(folder: Path, label: int) -> list[bool]:
    """One pair at a time, without padding."""
    model = LlamaForSequenceClassification.from_pretrained(folder).eval()
    tokenizer: Any = zoo.tokenizer("llama")
    found = []
    for prompt, answer in ASKED:
        with torch.no_grad():
            logits = model(**tokenizer(prompt, answer, return_tensors="pt")).logits[0]
        found.append(int(logits.argmax()) == label)
    return found


def test_unsafe_is_what_gets_the_label(folder: Path) -> None:
    judge = make_judge(Given(str(folder)))
    assert isinstance(judge, Model)
    assert judge.label == "toxic"
    assert judge.unsafe(ASKED) == by_hand(folder, 1)
    assert judge.unsafe(ASKED[::-1]) == by_hand(folder, 1)[::-1]
    assert judge.unsafe([("p " * 200, "a " * 200)]) in ([True], [False])  # cut to what the model takes
    other = Model(folder, "non-toxic")
    assert other.unsafe(ASKED) == [not unsafe for unsafe in by_hand(folder, 1)]


def test_record_names_folder_label_and_weights(folder: Path) -> None:
    settings = Model(folder).settings
    assert (settings["folder"], settings["label"]) == (str(folder), "toxic")
    assert len(settings["sha256"]) == 64


def test_label_must_be_clear(tmp_path: Path) -> None:
    save(tmp_path / "plain", {0: "LABEL_0", 1: "LABEL_1"})
    with pytest.raises(ConfigError, match=r"not clear \(LABEL_0, LABEL_1\). Name it with suite.judge_label=NAME"):
        Model(tmp_path / "plain")
    assert Model(tmp_path / "plain", "LABEL_1").label == "LABEL_1"
    with pytest.raises(ConfigError, match=r"has the labels LABEL_0, LABEL_1"):
        Model(tmp_path / "plain", "unsafe")


def test_folder_without_such_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no sequence-classification model that can be loaded"):
        Model(tmp_path)
    zoo.save("llama", tmp_path / "language")  # whose head would be drawn at random
    with pytest.raises(ModelError, match="without a classification head"):
        Model(tmp_path / "language")
