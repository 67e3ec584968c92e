"""64 sampled answers to a prompt that is run once, against 64 generations of one answer each.

A Llama shape of random weights. Both ways draw with the same numbers and so say the same; they are timed in turn in one
process, and the ratio is the median of pairs. ``python -m benchmarks.sampling`` takes about 10 minutes on two cores;
``--quick`` one smaller shape.
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.measure import paired, write
from benchmarks.weight_methods import TOKENIZER, model_of
from expunge import Row
from expunge.audits.parts.shared_samples import Drawing, Draws, sampled_texts
from expunge.data.encode import encode_prompt
from expunge.data.template import Template
from expunge.evaluation.generation import greedy_answers

SAMPLES, NEW = 64, 16
SHAPES = {"small": (256, 4, 4096), "large": (768, 12, 32_000)}
PROMPTS = {"short": 8, "long": 128}


def one_by_one(model: Any, row: Row) -> list[str]:
    """Each sample a call of ``generate`` of its own, as a loop over seeds is."""
    texts = Template.of(TOKENIZER)
    draws = Draws(0, encode_prompt(TOKENIZER, texts, row, max_length=512), SAMPLES, NEW)
    return [
        greedy_answers(
            model,
            TOKENIZER,
            texts,
            [row],
            max_new_tokens=NEW,
            choose=lambda _, __, sample=sample: Drawing(draws.of([sample]), 1.0),  # type: ignore[misc]
        )[0].text
        for sample in range(SAMPLES)
    ]


def shared(model: Any, row: Row) -> list[str]:
    """All samples behind one prefill."""
    (found,) = sampled_texts(
        model,
        TOKENIZER,
        Template.of(TOKENIZER),
        [row],
        samples=SAMPLES,
        temperature=1.0,
        seed=0,
        max_length=512,
        max_new_tokens=NEW,
    )
    return found


def compared(shape: str, prompt: str, rounds: int) -> dict[str, Any]:
    """Seconds of both ways, their ratio, and how many of the samples are the same text."""
    hidden, layers, vocabulary = SHAPES[shape]
    model = model_of(vocabulary, hidden=hidden, layers=layers)
    row = Row("word " * PROMPTS[prompt], "an answer")
    same = sum(a == b for a, b in zip(shared(model, row), one_by_one(model, row), strict=True))
    found = paired(lambda: shared(model, row), lambda: one_by_one(model, row), rounds)
    return {
        "hidden": hidden,
        "layers": layers,
        "vocabulary": vocabulary,
        "prompt_words": PROMPTS[prompt],
        "new_tokens": NEW,
        "samples": SAMPLES,
        "same_texts": same,
        **found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="the small shape alone, and fewer rounds; not written down"
    )
    quick = parser.parse_args().quick
    if quick:
        print({prompt: compared("small", prompt, 1) for prompt in PROMPTS})
        return
    write("sampling", {f"{shape}, {prompt}": compared(shape, prompt, 3) for shape in SHAPES for prompt in PROMPTS})


if __name__ == "__main__":
    main()
