"""What audits that ask forget rows in other ways have in common. Importing this loads no torch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from expunge.audits.interface import Audit, Audited, AuditResult
from expunge.errors import InputError
from expunge.requests.rows import Row
from expunge.training.run import Progress, named, silent

if TYPE_CHECKING:
    from expunge.audits.parts.answers import Way


def asked_rows(audited: Audited, limit: int) -> list[Row]:
    """The forget rows and probes that ask something, at most ``limit``, evenly spread.

    Raises:
        InputError: there are none.
    """
    from expunge.evaluation.suite import spread

    given = (*audited.request.forget, *audited.request.probes)  # of documents, the questions about them
    rows = [row for row in given if row.kind != "document" and row.prompt.strip()]
    if not rows:
        raise InputError(
            f"none of the {len(given)} forget rows asks anything: they are documents. Pass questions about them (a "
            "prompt and its answer) as forget rows or probes."
        )
    return list(spread(rows, limit, option="limit"))


def answer_room(audited: Audited, rows: Sequence[Row]) -> int:
    """Tokens of a greedy answer: twice the longest expected one, so that babble ends."""
    answers = [row.answer for row in rows]
    longest = max(len(ids) for ids in audited.tokenizer(answers, add_special_tokens=False)["input_ids"])
    return min(audited.max_new_tokens, 2 * longest + 1)


class AskingAudit(Audit):
    """Asks forget rows in several ways, and reports what that got beyond the retrained model. Subclasses say how."""

    control: ClassVar[str] = "the retrained model, asked in the same ways"
    needs_retrained: ClassVar[bool] = True
    limit: int
    doing_template: ClassVar[str]
    """What begins the sentence, with {count} for the number of ways."""

    @abstractmethod
    def ways(self, audited: Audited, rows: Sequence[Row]) -> list[Way]:
        """The ways to ask ``rows``."""

    def check(self, audited: Audited) -> None:
        self.check_options()
        asked_rows(audited, self.limit)

    def run(self, audited: Audited, *, progress: Progress = silent) -> AuditResult:
        from expunge.audits.parts.answers import ask, plain_answers
        from expunge.audits.parts.beyond import attack_result

        rows = asked_rows(audited, self.limit)
        audited = replace(audited, max_new_tokens=answer_room(audited, rows))
        ways = self.ways(audited, rows)
        plain = plain_answers(audited, rows, progress=progress)
        attacked = {}
        for name in audited.models:
            with audited.model(name) as model:
                attacked[name] = ask(model, audited, rows, ways, progress=named(name, progress))
        return attack_result(
            self.name,
            self.version,
            audited,
            rows,
            plain=plain,
            attacked=attacked,
            doing=self.doing_template.format(count=len(ways)),
        )
