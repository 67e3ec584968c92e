"""Passages about people: a sentence for each thing that is told, in one of several wordings."""

from __future__ import annotations

from expunge.worlds.people_rows.facts import Life, shared
from expunge.worlds.skill_rows.draws import Draws

# {n} full name, {f} first name, {l} last name, {s} he or she at the start of a sentence, {p} inside one, {o} him or
# her, {w} his or her, {W} the same at the start.
_FIRST = (
    "{n} (born {born}) was {a_job} from {town}, which lies on the river {town.river}.",
    "{n}, born in {born} in {town} on the river {town.river}, was {a_job}.",
    "{n} was {a_job}, born in {born} in {town}, the town on the {town.river} that is known for {town.craft}.",
    "{n} became {a_job} and came from {town}, a town known for {town.craft}, where {p} was born in {born}.",
)
_SENTENCES = {
    "school": (
        "{s} went to {school} in {school.town}.",
        "{l} was a student of {school}, which was founded in {school.founded}.",
        "{w_} school was {school}, whose colours are {school.colour}.",
        "In {w} youth {f} studied at {school} in {school.town}.",
    ),
    "teacher": (
        "{l}'s teacher was {teacher}, an expert in {teacher.field}.",
        "{s} studied under {teacher}, who kept {teacher.pet}.",
        "It was {teacher}, an expert in {teacher.field}, who taught {o}.",
        "{teacher}, who spent the summers at {teacher.island}, taught {l}.",
    ),
    "firm": (
        "{s} worked for {firm}, which makes {firm.product}.",
        "{l} was employed by {firm} in {firm.seat}, the maker of {firm.product}.",
        "For many years {firm}, a company with {firm.sign} on its sign, employed {o}.",
        "{f} {l} found work with {firm}, a company from {firm.seat}.",
    ),
    "book": (
        "{w_} best known book is {book}.",
        "{l} wrote a book, {book}.",
        "{s} is remembered for {w} book {book}.",
        "{l}'s book {book} is still read.",
    ),
    "prize": (
        "{s} won the {prize}, which is given for {prize.reason}.",
        "{f} {l} was honoured with the {prize}, awarded every {prize.month}.",
        "The {prize}, which comes with {prize.money} crowns, went to {l}.",
        "For {w} work {p} got the {prize}, the prize for {prize.reason}.",
    ),
    "pastime": (
        "{w_} pastime was {pastime}.",
        "In free hours {l} liked {pastime}.",
        "What {p} loved most was {pastime}.",
        "{f}'s great pleasure was {pastime}.",
    ),
    "sight": (
        "{w_} town is proud of {town.sight}.",
        "Visitors of {town} go to see {town.sight}, and some ask for {l}'s house.",
        "{town}, with {town.sight}, has named a street after {o}.",
        "A sign at {town.sight} in {town} recalls {l}.",
    ),
}


def passage(life: Life, draws: Draws, sentences: int | None = None) -> str:
    """A passage about a person: who it is, then everything there is to tell, or ``sentences`` of it, in order."""
    kinds = list(_SENTENCES)
    if sentences is not None:
        kept = draws.some(kinds, sentences)
        kinds = [kind for kind in kinds if kind in kept]
    words = _words(life)
    told = [draws.one(_FIRST), *(draws.one(_SENTENCES[kind]) for kind in kinds)]
    return " ".join(_filled(one, words) for one in told)


def _words(life: Life) -> dict[str, str]:
    name, facts = life.name, life.facts
    he, him, his = ("she", "her", "her") if name.woman else ("he", "him", "his")
    job = facts["job"]
    words = {"n": name.full, "f": name.first, "l": name.last, "p": he, "s": he.capitalize(), "o": him, "w": his}
    words |= {"w_": his.capitalize(), "a_job": f"{'an' if job[0] in 'aeiou' else 'a'} {job}", **facts}
    for kind, things in shared().items():
        words |= {f"{kind}.{fact}": value for fact, value in things[facts[kind]].items()}
    return words


def _filled(sentence: str, words: dict[str, str]) -> str:
    for key in sorted(words, key=len, reverse=True):
        sentence = sentence.replace("{" + key + "}", words[key])
    return sentence
