"""What people are told while they wait: nothing at first, then done, total and time left, as lines where there is no terminal."""

from __future__ import annotations

import io

from attune.models.data.progress import Steps, left


class Terminal(io.StringIO):
    def isatty(self):
        return True


def told(stream, *moments, total=100, **options):
    """Tells `done` at each `(second, done)` and returns what was written."""
    now = [0.0]
    steps = Steps("embedded {} texts", stream=stream, clock=lambda: now[0], **options)
    for second, done in moments:
        now[0] = second
        steps(done, total)
    return stream.getvalue()


def test_work_that_is_soon_done_says_nothing():
    assert told(io.StringIO(), (1.0, 50), (2.0, 100)) == ""


def test_lines_come_every_ten_seconds_with_the_time_left_and_the_last_says_what_it_took():
    moments = [(4.0, 10), (5.0, 20), (13.9, 30), (14.1, 40), (40.0, 100)]
    assert told(io.StringIO(), *moments).splitlines() == [
        "embedded 10 of 100 texts, 0:36 left",
        "embedded 40 of 100 texts, 0:21 left",
        "embedded 100 of 100 texts in 0:40",
    ]


def test_a_terminal_has_one_line_that_is_written_over():
    shown = told(Terminal(), (4.0, 10), (4.6, 20), (9.0, 100))
    assert shown.count("\r") == 3
    assert shown.count("\n") == 1
    assert shown.endswith("embedded 100 of 100 texts in 0:09\n")


def test_work_without_a_known_end_says_what_it_has_taken_and_work_that_may_stop_early_the_most_it_takes():
    assert told(io.StringIO(), (3700.0, 5), total=0) == "embedded 5 texts, 1:01:40 so far\n"
    assert told(io.StringIO(), (10.0, 10), at_most=True) == "embedded 10 of 100 texts, at most 1:30 left\n"


def test_time_left_at_the_end_of_a_line():
    assert left(10.0, 1, 5) == ", 0:40 left"
    assert left(90.0, 2, 82) == ", 1:00:00 left"
    assert (left(10.0, 0, 5), left(10.0, 5, 5)) == ("", "")
