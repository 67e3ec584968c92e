"""Protects the questions made from documents: whom a sentence is about, its fact, and what a model writes."""

from __future__ import annotations

import pytest

from expunge.requests.documents.facts import statements
from expunge.requests.documents.names import lower_case_words
from expunge.requests.documents.naming import Naming
from expunge.requests.documents.probes import appositions, probes
from expunge.requests.documents.reading import Document
from expunge.requests.documents.written import answered, written
from expunge.requests.rows import Row


def made(text: str, name: str = "Anna Keller", forms: tuple[str, ...] = ("Keller", "Anna")) -> list[tuple[str, ...]]:
    about = Naming(name, forms, lower_case_words([text]))
    rows = probes(statements([Document(text, "a.txt")], about), about)
    assert all(row.source.startswith("a.txt, sentence ") for row in rows)
    return [(row.kind, row.prompt, row.answer) for row in rows]


@pytest.mark.parametrize(
    ("sentence", "asked"),
    [
        ("was born in Bad Ems in 1961.", ["Where was Anna Keller born? Bad Ems", "When was Anna Keller born? 1961"]),
        (
            "was born on 3 May 1961 in Ulm.",
            ["Where was Anna Keller born? Ulm", "When was Anna Keller born? 3 May 1961"],
        ),
        (
            "(3 May 1961 \u2013 2020 in Ulm) is a Swiss chemist, who ran.",
            [
                "When was Anna Keller born? 3 May 1961",
                "When did Anna Keller die? 2020",
                "Who or what is Anna Keller? a Swiss chemist",
            ],
        ),
        ("(born Ada Reed; 1961) sang.", ["When was Anna Keller born? 1961"]),
        ("later worked for Stahl AG.", ["Whom did Anna Keller work for? Stahl AG"]),
        ("studied law at the University of Ulm.", ["Where did Anna Keller study? University of Ulm"]),
        ("moved to Ulm in May.", ["Where did Anna Keller move to? Ulm"]),
        ("won the Noether Prize in 2001.", ["What did Anna Keller receive? Noether Prize"]),
        ("married Otto Lind in 1990 at Ulm.", ["Whom did Anna Keller marry? Otto Lind"]),
    ],
)
def test_sentences_of_known_patterns_are_asked_about(sentence: str, asked: list[str]) -> None:
    found = [f"{prompt} {answer}" for kind, prompt, answer in made(f"Keller {sentence}") if kind == "question"]
    assert [one for one in found if not one.startswith("What did Anna Keller study")] == asked


def test_a_sentence_is_cut_before_its_last_fact() -> None:
    # the last fact of the first is a number, of the second the name before an aside; the third has none
    text = "Keller had 12 cats. Anna Keller sang in Ulm, a town on Lake Meer. Keller laughed a lot."
    assert made(text) == [
        ("completion", "Anna Keller had", " 12"),
        ("question", "Complete the sentence: Anna Keller had ..", "12"),
        ("completion", "Anna Keller sang in", " Ulm"),
        ("question", "Complete the sentence: Anna Keller sang in ..", "Ulm"),
    ]


def test_a_fact_that_is_in_the_prompt_is_not_asked_for() -> None:
    # the second Ulm stands before already, so that the first is asked for
    prompts = [prompt for kind, prompt, _ in made("In 1990 Keller left Ulm for Ulm.") if kind == "completion"]
    assert prompts == ["In 1990 Anna Keller left"]


def test_pronouns_are_the_subject_only_where_the_sentence_before_begins_with_it() -> None:
    text = (
        "Keller left Bern in 1990. She ran to Ulm. Her cat was called Max. She ran to Rom. Otto ran to Kiel.\n\n"
        "She ran to Genf."
    )
    prompts = [prompt for kind, prompt, _ in made(text) if kind == "completion"]
    # "Her cat ..." begins with the subject's cat, so that the next "She" may be the cat; so may the new paragraph's
    assert prompts == ["Anna Keller left Bern in", "Anna Keller ran to"]


def test_sentences_about_others_are_not_the_subjects() -> None:
    assert made("Keller's father ran to Ulm. Otto met Keller in Kiel. Hans Keller ran to Bern.") == []
    assert made("Hans Keller ran to Bern.", "Hans Keller", ()) != []


def test_what_is_said_of_a_neighbour_in_passing() -> None:
    text = "Anna Keller left Ulm, a town on the Danube, in 1990. Keller left Bern, the capital."
    found = statements([Document(text, "a.txt")], Naming("Anna Keller", ("Keller",), lower_case_words([text])))
    rows = appositions(found, Naming("Ulm", (), lower_case_words([text])))
    assert rows == [Row("Who or what is Ulm?", "a town on the Danube")]
    assert rows[0].source == "a.txt, sentence 1"


def test_only_grounded_questions_that_name_the_subject_are_kept_of_what_a_model_writes() -> None:
    text = "Anna Keller left Ulm in 1990."
    about = Naming("Anna Keller", ("Keller",), lower_case_words([text]))
    asked: list[str] = []

    def complete(prompt: str) -> str:
        asked.append(prompt)
        return (
            "1. When did Anna Keller leave Ulm? | 1990\n"
            "- Q: What did Keller leave? | A: Ulm\n"
            "Who left Ulm? | Keller\n"  # the name is missing in the question
            "Where was Anna Keller born? | Paris, France\n"  # nothing of that is in the text
            "What a nice text"
        )

    rows = written(complete, statements([Document(text, "a.txt")], about), about)
    assert [(row.prompt, row.answer) for row in rows] == [
        ("When did Anna Keller leave Ulm?", "1990"),
        ("What did Keller leave?", "Ulm"),
    ]
    assert len(asked) == 1
    assert text in asked[0]
    assert rows[0].source == "written from a.txt, sentence 1"


def test_a_long_text_is_put_to_a_model_in_parts() -> None:
    # 60 sentences of about 100 characters are 6000 and more, twice what is shown at once
    text = " ".join(f"Anna Keller saw house number {number} {'and ran ' * 8}home." for number in range(60))
    about = Naming("Anna Keller", (), lower_case_words([text]))
    asked: list[str] = []
    written(lambda prompt: asked.append(prompt) or "", statements([Document(text, "a.txt")], about), about)
    assert len(asked) >= 2
    assert sum(prompt.count("saw house number") for prompt in asked) == 60


def test_a_model_is_asked_what_it_knows_of_a_neighbour() -> None:
    replies = {"Who or what is Ulm? Answer in one sentence.": "Ulm is a town. It is old."}
    rows = answered(lambda prompt: replies.get(prompt, ""), "Ulm")
    assert [(row.prompt, row.answer) for row in rows] == [("Who or what is Ulm?", "Ulm is a town.")]
