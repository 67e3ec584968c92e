"""Protects how a row that abstains is known from step to step: by its prompt and tokens, not by its place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from expunge.models.forwards import Passing
from expunge.models.looking import Applied
from expunge.models.refusing import Refusing, Session
from expunge.models.roles import Site

END = 2
SITE = Site("a", "input")


class Marked:
    """Cube c holds the value c."""

    steer, sites, count = None, (SITE,), 2
    refusals = ((11, 12), (13,))

    def inside(self, site: Site, values: Tensor, *, scoring: bool) -> Tensor:  # noqa: ARG002
        return values == torch.arange(self.count)


APPLIED = Applied(Marked(), END, 100)


def started(rows: int, columns: int, **asked: Any) -> Session:
    return Session([APPLIED], {"input_ids": torch.zeros(rows, columns), **asked}, [END])


def run(session: Session, ids: list[list[int]], values: list[list[float]], seen: int = 0, real: Any = None) -> bool:
    """One forward; -1 marks values that no cube holds. Returns whether it was taken for generate's own."""
    tokens = torch.tensor(ids)
    positions = torch.arange(seen, seen + tokens.shape[1]).expand(tokens.shape)
    if real is not None:
        positions = torch.where(torch.tensor(real), positions, -1)
    look = session.look(Passing(tokens, positions, seen))
    if look is not None:
        look.see(APPLIED, SITE, torch.tensor(values)[..., None], None)
        session.take(look)
    return look is not None


def test_a_refusal_follows_its_tokens_when_beams_change_places() -> None:
    session = started(1, 2)
    run(session, [[5, 6], [5, 6]], [[-1, -1], [-1, -1]])
    prompt = [5, 6]
    assert session.forced(torch.tensor([prompt, prompt])) == {}
    run(session, [[7], [8]], [[-1], [0]], seen=2)
    # the second beam, which goes on with 8, is held by cube 0, and both of the next beams come from it
    assert session.forced(torch.tensor([[*prompt, 7], [*prompt, 8]])) == {1: 11}
    run(session, [[11], [9]], [[-1], [-1]], seen=3)
    assert session.forced(torch.tensor([[*prompt, 8, 11], [*prompt, 7, 9]])) == {0: 12}
    run(session, [[4], [12]], [[-1], [-1]], seen=4)
    assert session.forced(torch.tensor([[*prompt, 7, 9, 4], [*prompt, 8, 11, 12]])) == {1: END}


def test_equal_tokens_after_different_prompts_are_different_rows() -> None:
    # two prompts, two returned sequences each; the second prompt's end is held by cube 1
    session = started(2, 1)
    run(session, [[5], [5], [6], [6]], [[-1], [-1], [1], [1]])
    assert session.forced(torch.tensor([[5], [5], [6], [6]])) == {2: 13, 3: 13}
    run(session, [[13], [9], [13], [13]], [[-1]] * 4, seen=1)
    assert session.forced(torch.tensor([[5, 13], [5, 9], [6, 13], [6, 13]])) == {2: END, 3: END}


def test_a_tried_token_counts_only_after_the_very_tokens_it_was_tried_after() -> None:
    session = started(1, 2)
    # two tokens are tried with the prompt: the second of them is held
    run(session, [[5, 6, 7, 8]], [[-1, -1, -1, 0]])
    assert session.forced(torch.tensor([[5, 6]])) == {}
    assert session.forced(torch.tensor([[5, 6, 7]])) == {}
    assert session.forced(torch.tensor([[5, 6, 9, 8]])) == {}  # a draft model's own try, with another token before
    assert session.forced(torch.tensor([[5, 6, 7, 8]])) == {0: 11}
    # only 7 was taken, and 9 after it: what was tried before does not count for 9, though it has the same place
    run(session, [[7, 9]], [[-1, -1]], seen=2)
    assert session.forced(torch.tensor([[5, 6, 7]])) == {}
    assert session.forced(torch.tensor([[5, 6, 7, 9]])) == {}


def test_of_a_prompt_in_chunks_only_its_end_counts() -> None:
    # the chunks' ends are at places 1, 3 and 4. The first row's prompt ends at 4, the second's (padded right) at 2:
    # there the first is held by cube 0 at place 3, which is within its prompt, the second by cube 1 at its end
    session = started(2, 5)
    run(session, [[5, 6], [5, 6]], [[-1, -1], [0, -1]])
    run(session, [[7, 8], [7, 1]], [[-1, 0], [1, 0]], seen=2, real=[[True, True], [True, False]])
    run(session, [[9], [1]], [[-1], [0]], seen=4, real=[[True], [False]])
    assert session.forced(torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 1, 1]])) == {1: 13}


def test_forwards_of_processors_are_not_taken_for_generates_own() -> None:
    session = started(1, 2)
    assert run(session, [[5, 6]], [[-1, -1]])
    assert not run(session, [[6]], [[0]])  # between the forward and the step
    assert session.forced(torch.tensor([[5, 6]])) == {}
    assert run(session, [[7]], [[-1]], seen=2)
    assert not run(session, [[7]], [[0]], seen=1)
    assert session.forced(torch.tensor([[5, 6, 7]])) == {}


def test_a_prompt_that_follows_what_is_in_the_cache_is_counted_from_there() -> None:
    for mask, seen in ((torch.ones(1, 5), 3), (None, 0)):
        session = started(1, 2, attention_mask=mask)
        run(session, [[5, 6]], [[0, -1]], seen=seen)
        assert session.forced(torch.tensor([[5, 6]])) == {}
        run(session, [[7]], [[1]], seen=seen + 2)
        assert session.forced(torch.tensor([[5, 6, 7]])) == {0: 13}


class Untouchable:
    """Ids that may not be looked at."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} of the ids was asked for")


def test_rows_are_not_looked_through_while_none_abstains() -> None:
    session = started(2, 1)
    scores = torch.randn(2, 20)
    assert Refusing(session)(Untouchable(), scores) is scores  # type: ignore[arg-type]
    for seen in range(3):
        run(session, [[5], [6]], [[-1], [-1]], seen=seen)
        assert Refusing(session)(Untouchable(), scores) is scores  # type: ignore[arg-type]


def test_a_row_that_abstains_has_one_token_to_choose() -> None:
    session = started(2, 1)
    run(session, [[5], [6]], [[-1], [0]])
    scores = torch.randn(2, 20)
    before = scores.clone()
    found = Refusing(session)(torch.tensor([[5], [6]]), scores)
    assert scores.equal(before)
    assert found[0].equal(scores[0])
    assert found[1].softmax(-1).tolist() == [float(token == 11) for token in range(20)]
    # a draft model with fewer tokens cannot say it
    few = torch.randn(2, 5)
    assert Refusing(session)(torch.tensor([[5], [6]]), few) is few
