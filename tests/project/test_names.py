"""One name means one thing: classes, files, and the families of reward heads."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from attune.models.seam.registry import KINDS
from tests.project.tree import ROOT, tracked

SOURCES = ("service/", "models/", "demo/", "studies/", "loadtest/")
SAME_WORD = {
    "models/training/direction_head.py": "`bradley_terry` is a loss there",
    "service/usecases/forms_of_feedback.py": "a sample of what is packed, in a dictionary that never changes",
    "studies/__main__.py": "`sparserm` is a study there",
}


def sources() -> list[tuple[str, str]]:
    paths = [path for path in tracked() if path.endswith(".py") and path.startswith(SOURCES)]
    return [(path, (ROOT / path).read_text(encoding="utf-8")) for path in paths]


def test_a_family_is_called_by_its_name_in_its_own_module_and_nowhere_else():
    literal = re.compile(f'(?<![\\w"])"({"|".join(KINDS)})"(?!")')
    found = {path: literal.findall(text) for path, text in sources() if path not in SAME_WORD}
    own = {f"models/seam/{name}.py": [name] for name in KINDS}
    assert {path: names for path, names in found.items() if names} == own


def test_no_two_classes_have_one_name():
    found: dict[str, list[str]] = defaultdict(list)
    for path, text in sources():
        for name in re.findall(r"^ *class (\w+)", text, flags=re.MULTILINE):
            found[name].append(path)
    assert {name: paths for name, paths in found.items() if len(paths) > 1} == {}


SUBJECT_OF_ITS_OWN = {"route"}
"""`models/seam/routing.py` is the mathematics of choosing members, by the field's name for it, and `service/api/route.py` the route."""

SAME_FILE_NAME = {
    "__init__": "Python's own",
    "__main__": "Python's own",
    "run": "the command of a study, one a folder",
}
"""Names that several folders use for the same thing, with what it is."""


def test_no_two_files_have_one_name_unless_their_folders_say_the_rest():
    # A command group, a route and a guest's own part are called after their subject; so is a family's trainer after its family.
    subjects = ("service/api/", "models/commands/", "demo/", "models/training/", "loadtest/", "src/attune/client/")
    found: dict[str, list[str]] = defaultdict(list)
    for path in tracked():
        if path.endswith(".py") and path.startswith((*SOURCES, "src/attune/client/")):
            found[Path(path).stem].append(path)
    twins = {name: [path for path in paths if not path.startswith(subjects)] for name, paths in found.items() if name not in SAME_FILE_NAME}
    assert {name: paths for name, paths in twins.items() if len(paths) > 1} == {}
    # Of a pair such as `score` and `scoring` neither name says what is in it.
    known = {name for name, paths in twins.items() if paths}
    assert sorted(name for name in known if name.endswith("ing") and {name[:-3], f"{name[:-3]}e"} & found.keys() - SUBJECT_OF_ITS_OWN) == []


def test_every_file_that_a_measurement_starts_or_reads_is_there():
    named = {path: re.findall(r'HERE / "([^"]+)"', text) for path, text in sources() if path.startswith("loadtest/")}
    assert sum(map(len, named.values())) > 1
    missing = {path: [name for name in names if not (ROOT / path).with_name(name).exists()] for path, names in named.items()}
    assert {path: names for path, names in missing.items() if names} == {}
    peers = (ROOT / "loadtest/peers/targets.py").read_text(encoding="utf-8")
    apps = re.findall(r'"(\w+):app"', peers)
    assert apps
    assert all((ROOT / "loadtest/peers" / f"{app}.py").exists() for app in apps)
