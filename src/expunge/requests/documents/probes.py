"""Questions and sentences to complete about a name, made from what the documents say of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from expunge.requests.documents.facts import Statement, final_fact, is_owner
from expunge.requests.documents.naming import Naming
from expunge.requests.rows import Row

MOST_PER_NAME = 60
_STOP = r"(?=[,;.(\u2014]| (?:who|which|that|where|when|while|until|since|before|after|during|with|but|because)\b|$)"
_PLACE_STOP = (
    r"(?= (?:in|on|at|from|to|as|for|and|by)\b|[,;.(\u2014]| (?:who|which|where|when|until|since|with|but)\b|$)"
)
_DATE = r"(?:(?:\d{1,2} )?[A-Z][a-z]+ (?:\d{1,2}, )?\d{4}|\d{4})"
_NAME = r"[A-Z][\w.'\u2019-]*(?:,? (?:of|de|van|von|der|the|for|[A-Z][\w.'\u2019-]*))*"

_SHORT = 7  # words of what is said in passing; more are mostly a clause
_LONGEST = 120  # characters of an answer
# what may stand between the name and its verb
_APART = re.compile(
    r"(?:\s*\([^)]*\)|\s*,[^,]*,)?(?: (?:has|had|also|later|first|then|once|still|soon|briefly|originally))*\s+"
)
_WHAT = "Who or what is {name}?"

# "(3 May 1961 - 7 June 2001)", "(born Ada Reed; 3 May 1961)"
_LIFE = re.compile(
    rf"\s*\((?:[^()]*?; |born )?(?:born )?({_DATE})(?: in [^()]*?)?(?:\s*[-\u2013\u2014]\s*({_DATE})[^()]*)?\)"
)

# What follows the name in a sentence, and the question whose answer is its only group.
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), question)
    for pattern, question in (
        (rf"(?:was|is) born (?:on {_DATE} )?(?:in|at|near) ({_NAME}?){_PLACE_STOP}", "Where was {name} born?"),
        (rf"(?:was|is) born (?:(?:in|at|near) {_NAME} )?(?:in|on) ({_DATE})", "When was {name} born?"),
        (rf"(?:died|passed away) (?:on {_DATE} )?(?:in|at|near) ({_NAME}?){_PLACE_STOP}", "Where did {name} die?"),
        (rf"(?:died|passed away) (?:(?:in|at|near) {_NAME} )?(?:in|on) ({_DATE})", "When did {name} die?"),
        (rf"(?:grew up|was raised) (?:in|at|near) ({_NAME}?){_PLACE_STOP}", "Where did {name} grow up?"),
        (rf"(?:is|was) (an? .+?|the \w+(?: \w+)? of .+?){_STOP}", _WHAT),
        (rf"(?:has |had )?work(?:s|ed) (?:\w+ )?for ({_NAME}?){_PLACE_STOP}", "Whom did {name} work for?"),
        (rf"(?:has |had )?work(?:s|ed) (?:\w+ )?(?:at|in) ({_NAME}?){_PLACE_STOP}", "Where did {name} work?"),
        (rf"stud(?:ies|ied) (?:[a-z ]+ )?(?:at|in) (?:the )?({_NAME}?){_PLACE_STOP}", "Where did {name} study?"),
        (rf"stud(?:ies|ied) ([a-z ]+?){_PLACE_STOP}", "What did {name} study?"),
        (rf"graduated from (?:the )?({_NAME}?){_PLACE_STOP}", "Where did {name} graduate from?"),
        (rf"(?:attended|joined) (?:the )?({_NAME}?){_PLACE_STOP}", "What did {name} attend or join?"),
        (rf"(?:lives|lived|settled) (?:in|at|near) ({_NAME}?){_PLACE_STOP}", "Where did {name} live?"),
        (rf"moved (?:back )?to ({_NAME}?){_PLACE_STOP}", "Where did {name} move to?"),
        (rf"(?:is|was) married to ({_NAME}?){_PLACE_STOP}", "Whom did {name} marry?"),
        (rf"married ({_NAME}?){_PLACE_STOP}", "Whom did {name} marry?"),
        (rf"(?:won|received|was awarded) (?:the |a |an )?({_NAME}?){_PLACE_STOP}", "What did {name} receive?"),
        (rf"(?:founded|established) (?:the |a |an )?(.+?){_PLACE_STOP}", "What did {name} found?"),
        (rf"(?:wrote|published) (?:the |a |an )?(.+?){_PLACE_STOP}", "What did {name} write?"),
        (rf"(?:discovered|invented|developed|designed) (?:the |a |an )?(.+?){_PLACE_STOP}", "What did {name} make?"),
        (rf"(?:is located|lies|is situated) (?:in|on|at|near) (.+?){_STOP}", "Where is {name}?"),
        (rf"was (?:founded|established|built|opened) (?:[a-z ]+ )?in ({_DATE})", "When did {name} begin?"),
        (rf"was (?:founded|established|built|opened|designed) by ({_NAME}?){_PLACE_STOP}", "Who began {name}?"),
    )
)


def probes(statements: Iterable[Statement], about: Naming, *, limit: int = MOST_PER_NAME) -> list[Row]:
    """Rows that ask what the statements say about a name.

    Of each statement that names it before any other: the sentence up to its last fact, to be completed (a
    ``completion``), and a question, by a template where the sentence has a known pattern, else to complete it. The
    prompts have the full name in place of a shorter form. At most ``limit`` rows; nothing is asked twice.
    """
    found: dict[tuple[str, str], Row] = {}
    for statement in statements:
        spans = about.spans(statement.text)
        if not spans or (spans[0][0] == 0 and is_owner(statement.text, spans[0])):
            continue
        start, end = spans[0]
        if any(run.start < start for run in about.others(statement.text)):
            continue
        text = statement.text[:start] + about.name + statement.text[end:]
        for row in _rows(text, about, statement.source):
            found.setdefault((row.kind, row.prompt), row)
    return list(found.values())[:limit]


def appositions(statements: Iterable[Statement], about: Naming) -> list[Row]:
    """What ``about`` is, where a statement says so in passing ("in Lindau, a town on Lake Constance, ..")."""
    pattern = re.compile(rf"(?<!\w){re.escape(about.name)}, (an? [^,.;()]+)[,.;]")
    for statement in statements:
        match = pattern.search(statement.text)
        if match is not None and len(match[1].split()) <= _SHORT:
            return [Row(_WHAT.format(name=about.name), match[1].strip(), source=statement.source)]
    return []


def _rows(text: str, about: Naming, source: str) -> Iterator[Row]:
    asked = list(_questions(text, about.name))
    fact = final_fact(text, about)
    if fact is not None and about.spans(fact[0]):
        before, answer = fact
        yield Row(before, f" {answer}", kind="completion", source=source)
        asked = asked or [(f"Complete the sentence: {before} ..", answer)]
    for question, answer in asked:
        yield Row(question, answer, source=source)


def _questions(text: str, name: str) -> Iterator[tuple[str, str]]:
    """Question and answer of every pattern that the sentence has right after the name."""
    begin = re.match(rf"(?:The )?{re.escape(name)}(?!\w|['\u2019])", text)
    life = begin and _LIFE.match(text[begin.end() :])
    if life:
        yield f"When was {name} born?", life[1]
    if life and life[2]:
        yield f"When did {name} die?", life[2]
    apart = begin and _APART.match(text[begin.end() :])
    if not begin or not apart:
        return
    rest = text[begin.end() + apart.end() :]
    for verb, question in _PATTERNS:
        match = verb.match(rest)
        answer = match[1].strip().rstrip(".") if match is not None else ""
        if 1 < len(answer) <= _LONGEST:
            yield question.format(name=name), answer
