"""The words of a report: what metrics, verdicts and effects are called, and what they mean to a reader
outside the field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

HEADLINE = (
    "forget_quality",
    "forget_quality_ks",
    "model_utility",
    "forget_truth_probability",
    "forget_truth_ratio",
    "forget_probability",
    "retain_probability",
    "probes_leakage",
    "forget_rouge",
    "retain_rouge",
    "probes_rouge",
    "harmful_harmful_rate",
    "harmful_holdout_harmful_rate",
    "harmful_rejection",
    "normal_perplexity",
    "normal_exact",
    "forgotten_left",
    "least_kept",
    "forget_top_option",
    "forget_chance",
    "neighbours_top_option",
    "rest_top_option",
    "forget_longest_run",
)
"""The metrics every table begins with, in this order, where a run has them. Of those on what must go the more faithful
ones come first (:data:`BY_TRUST`)."""

BY_TRUST = (
    "truth_probability",
    "truth_ratio",
    "probability",
    "exact_memorization",
    "leakage",
    "rouge",
    "extraction_strength",
)
"""Metrics by how well they tell models that know from models that do not: the order of docs/meta.md, the mean over the
question as asked and in other words."""


@dataclass(frozen=True)
class MetricName:
    """How one metric is shown: ``label`` on the page, ``short`` in the terminal (18 characters at most for
    known metrics), ``meaning`` in one plain sentence (may be empty), ``group`` the set it was measured on."""

    label: str
    short: str
    meaning: str
    group: str


_PLAIN = {
    "forget_quality": MetricName(
        "Forget quality (p)",
        "forget quality p",
        "Could these truth ratios come from the retrained model? Above 0.05 the two cannot be told apart.",
        "",
    ),
    "forget_quality_ks": MetricName(
        "Forget quality (D)",
        "forget quality D",
        "Largest gap between its truth-ratio distribution and the retrained model's; 0 is no gap.",
        "",
    ),
    "model_utility": MetricName(
        "Model utility",
        "model utility",
        "Harmonic mean of the scores on everything that must stay.",
        "",
    ),
    "forgotten_left": MetricName(
        "Left of the forgotten skill",
        "forgotten left",
        "Share of the target's score that it still reaches on the skill to forget.",
        "",
    ),
    "least_kept": MetricName(
        "Least kept",
        "least kept",
        "Share of the target's score that it still reaches on the skill that suffered most among those to keep.",
        "",
    ),
}

_METRICS = {
    "probability": ("probability", "prob", "How likely the model finds the right answer, per token."),
    "rouge": ("ROUGE-L", "ROUGE-L", "Share of the right answer that its own answer repeats."),
    "truth_ratio": (
        "truth ratio",
        "truth ratio",
        "How it ranks wrong answers against the right one.",
    ),
    "extraction_strength": (
        "extraction strength",
        "extraction",
        "Share of the answer that it completes once it is given the beginning.",
    ),
    "exact_memorization": (
        "exact memorization",
        "memorization",
        "Share of the answer's tokens that are the model's first choice.",
    ),
    "truth_probability": (
        "truth probability",
        "truth prob",
        "Probability of the right answer over right and wrong ones; 0.5 is no preference.",
    ),
    "harmful_rate": ("harmful rate", "harm rate", "Share of its answers that the judge calls unsafe."),
    "perplexity": (
        "perplexity of the right answers",
        "own perpl.",
        "How surprising it finds the right answers itself; 1 is not at all.",
    ),
    "exact": ("answers given right", "right", "Share of its answers that are the right one, word for word."),
    "answer_perplexity": (
        "answer perplexity",
        "perplexity",
        "How surprising the target finds its answers; very high means not fluent text.",
    ),
    "distinct_4grams": (
        "distinct 4-grams",
        "distinct 4",
        "Share of its 4-token sequences that occur once; low is a loop.",
    ),
    "repetition": ("repetition", "repetition", "Share of its tokens that repeat one of the 16 before them."),
    "entropy": ("entropy", "entropy", "Variety of the words in its answers, in bits."),
    "solved": ("solved", "solved", "Share of its answers that are right."),
    "exact_number": ("right numbers", "number", "Share of its answers that end in the right number."),
    "pass_at_1": (
        "code that passes (pass@1)",
        "pass@1",
        "Share of its answers whose code passes all tests of the task.",
    ),
    "exact_span": ("exact spans", "exact span", "Share of its answers that are a right answer, and nothing more."),
    "contained_span": (
        "contained spans",
        "contained",
        "Share of its answers that contain a right answer in one piece.",
    ),
    "token_f1": ("shared words (F1)", "F1", "How many words its answers share with the nearest right answer."),
    "top_option": (
        "right options first",
        "top option",
        "Share of questions whose right option it finds likeliest; options that tie share.",
    ),
    "chance": ("chance", "chance", "What guessing gets: one over the number of options."),
    "bleu": ("BLEU", "BLEU", "How many stretches of up to four words its answers share with the expected ones."),
    "meteor": ("METEOR", "METEOR", "How many words its answers share with the expected ones, and how well in order."),
    "longest_run": (
        "longest copied run",
        "longest run",
        "Share of the expected words that its answers copy in one piece, to the letter.",
    ),
    "unique_tokens": ("distinct tokens", "distinct", "Share of its tokens that are not a repetition; low is a loop."),
    "reference_perplexity": (
        "perplexity under the reference",
        "ref. perpl.",
        "How surprising a model that took no part finds its answers; very high means not fluent text.",
    ),
    # metrics that many tasks of lm-evaluation-harness have
    "acc": ("accuracy", "accuracy", "Share of questions that it gets right."),
    "acc_norm": (
        "accuracy, normalised by length",
        "acc norm",
        "Share of questions whose right option it finds likeliest for its length.",
    ),
    "exact_match": ("exact match", "exact match", "Share of its answers that are the expected one."),
    "word_perplexity": ("perplexity a word", "word perpl.", "How surprising it finds the texts; 1 is not at all."),
    "byte_perplexity": ("perplexity a byte", "byte perpl.", "How surprising it finds the texts; 1 is not at all."),
    "bits_per_byte": ("bits a byte", "bits a byte", "How many bits it would take to write the texts; 0 is none."),
    "flagged": ("prompts flagged", "flagged", "Share of the task's prompts that a guard acted on: false alarms."),
    "leakage": ("leakage", "leakage", "Share of the answer's content words that slip out."),
    "rejection": ("rejection", "rejection", "Share of answers that decline or say they do not know."),
    "leakage_judge": (
        "leakage by the judge",
        "leaks (judge)",
        "How much of the right answers it gives away, by the answer judge: 0 nothing, 1 all.",
    ),
    "leakage_entailment": (
        "leakage by entailment",
        "entailed",
        "How much of the right answers its own entail: 0 nothing, 1 all.",
    ),
    "answer_quality": ("answer quality", "quality", "Whether its answers are fluent and on topic, 0 to 1."),
    "min_k": (
        "Min-40% log-probability",
        "Min-40%",
        "How likely it finds the least likely 40% of the tokens; nearer 0 looks more like text it was trained on.",
    ),
    "membership_auc": (
        "membership AUC",
        "member AUC",
        "How well Min-40% tells texts to forget from unseen ones: 1 they look trained on, 0.5 nothing tells.",
    ),
    "privleak": (
        "privacy leakage (PrivLeak)",
        "PrivLeak",
        "How far membership shows otherwise than in the retrained model; 0 is just as in that.",
    ),
    "rouge_f1": ("ROUGE-L F1", "ROUGE-L F1", "How much its answers and the expected ones repeat of each other."),
    "as_target_rouge": (
        "ROUGE-L with the target's answers",
        "as target",
        "How much its answers share with the target's: 1 it still says the same.",
    ),
    "as_target_bleu": (
        "BLEU with the target's answers",
        "as target B",
        "How many stretches of up to four words its answers share with the target's: 1 it still says the same.",
    ),
    "answer_words": ("words of an answer", "words", "How many words its answers have."),
    "hallucination_avoidance": (
        "nothing invented",
        "uninvented",
        "Share of its answers that decline, or give the right answer whole.",
    ),
}

_TRUTH_RATIO = {
    "forget": "How alike right and wrong answers are to it: 1 is no preference, near 0 a clear one.",
    "kept": "How clearly it prefers the right answer to wrong ones: 1 is certain, 0 not at all.",
}

_SETS = {
    "real_authors": ("Real authors", "real auth."),
    "world_facts": ("World facts", "world facts"),
    "harmful": ("Harmful prompts", "harmful"),
    "harmful_holdout": ("Held-out harmful prompts", "held-out"),
    "harmful_paraphrased": ("Reworded harmful prompts", "reworded"),
    "normal": ("Normal prompts", "normal"),
    "letter": ("Options by letter", "letter"),
    "option": ("Options in words", "option"),
    "neighbours": ("Neighbours", "neigh."),
    "probes": ("Held-out questions", "probes"),
    "hard_retain": ("Hard to keep", "hard"),
    "general_retain": ("Elsewhere", "general"),
    "rest": ("Other subjects", "rest"),
    "forget_words": ("Forget in words", "forget w."),
    "neighbours_words": ("Neighbours in words", "neigh. w."),
    "rest_words": ("Other subjects in words", "rest w."),
    "bio": ("WMDP biology", "bio"),
    "chem": ("WMDP chemistry", "chem"),
    "cyber": ("WMDP cybersecurity", "cyber"),
    "bio_words": ("WMDP biology in words", "bio w."),
    "chem_words": ("WMDP chemistry in words", "chem w."),
    "cyber_words": ("WMDP cybersecurity in words", "cyber w."),
    "mmlu_words": ("MMLU in words", "mmlu w."),
    "ar": ("Arabic", "ar"),
    "de": ("German", "de"),
    "en": ("English", "en"),
    "es": ("Spanish", "es"),
    "hi": ("Hindi", "hi"),
    "vi": ("Vietnamese", "vi"),
    "zh": ("Chinese", "zh"),
    "gsm8k": ("GSM8K", "gsm8k"),
    "mmlu": ("MMLU", "mmlu"),
}


def metric_name(key: str) -> MetricName:
    """The name of a ``<set>_<metric>`` key. An unknown metric is called by its own key with spaces."""
    if key in _PLAIN:
        return _PLAIN[key]
    for metric in sorted(_METRICS, key=len, reverse=True):
        if key == metric or key.endswith("_" + metric):
            label, short, meaning = _METRICS[metric]
            group = key[: -len(metric)].rstrip("_")
            if not group:
                return MetricName(label[0].upper() + label[1:], short, meaning, "")
            if metric == "truth_ratio":
                meaning = _TRUTH_RATIO["forget" if group.startswith("forget") else "kept"]
            title, short_set = _SETS.get(group, (_words(group), group.replace("_", " ")))
            return MetricName(f"{title} {label}", f"{short_set} {short}", meaning, group)
    return MetricName(_words(key), key.replace("_", " "), "", "")


def leading(keys: Sequence[str], *scores: Mapping[str, Any]) -> list[str]:
    """The ``keys`` that a table over these runs begins with: what their suites lead with, :data:`HEADLINE`, and tasks
    that were asked for by name; where there is no headline metric, all but the parts of groups of tasks. ``scores`` are
    contents of ``scores.json``."""
    harness = [one.get("harness") or {} for one in scores]
    asked, parts = ({key for one in harness for key in one.get(name, ())} for name in ("main", "parts"))
    first = (key for suite in dict.fromkeys(one.get("suite") for one in scores) for key in _leading_of(suite))
    known = [key for key in dict.fromkeys((*first, *HEADLINE)) if key in keys]
    others = (key for key in keys if key not in known)
    return known + [key for key in others if (key in asked if known else key not in parts)]


def _leading_of(suite: str | None) -> tuple[str, ...]:
    """The scores that a suite leads with; none where it is not installed here."""
    from expunge.benchmarks.registry import get_benchmark, suite_names

    return get_benchmark(suite).leading if suite in suite_names() else ()


def metric_order(keys: Sequence[str]) -> list[str]:
    """``keys`` with the headline metrics first; the others set by set, those of a set by :data:`BY_TRUST`."""
    sets: dict[str, list[tuple[int, str]]] = {}
    for key in keys:
        if key not in HEADLINE:
            metric = next((one for one in BY_TRUST if key.endswith(f"_{one}")), "")
            place = BY_TRUST.index(metric) if metric else len(BY_TRUST)
            sets.setdefault(key.removesuffix(metric), []).append((place, key))
    others = [key for one in sets.values() for _, key in sorted(one, key=lambda pair: pair[0])]
    return [key for key in HEADLINE if key in keys] + others


def set_title(name: str) -> str:
    """A set's name as a heading: ``real_authors`` is ``Real authors``."""
    return _SETS.get(name, (_words(name), ""))[0]


TONES = {
    "indistinguishable from never trained": "good",
    "over-unlearned": "caution",
    "not forgotten": "bad",
    "still knows the answers": "bad",
    "harmful copy, not an erasure": "caution",
    "gibberish": "bad",
    "broken": "bad",
    "no claim": "neutral",
}
"""The tone of a verdict's card. It never carries meaning alone: the label and a mark say the same."""

SHORT_VERDICTS = {
    "indistinguishable from never trained": "as never trained",
    "still knows the answers": "still knows",
    "harmful copy, not an erasure": "harmful copy",
}
"""Verdict labels that are too long for a table column."""

EFFECTS = {
    "removal": (
        "Removal",
        "The weights themselves were changed: nothing has to stay in place for this to hold.",
    ),
    "suppression": (
        "Suppression",
        "The weights are untouched. What is hidden comes back as soon as the hook or guard is lifted.",
    ),
    "harmful copy": (
        "Harmful copy",
        "The weights were changed toward the forget rows on purpose: subtract the change from the target.",
    ),
    "none": ("No change", "Neither the weights nor the model's activations or inputs were changed."),
}
"""What was done to the model, by the verdict's ``effect``: its name and what that means."""


def _words(key: str) -> str:
    text = key.replace("_", " ").strip()
    return text[:1].upper() + text[1:]
