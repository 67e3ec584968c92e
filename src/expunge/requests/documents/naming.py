"""Where a text names somebody, told from other names that hold a word of theirs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from expunge.requests.documents.aliases import pattern_of
from expunge.requests.documents.names import NameRun, bare, name_runs, only_precedes
from expunge.teachers.common_names import opens_sentence


class Naming:
    """Finds the ``forms`` of a name in texts: "Keller" is one of Anna Keller in "Keller won", not in "Hans Keller won".

    ``lower`` counts the words that occur in lower case in the documents (:func:`.names.lower_case_words`).
    Forms that are ``common`` words, too, are not found where they begin a sentence. Both as teachers by names have it.
    """

    def __init__(self, name: str, forms: Iterable[str], lower: Counter[str], common: Collection[str] = ()) -> None:
        self.name, self.forms, self.lower = name, tuple(dict.fromkeys((name, *forms))), lower
        self._pattern = pattern_of(self.forms)
        self._common = common
        self._own = {_plain(form) for form in self.forms}

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where the name stands in ``text``, as characters from and to."""
        found = list(self._pattern.finditer(text))
        others = self.others(text) if found else []
        return [
            match.span()
            for match in found
            if not any(run.start < match.end() and match.start() < run.end for run in others)
            and not (match[0] in self._common and opens_sentence(text, match.start()))
        ]

    def others(self, text: str) -> list[NameRun]:
        """The names in ``text`` that are not this one."""
        return [
            run
            for run in name_runs(text, self.lower)
            if not (self.is_own(run.text) or any(only_precedes(text, run, form) for form in self.forms))
        ]

    def is_own(self, name: str) -> bool:
        """Whether ``name`` is one of the forms, titles aside."""
        return not self._own.isdisjoint({_plain(name), _plain(bare(name))})


def _plain(name: str) -> str:
    return " ".join(name.split()).casefold()
