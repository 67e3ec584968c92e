"""The real passages of suite ``wpu`` through the teacher, under three unlike tokenizers. By hand:

``python -m benchmarks.teacher_passages FOLDER`` with a folder that has ``forget_2_passages.json`` and so on, as the
paper's authors published them. Models are random and tokenizers trained on the passages: lengths, alignment and sizes
are real, what the teacher says is not.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, TokenizersBackend

from benchmarks.measure import write
from expunge.requests.rows import Row
from expunge.teachers.build import made_teacher
from expunge.teachers.name_teaching import NameTeaching
from expunge.teachers.names import Subject
from expunge.training.run import Run
from expunge.training.settings import TrainingSettings

VOCABULARY = 32000  # of the model; the tokenizers, trained on the passages alone, use a part of it
_WORDS = 4000
_SPECIAL = ["<unk>", "</s>"]


def byte_level(texts: list[str]) -> Tokenizer:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=_WORDS, special_tokens=_SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator(texts, trainer)
    return raw


def unigram(texts: list[str]) -> Tokenizer:
    raw = Tokenizer(models.Unigram())
    raw.normalizer = normalizers.NFKC()
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=_WORDS, special_tokens=_SPECIAL, unk_token="<unk>", show_progress=False
    )
    raw.train_from_iterator(texts, trainer)
    return raw


def wordpiece(texts: list[str]) -> Tokenizer:
    raw = Tokenizer(models.WordPiece(unk_token="<unk>"))
    raw.normalizer = normalizers.BertNormalizer(lowercase=True)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece()
    raw.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=_WORDS, special_tokens=_SPECIAL, show_progress=False)
    )
    return raw


KINDS = {"byte-level BPE": byte_level, "unigram": unigram, "wordpiece": wordpiece}


def passages(folder: Path) -> list[tuple[str, str, tuple[str, ...]]]:
    """Name, passage and substitute names of each person in the folder."""
    substitutes: dict[str, list[str]] = {}
    for file in sorted(folder.glob("replace_name_*.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        for name, names in found.items() if isinstance(found, dict) else ():
            if isinstance(names, list):
                substitutes.setdefault(name, names)
    rows = [row for file in sorted(folder.glob("*passages.json")) for row in json.loads(file.read_text("utf-8"))]
    return [(row["name"], row["passage"], tuple(substitutes.get(row["name"], ())[:20])) for row in rows]


def measure(folder: Path) -> dict[str, Any]:
    people = passages(folder)
    texts = [text for _, text, _ in people]
    result: dict[str, Any] = {"people": len(people), "characters": [len(text) for text in texts], "kinds": {}}
    for kind, train in KINDS.items():
        tokenizer = TokenizersBackend(tokenizer_object=train(texts), eos_token="</s>", unk_token="<unk>")
        torch.manual_seed(0)
        sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
        config = LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=1024, initializer_range=0.2, **sizes)
        model = LlamaForCausalLM(config).eval()
        each = []
        for name, text, names in people:
            teaching = NameTeaching((Subject(name),), names)
            run = Run(TrainingSettings(max_length=512))  # type: ignore[call-arg]
            began = time.perf_counter()
            teacher = made_teacher(teaching, model, tokenizer, [Row("", text, "document", source=name)], run)
            seconds = time.perf_counter() - began
            facts = teacher.store.summary()
            answers = sum(example.answer_length for example in teacher.examples)
            each.append(
                {
                    "chunks": facts["rows"],
                    "tokens": answers,
                    "taught": facts["positions"],
                    "substitutes": len(names) or teaching.count,
                    "share_of_dense_float32": facts["share_of_dense_float32"],
                    "kl_lost_mean": facts["kl_lost_mean"],
                    "kl_lost_max": facts["kl_lost_max"],
                    "seconds": round(seconds, 2),
                }
            )
        result["kinds"][kind] = {"vocabulary": len(tokenizer), "passages": each, **_over(each)}
        print(kind, {**result["kinds"][kind], "passages": len(each)}, flush=True)
    return result


def _over(each: list[dict[str, Any]]) -> dict[str, Any]:
    shares = [one["taught"] / one["tokens"] for one in each]
    return {
        "tokens": sum(one["tokens"] for one in each),
        "taught_share": round(sum(one["taught"] for one in each) / sum(one["tokens"] for one in each), 4),
        "taught_share_least": round(min(shares), 4),
        "share_of_dense_float32": max(one["share_of_dense_float32"] for one in each),
        "kl_lost_mean": mean(one["kl_lost_mean"] for one in each),
        "kl_lost_max": max(one["kl_lost_max"] for one in each),
        "seconds": round(sum(one["seconds"] for one in each), 1),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    write("teacher_passages", measure(parser.parse_args().folder))
