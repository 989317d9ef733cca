"""Shares of a cluster: equal where all want as much, never more than is wanted, and no place left empty."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.execution.capacity import FixedCapacity, fair_share


@pytest.mark.parametrize(
    ("places", "wants", "shares"),
    [
        (8, {"a": 100}, {"a": 8}),
        (8, {"a": 100, "b": 100}, {"a": 4, "b": 4}),
        (8, {"a": 100, "b": 2}, {"a": 6, "b": 2}),
        (7, {"old": 9, "young": 9}, {"old": 4, "young": 3}),
        (2, {"a": 9, "b": 9, "c": 9}, {"a": 1, "b": 1, "c": 1}),
        (0, {"a": 9}, {"a": 1}),
    ],
)
def test_places_are_shared(places: int, wants: dict[str, int], shares: dict[str, int]) -> None:
    assert {job: fair_share(places, wants, job) for job in wants} == shares


@given(st.integers(0, 200), st.lists(st.integers(0, 50), min_size=1, max_size=8))
def test_no_place_is_empty_that_somebody_wants_and_none_is_given_twice(places: int, wants: list[int]) -> None:
    named = {str(number): want for number, want in enumerate(wants)}
    shares = {job: fair_share(places, named, job) for job in named}
    # Everyone is told of at least one; Ray lets them queue for it.
    given_out = sum(share for job, share in shares.items() if named[job] and (share > 1 or places >= len(wants)))
    assert given_out <= max(places, len(wants))
    if places >= len(wants):
        assert sum(min(shares[job], named[job]) for job in named) == min(places, sum(wants))


def test_a_machine_of_ones_own_has_a_fixed_number() -> None:
    assert FixedCapacity(3).trials(running=9, more=True, waits=False) == 3
