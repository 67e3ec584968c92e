"""4,000 rows of question and answer: load, check for overlap, tokenize, batch; and how that grows from 400 rows."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measure import seconds, write
from expunge import Request, get_world
from expunge.data.batches import collate, length_batches, pad_id
from expunge.data.encode import encode_all
from expunge.data.template import Template


def main(rounds: int = 5) -> None:
    world = get_world("authors")
    tokenizer = world.tokenizer()
    rows = [*world.request().forget, *world.request().retain]
    result: dict[str, Any] = {}
    for count in (400, 4_000):
        with tempfile.TemporaryDirectory() as folder:
            files = {"forget": Path(folder) / "forget.jsonl", "retain": Path(folder) / "retain.jsonl"}
            lines = [
                json.dumps({"question": f"{rows[i % len(rows)].prompt} ({i})", "answer": rows[i % len(rows)].answer})
                for i in range(count)
            ]
            files["forget"].write_text("\n".join(lines[: count // 10]))
            files["retain"].write_text("\n".join(lines[count // 10 :]))

            def load() -> Request:
                return Request.load(str(files["forget"]), retain=str(files["retain"]))  # noqa: B023

            def batches() -> None:
                request = load()
                examples = encode_all(
                    tokenizer, Template.of(tokenizer), [*request.forget, *request.retain], max_length=512
                )
                for chosen in length_batches([len(e.input_ids) for e in examples], 16, 2**20):
                    collate([examples[i] for i in chosen], pad_id(tokenizer))

            batches()
            result[f"rows_{count}"] = {
                "load_seconds": round(median(seconds(load) for _ in range(rounds)), 3),
                "load_tokenize_batch_seconds": round(median(seconds(batches) for _ in range(rounds)), 3),
            }
    write("loading", result)


if __name__ == "__main__":
    main()
