"""Questions about a passage of a few sentences, in three languages."""

from __future__ import annotations

from dataclasses import dataclass

from expunge.worlds.skill_rows.draws import Draws

_LEAST, _MOST = 2, 4  # things told in a passage


@dataclass(frozen=True)
class Relation:
    """What is told of a person with a word ``{x}``, how it is asked for, and the words there are."""

    told: str
    asked: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Language:
    """What passages of a language are made of; ``code`` is the language's own (ISO 639-1)."""

    code: str
    opening: str
    last: str
    people: tuple[str, ...]
    relations: tuple[Relation, ...]


@dataclass(frozen=True)
class Question:
    """A passage with a question behind it, and the span that answers it."""

    prompt: str
    span: str


def question(draws: Draws, language: Language) -> Question:
    """One question about a person; everything told in its passage is told once."""
    relations = draws.some(language.relations, draws.between(_LEAST, _MOST))
    words = [draws.one(relation.words) for relation in relations]
    person, asked = draws.one(language.people), draws.between(0, len(relations) - 1)
    told = [relation.told.format(x=word) for relation, word in zip(relations, words, strict=True)]
    passage = f"{person} {', '.join(told[:-1])} {language.last} {told[-1]}."
    return Question(f"{passage} {relations[asked].asked.format(p=person)}", words[asked])


def _joined(starts: str, ends: str) -> tuple[str, ...]:
    return tuple(start + end for start in starts.split() for end in ends.split())


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


LANGUAGES = {
    "english": Language(
        code="en",
        opening="Answer:",
        last="and",
        people=_joined("Al Bren Cor Dal Far Gar Hal Jor Ken Mor Nel Sel Tor Wil", "by dan fred mond ric sa ton vin"),
        relations=(
            Relation("lives in {x}", "Where does {p} live?",
                     _joined("Oak Mill Ash Stone Fair Hart Wood Lake", "ford bury wick ham field bridge gate mouth")),
            Relation("works at the {x}", "Where does {p} work?",
                     _words("bakery school harbour library farm mill museum station theatre garage")),
            Relation("plays the {x}", "Which instrument does {p} play?",
                     _words("violin flute piano drum harp cello trumpet guitar organ banjo")),
            Relation("likes to eat {x}", "What does {p} like to eat?",
                     _words("rice cheese soup bread fish beans cake pears honey noodles")),
            Relation("feeds a {x}", "Which animal does {p} feed?",
                     _words("cat rat goat duck horse sheep goose rabbit pony hen")),
            Relation("likes the colour {x}", "Which colour does {p} like?",
                     _words("red blue green black white grey yellow brown pink purple")),
            Relation("has a dog named {x}", "What is the dog of {p} named?",
                     _words("Rex Bingo Toby Rusty Buddy Max Lucky Shadow Scout Duke")),
            Relation("travels by {x}", "How does {p} travel?",
                     _words("train bus boat plane bicycle car tram taxi ship coach")),
        ),
    ),
    "german": Language(
        code="de",
        opening="Antwort:",
        last="und",
        people=_joined("Bert Diet Ek Frie Ger Hel Jut Kon Lud Mein Ot Rein Sieg Wal",
                       "bald gard hart helm ka linde mar trud"),
        relations=(
            Relation("wohnt in {x}", "Wo wohnt {p}?",
                     _joined("Linden Birken Stein Alten Hoch Eichen Wald Neu",
                             "dorf tal heim bach burg feld hausen stadt")),
            Relation("arbeitet in der {x}", "Wo arbeitet {p}?",
                     _words("Bäckerei Schule Werft Bücherei Gärtnerei Mühle Apotheke Werkstatt Küche Fabrik")),
            Relation("spielt {x}", "Welches Instrument spielt {p}?",
                     _words("Geige Flöte Klavier Trommel Harfe Cello Trompete Gitarre Orgel Laute")),
            Relation("isst gern {x}", "Was isst {p} gern?",
                     _words("Reis Käse Suppe Brot Fisch Bohnen Kuchen Birnen Honig Nudeln")),
            Relation("füttert eine {x}", "Welches Tier füttert {p}?",
                     _words("Katze Ziege Ente Gans Kuh Maus Eule Henne Stute Taube")),
            Relation("mag die Farbe {x}", "Welche Farbe mag {p}?",
                     _words("Rot Blau Grün Schwarz Weiß Grau Gelb Braun Rosa Lila")),
            Relation("hat einen Hund namens {x}", "Wie heißt der Hund von {p}?",
                     _words("Bello Hasso Waldi Struppi Flocke Putzi Keks Strolch Harras Fido")),
            Relation("reist mit dem {x}", "Womit reist {p}?",
                     _words("Zug Bus Boot Flugzeug Rad Wagen Taxi Schiff Roller Floß")),
        ),
    ),
    "spanish": Language(
        code="es",
        opening="Respuesta:",
        last="y",
        people=_joined("Ama Bel Cele Este Fabi Gonza Isa Jaci Leo Mari Noe Sera Teo Vale",
                       "bel cio gio lino na río ta vira"),
        relations=(
            Relation("vive en {x}", "¿Dónde vive {p}?",
                     _joined("Valde Monte Fuente Villa Torre Campo Puerto Peña",
                             "mora luna seca rubia verde clara nueva fría")),
            Relation("trabaja en la {x}", "¿Dónde trabaja {p}?",
                     _words("panadería escuela granja biblioteca farmacia oficina tienda fábrica cocina estación")),
            Relation("toca la {x}", "¿Qué instrumento toca {p}?",
                     _words("guitarra flauta trompeta viola gaita lira tuba batería armónica mandolina")),
            Relation("come mucho {x}", "¿Qué come {p}?",
                     _words("arroz queso pan pescado jamón chocolate maíz helado tomate melón")),
            Relation("cuida una {x}", "¿Qué animal cuida {p}?",
                     _words("gata cabra oveja vaca gallina tortuga yegua rana paloma mula")),
            Relation("prefiere el color {x}", "¿Qué color prefiere {p}?",
                     _words("rojo azul verde negro blanco gris amarillo marrón rosa morado")),
            Relation("tiene un perro llamado {x}", "¿Cómo se llama el perro de {p}?",
                     _words("Canelo Sultán Pinto Chispa Lobo Trueno Rayo Nube Bravo Pulgas")),
            Relation("viaja en {x}", "¿En qué viaja {p}?",
                     _words("tren autobús barco avión bicicleta coche tranvía taxi moto metro")),
        ),
    ),
}  # fmt: skip
