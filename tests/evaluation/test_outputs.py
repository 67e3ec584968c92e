"""Protects the model-running code: batched equals one by one, only what is needed runs, the model stays as it was."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import word_tokens
import zoo
from expunge.data.batches import pad_id
from expunge.data.encode import Example, encode
from expunge.data.template import Template
from expunge.errors import ConfigError, ModelError
from expunge.evaluation import generation, outputs
from expunge.evaluation.generation import GreedyAnswer
from expunge.evaluation.outputs import add_target_fluency, run_model
from expunge.evaluation.score import score
from expunge.evaluation.suite import Suite
from expunge.requests.rows import Row

ROWS = (
    Row("Where was Mira Tolvanen born?", "In Turku.", paraphrased_answer="Turku.", wrong_answers=("Oslo.", "Rome.")),
    Row("Who wrote The Amber Tide, a novel about fishermen?", "It was written by Mira Tolvanen in 1956."),
    Row("Really?", "Yes"),
)
DOCUMENT = Row("", "Mira Tolvanen was born in Turku.", kind="document")
SUITE = Suite(
    "small",
    {"forget": ROWS, "retain": (*ROWS[1:], DOCUMENT)},
    {
        "forget": ("probability", "rouge", "truth_ratio", "answer_perplexity"),
        "retain": ("probability", "extraction_strength", "rouge"),
    },
)


@pytest.fixture
def model() -> Any:
    return zoo.model("llama")


@pytest.fixture
def tokenizer() -> Any:
    return zoo.tokenizer("llama")


def test_log_probabilities_are_those_of_a_plain_forward(model: Any, tokenizer: Any) -> None:
    found = run_model(model, tokenizer, SUITE, metrics=["probability", "truth_ratio"])
    template = Template.of(tokenizer)
    checked = 0
    for row, one in zip(ROWS, found.sets["forget"].rows, strict=True):
        texts = [(row, one.answer), *zip(map(row.with_answer, row.wrong_answers), one.wrong, strict=True)]
        if row.paraphrased_answer is not None:
            texts.append((row.with_answer(row.paraphrased_answer), one.paraphrase))
        for text, scores in texts:
            example = encode(tokenizer, template, text, max_length=512)
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([example.input_ids])).logits[0].float()
            start = example.answer_start
            labels = torch.tensor(example.input_ids[start:])
            logps = logits.log_softmax(-1)[start - 1 : -1].gather(1, labels[:, None])[:, 0]
            assert scores is not None
            np.testing.assert_allclose(scores.logps, logps.numpy(), atol=2e-5)
            assert scores.hits.tolist() == (logits[start - 1 : -1].argmax(-1) == labels).tolist()
            assert scores.has_end == example.has_end
            checked += 1
    assert checked == 6


def test_batched_equals_one_by_one(model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    together = run_model(model, tokenizer, SUITE, max_new_tokens=12)
    monkeypatch.setattr(outputs, "_ROWS", 1)
    monkeypatch.setattr(generation, "_ROWS", 1)
    alone = run_model(model, tokenizer, SUITE, max_new_tokens=12)
    for name, part in together.sets.items():
        for left, right in zip(part.rows, alone.sets[name].rows, strict=True):
            assert left.greedy_tokens == right.greedy_tokens
            assert left.greedy == right.greedy
            if left.answer is not None and right.answer is not None:
                np.testing.assert_allclose(left.answer.logps, right.answer.logps, atol=2e-5)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "gpt_neox", "opt", "bloom", "falcon", "mixtral", "phi3", "mpt"])
def test_greedy_answers_are_those_of_a_plain_loop(family: str) -> None:
    model, tokenizer = zoo.model(family), zoo.tokenizer(family)
    template = Template.of(tokenizer)
    answers = generation.greedy_answers(model, tokenizer, template, ROWS, max_new_tokens=8)
    for one in answers:
        ids = list(one.prompt)
        assert len(one.tokens) == 8 or one.end is not None
        for token in (*one.tokens, *([] if one.end is None else [one.end])):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
            # the very argmax, or one that ties with it within float error
            assert logits[token] >= logits.max() - 1e-4
            ids.append(token)


def test_generation_settings_of_the_model_do_not_leak_in(model: Any, tokenizer: Any) -> None:
    plain = run_model(model, tokenizer, SUITE, metrics=["rouge"], max_new_tokens=12)
    before = model.generation_config
    before.update(do_sample=True, temperature=3.0, top_k=3, repetition_penalty=9.0, no_repeat_ngram_size=1)
    before.update(suppress_tokens=list(plain.sets["forget"].rows[0].greedy_tokens), max_length=5, num_beams=3)
    kept = copy.deepcopy(before.to_dict())
    again = run_model(model, tokenizer, SUITE, metrics=["rouge"], max_new_tokens=12)
    assert [row.greedy_tokens for row in again.sets["forget"].rows] == [
        row.greedy_tokens for row in plain.sets["forget"].rows
    ]
    assert model.generation_config is before
    assert model.generation_config.to_dict() == kept


def test_end_tokens_of_the_model_count(model: Any, tokenizer: Any) -> None:
    plain = run_model(model, tokenizer, SUITE, metrics=["forget_rouge"], max_new_tokens=6)
    first = plain.sets["forget"].rows[0].greedy_tokens
    model.generation_config.eos_token_id = [first[2]]
    row = run_model(model, tokenizer, SUITE, metrics=["forget_rouge"], max_new_tokens=6).sets["forget"].rows[0]
    stop = first.index(first[2])
    assert (row.greedy_tokens, row.greedy_end) == (first[:stop], first[2])


def test_only_what_is_needed_is_run(model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("generation was not asked for")

    monkeypatch.setattr(model, "generate", refuse)
    found = run_model(model, tokenizer, SUITE, metrics=["forget_probability"])
    assert list(found.sets) == ["forget"]
    row = found.sets["forget"].rows[0]
    assert row.answer is not None
    assert (row.paraphrase, row.wrong, row.greedy) == (None, (), None)

    forwards = []
    monkeypatch.undo()
    handle = model.register_forward_hook(lambda _, __, output: forwards.append(output.logits.dim()))
    greedy = run_model(model, tokenizer, SUITE, metrics=["forget_rouge"], max_new_tokens=3)
    handle.remove()
    assert greedy.sets["forget"].rows[0].answer is None
    assert len(forwards) == 3  # one a token: no scoring pass


def test_documents_are_scored_and_not_asked(model: Any, tokenizer: Any) -> None:
    row = run_model(model, tokenizer, SUITE, max_new_tokens=3).sets["retain"].rows[-1]
    assert row.answer is not None and len(row.answer.logps) > 3
    assert row.greedy is None


def test_modes_are_restored_and_progress_counts(model: Any, tokenizer: Any) -> None:
    model.train()
    model.lm_head.eval()
    seen: list[tuple[int, int, str]] = []
    found = run_model(model, tokenizer, SUITE, max_new_tokens=3, progress=lambda *call: seen.append(call))
    assert model.training and model.model.layers[0].training and not model.lm_head.training
    assert seen[-1] == (5, 5, "generation")  # three forget rows, two retain rows that are not documents
    assert (9, 9, "answers") in seen  # 6 on forget, 3 on retain
    assert set(found.seconds) == {"first_pass", "generation"}


def test_modes_and_settings_are_restored_after_an_error(model: Any, tokenizer: Any) -> None:
    before = model.generation_config
    model.train()

    def fail(*_: Any) -> None:
        raise RuntimeError("mid-way")

    handle = model.lm_head.register_forward_hook(fail)
    for metrics in (["forget_probability"], ["forget_rouge"]):
        with pytest.raises(RuntimeError, match="mid-way"):
            run_model(model, tokenizer, SUITE, metrics=metrics)
        assert model.training
        assert model.generation_config is before
    handle.remove()


def test_target_fluency_scores_the_generated_tokens(model: Any, tokenizer: Any) -> None:
    found = run_model(model, tokenizer, SUITE, metrics=["answer_perplexity"], max_new_tokens=5)
    assert found.sets["forget"].rows[0].greedy_under_target is None
    scored = add_target_fluency(found, model, tokenizer)
    for row in scored.sets["forget"].rows:
        assert row.greedy_under_target is not None
        assert len(row.greedy_under_target.logps) == len(row.greedy_tokens) + (row.greedy_end is not None)
        assert row.greedy_under_target.hits.all()  # its own greedy answer is its argmax everywhere
    other = add_target_fluency(found, zoo.model("llama", seed=1), tokenizer).sets["forget"].rows[0]
    assert other.greedy_under_target is not None and not other.greedy_under_target.hits.all()
    assert "fluency" in scored.seconds


def test_answers_end_where_the_models_positions_do() -> None:
    gpt2, words = zoo.model("gpt2", max_position_embeddings=24), zoo.tokenizer("gpt2")
    row, longer = Row("Hi?", "Yes"), Row("Who wrote it?", "No")
    suite = Suite("small", {"forget": (row, longer)}, {"forget": ("rouge",)})
    found = run_model(gpt2, words, suite, max_new_tokens=200)
    for one in found.sets["forget"].rows:
        assert one.greedy_end is not None or len(one.greedy_prompt) + len(one.greedy_tokens) == 24
    assert found.notes == ("2 greedy answers had less than 200 tokens of room; the model takes 24",)


@pytest.mark.parametrize(
    ("positions", "length", "said"),
    [
        (512, 7, None),
        (
            512,
            5,
            "2 of 3 rows of texts, 1 of 1 rows of asked lost what is beyond 5 tokens; training.max_length=7 keeps all",
        ),
        (6, 512, "1 of 3 rows of texts lost what is beyond 6 tokens; the longest has 7, and the model takes 6"),
    ],
)
def test_rows_that_lose_their_end_are_counted(positions: int, length: int, said: str | None) -> None:
    words = word_tokens.tokenizer("a b c d e f")
    texts = tuple(
        Row("", text, kind="document") for text in ("a b c d e f", "a b c d e", "a b c")
    )  # and an end: 7, 6, 4
    asked = Row("a b", " c d e", kind="completion")  # 6 tokens with its end
    suite = Suite("small", {"texts": texts, "asked": (asked,)}, {"texts": ("min_k",), "asked": ("probability",)})
    model = zoo.model("llama", vocab_size=len(words), max_position_embeddings=positions)
    assert run_model(model, words, suite, max_length=length).notes == (() if said is None else (said,))


def test_expected_answers_are_cut_to_what_could_be_generated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that copies the text word by word until its limit of 4 tokens has copied it perfectly."""
    words = word_tokens.tokenizer("it stood by the door of mill")
    row = Row("it stood", " by the door of the mill", kind="completion")
    copied = GreedyAnswer("by the door of", (1, 2, 3, 4), None, (5, 6), 4)
    monkeypatch.setattr(outputs, "greedy_answers", lambda *_, **__: [copied, copied])
    whole = Suite("small", {"one": (row,), "two": (row,)}, {"one": ("rouge_f1",), "two": ("rouge_f1", "probability")})
    found = run_model(
        zoo.model("llama", vocab_size=len(words)), words, replace(whole, cut_sets=("two",)), max_new_tokens=4
    )
    scored = score(replace(whole, cut_sets=("two",)), target=found)
    # whole: 4 words given, all right, of 6: 2 * 4 / (4 + 6); cut: 2 * 4 / (4 + 4)
    assert {key: one.value for key, one in scored.rows["target"].items() if "rouge" in key} == {
        "one_rouge_f1": 0.8, "two_rouge_f1": 1.0,
    }  # fmt: skip
    assert [sample["expected"] for sample in scored.samples] == [row.answer, " by the door of"]
    answer = found.sets["two"].rows[0].answer
    assert answer is not None and len(answer.logps) == 5  # 4 words and the end
    with pytest.raises(ConfigError, match="a set 'three' to cut that is not there"):
        replace(whole, cut_sets=("three",))


def test_nan_is_an_error(model: Any, tokenizer: Any) -> None:
    model.lm_head.weight.data[0, 0] = float("nan")
    with pytest.raises(ModelError, match="NaN log-probabilities on 9 of 9 answers"):
        run_model(model, tokenizer, SUITE, metrics=["probability", "truth_ratio", "extraction_strength"])


def test_padding_id_does_not_matter(model: Any, tokenizer: Any) -> None:
    template = Template.of(tokenizer)
    examples = [encode(tokenizer, template, row, max_length=512) for row in ROWS]
    for padding in (pad_id(tokenizer), 7):
        scores = outputs.score_examples(model, examples, padding)
        assert [len(one.logps) for one in scores] == [example.answer_length for example in examples]
    alone = [outputs.score_examples(model, [example], 0)[0] for example in examples]
    for left, right in zip(scores, alone, strict=True):
        np.testing.assert_allclose(left.logps, right.logps, atol=2e-5)


def made(lengths: list[tuple[int, int]]) -> list[Example]:
    """Examples of so many tokens, of which so many are answer."""
    return [Example([0] * tokens, tokens - answer, True, tokens) for tokens, answer in lengths]


def test_scoring_batches_on_a_cpu_count_padded_tokens() -> None:
    # 2**26 logits / 2**17 = 512 padded tokens: five rows of 100
    batches = outputs.scoring_batches(made([(100, 10)] * 12), 2**17, None)
    assert [len(batch) for batch in batches] == [5, 5, 2]
    # a small vocabulary leaves the bound of 2048 tokens: 20 rows
    assert [len(batch) for batch in outputs.scoring_batches(made([(100, 10)] * 50), 1000, None)] == [20, 20, 10]


def test_scoring_batches_on_a_gpu_count_answer_tokens_against_the_free_memory() -> None:
    # .15 of 4e9 bytes are 1.5e8 float32 logits; by 300,000 tokens that is 500 answer tokens: 50 rows
    free, vocabulary = 4 * 10**9, 300_000
    batches = outputs.scoring_batches(made([(100, 10)] * 120), vocabulary, free)
    assert [len(batch) for batch in batches] == [50, 50, 20]
    assert sorted(index for batch in batches for index in batch) == list(range(120))
    # twenty times the memory: 10,000 answer tokens, so the 8192 padded ones bound it
    assert [len(batch) for batch in outputs.scoring_batches(made([(100, 10)] * 120), vocabulary, 20 * free)] == [81, 39]
    # next to none: 256 answer tokens all the same, and an answer of more stands alone
    tight = outputs.scoring_batches(made([(400, 300), (90, 80), (90, 80), (90, 80), (90, 80)]), vocabulary, 0)
    assert tight == [[0], [1, 2, 3], [4]]


def test_rows_of_a_generation_batch() -> None:
    # a 7B model: 2 * 32 layers * 32 heads * 128 * 500 tokens * 2 bytes = 262 MB a row
    row = 2 * 32 * 32 * 128 * 500 * 2
    assert generation.rows_that_fit(row, 32_000, None) == 2**30 // row == 4
    # .3 of 60 GB = 18 GB: 68 rows
    assert generation.rows_that_fit(row, 32_000, 60 * 10**9) == 18 * 10**9 // row == 68
    assert generation.rows_that_fit(row, 32_000, 0) == 1
    assert generation.rows_that_fit(100, 1000, 10**12) == 256
    # logits: .15 of 1e8 bytes are 3.75e6 values, 37 rows of 100,000
    assert generation.rows_that_fit(1, 100_000, 10**8) == 37


def test_a_cpu_has_no_gpu_memory() -> None:
    assert generation.free_bytes(torch.device("cpu")) is None
