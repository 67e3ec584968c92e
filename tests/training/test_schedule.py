"""Protects the order of rows: every epoch sees each row once, retain rows keep pace, and seeds decide it all."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from expunge.training.schedule import Schedule, cuts, make_schedule, rate_factor
from expunge.training.settings import TrainingSettings


def lay_out(
    forget: int | list[int], retain: int | list[int], lead: str = "forget", worth: int | None = None, **changed: Any
) -> Schedule:
    settings = TrainingSettings(**{"forget_batch": 4, "retain_batch": 4, "accumulation": 2, "epochs": 3, **changed})
    lengths = [[5] * side if isinstance(side, int) else side for side in (forget, retain)]
    return make_schedule(settings, forget_lengths=lengths[0], retain_lengths=lengths[1], lead=lead, worth=worth)


def forget_rows(schedule: Schedule) -> list[int]:
    return [row for micro in schedule.micros() for row in micro.forget]


def retain_rows(schedule: Schedule) -> list[int]:
    return [row for micro in schedule.micros() for row in micro.retain]


def test_every_epoch_passes_every_forget_row_once() -> None:
    # 16 rows, 8 a step: an epoch is exactly 2 steps of 2 forwards.
    schedule = lay_out(16, 50)
    assert (schedule.steps, len(schedule.micros()), schedule.steps_per_epoch) == (6, 12, 2.0)
    order = forget_rows(schedule)
    epochs = [order[i : i + 16] for i in (0, 16, 32)]
    assert all(sorted(epoch) == list(range(16)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_epochs_that_end_inside_a_step_run_on() -> None:
    # 10 rows x 3 epochs = 30: three full steps of 8 and one of 6 (forwards of 4 and 2).
    schedule = lay_out(10, 10)
    assert [len(micro.forget) for micro in schedule.micros()] == [4, 4, 4, 4, 4, 4, 4, 2]
    assert (schedule.steps, schedule.steps_per_epoch) == (4, 1.25)
    assert set(Counter(forget_rows(schedule)).values()) == {3}


def test_a_last_step_may_have_fewer_forwards() -> None:
    # 9 rows, one epoch: a step of 4 + 4 and a step of one forward with 1.
    schedule = lay_out(9, 0, epochs=1)
    # the second step's first forward is empty, so that the last one has rows
    assert [len(micro.forget) for micro in schedule.micros()] == [4, 4, 0, 1]
    assert schedule.steps == 2


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 7])
def test_steps_have_the_same_rows_on_any_number_of_processes(processes: int) -> None:
    schedule = lay_out(11, 30, epochs=2)
    each = schedule.forwards(processes)
    shares = [schedule.micros(process, processes) for process in range(processes)]
    assert {len(share) for share in shares} == {schedule.steps * each}
    for number, batch in enumerate(schedule.batches):
        parts = [m for share in shares for m in share[number * each : (number + 1) * each]]
        for side in ("forget", "retain"):
            assert sorted(row for m in parts for row in getattr(m, side)) == sorted(getattr(batch, side))
        assert sorted(zip(*[[x for m in parts for x in getattr(m, s)] for s in ("forget", "visits")], strict=True)) == (
            sorted(zip(batch.forget, batch.visits, strict=True))
        )
        if len(batch.forget) >= processes:
            # every process has rows in the step's last forward, after which they meet
            assert all(share[(number + 1) * each - 1] for share in shares)


def test_visits_count_how_often_a_row_came_before() -> None:
    schedule = lay_out(4, 0, accumulation=1)
    assert [micro.visits for micro in schedule.micros()] == [(0,) * 4, (1,) * 4, (2,) * 4]


def test_whole_epochs_end_where_an_epoch_ends() -> None:
    # 10 rows: 8 and 2, three times; without, 8, 8, 8, 6.
    settings = TrainingSettings(forget_batch=4, retain_batch=4, accumulation=2, epochs=3)
    schedule = make_schedule(settings, forget_lengths=[5] * 10, retain_lengths=[5] * 10, whole_epochs=True)
    assert [len(batch.forget) for batch in schedule.batches] == [8, 2] * 3
    assert [batch.epoch for batch in schedule.batches] == [0, 0, 1, 1, 2, 2]
    assert (schedule.steps_per_epoch, schedule.epoch(3)) == (2, 1.5)
    for epoch in range(3):
        rows = [row for batch in schedule.batches if batch.epoch == epoch for row in batch.forget]
        assert sorted(rows) == list(range(10))


def test_as_many_retain_rows_as_forget_rows_are_drawn_from_shuffled_passes() -> None:
    # 3 epochs of 8 forget rows draw 24 retain rows: of 12, each twice; of 24, each once; of 100, 24 different ones.
    for count, times in ((12, {2}), (24, {1}), (100, {1})):
        drawn = retain_rows(lay_out(8, count))
        assert len(drawn) == 24
        assert set(Counter(drawn).values()) == times


def test_batch_sizes_set_the_ratio_of_the_sides() -> None:
    # Two forget rows to six retain rows a forward.
    schedule = lay_out(8, 100, forget_batch=2, retain_batch=6, epochs=1)
    assert [(len(m.forget), len(m.retain)) for m in schedule.micros()] == [(2, 6)] * 4


def test_the_same_seed_gives_the_same_schedule_and_another_seed_another() -> None:
    assert lay_out(16, 16, seed=3) == lay_out(16, 16, seed=3)
    assert forget_rows(lay_out(16, 16, seed=3)) != forget_rows(lay_out(16, 16, seed=4))
    assert retain_rows(lay_out(16, 16, seed=3)) != retain_rows(lay_out(16, 16, seed=4))


def test_retain_rows_never_change_the_order_of_the_forget_rows() -> None:
    assert forget_rows(lay_out(16, 0)) == forget_rows(lay_out(16, 7)) == forget_rows(lay_out(16, 400))


def test_longer_runs_begin_like_shorter_ones() -> None:
    assert lay_out(16, 16, epochs=5).micros()[:4] == lay_out(16, 16, epochs=1).micros()


def test_accumulation_splits_the_same_steps() -> None:
    # A step has the same 8 rows whether it is 4 forwards of 2 or one of 8.
    small = lay_out(20, 20, forget_batch=2, retain_batch=2, accumulation=4)
    large = lay_out(20, 20, forget_batch=8, retain_batch=8, accumulation=1)
    assert small.steps == large.steps == 8
    for side in ("forget", "retain"):
        dealt = [
            [r for m in small.micros()[i : i + 4] for r in getattr(m, side)] for i in range(0, len(small.micros()), 4)
        ]
        assert dealt == [list(getattr(m, side)) for m in large.micros()]


def test_rows_of_a_step_are_dealt_by_length() -> None:
    # Lengths 1..8 in one step of two forwards: the long four together, the short four together, longest first.
    (first, second) = lay_out([1, 2, 3, 4, 5, 6, 7, 8], 0, epochs=1).micros()
    assert (first.forget, second.forget) == ((7, 6, 5, 4), (3, 2, 1, 0))


@pytest.mark.parametrize(
    ("lengths", "worth", "most", "expected"),
    [
        # 4 x 9 = 36 tokens for 9 + 8 + 2 + 1 = 20; in two: 2 x 9 + 2 x 2 = 22; in three: 9 + 8 + 2 x 2 = 21
        ([9, 8, 2, 1], 13, 3, [0, 2, 4]),  # the second cut saves one token, the first 14
        ([9, 8, 2, 1], 14, 3, [0, 4]),  # saves no more than it costs
        ([9, 8, 2, 1], 0, 3, [0, 1, 2, 4]),
        ([9, 8, 2, 1], 0, 2, [0, 2, 4]),
        ([9, 8, 2, 1], 0, 4, [0, 1, 2, 3, 4]),
        ([5, 5, 5], 0, 3, [0, 3]),
        ([7], 0, 3, [0, 1]),
        ([], 0, 3, [0, 0]),
    ],
)
def test_rows_are_cut_where_padding_costs_more_than_a_forward(
    lengths: list[int], worth: int, most: int, expected: list[int]
) -> None:
    assert cuts(lengths, worth, most) == expected


def test_a_forward_of_long_and_short_rows_becomes_several() -> None:
    # One step of one forward: forget rows 0 (9 tokens) and 1 (2), retain rows 0 (8) and 1 (1). Cut after the long two.
    plain = lay_out([9, 2], [8, 1], epochs=1)
    cut = lay_out([9, 2], [8, 1], epochs=1, worth=5)
    assert (plain.forwards(), cut.forwards(), cut.forwards(2)) == (1, 2, 1)
    assert [(m.forget, m.retain) for m in plain.micros()] == [((0, 1), (0, 1))]
    assert [(m.forget, m.retain) for m in cut.micros()] == [((0,), (0,)), ((1,), (1,))]
    assert cut.batches == plain.batches
    # a piece may hold rows of one side alone
    assert [(m.forget, m.retain) for m in lay_out([9, 9], [1, 1], epochs=1, worth=5).micros()] == [
        ((0, 1), ()),
        ((), (0, 1)),
    ]


def test_steps_have_one_number_of_forwards_though_some_are_not_cut() -> None:
    # steps of 4 rows: one of 9, 9, 1, 1 tokens is cut, one of four alike is not and begins with an empty forward
    schedule = lay_out([9, 9, 1, 1, 9, 9, 1, 1], 0, epochs=1, accumulation=1, worth=5)
    each = schedule.forwards()
    for number, batch in enumerate(schedule.batches):
        parts = schedule.micros()[number * each : (number + 1) * each]
        assert sorted(row for m in parts for row in m.forget) == sorted(batch.forget)
        assert parts[-1]
    alike = lay_out([9] * 4 + [1] * 4, 0, epochs=1, accumulation=1, worth=1000)
    assert alike.forwards() == 1


def test_retain_rows_can_lead() -> None:
    # Plain training: an epoch is one pass over 10 retain rows; there is no other side.
    schedule = lay_out(0, 10, lead="retain", epochs=2)
    assert set(Counter(retain_rows(schedule)).values()) == {2}
    assert forget_rows(schedule) == []
    assert schedule.steps_per_epoch == 1.25


@pytest.mark.parametrize(("changed", "rows"), [({"epochs": 0.5}, 8), ({"max_steps": 1}, 8), ({"epochs": 0.01}, 1)])
def test_partial_epochs_and_step_limits(changed: dict[str, Any], rows: int) -> None:
    # Half of 16 rows; one step of 8; never less than one row.
    assert len(forget_rows(lay_out(16, 16, **changed))) == rows


@pytest.mark.parametrize(
    ("steps", "warmup", "shape", "factors"),
    [
        (1, 1, "linear", [1]),  # the only step is taken at the peak
        (2, 1, "linear", [1 / 2, 1]),
        (7, 2, "linear", [1 / 3, 2 / 3, 1, 4 / 5, 3 / 5, 2 / 5, 1 / 5]),  # 5 steps from the peak down
        (3, 9, "linear", [1 / 3, 2 / 3, 1]),  # more warm-up than training still reaches the peak
        (4, 0, "linear", [1, 3 / 4, 1 / 2, 1 / 4]),
        (4, 0, "cosine", [1, 0.5 * (1 + 0.5**0.5), 0.5, 0.5 * (1 - 0.5**0.5)]),  # cos of 0, 45, 90, 135 degrees
        (3, 1, "constant_with_warmup", [1 / 2, 1, 1]),
    ],
)
def test_every_step_moves_the_model(steps: int, warmup: int, shape: str, factors: list[float]) -> None:
    assert [rate_factor(step, steps, warmup, shape) for step in range(steps)] == pytest.approx(factors)


def test_a_handful_of_rows_has_a_step_an_epoch() -> None:
    # 6 rows make 2 forwards of 4 an epoch: accumulation 8 would make one step of 4 epochs.
    schedule = lay_out(6, 6, accumulation=8, epochs=4)
    assert (schedule.accumulation, schedule.steps) == (2, 3)  # 24 rows in steps of 8
    assert schedule.epoch(1) == pytest.approx(8 / 6, abs=1e-4)
    assert schedule.epoch(3) == 4


def test_the_epoch_never_exceeds_the_run() -> None:
    # 5 rows, 3 epochs: 15 rows in steps of 8, the second has 7.
    schedule = lay_out(5, 5)
    assert [schedule.epoch(step) for step in (1, 2)] == [1.6, 3.0]
