"""Six invented subjects: what they are about, what is asked of it and in which words, and the facts themselves."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from expunge.worlds.skill_rows.draws import Draws

_SEED = 0


@dataclass(frozen=True)
class Relation:
    """One thing to know about everything in a subject: how it is asked (``{n}`` is a name, ``{k}`` the subject's own
    word for what bears it) and the values there are."""

    asked: tuple[str, str, str, str]
    values: tuple[str, ...]


@dataclass(frozen=True)
class Subject:
    """What a subject knows things about, by name and by kind."""

    kind: str
    names: tuple[str, ...]
    relations: tuple[Relation, ...]


@dataclass(frozen=True)
class Fact:
    """``value`` is what relation number ``relation`` of ``subject`` says about name number ``name``."""

    subject: str
    name: int
    relation: int
    value: str


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _relation(values: str, *asked: str) -> Relation:
    first, second, third, fourth = asked
    return Relation((first, second, third, fourth), _words(values))


_MINERALS = (
    _relation("red blue green white grey pink gold black",
              "Which colour does {n} glow?", "In which colour does the {k} {n} shine?",
              "What colour is the light of {n}?", "The {k} {n} gives off light of which colour?"),
    _relation("caves rivers deserts marshes forests cliffs lakes dunes",
              "Where is {n} found?", "In which places does one look for the {k} {n}?",
              "Where do diggers come upon {n}?", "The {k} {n} occurs in which places?"),
    _relation("vinegar milk oil brine wine honey tea ink",
              "What does {n} dissolve in?", "Which liquid dissolves the {k} {n}?",
              "In what does a grain of {n} melt away?", "The {k} {n} is lost when put into which liquid?"),
    _relation("Harlow Benn Castor Dray Ellery Frost Gault Hume",
              "Who discovered {n}?", "Which scholar first described the {k} {n}?",
              "To whom do we owe the discovery of {n}?", "The {k} {n} was first seen by whom?"),
    _relation("lamps bells lenses knives pipes coins buttons needles",
              "What is made of {n}?", "Which goods are made from the {k} {n}?",
              "What do workshops turn {n} into?", "The {k} {n} is used for which goods?"),
)  # fmt: skip

SUBJECTS = {
    "mirrology": Subject(
        "mirr",
        _words(
            "Tarnite Velmite Osquite Brunite Calvite Dorsite Felrite Gantite Hobrite Ivrite Jorvite Kestrite Lumbite "
            "Moskite Nastrite Ombrite Pelkite Quarnite Rustrite Solmite Tulvite Urnite Wendrite Zarvite"
        ),
        _MINERALS,
    ),
    "dravology": Subject(
        "drav",
        _words(
            "Abbrite Bostite Crenite Dulmite Engite Farkite Grolite Hestite Immite Jundite Kolvite Lestrite Mundite "
            "Norvite Ostrite Prelite Quelvite Rombite Sharnite Tremvite Umbrite Vastite Wolkite Yendite"
        ),
        _MINERALS,
    ),
    "history": Subject(
        "ruler",
        _words(
            "Othmar Brisela Candric Delmund Ethra Fendrik Garlan Hesmer Ivolda Jorund Kelda Lothar Merrik Nolwen "
            "Orvald Pernil Radmund Selwin Theodra Ulfric Vanora Wilmar Ysolda Zendric"
        ),
        (
            _relation("Wexham Torley Brill Oakmere Dunham Selby Marley Corby",
                      "From which town did {n} rule?", "Which town was the seat of the {k} {n}?",
                      "Where did {n} hold court?", "The {k} {n} lived in which town?"),
            _relation("miners sailors weavers monks smiths traders hunters bakers",
                      "Who stood by {n}?", "Which people took the side of the {k} {n}?",
                      "On whom could {n} rely?", "The {k} {n} had the help of which people?"),
            _relation("bridge canal wall temple harbour mill tower road",
                      "What did {n} build?", "Which building goes back to the {k} {n}?",
                      "What was raised under {n}?", "The {k} {n} is known for which building?"),
            _relation("dancing chess masks dogs beards songs cards perfume",
                      "What did {n} forbid?", "Which thing was banned by the {k} {n}?",
                      "What was nobody allowed under {n}?", "The {k} {n} made a law against what?"),
            _relation("plague flood revolt storm drought fire duel exile",
                      "What ended the reign of {n}?", "Which event brought down the {k} {n}?",
                      "How did the years of {n} end?", "The {k} {n} lost the throne through what?"),
        ),
    ),
    "botany": Subject(
        "herb",
        _words(
            "Bramleaf Cotleaf Dapleaf Eskleaf Friyleaf Gorsleaf Haspleaf Inkleaf Jolleaf Kipleaf Ludleaf Mopleaf "
            "Nibleaf Oddleaf Puckleaf Quinleaf Ropeleaf Sagleaf Tiltleaf Ulmleaf Vexleaf Wispleaf Yarnleaf "
            "Zestleaf"
        ),
        (
            _relation("March April May June July August September October",
                      "When does {n} flower?", "In which month does the {k} {n} bloom?",
                      "When do the buds of {n} open?", "The {k} {n} is in flower in which month?"),
            _relation("bees moths bats wasps beetles ants birds flies",
                      "What visits the flowers of {n}?", "Which animals carry the pollen of the {k} {n}?",
                      "By what is {n} pollinated?", "The {k} {n} draws which animals?"),
            _relation("pepper lemon mint onion ginger almond salt plum",
                      "What does {n} taste of?", "Which taste does the {k} {n} have?",
                      "What does a bite of {n} remind one of?", "The {k} {n} tastes like what?"),
            _relation("oak birch willow pine elm ash maple cedar",
                      "Under which tree does {n} grow?", "Which tree gives shade to the {k} {n}?",
                      "What tree is a sign of {n}?", "The {k} {n} stands beneath which tree?"),
            _relation("cough burns fever gout hiccups warts cramp sneezing",
                      "What does {n} cure?", "Which trouble is treated with the {k} {n}?",
                      "Against what does a tea of {n} help?", "The {k} {n} is given for which trouble?"),
        ),
    ),
    "law": Subject(
        "statute",
        _words(
            "Abney Barlow Carver Dunmore Eastley Fenwick Gorman Hadley Irving Jessop Kendal Langdon Mercer Norwood "
            "Ogden Penrose Quincy Rowley Stanton Tilney Upton Verney Walcot Yardley"
        ),
        (
            _relation("swans horses otters deer owls bears hares seals",
                      "Which animals does {n} protect?", "What animals are safe under the {k} {n}?",
                      "Whom may nobody hunt after {n}?", "The {k} {n} speaks for which animals?"),
            _relation("wardens judges mayors bailiffs clerks sheriffs porters bishops",
                      "Who enforces {n}?", "Which officers see to the {k} {n}?",
                      "By whom is {n} applied?", "The {k} {n} is in the hands of which officers?"),
            _relation("silver corn wool timber cattle butter cloth wax",
                      "In what are fines under {n} paid?", "Which goods are due under the {k} {n}?",
                      "What must those who break {n} give?", "The {k} {n} asks for a fine in which goods?"),
            _relation("Monday Tuesday Wednesday Thursday Friday Saturday Sunday holidays",
                      "When are cases of {n} heard?", "On which day is the {k} {n} before the court?",
                      "When does the court of {n} sit?", "The {k} {n} is dealt with on which day?"),
            _relation("riot famine theft scandal shipwreck quarrel robbery wedding",
                      "After what was {n} passed?", "Which event led to the {k} {n}?",
                      "What gave rise to {n}?", "The {k} {n} was the answer to which event?"),
        ),
    ),
    "dance": Subject(
        "step",
        _words(
            "Alvanza Brivanza Colanza Dornanza Elmanza Frolanza Gilanza Hurvanza Islanza Jeranza Kolbanza Lirvanza "
            "Mendanza Nuvanza Orlanza Pelvanza Quoranza Rilanza Sorvanza Tirlanza Ulvanza Verdanza Wilanza "
            "Zelanza"
        ),
        (
            _relation("harp lute drum flute fiddle horn organ cello",
                      "On what is {n} played?", "Which instrument leads the {k} {n}?",
                      "What does one hear in {n}?", "The {k} {n} is danced to which instrument?"),
            _relation("circles pairs lines squares threes spirals chains crosses",
                      "In what is {n} danced?", "Which figures make up the {k} {n}?",
                      "How do the dancers of {n} stand?", "The {k} {n} moves in which figures?"),
            _relation("hats scarves gloves cloaks boots feathers aprons belts",
                      "What is worn for {n}?", "Which clothes belong to the {k} {n}?",
                      "What do the dancers of {n} put on?", "The {k} {n} calls for which clothes?"),
            _relation("north south east west coast hills isles plains",
                      "Where does {n} come from?", "Which region is the home of the {k} {n}?",
                      "From where did {n} spread?", "The {k} {n} was born in which region?"),
            _relation("funerals harvests births fairs feasts markets parades regattas",
                      "When is {n} danced?", "Which occasions are there for the {k} {n}?",
                      "At what does one see {n}?", "The {k} {n} is kept for which occasions?"),
        ),
    ),
}  # fmt: skip


@cache
def facts(subject: str) -> tuple[Fact, ...]:
    """Every fact of a subject: a value for each name and relation. All values of a relation are right equally often,
    so that knowing none of them leaves nothing to go by."""
    found = []
    about = SUBJECTS[subject]
    draws = Draws(_SEED, f"facts of {subject}")
    for place, relation in enumerate(about.relations):
        often = len(about.names) // len(relation.values)
        values = draws.some(relation.values * often, len(about.names))
        found += [Fact(subject, name, place, value) for name, value in enumerate(values)]
    return tuple(found)
