"""Whatever is wrong with what a command is given, it says so in a sentence and exits with 1; the whole is shown where it is asked for."""

from __future__ import annotations

import gzip
import json
import re

import pytest
import typer
from typer.testing import CliRunner

from attune.command_line import in_words, plain_app, plain_group
from attune.models.__main__ import app
from attune.models.commands.options import makeable, model_source
from attune.service.__main__ import app as serving
from tests.project.tree import ROOT

ROW = {"prompt": "Why?", "chosen": "So.", "rejected": "No."}
EXPORT = [{"type": "user", "id": "ada"}, {"type": "comparison", "event_id": "e1", "prompt": "p", "chosen_text": "a", "rejected_text": "b"}]
FILES = {
    "empty.jsonl": b"",
    "columns.jsonl": b'{"question": 1}',
    "packed.jsonl.gz": b"not gzip",
    "cut.jsonl.gz": gzip.compress(json.dumps(ROW).encode() * 999)[:60],
    "nan.jsonl": json.dumps(ROW | {"weight": float("nan")}).encode(),
    "deep.jsonl": b'{"prompt": ' + b"[" * 100_000,
    "latin.jsonl": '{"prompt": "é"}'.encode("latin-1"),
    "binary.jsonl": bytes(range(256)),
    "surrogate.jsonl": b'{"user": "u", "prompt": "\\ud800", "chosen": "a", "rejected": "b"}',
    "one-user.jsonl": "\n".join(json.dumps(ROW | {"user": "u", "chosen": f"so {n}"}) for n in range(9)).encode(),
    "ties.jsonl": "\n".join(json.dumps(ROW | {"user": f"u{n}", "tie": True}) for n in range(90)).encode(),
    "nobody.jsonl": "\n".join(json.dumps(ROW | {"chosen": f"so {n}"}) for n in range(9)).encode(),
    "export.jsonl": "\n".join(map(json.dumps, EXPORT)).encode(),
    "absent.jsonl": None,
    "prefs.xlsx": b"PK",
}
READERS = (["data", "check"], ["measure", "learners"], ["measure", "policy"], ["train", "router"])
FINE = {("data", "one-user.jsonl"), ("data", "ties.jsonl"), ("data", "nobody.jsonl")}
"""Odd, and told with a warning: they can be read."""


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("command", READERS, ids=" ".join)
def test_a_file_that_a_command_cannot_use_is_a_sentence_and_exit_code_1(tmp_path, monkeypatch, command, name):
    monkeypatch.chdir(tmp_path)
    if FILES[name] is not None:
        (tmp_path / name).write_bytes(FILES[name])
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    given = {"policy": ["--decisions", name, "--feedback", name], "router": ["--bundle", str(bundle), "--comparisons", name]}
    shown = CliRunner().invoke(app, [*command, *given.get(command[1], [name])])
    if (command[0], name) in FINE:
        assert shown.exit_code == 0, shown.output
        return
    assert shown.exit_code == 1, shown.output
    assert isinstance(shown.exception, SystemExit)
    assert not re.search(r"Traceback|\w+(Error|Invalid|Failed):|\[Errno", shown.output), shown.output
    assert shown.output.strip()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "choices.jsonl has no rows"),
        (b"\n \n", "choices.jsonl has no rows"),
        (b'{"question": 1}', "choices.jsonl: the columns question make no known shape"),
        (
            b'{"user": "u", "prompt": "p", "response": "r", "rating": 1}\n{"user": "u", "prompt": "p", "response": "s", "rating": 1}',
            "choices.jsonl: there is no comparison: the one possible pair is of equal scores or texts",
        ),
        (
            b'{"user": "u", "prompt": "p", "response": "r", "rating": 1}\n{"user": "v", "prompt": "p", "response": "s", "rating": 2}',
            "choices.jsonl: there is no comparison: 2 ratings are the only one of their user for a prompt",
        ),
        (
            b'{"prompt": "p", "chosen": "a", "rejected": "b"}',
            "choices.jsonl: there is nobody to teach: 1 row has no user, and no other has",
        ),
        (b'{"user": "u", "prompt": "p", "chosen": "a", "rejected": "b", "weight": ' + b"9" * 5000 + b"}", "more than 300 digits"),
    ],
)
def test_what_teaches_nothing_is_refused_before_a_server_is_asked(tmp_path, monkeypatch, content, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "choices.jsonl").write_bytes(content)
    shown = CliRunner().invoke(app, ["users", "import", "choices.jsonl", "--url", "http://127.0.0.1:9"])
    assert (shown.exit_code, said in shown.stderr) == (1, True), shown.output


@pytest.mark.parametrize(
    "command",
    [
        ["bundle", "show", "none"],
        ["portfolio", "show", "none"],
        ["portfolio", "vllm", "none"],
        ["portfolio", "build", "--base", "none", "--rewards", "no_such:THING", "--prompts", "none.txt"],
        ["portfolio", "build", "--base", "none", "--rewards", "tests.models.tiny_causal:REWARDS", "--prompts", "none.txt"],
        ["measure", "members", "none", "--base", "none", "--rewards", "tests.models.tiny_causal:REWARDS", "--prompts", "none.txt"],
        ["train", "router", "--bundle", "none", "--comparisons", "none.jsonl"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_folder_or_module_that_is_not_there_is_named(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 1, shown.output
    assert not re.search(r"Traceback|\[Errno", shown.output), shown.output
    assert re.search("none|no_such", shown.output)


@pytest.mark.parametrize("named", ["/nonexistent", "./none", "~/none", "one/two/three", "no-model", "file.txt"])
@pytest.mark.parametrize(
    "command",
    [
        ["portfolio", "build", "--families", ".", "--prompts", "file.txt", "--base"],
        ["portfolio", "build", "--prompts", "file.txt", "--base"],
        ["train", "member", "--weights", "a=1", "--out", "made", "--rewards", "m:R", "--prompts", "file.txt", "--base"],
        ["train", "families", "file.txt", "--out", "made", "--trunk"],
        ["measure", "families", ".", "file.txt", "--trunk"],
        ["import", "reward", "--out", "made"],
    ],
    ids=lambda words: " ".join([*words[:2], words[-1]]),
)
def test_a_model_that_cannot_be_one_is_refused_in_a_line_before_anything_else_is_looked_at(tmp_path, monkeypatch, command, named):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("Why?")
    (tmp_path / "no-model").mkdir()
    shown = CliRunner().invoke(app, [*command, named])
    assert shown.exit_code == 1
    assert len(shown.stderr.splitlines()) == 1
    assert re.search(rf": {re.escape(named)} is no (folder|model)", shown.stderr)
    assert not (tmp_path / "made").exists()


def test_an_id_of_the_hub_a_model_of_this_folder_and_nothing_are_taken_as_models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    for named in ("", "gpt2", "owner/name", "mine", "./mine", str(tmp_path / "mine")):
        assert model_source(named) == named


def test_rewards_of_a_module_in_the_current_folder_are_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = "from tests.models.tiny_causal import REWARDS as MINE\n"
    (tmp_path / "rewards_of_this_folder.py").write_text(source)
    from attune.models.portfolio.inputs import load_rewards

    assert load_rewards("rewards_of_this_folder:MINE").names == ("short", "vowels")


def test_rewards_as_the_page_writes_them_can_be_given_and_others_are_told_what_is_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs/howto/trunks.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "rewards_of_the_page.py").write_text(example)
    from attune.models.alignment.base_answers import RewardsInvalid
    from attune.models.portfolio.inputs import load_rewards

    rewards = load_rewards("rewards_of_the_page:REWARDS")
    brief, lively = rewards.of(["Why?"] * 2, ["Because!", "It is a long story. " * 20]).T
    assert rewards.names == ("brief", "lively")
    assert brief[0] > brief[1]
    assert lively[0] > lively[1]
    with pytest.raises(
        RewardsInvalid, match=r"are function; attune\.models\.alignment\.base_answers\.Rewards\(names, score\) was expected"
    ):
        load_rewards("rewards_of_the_page:score")


def failing(error):
    """Returns an application whose one command, two groups deep, raises `error`."""
    root, group = plain_app("All."), plain_group("Some.")
    root.add_typer(group, name="group")

    @group.command("fail")
    def fail():
        raise error

    @group.command("other")
    def other():
        pass

    return root


def test_the_whole_error_is_shown_where_it_is_asked_for():
    error = ValueError("the file has no rows")
    plain = CliRunner().invoke(failing(error), ["group", "fail"])
    assert (plain.exit_code, plain.stderr.endswith(": the file has no rows\n")) == (1, True)
    for words in (["--traceback", "group", "fail"], ["group", "fail", "--traceback"]):
        assert CliRunner().invoke(failing(error), words).exception is error
    assert CliRunner().invoke(failing(typer.Exit(3)), ["group", "fail"]).exit_code == 3
    assert CliRunner().invoke(failing(typer.BadParameter("no")), ["group", "fail"]).exit_code == 2
    assert CliRunner().invoke(failing(error), ["group", "nothing"]).exit_code == 2


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ModuleNotFoundError("No module named 'torch'", name="torch"),
            r"needs torch: pip install '\.\[train\]' in a checkout, or .*\.whl\[train\]'",
        ),
        (ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime.capi"), r"needs onnxruntime: pip install '\.\[cpu\]'"),
        (ModuleNotFoundError("No module named 'mine'", name="mine"), "^this needs mine, which is not installed$"),
        (FileNotFoundError(2, "No such file or directory", "prefs.jsonl"), "^prefs.jsonl: no such file or directory$"),
        (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
        (MemoryError(), "takes more memory than there is"),
        (UnicodeEncodeError("utf-8", "a\udcff", 1, 2, "surrogates not allowed"), r"^a text is no Unicode: '\\udcff'$"),
        (UnicodeEncodeError("ascii", "aü", 1, 2, "ordinal not in range"), "^'ü' cannot be written as ascii$"),
        (KeyError("user"), "a mistake in the program .KeyError: 'user'.; please report it with what --traceback shows"),
        (ValueError(""), "a mistake in the program"),
    ],
)
def test_errors_are_put_into_words(error, said):
    assert re.search(said, in_words(error))


@pytest.mark.parametrize(
    "command",
    [
        ["replay"],
        ["reload"],
        ["feedback", "--user", "ada", "--chosen", "a", "--rejected", "b"],
        ["users", "show", "ada"],
        ["users", "export", "ada"],
        ["users", "forget", "ada"],
        ["users", "take-back", "ada", "e"],
        ["users", "import", "choices.jsonl"],
        ["members", "measure", "--bundle", "b", "--roster", "r", "--prompts", "choices.jsonl", "--out", "o"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_a_key_is_named_by_its_variable_everywhere_and_one_that_is_not_set_stops_the_command(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "choices.jsonl").write_text('{"user": "u", "prompt": "p", "chosen": "a", "rejected": "b"}\n', encoding="utf-8")
    commands = app if command[0] == "users" else serving
    result = CliRunner(env={"EMPTY_KEY": ""}).invoke(commands, [*command, "--key-env", "EMPTY_KEY"])
    assert result.exit_code == 2, result.output
    assert "EMPTY_KEY is not set" in result.stderr


def test_a_key_on_the_command_line_is_still_taken_and_told_what_is_better(tmp_path):
    (tmp_path / "none.jsonl").write_text("", encoding="utf-8")
    result = CliRunner().invoke(app, ["users", "import", str(tmp_path / "none.jsonl"), "--key", "not-to-be-shown"])
    assert "name the variable that holds the key with --key-env" in result.stderr
    assert "not-to-be-shown" not in result.output


@pytest.mark.parametrize("command", [["bundle", "demo"], ["measure", "policy", "--decisions", "d", "--feedback", "f"]], ids=" ".join)
def test_a_folder_that_cannot_be_made_is_said_before_the_work_and_none_is_left_behind(tmp_path, command):
    (tmp_path / "file").touch()
    shown = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "file" / "below" / "out")])
    assert shown.exit_code == 1, shown.output
    assert re.search(r"out cannot be written to: .*file: not a directory", shown.output.replace("\n", " ")), shown.output
    assert makeable(tmp_path / "new" / "out") == tmp_path / "new" / "out"
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (["train", "families", "choices.jsonl", "--out", "o"], "--cache"),
        (["import", "reward", "owner/name", "--out", "o"], "--cache"),
        (["measure", "learners", "choices.jsonl"], "--cache"),
        (["portfolio", "build", "--base", "owner/name", "--prompts", "choices.jsonl", "--rewards", "m:R"], "--cache"),
        (
            ["train", "member", "--base", "owner/name", "--prompts", "choices.jsonl", "--rewards", "m:R", "--weights", "a=1", "--out", "o"],
            "--shared",
        ),
        (["train", "member", "--base", "owner/name", "--prompts", "choices.jsonl", "--rewards", "m:R", "--weights", "a=1"], "--out"),
    ],
)
def test_a_folder_in_which_work_is_kept_is_asked_for_before_the_work_too(tmp_path, monkeypatch, command, option):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "choices.jsonl").write_text('{"user": "u", "prompt": "p", "chosen": "a", "rejected": "b"}\n', encoding="utf-8")
    shown = CliRunner().invoke(app, [*command, option, "choices.jsonl/kept"])
    assert shown.exit_code == 1, shown.output
    assert "choices.jsonl/kept cannot be written to: " in shown.output
    assert [found.name for found in tmp_path.iterdir()] == ["choices.jsonl"]


@pytest.mark.parametrize(
    ("precision", "said"),
    [
        ("bf16", "pack fp32, of which ATTUNE_PRECISION=bf16 makes it at the start, with the extra `openvino`"),
        ("fp8", "fp32, fp16 and int8 are"),
    ],
)
def test_a_precision_that_no_graph_is_stored_in_is_refused_with_what_makes_it(tmp_path, precision, said):
    shown = CliRunner().invoke(app, ["bundle", "build", str(tmp_path), "--precision", precision])
    assert shown.exit_code == 2
    words = " ".join(shown.stderr.replace("│", " ").split())
    assert f"no graph is stored in '{precision}'" in words
    assert said in words


def test_a_package_that_a_library_misses_is_named_and_not_the_library_s_own_part():
    missing = ModuleNotFoundError("No module named 'scipy'", name="scipy")
    around = ModuleNotFoundError("Could not import module 'BertModel'. Are this object's requirements defined correctly?")
    around.__cause__ = missing
    assert in_words(around) == in_words(missing)
    assert in_words(around).startswith("this needs scipy: pip install")


@pytest.mark.parametrize("content", ["def broken(:", "raise RuntimeError('boom')", "raise KeyError('x')", "import torch.nobody_has_this"])
def test_rewards_whose_module_fails_while_it_is_imported_are_named(tmp_path, monkeypatch, content):
    from attune.models.portfolio.inputs import load_rewards

    name = f"failing_{abs(hash(content))}"
    (tmp_path / f"{name}.py").write_text(content)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"rewards '{name}:MINE' cannot be loaded: "):
        load_rewards(f"{name}:MINE")
