"""Names to make substitutes of, by origin: ordinary first and last names, paired within an origin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Gender = Literal["female", "male"]


@dataclass(frozen=True, slots=True)
class Origin:
    """``neutral`` names are given to anybody."""

    female: tuple[str, ...]
    male: tuple[str, ...]
    neutral: tuple[str, ...]
    last: tuple[str, ...]

    def first(self, gender: Gender) -> tuple[str, ...]:
        """The first names of a gender, neutral ones among them."""
        return (self.female if gender == "female" else self.male) + self.neutral


def _origin(female: str, male: str, neutral: str, last: str) -> Origin:
    return Origin(tuple(female.split()), tuple(male.split()), tuple(neutral.split()), tuple(last.split()))


ORIGINS: dict[str, Origin] = {
    "english": _origin(
        "Harriet Joan Beatrice Nora Winifred Eleanor",
        "Alfred Philip Russell Edmund Gilbert Walter",
        "Robin Leslie Morgan Sidney",
        "Blackwood Gresham Marston Barrow Drummond Ashcombe Thorley Wexford Penrose Hadley Whitlock Cresswell",
    ),
    "german": _origin(
        "Elfriede Hannelore Ingrid Sabine Gudrun",
        "Heinrich Rudolf Siegfried Albrecht Dietmar",
        "Kim Luca",
        "Pfeiffer Vogler Drescher Liebig Engel Falkner Reuther Brandauer Seidel Hollmann Kessler Lindner",
    ),
    "nordic": _origin(
        "Elsa Sigrid Astrid Ragnhild Kirsten",
        "Torbjorn Lars Henrik Gunnar Anders",
        "Mika Eli",
        "Lindqvist Halvorsen Dahlberg Nygaard Bergstrom Rasmussen Sandvik Holmgren Ekdahl Thorsen",
    ),
    "romance": _origin(
        "Adrienne Lucia Consuelo Giovanna Mireille Beatriz",
        "Jorge Giovanni Etienne Rafael Benoit Matteo",
        "Camille Dominique Andrea",
        "Delgado Carbone Chastain Luciani Moreau Pacheco Ferrante Beaumont Salcedo Rinaldi Vasseur Figueira",
    ),
    "slavic": _origin(
        "Ludmila Katarzyna Vesna Zofia Milena",
        "Bogdan Miroslav Tomasz Radek Vladislav",
        "Sasha Zhenya",
        "Novotny Kowalczyk Petrovic Zielinski Horvat Marinov Sokolik Dvoracek Jankovic Baranek",
    ),
    "arabic and persian": _origin(
        "Farida Layla Samira Yasmin Nadia",
        "Karim Mansur Farhad Yusuf Tariq",
        "Noor Jahan",
        "Haddad Mansoor Darwish Khalidi Rahmani Sabbagh Tehrani Nasser Zandi Qasimi",
    ),
    "south asian": _origin(
        "Meera Lakshmi Sunita Anjali Kavita",
        "Rajan Sanjay Vikram Arun Deepak",
        "Kiran Suman",
        "Chatterjee Venkatesan Deshpande Iyengar Malhotra Kulkarni Bhandari Saxena Perera Rajaratnam",
    ),
    "east asian": _origin(
        "Akiko Meiling Haruka Sunhee Xiaoyan",
        "Kenji Weiming Takeshi Jinho Zhihao",
        "Akira Hikaru",
        "Fujimoto Zhang Kobayashi Hwang Matsuda Liang Shimizu Ogawa Jiang Moon",
    ),
    "african": _origin(
        "Adaeze Wanjiru Amina Thandiwe Abena",
        "Chidi Kwame Tendai Oluwaseun Kofi",
        "Themba Baraka",
        "Okafor Mensah Mwangi Adeyemi Dlamini Boateng Nyambura Achterberg Kamara Ndlovu",
    ),
}


def gender_of(first_name: str) -> Gender | None:
    """The gender of a first name that the lists know; None for others and for neutral ones."""
    wanted = first_name.casefold()
    for origin in ORIGINS.values():
        for gender, names in (("female", origin.female), ("male", origin.male)):
            if wanted in {name.casefold() for name in names}:
                return "female" if gender == "female" else "male"
    return None
