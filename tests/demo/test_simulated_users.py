"""Simulated users of a running server: new people in every run."""

from __future__ import annotations

from demo.simulated_users import strangers


def test_a_second_run_meets_nobody_of_the_first():
    first, second = strangers(3), strangers(3)
    assert len({*first, *second}) == 6
