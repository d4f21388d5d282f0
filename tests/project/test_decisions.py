"""The records can be searched: results of training stand by day, decisions by subject, and what a decision names is there."""

from __future__ import annotations

import re
from datetime import date

import pytest

from tests.project.tree import ROOT

DECISIONS = (ROOT / "service/DESIGN.md").read_text(encoding="utf-8")
WIDTH = 140
NAMED = re.compile(r"`([\w./-]+\.(?:py|md|toml))`")
"""A file, as an entry names it: from the root of the repository or from `service/`."""


def day_of(heading: str) -> date:
    """Returns the day with which a heading begins, followed by a colon and a title.

    Raises:
        ValueError: it begins with something else, or nothing follows.
    """
    day, _, title = heading.partition(": ")
    if not title.strip():
        raise ValueError(f"{heading!r}: no title after the day")
    return date.fromisoformat(day)


def anchor(heading: str) -> str:
    """Returns what a link to the heading is called, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def headings(level: str, text: str) -> list[str]:
    return re.findall(rf"^{level} (.+)$", text, flags=re.MULTILINE)


SECTIONS = {section.split("\n", 1)[0]: section for section in DECISIONS.split("\n## ")[1:]}


def test_results_of_training_have_their_day_and_stand_in_its_order():
    days = [day_of(heading) for heading in headings("##", (ROOT / "models/LOG.md").read_text(encoding="utf-8"))]
    assert days
    assert days == sorted(days)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_decision_has_its_day_and_those_of_a_subject_stand_in_its_order(section: str):
    days = [day_of(heading) for heading in headings("###", SECTIONS[section])]
    assert days, "a subject without a decision"
    assert days == sorted(days)
    between = SECTIONS[section].split("\n", 1)[1].split("\n### ")[0]
    assert not between.strip(), "what stands before the first decision has no day"
    assert not headings("####+", SECTIONS[section])


def test_the_table_of_contents_names_every_subject_in_order():
    contents = DECISIONS.split("\n## ")[0]
    assert re.findall(r"^\| \[(.+?)\]\(#(.+?)\) \| .+ \|$", contents, flags=re.MULTILINE) == [(one, anchor(one)) for one in SECTIONS]


def test_no_two_headings_have_one_anchor_and_every_link_between_decisions_leads_to_one():
    anchors = [anchor(heading) for heading in headings("##+", DECISIONS)]
    assert len(anchors) == len(set(anchors))
    assert set(re.findall(r"\]\(#([^)]+)\)", DECISIONS)) <= set(anchors)


def test_decisions_fit_a_reader_s_window():
    assert [line for line in DECISIONS.split("\n") if len(line) > WIDTH] == []


def test_files_and_settings_that_decisions_name_are_there():
    absent = [name for name in NAMED.findall(DECISIONS) if not (ROOT / name).is_file() and not (ROOT / "service" / name).is_file()]
    assert absent == []
    settings = (ROOT / "docs/reference/settings.md").read_text(encoding="utf-8")
    assert [name for name in re.findall(r"ATTUNE_[A-Z_]+", DECISIONS) if name not in settings] == []
