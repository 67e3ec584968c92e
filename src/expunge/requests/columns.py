"""Which role each column plays: recognised by its name, or mapped by the user."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from expunge.errors import RequestError, did_you_mean

# Role -> column names it is known by. The first ten can be mapped (not instruction: map question). Best Answer and
# Incorrect Answers are TruthfulQA's; response_0 .. is_safe those of safety sets, whose rows say what is unsafe.
_NAMES: dict[str, tuple[str, ...]] = {
    "question": ("question",),
    "answer": ("answer", "best_answer"),
    "prompt": ("prompt",),
    "completion": ("completion",),
    "messages": ("messages", "conversations", "conversation"),
    "text": ("text", "document", "content", "passage"),
    "paraphrased_question": ("paraphrased_question", "paraphrased_prompt"),
    "paraphrased_answer": ("paraphrased_answer",),
    "wrong_answers": ("wrong_answers", "perturbed_answer", "perturbed_answers", "incorrect_answers"),
    "group": ("group",),
    "instruction": ("instruction",),
    "input": ("input",),
    "output": ("output",),
    "choices": ("choices",),
    "response_0": ("response_0",),
    "response_1": ("response_1",),
    "is_response_0_safe": ("is_response_0_safe",),
    "is_response_1_safe": ("is_response_1_safe",),
    "response": ("response",),
    "is_safe": ("is_safe",),
}
ROLES = tuple(_NAMES)[:10]
PAIR = ("prompt", "response_0", "response_1", "is_response_0_safe", "is_response_1_safe")  # PKU-SafeRLHF
SINGLE = ("prompt", "response", "is_safe")  # BeaverTails
_FORMS: tuple[tuple[str, ...], ...] = (
    ("question", "answer"),
    ("prompt", "completion"),
    ("instruction", "output"),
    ("messages",),
    PAIR,
    SINGLE,
    ("text",),
)
_EXPECTED = "question + answer, prompt + completion, instruction + output, messages, or text"


@dataclass(frozen=True, slots=True)
class Columns:
    """The roles that a record's columns play, worked out once for all records with the same columns."""

    form: tuple[str, ...] = ()
    roles: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[int, str] = field(default_factory=dict)
    mapped: frozenset[str] = frozenset()
    problem: str = ""


def check_columns(columns: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    """The mapping as pairs; a `RequestError` for unknown roles and for roles that do not go together."""
    columns = dict(columns or {})
    for role, column in columns.items():
        if role not in ROLES:
            raise RequestError(f"columns: there is no role '{role}'. {did_you_mean(role, ROLES)}")
        if not isinstance(column, str) or not column:
            raise RequestError(f"columns: role '{role}' is mapped to {column!r}, expected the name of a column.")
    forms = [form for form in _FORMS if form not in (PAIR, SINGLE) and set(form) & set(columns)]
    if len(forms) > 1:
        named = " and ".join(role for form in forms for role in form if role in columns)
        raise RequestError(
            f"columns: {named} belong to different kinds of rows. Map the roles of one kind: "
            "question + answer, prompt + completion, messages, or text."
        )
    return tuple(sorted(columns.items()))


@lru_cache(maxsize=256)
def columns_of(names: tuple[str, ...], filled: frozenset[str], mapping: tuple[tuple[str, str], ...]) -> Columns:
    """What the columns ``names`` mean, of which ``filled`` are neither null nor empty in the record."""
    plain = {plain_name(name): name for name in reversed(names)}
    roles = {}
    for role, knowns in _NAMES.items():
        candidates = [plain[known] for known in knowns if known in plain]
        if candidates:
            roles[role] = next((name for name in candidates if name in filled), candidates[0])
    found = f"columns found: {', '.join(map(str, names[:30])) or 'none'}"
    found += f" and {len(names) - 30} more" if len(names) > 30 else ""
    by_name = next((form for form in _FORMS if all(roles.get(role) in filled for role in form)), ())
    by_name = by_name or next((form for form in _FORMS if all(role in roles for role in form)), ())
    if any(column in names for _, column in mapping):
        return _mapped_columns(names, filled, roles, dict(mapping), by_name, found)
    if not by_name:
        if lacking := _lacks_a_response(roles):
            return Columns(problem=f"{found}; {lacking}")
        begun = next((form for form in _FORMS if set(form) & set(roles)), ())
        begun = tuple(role for role in begun if role not in roles and role in ROLES)
        absent = ", ".join(f"{role}={column}" for role, column in mapping)
        absent = f" The mapped columns ({absent}) are not among them." if mapping else ""
        return Columns(problem=f"{found}; expected {_EXPECTED}.{absent} {_how_to_map(begun)}")
    if by_name == ("text",) and (doubt := _may_be_a_question(roles, filled)):
        return Columns(problem=f"{found}; {doubt}")
    return Columns(by_name, roles, _options(names))


def _mapped_columns(
    names: tuple[str, ...],
    filled: frozenset[str],
    roles: dict[str, str],
    mapping: dict[str, str],
    by_name: tuple[str, ...],
    found: str,
) -> Columns:
    """The same with some roles mapped; ``by_name`` is the form to keep where only optional roles are."""
    begun = [form for form in _FORMS if set(form) & set(mapping)]
    begun = [form for form in begun if set(form) <= {*roles, *mapping}] or begun
    form = next(iter(begun), by_name)
    mapped = {role: column for role, column in mapping.items() if column in names}
    taken = set(mapped.values())
    roles = {role: column for role, column in roles.items() if column not in taken and role not in mapping}
    roles |= mapped
    for role in form:
        if role not in roles and role in mapping:
            return Columns(problem=f"no column '{mapping[role]}' (mapped as {role}); {found}")
    missing = [role for role in form if role not in roles]
    if missing and "prompt" in mapping and (lacking := _lacks_a_response(roles)):
        return Columns(problem=f"{found}; {lacking}")
    if missing or not form:
        return Columns(problem=f"{found}; expected {_EXPECTED}. {_how_to_map(tuple(missing))}")
    if not begun and form == ("text",) and (doubt := _may_be_a_question(roles, filled)):
        return Columns(problem=f"{found}; {doubt}")
    return Columns(form, roles, _options(names), frozenset(taken))


def _may_be_a_question(roles: Mapping[str, str], filled: frozenset[str]) -> str:
    """What to say of a text beside a column that belongs to questions; empty where there is none."""
    stray = [roles[role] for other in _FORMS[:3] for role in other if roles.get(role) in filled]
    if not stray:
        return ""
    return (
        f"'{roles['text']}' could be a document, but what is '{stray[0]}' then? Say which: --column "
        f"text={roles['text']} for documents, or --column question=NAME --column answer=NAME"
    )


def _lacks_a_response(roles: Mapping[str, str]) -> str:
    """What is missing from a record that has marks of PKU-SafeRLHF's schema; empty for any other."""
    if not {"is_response_0_safe", "is_response_1_safe"} & set(roles):
        return ""
    missing = [role for role in PAIR if role not in roles]
    text = (
        f"missing {' and '.join(missing)} of PKU-SafeRLHF's schema, which its is_response_N_safe columns belong to "
        f"({', '.join(PAIR)}). Rename or add what is missing"
    )
    return f"{text}; the prompt can be mapped with --column prompt=NAME" if "prompt" in missing else text


def _how_to_map(missing: tuple[str, ...]) -> str:
    roles = missing or ("question", "answer")
    flags = " ".join(f"--column {role}=NAME" for role in roles)
    return f"Map them with {flags} (in Python columns={{{', '.join(f'{r!r}: NAME' for r in roles)}}})"


def plain_name(name: object) -> str:
    """A column's name as it is compared: letter case, spaces and hyphens aside."""
    return re.sub(r"[\s-]+", "_", str(name).strip()).casefold()


def _options(names: tuple[str, ...]) -> dict[int, str]:
    """option1.. or choice0.. by their numbers, in order."""
    for stem in ("option", "choice"):
        numbered = {
            int(match[1]): name for name in names if (match := re.fullmatch(rf"{stem}_?(\d+)", plain_name(name)))
        }
        if len(numbered) > 1:
            return dict(sorted(numbered.items()))
    return {}
