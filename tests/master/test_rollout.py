"""Who is waited for, and when blocks come back."""

from meshproxy.master.rollout import Retirement, Rollout


def test_it_is_over_when_all_have_applied_or_are_gone() -> None:
    rollout = Rollout("2", 30.0, {1, 2, 3})

    rollout.applied(1, "")
    rollout.gone(2)
    assert not rollout.is_over(1.0)
    rollout.applied(3, "")
    assert rollout.is_over(1.0)
    assert rollout.refusals == []


def test_one_refusal_ends_it_at_once() -> None:
    rollout = Rollout("2", 30.0, {1, 2})

    rollout.applied(1, "no such filter")

    assert rollout.is_over(0.0)
    assert rollout.refusals == ["no such filter"]


def test_it_does_not_wait_for_ever() -> None:
    assert not Rollout("2", 30.0, {1}).is_over(29.9)
    assert Rollout("2", 30.0, {1}).is_over(30.0)


def test_blocks_come_back_when_each_worker_has_let_go_or_died() -> None:
    reclaimed: list[int] = []
    retirement = Retirement(reclaimed.append)
    retirement.add(5, [1, 2], [10, 11])
    retirement.add(6, [3], [10, 11])

    retirement.let_go(10, 6)
    assert reclaimed == []
    retirement.let_go(11, 5)
    assert reclaimed == [1, 2]
    retirement.gone(11)
    assert reclaimed == [1, 2, 3]


def test_blocks_that_no_worker_had_come_back_at_once() -> None:
    reclaimed: list[int] = []

    Retirement(reclaimed.append).add(1, [7], [])

    assert reclaimed == [7]


def test_nothing_comes_back_while_a_former_masters_workers_may_count_in_it() -> None:
    reclaimed: list[int] = []
    retirement = Retirement(reclaimed.append)
    retirement.predecessor = True
    retirement.add(1, [7], [10])
    retirement.gone(10)

    assert reclaimed == []
    retirement.predecessor_gone()
    assert reclaimed == [7]
