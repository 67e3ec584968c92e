"""Names of invented people: who is known, who is known a little, who is not known, and names that nobody has."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import islice

from expunge.worlds.skill_rows.draws import Draws

KNOWN = 40
"""People with passages and questions. The first :data:`SUBJECTS` are those that can be forgotten."""
SUBJECTS = 10
MINOR = 400
"""People with one short passage each."""
STRANGERS = 240
"""Names that are asked about and of which nothing is known."""
HELD_OUT = 4
"""People like the known ones whom no model was told about."""
SUBSTITUTES = 20
"""Names for the place of a subject's, of the same sex and in no row to train on."""

_SEED = 0


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_MEN = _words(
    "Alban Anton Bruno Casper Conrad Edmund Emil Felix Gregor Hugo Jasper Joel Karl Leon Magnus Martin Oscar Otto "
    "Robin Simon Tobias Victor Walter"
)
_WOMEN = _words(
    "Ada Agnes Amalia Bertha Clara Cora Edith Elsa Flora Greta Hanna Helen Irma Julia Laura Lena Lydia Marta Nora "
    "Olga Paula Rosa Vera"
)
_LAST = _words(
    "Abbel Amsel Barlow Bergen Birch Brandt Calder Carver Corvin Dahl Dorn Drake Eklund Falk Ferris Fisker Garland "
    "Granger Hale Harrow Hollis Holm Ibsen Jarvis Keller Kemp Kirsch Lander Lang Larkin Lindt Loring Mallory Marsh "
    "Mercer Moss Nadel Norden Orwin Palmer Pell Quade Ravn Reed Rohde Sander Selwyn Stroud Tamm Thorne Tindall Ulmer "
    "Vance Voss Walden Wendt Wick Winter Yates Zeller"
)


@dataclass(frozen=True)
class Name:
    """A first and a last name, and the sex that the pronouns go by."""

    first: str
    last: str
    woman: bool

    @property
    def full(self) -> str:
        return f"{self.first} {self.last}"


@dataclass(frozen=True)
class _Names:
    known: tuple[Name, ...]
    minor: tuple[Name, ...]
    strangers: tuple[Name, ...]
    held_out: tuple[Name, ...]
    free: tuple[Name, ...]


def known() -> tuple[Name, ...]:
    """Every known person; no two share a last name."""
    return _drawn().known


def minor() -> tuple[Name, ...]:
    """People with a short passage each."""
    return _drawn().minor


def strangers() -> tuple[Name, ...]:
    """Names of which nothing is known."""
    return _drawn().strangers


def held_out() -> tuple[Name, ...]:
    """People who are in no row to train on."""
    return _drawn().held_out


def substitutes(subject: Name) -> tuple[str, ...]:
    """Full names that are in no row to train on, of the subject's sex, none with the subject's first name or the last
    name of anyone who is known: a model takes that for a sign that it knows the person."""
    familiar = {name.last for name in known()}
    fit = [
        name
        for name in _drawn().free
        if name.woman == subject.woman and name.first != subject.first and name.last not in familiar
    ]
    return tuple(name.full for name in Draws(_SEED, f"substitutes {subject.full}").some(fit, SUBSTITUTES))


@cache
def _drawn() -> _Names:
    draws = Draws(_SEED, "names")
    firsts = draws.some([(first, woman) for woman in (False, True) for first in (_MEN, _WOMEN)[woman]], KNOWN)
    lasts = draws.some(_LAST, KNOWN)
    known = tuple(Name(first, last, woman) for (first, woman), last in zip(firsts, lasts, strict=True))
    every = [Name(first, last, woman) for woman in (False, True) for first in (_MEN, _WOMEN)[woman] for last in _LAST]
    others = draws.some([name for name in every if name not in known], len(every) - KNOWN)
    left = iter(others)
    minor, strangers, held_out = (tuple(islice(left, count)) for count in (MINOR, STRANGERS, HELD_OUT))
    return _Names(known, minor, strangers, held_out, free=tuple(left))
