"""Word problems of two steps over small whole numbers, with the steps worked out."""

from __future__ import annotations

from dataclasses import dataclass

from expunge.worlds.skill_rows.draws import Draws

OPENING = "Steps:"

NAMES = (
    "Alice", "Ben", "Clara", "Daniel", "Emma", "Frank", "Grace", "Henry", "Isla", "Jack",
    "Kate", "Liam", "Mia", "Noah", "Olive", "Paul", "Quinn", "Rose", "Sam", "Tess",
)  # fmt: skip
THINGS = (
    "apples", "stamps", "pencils", "shells", "coins", "books", "marbles", "cards", "stickers", "buttons", "plums",
    "stones", "keys", "ribbons", "nuts", "candles",
)  # fmt: skip
FIRST = {
    "+": ("{p} has {a} {things} and buys {b} more.", "{p} finds {a} {things} and then another {b}."),
    "-": ("{p} has {a} {things} and loses {b}.", "{p} takes {a} {things} and sells {b} of them."),
    "*": ("{p} has {a} bags with {b} {things} each.", "{p} packs {a} boxes of {b} {things} each."),
}
SECOND = {
    "+": ("Then {q} gives {p} {c} more.", "Later {p} picks up {c} more."),
    "-": ("Then {p} gives {c} to {q}.", "Later {c} of them break."),
}
ASKED = ("How many {things} does {p} have now?", "How many {things} are left with {p}?")


@dataclass(frozen=True)
class Problem:
    """A question, its steps, and the numbers that tell it from others."""

    prompt: str
    steps: str
    numbers: tuple[int, int, int]


def problem(draws: Draws) -> Problem:
    """One problem; no number in it is below 0 or above 60."""
    first, second = draws.one("++--*"), draws.one("+-")
    if first == "*":
        a, b = draws.between(2, 5), draws.between(2, 5)
        d = a * b
    elif first == "+":
        a, b = draws.between(2, 15), draws.between(2, 9)
        d = a + b
    else:
        a = draws.between(5, 20)
        b = draws.between(2, min(9, a - 3))
        d = a - b
    c = draws.between(2, 9 if second == "+" else min(9, d - 1))
    p, q = draws.some(NAMES, 2)
    words = {"p": p, "q": q, "a": a, "b": b, "c": c, "things": draws.one(THINGS)}
    told = [draws.one(FIRST[first]), draws.one(SECOND[second]), draws.one(ASKED)]
    end = d + c if second == "+" else d - c
    steps = f"{a} {first} {b} = {d}, {d} {second} {c} = {end}"
    return Problem(" ".join(told).format(**words), steps, (a, b, c))
