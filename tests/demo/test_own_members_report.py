"""What `own-members` says of shares that were the same for all users, and of users who are not there."""

from __future__ import annotations

import numpy as np

from demo.own_members import Joining
from demo.own_members_report import _joining, _stated


def test_users_who_are_all_alike_leave_a_share_uncertain_and_nobody_is_said():
    # Ten of ten: Clopper and Pearson's lower end is 0.025^(1/10).
    assert _stated(np.ones(10)) == "1.000 [0.692, 1.000]"
    assert _stated(np.full(10, 0.9), None) == "0.900 [0.900, 0.900]"
    joined = _joining([Joining(np.zeros(0), np.zeros(10))])
    assert joined["joined"] == "nobody"
    assert joined["wrong_more"] == "0.000 [-0.308, 0.308]"
