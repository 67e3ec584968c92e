"""Tasks for lm-evaluation-harness made from local files: a choice, an answer, a text, and a group of two of them."""

from __future__ import annotations

import json
from pathlib import Path

ROWS = [
    {"question": "What colour is the sky?", "choices": ["blue", "a green thing", "red"], "answer": 0},
    {"question": "Who wrote it?", "choices": ["Ann", "Bob", "Cleo the third"], "answer": 1},
    {"question": "How many legs has a spider that is well and rests?", "choices": ["eight", "six", "two"], "answer": 2},
    {"question": "Is it so?", "choices": ["no", "yes"], "answer": 0},
]

_CHOICE = """
task: local_choice
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list:
  - metric: acc
metadata:
  version: 1.5
"""
_ANSWER = """
task: local_answer
output_type: generate_until
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: "{{choices[answer]}}"
generation_kwargs:
  until: ["\\n"]
  max_gen_toks: 4
metric_list:
  - metric: exact_match
metadata:
  version: 2
"""
_TEXT = """
task: local_text
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list:
  - metric: word_perplexity
metadata:
  version: 0
"""
_GROUP = """
group: local_group
task: [local_choice, local_answer]
aggregate_metric_list:
  - metric: acc
    weight_by_size: true
metadata:
  version: 7
"""


def write_tasks(folder: Path) -> Path:
    """The folder with the tasks' files, made there."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    data = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {rows}}}}}\ntest_split: test\n"
    for name, text in (("choice", _CHOICE), ("answer", _ANSWER), ("text", _TEXT)):
        (folder / f"{name}.yaml").write_text(text.lstrip() + data, encoding="utf-8")
    (folder / "group.yaml").write_text(_GROUP.lstrip(), encoding="utf-8")
    return folder
