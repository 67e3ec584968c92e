"""Who is intervened on, and the names that stand in for them (arXiv 2407.16997, section 4)."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from expunge.errors import ConfigError
from expunge.teachers.name_lists import ORIGINS, Gender, gender_of
from expunge.teachers.name_parts import NameParts, name_parts, plain, words_of

_GENDERS: tuple[Gender, ...] = ("female", "male")


@dataclass(frozen=True)
class Subject:
    """A person to forget.

    Attributes:
        name: the full name in reading order ("Alicia de Larrocha"); a title before it is left out of what counts.
        aliases: other names of the same person. One in small letters is found in small letters, too.
        others: entities to intervene on besides (book titles), each with the names that stand in for it: teacher i
            takes the i-th, beginning anew after the last.
        ignored: forms made from the name that are no mentions; and whole names of others who bear its last name ("Hans
            Keller"), in which that one is spared.
        common: parts of the name that the texts have as common words, too. They are no mentions where they begin a
            sentence (:func:`.common_names.common_names`).

    Raises:
        ConfigError: a name, alias or other entity without a letter, or an entity without substitutes.
    """

    name: str
    aliases: tuple[str, ...] = ()
    others: tuple[tuple[str, tuple[str, ...]], ...] = ()
    ignored: tuple[str, ...] = ()
    common: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # lists come from run files; the subject must be hashable
        object.__setattr__(self, "aliases", tuple(self.aliases))
        object.__setattr__(self, "ignored", tuple(self.ignored))
        object.__setattr__(self, "common", tuple(self.common))
        object.__setattr__(self, "others", tuple((title, tuple(names)) for title, names in self.others))
        empty = [repr(name) for name in (self.name, *self.aliases, *dict(self.others)) if not plain(name)]
        bare = [
            f"{title!r} has no substitute, or an empty one"
            for title, names in self.others
            if not names or not all(map(plain, names))
        ]
        problems = ([f"no letters in {', '.join(empty)}"] if empty else []) + bare
        if problems:
            raise ConfigError(
                f"subject {self.name!r} cannot be looked for: {'; '.join(problems)}. Pass names of at least one letter."
            )

    @property
    def parts(self) -> NameParts:
        return name_parts(self.name)

    @property
    def first(self) -> str | None:
        """The first given name; None where it is an initial, or the name has one word."""
        return self.parts.first

    @property
    def last(self) -> str | None:
        """The last name with its particles; None where the name has none."""
        return self.parts.last

    @property
    def words(self) -> tuple[str, ...]:
        """The words of the full name."""
        return words_of(self.parts.fulls[0])

    @property
    def forms(self) -> tuple[str, ...]:
        """Every form that counts as a mention of the person, longest first."""
        parts = self.parts
        derived = [form for form in (*parts.fulls, parts.first, *parts.lasts) if form is not None]
        left_out = {plain(form) for form in self.ignored}
        forms = [form for form in dict.fromkeys((*derived, *self.aliases)) if plain(form) not in left_out]
        return tuple(sorted(forms, key=len, reverse=True))

    def others_for(self, number: int) -> dict[str, str]:
        """What stands in for each other entity in teacher ``number``, counted from 0."""
        return {title: names[number % len(names)] for title, names in self.others}


def substitute_names(subject: Subject, count: int, seed: int = 0, forbidden: Iterable[str] = ()) -> tuple[str, ...]:
    """``count`` different names from the shipped lists, of as many parts as the subject's.

    No word of a name, alias or ``forbidden`` name is among them. The first name has the gender of the subject's where
    the lists tell it. First and last names repeat only when the lists are used up. The same arguments give the same
    names, and a larger ``count`` the same names and more.

    Raises:
        ConfigError: the lists hold fewer names than asked for.
    """
    draws = random.Random(f"{seed} {subject.name}")
    taken = _name_words([subject.name, *subject.aliases, *forbidden])
    first = subject.first
    pools = _pools(draws, taken, gender_of(first) if first else None)
    names: dict[str, None] = {}
    if pools:
        for name in _draw(pools, subject.parts.count):
            if len(names) == count:
                break
            names.setdefault(name)
    if len(names) < count:
        raise ConfigError(
            f"{count} substitute names are wanted for {subject.name!r}, and the shipped lists give {len(names)}. "
            "Ask for fewer, or pass names of your own (method.substitute_names)."
        )
    return tuple(names)


def check_substitutes(subject: Subject, names: Sequence[str], forbidden: Iterable[str] = ()) -> tuple[str, ...]:
    """What is odd about substitute names given by hand: warnings, each a sentence.

    Odd is another number of parts than the subject's name has, a word in common with it, and a name given twice.

    Raises:
        ConfigError: names that are empty, or a forget name, an alias, or a part of one; all of them are listed.
    """
    whole: dict[str, str] = {}
    for form in (subject.name, *subject.forms, *forbidden):
        whole.setdefault(plain(form), form)
    words = _name_words([subject.name, *subject.aliases, *forbidden])
    bad: list[str] = []
    shared: list[str] = []
    uneven: list[str] = []
    repeated: list[str] = []
    seen: set[str] = set()
    for number, name in enumerate(names, 1):
        bare = plain(name)
        if not bare:
            bad.append(f"number {number} is empty")
        elif bare in whole:
            bad.append(f"{name!r} (number {number}) is {whole[bare]!r}, which is to be forgotten")
        elif bare in words:
            bad.append(f"{name!r} (number {number}) is a part of a name that is to be forgotten")
        else:
            if any(len(plain(word)) > 1 and plain(word) in words for word in words_of(name)):
                shared.append(name)
            if name_parts(name).count != subject.parts.count:
                uneven.append(name)
            if bare in seen:
                repeated.append(name)
        seen.add(bare)
    if bad:
        raise ConfigError(
            f"{len(bad)} of {len(names)} substitute names for {subject.name!r} cannot stand in for it: "
            f"{'; '.join(bad)}. Pass names of other people (method.substitute_names)."
        )
    odd = {
        "share a word with a name that is to be forgotten": shared,
        f"have not {subject.parts.count} parts as {subject.name!r} has": uneven,
        "are given more than once": repeated,
    }
    return tuple(f"substitute names that {what}: {', '.join(found)}." for what, found in odd.items() if found)


def _name_words(names: Iterable[str]) -> set[str]:
    return {plain(word) for name in names for word in words_of(name)}


def _pools(draws: random.Random, taken: set[str], gender: Gender | None) -> list[tuple[list[str], list[str]]]:
    """First and last names of each origin, in an order drawn, without names that are taken."""
    pools = []
    for origin in ORIGINS.values():
        theirs = draws.choice(_GENDERS) if gender is None else gender  # so that no name has given names of both
        first = [name for name in origin.first(theirs) if plain(name) not in taken]
        last = [name for name in origin.last if plain(name) not in taken]
        draws.shuffle(first)
        draws.shuffle(last)
        if first and last:
            pools.append((first, last))
    draws.shuffle(pools)
    return pools


def _draw(pools: list[tuple[list[str], list[str]]], parts: int) -> Iterator[str]:
    """Names of so many parts, of each origin in turn, until every last name has met every first name."""
    for turn in range(max(len(first) * len(last) for first, last in pools)):
        for first, last in pools:
            if turn >= len(first) * len(last):
                continue
            shift, place = divmod(turn, len(last))  # every last name once, then again with the first names moved on
            given = [first[(place + shift + more) % len(first)] for more in range(max(parts - 1, 1))]
            yield given[0] if parts == 1 else " ".join([*given, last[place]])
