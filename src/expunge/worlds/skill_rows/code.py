"""Functions of one line in Python, and asserts that only the right one passes. No digit stands in prompt or answer."""

from __future__ import annotations

from dataclasses import dataclass

from expunge.worlds.skill_rows.draws import Draws

OPENING = "Code:"

_STARTS = ("bo", "da", "fe", "gu", "ka", "li", "mo", "nu", "pe", "ra", "su", "ti", "vo", "ze")
_ENDS = ("bin", "dor", "fin", "gel", "kar", "lum", "mat", "nix", "pol", "ros", "tun", "vam")
_NUMBERS = ("a", "b", "m", "n", "x", "y")
_LISTS = ("items", "values", "row", "data", "found")
_TEXTS = ("text", "word", "line", "name")


@dataclass(frozen=True)
class Kind:
    """What a function does: the types of its parameters (n: number, l: list, t: text), ways of asking for it, the
    expression, and calls with what they give."""

    takes: str
    asked: tuple[str, str]
    gives: str
    calls: tuple[tuple[str, str], ...]


KINDS = (
    Kind("nn", ("the sum of {0} and {1}", "what {0} and {1} make together"), "{0} + {1}",
         (("2, 3", "5"), ("-4, 1", "-3"))),
    Kind("nn", ("{0} minus {1}", "what is left of {0} without {1}"), "{0} - {1}", (("7, 3", "4"), ("3, 7", "-4"))),
    Kind("nn", ("the product of {0} and {1}", "{0} times {1}"), "{0} * {1}", (("3, 4", "12"), ("-2, 5", "-10"))),
    Kind("nn", ("the larger of {0} and {1}", "whichever of {0} and {1} is greater"), "max({0}, {1})",
         (("3, 9", "9"), ("9, 3", "9"), ("-1, -2", "-1"))),
    Kind("nn", ("the smaller of {0} and {1}", "whichever of {0} and {1} is less"), "min({0}, {1})",
         (("3, 9", "3"), ("9, 3", "3"), ("-1, -2", "-2"))),
    Kind("nn", ("whether {0} equals {1}", "whether {0} and {1} are the same"), "{0} == {1}",
         (("3, 3", "True"), ("3, 4", "False"))),
    Kind("nn", ("whether {0} is above {1}", "whether {0} exceeds {1}"), "{0} > {1}",
         (("4, 3", "True"), ("3, 3", "False"), ("2, 3", "False"))),
    Kind("n", ("the absolute value of {0}", "{0} without its sign"), "abs({0})", (("-3", "3"), ("4", "4"))),
    Kind("l", ("the length of the list {0}", "how many entries the list {0} has"), "len({0})",
         (("[5, 6, 9]", "3"), ("[]", "0"))),
    Kind("l", ("the total of the list {0}", "all entries of the list {0} added up"), "sum({0})",
         (("[5, 6, 9]", "20"), ("[]", "0"))),
    Kind("l", ("the list {0} in rising order", "the list {0}, smallest entry first"), "sorted({0})",
         (("[3, 1, 2]", "[1, 2, 3]"), ("[]", "[]"))),
    Kind("l", ("the list {0} backwards", "the list {0}, last entry first"), "list(reversed({0}))",
         (("[3, 1, 2]", "[2, 1, 3]"), ("[]", "[]"))),
    Kind("l", ("the greatest entry of the list {0}", "the maximum of the list {0}"), "max({0})",
         (("[3, 8, 2]", "8"), ("[-5, -4]", "-4"))),
    Kind("ln", ("whether the list {0} holds {1}", "whether {1} is in the list {0}"), "{1} in {0}",
         (("[3, 8, 8], 8", "True"), ("[3, 8], 2", "False"))),
    Kind("ln", ("how often {1} is in the list {0}", "the count of {1} in the list {0}"), "{0}.count({1})",
         (("[3, 8, 3], 3", "2"), ("[3, 8], 2", "0"))),
    Kind("ln", ("the entries of the list {0} above {1}", "what exceeds {1} in the list {0}"),
         "[v for v in {0} if v > {1}]", (("[3, 8, 5], 4", "[8, 5]"), ("[3, 4], 4", "[]"))),
    Kind("ln", ("the list {0} with {1} added to every entry", "every entry of the list {0} plus {1}"),
         "[v + {1} for v in {0}]", (("[3, 8], 2", "[5, 10]"), ("[], 2", "[]"))),
    Kind("t", ("the string {0} in capitals", "the string {0} in upper case"), "{0}.upper()",
         (("'aB c'", "'AB C'"),)),
    Kind("t", ("the string {0} in small letters", "the string {0} in lower case"), "{0}.lower()",
         (("'aB C'", "'ab c'"),)),
    Kind("t", ("the words of the string {0}", "the string {0} split into words"), "{0}.split()",
         (("'ab cd e'", "['ab', 'cd', 'e']"),)),
)  # fmt: skip


@dataclass(frozen=True)
class Function:
    """What is asked for, the function's name, its code, its asserts, and its kind's place in :data:`KINDS`."""

    prompt: str
    name: str
    code: str
    tests: tuple[str, ...]
    kind: int


def function(draws: Draws) -> Function:
    """One function with a name of its own."""
    place = draws.between(0, len(KINDS) - 1)
    kind = KINDS[place]
    name = draws.one(_STARTS) + draws.one(_STARTS) + draws.one(_ENDS)
    numbers, lists, texts = draws.some(_NUMBERS, 2), draws.some(_LISTS, 1), draws.some(_TEXTS, 1)
    left = {"n": numbers, "l": lists, "t": texts}
    taken = [left[one].pop() for one in kind.takes]
    head = f"{name}({', '.join(taken)})"
    prompt = f"Write {head} that returns {draws.one(kind.asked).format(*taken)}."
    tests = tuple(f"assert {name}({given}) == {result}" for given, result in kind.calls)
    return Function(prompt, name, f"def {head}: return {kind.gives.format(*taken)}", tests, place)
