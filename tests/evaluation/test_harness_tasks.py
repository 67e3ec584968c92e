"""Protects tasks run by the real harness: right scores, prompt lengths said, model, tokenizer and chance untouched."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from expunge.errors import ConfigError
from expunge.evaluation.harness import Harness, HarnessSettings, harness_scores
from expunge.evaluation.harness_model import harness_model
from expunge.models.prompt_lengths import known_prompt_lengths
from harness_tasks import ROWS, write_tasks

pytest.importorskip("lm_eval")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def manager(tasks: Path) -> Any:
    """The index of tasks, which takes seconds to make."""
    return Harness(HarnessSettings.of({"tasks": "local_choice", "path": str(tasks)})).manager


@pytest.fixture
def indexed(monkeypatch: pytest.MonkeyPatch, manager: Any) -> None:
    monkeypatch.setattr(Harness, "manager", manager)


def logp_of(model: Any, ids: list[int], begin: int) -> float:
    """Log-probability of the tokens from ``begin`` on, of one row alone."""
    with torch.no_grad():
        logps = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float().log_softmax(-1)
    return sum(float(logps[place - 1, ids[place]]) for place in range(begin, len(ids)))


def prompt(row: dict[str, Any]) -> str:
    return f"Question: {row['question']}\nAnswer:"


@pytest.mark.usefixtures("indexed")
def test_scores_are_those_worked_out_one_by_one(tasks: Path) -> None:
    model, tokenizer = zoo.model("llama"), zoo.tokenizer("llama")
    found = harness_scores(model, tokenizer, "local_group,local_text", batch_size=3, include_path=tasks)
    right = 0
    for row in ROWS:
        begin = len(tokenizer.encode(prompt(row)))
        options = [logp_of(model, tokenizer.encode(f"{prompt(row)} {option}"), begin) for option in row["choices"]]
        right += options.index(max(options)) == row["answer"]
    mean = right / 4
    assert 0 < right < 4, "the rows tell nothing"
    # a mean of four yes and no: its standard error has n - 1 = 3 in the variance
    assert found["local_choice_acc"].value == mean
    assert found["local_choice_acc"].stderr == pytest.approx(math.sqrt(mean * (1 - mean) / 3))
    assert (found["local_choice_acc"].n, found["local_choice_acc"].version) == (4, "1.5, lm-eval 0.4.13")
    # the group's answers have no accuracy, so that its own is the choices' alone
    assert (found["local_group_acc"].value, found["local_group_acc"].version) == (mean, "7, lm-eval 0.4.13")
    prefix = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    total = words = 0.0
    for row in ROWS:
        ids = tokenizer.encode(row["question"])
        total += logp_of(model, [prefix, *ids], 1)
        words += len(row["question"].split())
    assert found["local_text_word_perplexity"].value == pytest.approx(math.exp(-total / words), rel=1e-4)


def test_requests_get_what_hflm_gives_them() -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model, tokenizer = zoo.model("gpt2"), zoo.tokenizer("gpt2")
    pairs = [(prompt(row), f" {option}") for row in ROWS for option in row["choices"]]
    pairs += [("A", " b c"), ("A b", " c")]
    asked = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
    texts = [Instance("generate_until", {}, (text, {"until": ["\n"], "max_gen_toks": 5}), 0) for text, _ in pairs[:6]]
    # with its cache it gives the second of the last two, which share a row, the first one's place in it
    plain = HFLM(pretrained=model, backend="causal", tokenizer=zoo.tokenizer("gpt2"), batch_size=4, logits_cache=False)
    expected = plain.loglikelihood(asked, disable_tqdm=True)
    answers = plain.generate_until(texts, disable_tqdm=True)
    with harness_model(model, tokenizer, batch_size=4) as ours:
        for (logp, greedy), one in zip(expected, ours.loglikelihood(asked), strict=True):
            assert one == (pytest.approx(logp, abs=1e-4), greedy)
        assert ours.generate_until(texts) == answers
        assert ours.notes() == ()


def test_the_forwards_know_where_prompts_end() -> None:
    from lm_eval.api.instance import Instance

    model, tokenizer = zoo.model("llama"), zoo.tokenizer("llama")
    seen: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def look(_: Any, __: Any, given: dict[str, Any]) -> None:
        mask = given.get("attention_mask")
        lengths = None if mask is None else known_prompt_lengths(len(mask))
        if lengths is not None:
            for ids, real, length in zip(given["input_ids"], mask, lengths, strict=True):
                kept = ids[real.bool()].tolist()
                seen.append((tuple(kept[:length]), tuple(kept[length:])))

    pairs = [(prompt(row), f" {option}") for row in ROWS for option in row["choices"]]
    asked = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
    handle = model.get_decoder().register_forward_pre_hook(look, with_kwargs=True)
    with harness_model(model, tokenizer, batch_size=3) as ours:
        ours.loglikelihood(asked)
        encoded = [ours._encode_pair(*pair) for pair in pairs]
    handle.remove()
    assert set(seen) == {(tuple(context), tuple(continuation[:-1])) for context, continuation in encoded}


@pytest.mark.usefixtures("indexed")
def test_everything_is_as_it_was(tasks: Path) -> None:
    model, tokenizer = zoo.model("llama").train(), zoo.tokenizer("llama")
    tokenizer.pad_token = None
    before = (dict(vars(model)), tokenizer.padding_side, len(tokenizer))
    tied: list[Any] = []
    type(model).tie_weights, kept = (lambda *_, **__: tied.append(1)), type(model).tie_weights
    random.seed(3)
    torch.manual_seed(3)
    expected = (random.random(), torch.rand(1).item())
    random.seed(3)
    torch.manual_seed(3)
    try:
        harness_scores(model, tokenizer, ["local_choice", "local_answer"], limit=2, include_path=tasks)
    finally:
        type(model).tie_weights = kept
    assert (random.random(), torch.rand(1).item()) == expected
    assert model.training and not tied
    assert (dict(vars(model)), tokenizer.padding_side, len(tokenizer)) == before
    assert tokenizer.pad_token is None


@pytest.mark.usefixtures("indexed")
def test_answers_come_from_the_models_own_generate_and_limits_hold(tasks: Path) -> None:
    model, tokenizer = zoo.model("llama"), zoo.tokenizer("llama")
    calls: list[int] = []
    own = model.generate

    def watched(*given: Any, **options: Any) -> Any:
        calls.append(len(options["input_ids"]))
        return own(*given, **options)

    model.__dict__["generate"] = watched
    told: list[tuple[int, int, str]] = []
    found = harness_scores(
        model,
        tokenizer,
        "local_answer",
        limit=3,
        batch_size=2,
        include_path=tasks,
        progress=lambda *one: told.append(one),
    )
    assert calls == [2, 1]
    assert [key for key, score in found.items() if score.n == 3] == list(found) and found
    assert told[-1] == (3, 3, "answers")


@pytest.mark.usefixtures("indexed")
def test_examples_in_prompts_and_prompts_without_room(tasks: Path) -> None:
    model, tokenizer = zoo.model("llama", max_position_embeddings=40), zoo.tokenizer("llama")
    text = (tasks / "choice.yaml").read_text(encoding="utf-8")
    shots = text.replace("task: local_choice", "task: local_shots") + "fewshot_split: test\nnum_fewshot: 1\n"
    path = tasks / "shots.yaml"
    path.write_text(shots, encoding="utf-8")
    try:
        few = Harness(HarnessSettings.of({"tasks": [str(path)], "fewshot": 2})).run(model, tokenizer)
    finally:
        path.unlink()
    assert dict(few.shots) == {"local_shots": 2}
    (note,) = few.notes
    assert "prompts of scored continuations lost their beginning: the model takes 40 tokens" in note


@pytest.mark.usefixtures("indexed")
def test_tasks_that_cannot_be_run(tasks: Path, tmp_path: Path) -> None:
    model, tokenizer = zoo.model("llama"), zoo.tokenizer("llama")
    with pytest.raises(ConfigError) as caught:
        harness_scores(model, tokenizer, "local_choise,nothing_like_it_at_all", include_path=tasks)
    told = str(caught.value)
    assert f"lm-eval has no task 'local_choise', nor is it in {tasks}. Did you mean local_choice" in told
    assert "no task 'nothing_like_it_at_all'" in told and "lm-eval ls tasks" in told
    lost = tmp_path / "lost.yaml"
    text = (tasks / "choice.yaml").read_text(encoding="utf-8").replace("rows.jsonl", "gone.jsonl")
    lost.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"task '.*lost\.yaml' cannot be loaded: FileNotFoundError"):
        harness_scores(model, tokenizer, [str(lost)])
    with pytest.raises(ConfigError, match="lm-eval cannot run local_group, local_choice: Duplicate task"):
        harness_scores(model, tokenizer, "local_group,local_choice", include_path=tasks)
    with pytest.raises(ConfigError, match="chat_template=true, and the tokenizer has no chat template"):
        settings = HarnessSettings.of({"tasks": "local_choice", "path": str(tasks), "chat_template": True})
        Harness(settings).run(model, tokenizer)
