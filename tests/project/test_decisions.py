"""Decisions and results are kept by day: each section of the records says when it was decided, and they stand in that order."""

from __future__ import annotations

import re
from datetime import date

import pytest

from tests.project.tree import ROOT


@pytest.mark.parametrize("record", ["service/DESIGN.md", "models/LOG.md"])
def test_every_section_of_a_record_has_its_day_and_they_stand_in_order(record: str):
    headings = re.findall(r"^## (.+)$", (ROOT / record).read_text(encoding="utf-8"), flags=re.MULTILINE)
    days = [date.fromisoformat(heading.split(": ")[0]) for heading in headings]
    assert days
    assert days == sorted(days)
