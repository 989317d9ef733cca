"""The follower: it sends soon after each event, retries after failures, and sends the rest at the end."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from tuner.errors import IntegrityError, ServiceError, Unreachable
from tuner.jobs import follower as module
from tuner.jobs.follower import Follower, NothingLeft, Pace
from tuner.storage.events import Entry, JobStateChanged

LONG_S = 30.0
"""Longer than any test waits."""
PACE = Pace(pause_s=0.001, beat_s=LONG_S, longest_retry_s=0.04, give_up_s=LONG_S)
ENTRY = Entry(0, 0, 0.0, JobStateChanged("running"))


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_RETRY_S", 0.01)


class Sender:
    """Notes the time of each call; the first calls raise these errors, the others succeed."""

    def __init__(self, *errors: Exception) -> None:
        self.times: list[float] = []
        self._errors = iter(errors)

    def __call__(self) -> None:
        self.times.append(time.monotonic())
        error = next(self._errors, None)
        if error is not None:
            raise error


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def ended(follower: Follower) -> bool:
    return not follower._thread.is_alive()


def test_it_sends_at_the_start_and_soon_after_each_event() -> None:
    sender = Sender()
    follower = Follower("the store", sender, PACE)
    follower.start()
    for count in (1, 2, 3):
        wait_until(lambda wanted=count: len(sender.times) >= wanted)  # type: ignore[misc]
        follower.on_event(ENTRY)
    wait_until(lambda: len(sender.times) == 4)
    follower.drain()
    assert follower.problem is None


def test_it_sends_once_per_beat_without_an_event() -> None:
    sender = Sender()
    follower = Follower("the store", sender, replace(PACE, beat_s=0.01))
    follower.start()
    wait_until(lambda: len(sender.times) >= 4)
    follower.drain()


def test_two_sends_are_a_pause_apart() -> None:
    sender = Sender()
    follower = Follower("the store", sender, replace(PACE, pause_s=0.1))
    follower.start()
    wait_until(lambda: len(sender.times) == 1)
    for _ in range(10):
        follower.on_event(ENTRY)
    wait_until(lambda: len(sender.times) == 2)
    assert sender.times[1] - sender.times[0] >= 0.1
    follower.drain()


def test_after_failures_it_retries_with_pauses_that_double_up_to_the_longest() -> None:
    sender = Sender(*(ServiceError(f"failure {number}") for number in range(5)))
    follower = Follower("the store", sender, PACE)
    follower.start()
    wait_until(lambda: len(sender.times) == 1)
    wait_until(lambda: str(follower.problem) == "failure 0" or len(sender.times) > 1)
    wait_until(lambda: len(sender.times) == 6)
    wait_until(lambda: follower.problem is None)
    pauses = [later - earlier for earlier, later in zip(sender.times, sender.times[1:], strict=False)]
    assert all(pause >= least for pause, least in zip(pauses, (0.01, 0.02, 0.04, 0.04, 0.04), strict=True))
    follower.drain()
    assert follower.problem is None


def test_it_waits_while_it_fails_in_spite_of_new_events() -> None:
    sender = Sender(ServiceError("down"))
    follower = Follower("the store", sender, PACE)
    follower.start()
    wait_until(lambda: follower.problem is not None)
    follower.on_event(ENTRY)
    wait_until(lambda: len(sender.times) == 2)
    assert sender.times[1] - sender.times[0] >= 0.01
    follower.drain()


@pytest.mark.parametrize("error", [ServiceError("down"), ValueError("a bug"), OSError("no disk")])
def test_no_error_ends_the_thread(error: Exception) -> None:
    sender = Sender(error, error)
    follower = Follower("the store", sender, PACE)
    follower.start()
    wait_until(lambda: len(sender.times) == 3)
    follower.drain()
    assert follower.problem is None


def test_drain_sends_the_rest_and_ends_the_thread() -> None:
    unsent, sent = [1], []

    def send() -> None:
        sent.extend(unsent)
        unsent.clear()

    follower = Follower("the store", send, PACE)
    follower.start()
    wait_until(lambda: sent == [1])
    unsent.append(2)
    follower.drain()
    assert (sent, follower.problem) == ([1, 2], None)
    assert ended(follower)


def test_drain_retries_until_the_store_is_up_again() -> None:
    sender = Sender(*[ServiceError("down")] * 3)
    follower = Follower("the store", sender, PACE)
    follower.start()
    follower.drain()
    assert (len(sender.times), follower.problem) == (4, None)


def test_it_gives_up_when_the_store_has_failed_long_enough() -> None:
    sender = Sender(*[ServiceError("down")] * 1000)
    follower = Follower("the store", sender, replace(PACE, give_up_s=0.1))
    follower.start()
    follower.drain()
    assert str(follower.problem) == "down"
    assert ended(follower)
    assert sender.times[-1] - sender.times[0] >= 0.09


def test_before_the_end_it_never_gives_up() -> None:
    sender = Sender(*[ServiceError("down")] * 5)
    follower = Follower("the store", sender, replace(PACE, give_up_s=0.0))
    follower.start()
    wait_until(lambda: len(sender.times) == 6)
    follower.drain()
    assert follower.problem is None


def test_nothing_left_ends_it_without_a_problem() -> None:
    sender = Sender(NothingLeft())
    follower = Follower("the store", sender, PACE)
    follower.start()
    wait_until(lambda: ended(follower))
    follower.on_event(ENTRY)
    follower.drain()
    assert (len(sender.times), follower.problem) == (1, None)


def test_a_slow_sender_is_reported_after_its_patience() -> None:
    ready = threading.Event()
    follower = Follower("the store", lambda: (ready.wait(10), None)[1], replace(PACE, patience_s=0.05))
    follower.start()
    begun = time.monotonic()
    follower.drain()
    assert 0.05 <= time.monotonic() - begun < 5
    assert isinstance(follower.problem, ServiceError)
    assert str(follower.problem) == "the store did not take everything within 0.05 s"
    ready.set()
    follower._thread.join(10)


def test_without_a_limit_drain_waits_for_a_slow_sender() -> None:
    done: list[bool] = []

    def send() -> None:
        time.sleep(0.2)
        done.append(True)

    follower = Follower("the store", send, PACE)
    follower.start()
    follower.drain()
    assert done
    assert follower.problem is None


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        (None, None),
        (Unreachable("it is down"), "warning: it is down; nothing is lost: tuner sync job-1 sends the rest"),
        (
            ServiceError("it has other tables"),
            "warning: the store lacks a part of job job-1: it has other tables; once that is mended: tuner sync job-1",
        ),
        (
            IntegrityError("the journal is damaged"),
            "warning: the store lacks a part of job job-1: the journal is damaged; once that is mended: "
            "tuner sync job-1",
        ),
        (
            KeyError("x"),
            "warning: the store lacks a part of job job-1: KeyError: 'x'; once that is mended: tuner sync job-1",
        ),
    ],
)
def test_only_a_store_that_is_down_is_said_to_get_the_rest_by_a_sync(
    problem: Exception | None, line: str | None
) -> None:
    follower = Follower("the store", Sender(), PACE)
    follower.problem = problem
    assert follower.warning("job-1") == line
