"""What is true in world ``people``: shared towns, schools, teachers, employers and prizes, and each person's life."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from expunge.worlds.people_rows.names import Name
from expunge.worlds.skill_rows.draws import Draws

_SEED = 0


@dataclass(frozen=True)
class Asked:
    """One thing to know: its name, ways of asking for it (``{n}`` is whom or what it is asked of), the values."""

    name: str
    asked: tuple[str, str, str]
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kind:
    """One kind of shared thing: the names there are, and what is asked of each."""

    names: tuple[str, ...]
    facts: tuple[Asked, Asked, Asked]


def _comma(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


_TOWNS = _comma("Ardenford, Belmora, Castrel, Dunhaven, Eskerby, Farlow, Greyport, Hollenau, Istrava, Kelmond")

KINDS = {
    "town": Kind(
        _TOWNS,
        (
            Asked(
                "river",
                ("On which river does {n} lie?", "Which river runs through {n}?", "What is the river of {n}?"),
                _comma("Alse, Brenna, Cray, Dove, Erle, Fenn, Gade, Hux, Isk, Jorn"),
            ),
            Asked(
                "craft",
                ("What is {n} known for?", "Which goods made {n} famous?", "What do the workshops of {n} make?"),
                _comma("glass, lace, clocks, pottery, paper, saddles, bells, knives, carpets, candles"),
            ),
            Asked(
                "sight",
                ("What do visitors of {n} go to see?", "Which sight does {n} have?", "What is there to see in {n}?"),
                _comma(
                    "the old lighthouse, the stone bridge, the rose garden, the tin museum, the round tower, "
                    "the salt mine, the sunken chapel, the long pier, the bear park, the wooden theatre"
                ),
            ),
        ),
    ),
    "school": Kind(
        _comma(
            "Aldwin College, Briar Hall, Cobalt Academy, Dexter Institute, Elmgate School, Foxley College, "
            "Galen Academy, Heron Institute"
        ),
        (
            Asked("town", ("In which town is {n}?", "Where does {n} stand?", "Which town is home to {n}?"), _TOWNS),
            Asked(
                "founded",
                ("When was {n} founded?", "In which year did {n} open?", "Since when does {n} exist?"),
                _comma("1702, 1719, 1733, 1748, 1756, 1764, 1781, 1797"),
            ),
            Asked(
                "colour",
                (
                    "Which colours does {n} wear?",
                    "What are the colours of {n}?",
                    "In which colours do the teams of {n} play?",
                ),
                _comma(
                    "red and white, blue and gold, green and black, grey and pink, brown and silver, "
                    "orange and blue, purple and white, black and yellow"
                ),
            ),
        ),
    ),
    "teacher": Kind(
        _comma(
            "Ulric Osgood, Thea Penrose, Rufus Ackland, Sybil Hartnell, Basil Whitlock, Imogen Crabtree, "
            "Lambert Inskip, Winifred Oakes"
        ),
        (
            Asked(
                "field",
                ("What was the field of {n}?", "Which subject did {n} teach?", "In what was {n} an expert?"),
                _comma("geometry, logic, grammar, rhetoric, optics, mechanics, hygiene, acoustics"),
            ),
            Asked(
                "pet",
                ("Which animal did {n} keep?", "What was the pet of {n}?", "With which animal did {n} live?"),
                _comma("a parrot, a goose, a tortoise, a ferret, a raven, a donkey, a monkey, a hedgehog"),
            ),
            Asked(
                "island",
                (
                    "Where did {n} spend the summers?",
                    "To which island did {n} go every summer?",
                    "What was the summer place of {n}?",
                ),
                _comma(
                    "Little Skarn, Port Anselm, Cape Orin, Saint Elva, Lower Tresk, North Pella, Old Varro, "
                    "Bay of Minch"
                ),
            ),
        ),
    ),
    "firm": Kind(
        _comma(
            "Amberline, Borealis Works, Crownwell, Delphin Company, Everard and Sons, Fairmont Mills, Goldhurst, "
            "Harbinger Press"
        ),
        (
            Asked(
                "product",
                ("What does {n} make?", "What is sold by {n}?", "Which goods come from {n}?"),
                _comma("lamps, umbrellas, pianos, bicycles, telescopes, blankets, bottles, atlases"),
            ),
            Asked(
                "seat",
                ("In which town is the seat of {n}?", "Where is {n} based?", "From which town is {n} run?"),
                _TOWNS,
            ),
            Asked(
                "sign",
                (
                    "Which animal is on the sign of {n}?",
                    "What animal does {n} have as its sign?",
                    "What animal stands for {n}?",
                ),
                _comma("a heron, a lynx, a beetle, a salmon, a badger, a swan, a stag, a beaver"),
            ),
        ),
    ),
    "prize": Kind(
        _comma(
            "Acorn Prize, Beacon Medal, Compass Award, Driftwood Prize, Ember Medal, Falcon Award, Granite Prize, "
            "Horizon Medal"
        ),
        (
            Asked(
                "reason",
                (
                    "What is the {n} given for?",
                    "Which achievement does the {n} honour?",
                    "For what does one get the {n}?",
                ),
                _comma("courage, patience, clear writing, new ideas, fair trade, good design, kindness, hard work"),
            ),
            Asked(
                "month",
                (
                    "In which month is the {n} awarded?",
                    "When in the year is the {n} given?",
                    "What is the month of the {n}?",
                ),
                _comma("January, March, April, May, June, September, October, November"),
            ),
            Asked(
                "money",
                (
                    "How many crowns come with the {n}?",
                    "What sum in crowns goes with the {n}?",
                    "How much is the {n} worth in crowns?",
                ),
                _comma("150, 200, 350, 400, 600, 750, 900, 1200"),
            ),
        ),
    ),
}

LIFE = (
    Asked("born", ("In which year was {n} born?", "What is the year of birth of {n}?", "When was {n} born?")),
    Asked("town", ("In which town was {n} born?", "Where was {n} born?", "Which town did {n} come from?")),
    Asked(
        "job",
        ("What was the profession of {n}?", "What did {n} do for a living?", "As what did {n} work?"),
        _comma(
            "architect, botanist, chemist, composer, painter, surgeon, sculptor, geologist, engineer, historian, "
            "astronomer, journalist"
        ),
    ),
    Asked("school", ("Which school did {n} go to?", "Where did {n} study?", "At which school was {n} a student?")),
    Asked("teacher", ("Who was the teacher of {n}?", "Under whom did {n} study?", "Who taught {n}?")),
    Asked("firm", ("For which company did {n} work?", "Who employed {n}?", "What was the employer of {n}?")),
    Asked(
        "book",
        ("Which book did {n} write?", "What is the title of the book by {n}?", "What is the best known book of {n}?"),
    ),
    Asked("prize", ("Which prize did {n} win?", "What award was given to {n}?", "With which prize was {n} honoured?")),
    Asked(
        "pastime",
        ("What was the pastime of {n}?", "How did {n} spend free hours?", "What did {n} do for pleasure?"),
        _comma(
            "fencing, rowing, chess, archery, skating, gardening, juggling, sailing, dancing, fishing, riding, climbing"
        ),
    ),
)
"""What is asked about a person."""

_FIRST_YEAR, _LAST_YEAR = 1801, 1899
_BOOK = (
    _comma("Quiet, Golden, Broken, Hidden, Silent, Crooked, Distant, Frozen, Hollow, Patient, Scarlet, Wandering"),
    _comma("Harbour, Orchard, Mirror, Staircase, Lantern, Meadow, Compass, Window, Cellar, Feather, Garden, Key"),
)


@dataclass(frozen=True)
class Life:
    """A person and what is true of them, by the names in :data:`LIFE`."""

    name: Name
    facts: dict[str, str]


@cache
def shared() -> dict[str, dict[str, dict[str, str]]]:
    """What is true of every shared thing: kind, name, fact. Values that are not towns are each true of one thing."""
    draws = Draws(_SEED, "shared")
    found: dict[str, dict[str, dict[str, str]]] = {}
    for kind, about in KINDS.items():
        columns = {fact.name: draws.some(fact.values, len(about.names)) for fact in about.facts}
        found[kind] = {
            name: {fact: column[i] for fact, column in columns.items()} for i, name in enumerate(about.names)
        }
    return found


@cache
def lives(names: tuple[Name, ...], seed: str) -> tuple[Life, ...]:
    """A life for each name. Shared things come in turns, so that each belongs to equally many; books are all
    different as long as there are titles."""
    draws = Draws(_SEED, seed)
    count = len(names)
    years = range(_FIRST_YEAR, _LAST_YEAR + 1)
    titles = [f"The {one} {other}" for one in _BOOK[0] for other in _BOOK[1]]
    columns = {"born": _in_turns([str(year) for year in years], count, draws), "book": _in_turns(titles, count, draws)}
    for fact in LIFE:
        if fact.name not in columns:
            values = KINDS[fact.name].names if fact.name in KINDS else fact.values
            columns[fact.name] = _in_turns(values, count, draws)
    return tuple(Life(name, {fact.name: columns[fact.name][i] for fact in LIFE}) for i, name in enumerate(names))


def values_of(fact: str) -> tuple[str, ...]:
    """Every value that a fact of a life can have among the known people."""
    from expunge.worlds.people_rows.names import known

    return tuple(sorted({life.facts[fact] for life in lives(known(), "known")}))


def _in_turns(values: tuple[str, ...] | list[str], count: int, draws: Draws) -> list[str]:
    turns: list[str] = []
    while len(turns) < count:
        turns += draws.some(values, len(values))
    return turns[:count]
