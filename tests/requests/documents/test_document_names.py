"""Protects what counts as a name in documents: runs of capitals, the subject's forms and aliases, everybody else."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from expunge.errors import ConfigError
from expunge.requests.documents.aliases import Alias, first_and_last, propose_aliases
from expunge.requests.documents.names import is_common_word, lower_case_words, name_runs
from expunge.requests.documents.naming import Naming
from expunge.requests.documents.neighbours import find_neighbours, make_finder
from expunge.requests.documents.reading import Document
from expunge.requests.documents.sentences import sentences

LIFE = (
    "Anna Maria Keller (n\u00e9e Huber) was born in Lindau. In 1990 Keller moved to Ulm. "
    "ANNA MARIA KELLER won a prize. Dr. Keller met A. M. Keller's friend. "
    'Anna "Annie" Keller, also known as Ada Storm, was glad. Anna laughed.'
)


def documents(*texts: str) -> tuple[Document, ...]:
    return tuple(Document(text, f"{number}.txt") for number, text in enumerate(texts, 1))


def runs(text: str) -> list[str]:
    return [run.text for run in name_runs(text, lower_case_words([text]))]


def forms(name: str, *texts: str, given: tuple[str, ...] = ()) -> dict[str, Alias]:
    found = propose_aliases(documents(*texts), name, given)
    assert len({(one.text, one.kind) for one in found}) == len(found)
    return {one.text: one for one in found}


def test_runs_of_capitalised_words() -> None:
    assert runs("In May the University of the Arts gave Ludwig van Berg's son to J. S. Weber and St. Gallen.") == [
        "University of the Arts",
        "Ludwig van Berg",
        "J. S. Weber",
        "St. Gallen",
    ]
    # a capital at the beginning of a sentence says nothing of a word that is known in small letters
    assert runs("Chemists met. They met other chemists. However, Swiss chemists met Rosa Lind.") == ["Rosa Lind"]
    assert runs("O\u2019Brien met Jean-Luc\nPicot, who met\n\nMax.") == ["O\u2019Brien", "Jean-Luc Picot", "Max"]


def test_headings_hold_no_names_where_asked() -> None:
    text = "Early Life And Work\n\nAda Storm was born."
    assert [run.text for run in name_runs(text, lower_case_words([text]), headings=False)] == ["Ada Storm"]


def test_sentences_end_where_they_end() -> None:
    text = 'Dr. J. S. Weber paid 3.50 francs. "Why?" he said. Is it 5 p.m. now? Yes!\n\nA heading\n\nThe end.'
    assert [one.text for one in sentences(text)] == [
        "Dr. J. S. Weber paid 3.50 francs.",
        '"Why?" he said.',
        "Is it 5 p.m. now?",
        "Yes!",
        "A heading",
        "The end.",
    ]
    assert [one.paragraph for one in sentences(text)] == [0, 0, 0, 0, 1, 2]
    assert all(text[one.start :].startswith(one.text) for one in sentences(text))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Anna Keller", ("Anna", "Keller")),
        ("Dr. Ludwig van der Berg Jr.", ("Ludwig", "van der Berg")),
        ("Plato", ("", "")),
    ],
)
def test_first_and_last_name(name: str, expected: tuple[str, str]) -> None:
    assert first_and_last(name) == expected


def test_every_form_of_a_name_is_found_and_counted_where_no_longer_one_stands() -> None:
    found = forms("Anna Maria Keller", LIFE)
    # full: at the beginning and in capitals. Keller: after "In 1990", "Dr." and '"Annie"'; elsewhere in
    # longer forms. Anna: before '"Annie"' and at the end.
    expected = {"Anna Maria Keller": 2, "Keller": 3, "Anna": 2, "A. M. Keller": 1, "Annie": 1, "Ada Storm": 1}
    expected |= {"Huber": 1, "Dr. Keller": 1, "ANNA MARIA KELLER": 1, "A. M. Keller's": 1}
    assert {text: one.count for text, one in found.items()} == expected
    assert {one.kind for text, one in found.items() if text in ("Annie", "Ada Storm", "Huber")} == {"known as"}
    usable = {text for text, one in found.items() if one.usable}
    assert usable == {"Keller", "Anna", "A. M. Keller", "Annie", "Ada Storm", "Huber"}
    assert "In 1990 Keller moved to Ulm." in found["Keller"].contexts[0]


def test_a_common_word_is_doubted_and_its_matches_are_shown() -> None:
    found = forms("Tom Rose", "Tom Rose sold a rose to Ulm. The rose was red. Rose was glad.")
    assert not found["Rose"].usable
    # in small letters twice: "a rose", "The rose"
    assert found["Rose"].warning.startswith('a common word, in small letters here (2): "')
    assert "sold a rose to" in found["Rose"].warning
    # known from the shipped list, though it does not occur in small letters
    assert forms("Will Storm", "Will Storm ran. Will fell.")["Will"].warning == "a common word"
    assert is_common_word("Rose")
    assert not is_common_word("Keller")


def test_a_last_name_that_others_bear_is_doubted() -> None:
    found = forms("Anna Keller", "Anna Keller is a child of Hans Keller and a sister of Hans Keller. Keller ran.")
    assert found["Keller"].warning == "also in Hans Keller (2), and a mention where it stands alone"
    assert not found["Keller"].usable


def test_a_name_said_of_somebody_else_is_no_alias() -> None:
    found = forms("Anna Keller", "Anna Keller met Otto Lind, known as Red Otto. Anna Keller, known as Ada, ran.")
    assert {text for text, one in found.items() if one.kind == "known as"} == {"Ada"}


def test_aliases_given_are_counted_whether_they_occur_or_not() -> None:
    found = forms("Anna Keller", "Anna Keller ran.", given=("Zoe", "Ada"))
    assert [found[name].count for name in ("Zoe", "Ada")] == [0, 0]
    assert not found["Zoe"].usable  # it is used already


def test_a_name_is_not_found_in_a_longer_name() -> None:
    text = "Hans Keller met Keller and Dr. Keller at the Keller Institute."
    naming = Naming("Anna Keller", ("Keller",), lower_case_words([text]))
    # "Hans Keller" and "Keller Institute" are other names
    assert [text[begin - 4 : end] for begin, end in naming.spans(text)] == ["met Keller", "Dr. Keller"]
    assert [run.text for run in naming.others(text)] == ["Hans Keller", "Keller Institute"]


def test_neighbours_are_all_other_names_the_most_frequent_first() -> None:
    texts = documents("Anna Keller met Hans Keller in Ulm. Keller left Ulm with Dr. Otto Lind.", "Otto Lind ran.")
    found = find_neighbours(texts, ("Anna Keller", "Keller", "Anna"), ("Anna Keller",))
    assert [(one.name, one.count) for one in found] == [("Otto Lind", 2), ("Ulm", 2), ("Hans Keller", 1)]
    assert found[0].contexts == ("Keller left Ulm with Dr. Otto Lind.", "Otto Lind ran.")
    # where the last name is an alias, whoever bears it is the subject
    assert "Hans Keller" not in [one.name for one in find_neighbours(texts, (), ("Anna Keller", "Keller"))]


def test_a_tagger_finds_the_names_where_one_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    entities = [SimpleNamespace(text="ulm", label_="GPE"), SimpleNamespace(text="1990", label_="DATE")]
    fake = SimpleNamespace(load=lambda _: lambda _: SimpleNamespace(ents=entities))
    monkeypatch.setitem(sys.modules, "spacy", fake)
    found = find_neighbours(documents("anna came to ulm in 1990."), (), ("anna",), make_finder("spacy:en"))
    assert [one.name for one in found] == ["ulm"]
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(ConfigError, match="pip install spacy"):
        make_finder("spacy:en")
    assert make_finder(None) is None


def test_a_longer_way_to_write_the_name_is_the_same_person() -> None:
    text = "Paul Arthur Yeoman and the Paul Arthur Yeoman Prize. P. A. Yeoman met Hans Yeoman."
    found = forms("P. A. Yeoman", text)
    # initials stand for the given names in order; Hans has none of them
    assert found["Paul Arthur Yeoman"].kind == "long"
    assert found["Paul Arthur Yeoman"].count == 2
    assert found["Paul Arthur Yeoman"].usable
    assert "also in Hans Yeoman" in forms("P. A. Yeoman", f"{text} Yeoman ran.")["Yeoman"].warning
