"""What does not fit is refused when it is loaded, by member, file and shapes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

pytest.importorskip("peft")

from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from attune.service.members.local import LocalEngine
from attune.service.members.local_model import _with_adapters, fingerprints, load
from attune.service.members.member import UnusableMember
from tests.members.tiny import CONTEXT, edit_config, write_adapter, write_base

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def adapter(language_model, tmp_path):
    return shutil.copytree(language_model / "adapters" / "concise", tmp_path / "concise")


def refused(base, adapter):
    with pytest.raises(UnusableMember) as caught:
        load(base, {"concise": adapter})
    message = str(caught.value)
    assert "'concise'" in message
    return message


def test_an_adapter_of_a_wider_base_is_refused_with_both_shapes(language_model, tmp_path):
    wide = write_adapter(tmp_path / "adapter", write_base(tmp_path / "wide", hidden=64), seed=1)
    message = refused(language_model / "base", wide)
    assert str(wide / WEIGHTS) in message
    assert "lora_A.weight has shape (4, 64)" in message
    assert "has 32 inputs" in message


def test_an_adapter_for_layers_that_the_base_lacks_is_refused(language_model, adapter):
    tensors = load_file(adapter / WEIGHTS)
    extra = {key.replace("layers.1.", "layers.7."): value for key, value in tensors.items() if "layers.1." in key}
    save_file(tensors | extra, adapter / WEIGHTS)
    assert "has no layer model.layers.7." in refused(language_model / "base", adapter)


def test_missing_tensors_are_counted_and_the_first_is_named(language_model, adapter):
    tensors = load_file(adapter / WEIGHTS)
    save_file({key: value for key, value in tensors.items() if "layers.1.mlp" not in key}, adapter / WEIGHTS)
    message = refused(language_model / "base", adapter)
    assert "2 tensors" in message
    assert "layers.1.mlp.up_proj.lora_A" in message


def test_tensors_that_the_description_does_not_name_are_refused(language_model, adapter):
    edit_config(adapter, target_modules=["q_proj", "v_proj"])
    message = refused(language_model / "base", adapter)
    assert "4 tensors" in message
    assert "up_proj" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused_with_their_tensor(language_model, adapter, value):
    tensors = load_file(adapter / WEIGHTS)
    spoilt = next(key for key in tensors if "layers.1.mlp.up_proj.lora_B" in key)
    tensors[spoilt][0, 0] = value
    save_file(tensors, adapter / WEIGHTS)
    message = refused(language_model / "base", adapter)
    assert "holds 1 tensor (base_model.model.model.layers.1.mlp.up_proj.lora_B.weight) with numbers that are not finite" in message


def test_a_rank_that_is_not_the_tensors_is_refused_with_the_shapes(language_model, adapter):
    edit_config(adapter, r=8)
    message = refused(language_model / "base", adapter)
    assert WEIGHTS in message
    assert "[4, 32]" in message
    assert "[8, 32]" in message


@pytest.mark.parametrize("file", ["adapter_config.json", WEIGHTS])
def test_a_missing_file_is_named(language_model, adapter, file):
    (adapter / file).unlink()
    assert f"{adapter / file} is missing" in refused(language_model / "base", adapter)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"use_dora": True}, "use_dora is True"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is ['lm_head']"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights is 'pissa_niter_16'"),
        ({"init_lora_weights": "olora"}, "init_lora_weights is 'olora'"),
        ({"init_lora_weights": "corda"}, "init_lora_weights is 'corda'"),
        ({"init_lora_weights": "eva"}, "init_lora_weights is 'eva'"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights is 'loftq'"),
        ({"init_lora_weights": "lora_ga"}, "init_lora_weights is 'lora_ga'"),
        ({"layer_replication": [[0, 1], [0, 2]]}, "layer_replication is [[0, 1], [0, 2]]"),
        ({"target_parameters": ["mlp.experts.gate_up_proj"]}, "target_parameters is ['mlp.experts.gate_up_proj']"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens is [1]"),
        ({"task_type": "SEQ_CLS"}, "task_type is 'SEQ_CLS'"),
        ({"something_of_a_later_peft": True}, "something_of_a_later_peft is True"),
    ],
)
def test_adapters_that_cannot_share_a_batch_are_refused(language_model, adapter, changes, said):
    edit_config(adapter, **changes)
    assert said in refused(language_model / "base", adapter)


@pytest.mark.parametrize("kind", ["pissa", "olora"])
def test_an_adapter_that_changes_the_base_is_found_by_the_bases_weights_too(language_model, tmp_path, kind):
    base = language_model / "base"
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=kind, task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(tmp_path / "newcomer")
    network = AutoModelForCausalLM.from_pretrained(base)
    adapters = {"concise": ("adapter0", language_model / "adapters" / "concise"), "newcomer": ("adapter1", tmp_path / "newcomer")}
    with pytest.raises(UnusableMember, match=r"'newcomer'.*changes \d+ tensors .* of the base that other members share"):
        _with_adapters(network, adapters, base)  # past the check of what the file says of itself


@pytest.mark.parametrize(
    "changes", [{"init_lora_weights": "gaussian"}, {"use_rslora": True}, {"rank_pattern": {}, "base_model_name_or_path": "x"}]
)
def test_adapters_that_change_nothing_shared_are_taken_and_leave_the_base_as_it_was(language_model, adapter, changes):
    edit_config(adapter, **changes)
    alone = fingerprints(load(language_model / "base", {}).network)
    model = load(language_model / "base", {"concise": adapter})
    kept = {name.replace(".base.", "."): value for name, value in fingerprints(model.network).items()}
    assert {name: kept[name] for name in alone} == alone


def test_a_tokenizer_with_a_token_beyond_the_embedding_is_refused_with_both_numbers(language_model, tmp_path):
    base = shutil.copytree(language_model / "base", tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["<one-more>"])
    tokenizer.save_pretrained(base)
    with pytest.raises(UnusableMember, match=r"has ids up to \d+, and its embedding has 384 rows"):
        load(base, {})


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "nobody-knows-this"},
        {"model_type": "llama", "hidden_size": "wide"},
        {"auto_map": {"AutoModelForCausalLM": "modeling_evil.Evil", "AutoConfig": "modeling_evil.Config"}, "model_type": "evil"},
        [],
    ],
)
def test_whatever_a_library_says_of_a_base_it_is_one_sentence_with_the_members_and_runs_nothing(language_model, tmp_path, config):
    base = shutil.copytree(language_model / "base", tmp_path / "base")
    (base / "config.json").write_text(json.dumps(config))
    (base / "modeling_evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    engine = LocalEngine(base, {})
    engine.member("concise")
    with pytest.raises(UnusableMember, match=r"member 'concise', base: .* does not load: \w+: ") as caught:
        engine.load()
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "template", ["{% for %}", "{{ nobody_knows_this() }}", "{{ raise_exception('never') }}", "{{ messages[5].content }}"]
)
def test_a_chat_template_that_writes_no_conversation_is_refused_at_load_and_not_by_each_request(language_model, tmp_path, template):
    base = shutil.copytree(language_model / "base", tmp_path / "base")
    (base / "chat_template.jinja").write_text(template)
    with pytest.raises(UnusableMember, match=r"base: .* its chat template writes no conversation: \w+: "):
        load(base, {})


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("generation_config.json", b"{", "is not JSON"),
        ("generation_config.json", b"[]", "is a list; an object is needed"),
        ("generation_config.json", b"\xff\xfe{", "is not UTF-8"),
        ("generation_config.json", b"[" * 100_000, "is not JSON"),
        ("generation_config.json", None, "is there and cannot be read: Is a directory"),
        ("tokenizer_config.json", b"{", "is not JSON"),
        ("special_tokens_map.json", b"[1]", "is a list; an object is needed"),
        ("added_tokens.json", b"", "is not JSON"),
        ("chat_template.jinja", b"\xff", "is not UTF-8"),
        ("chat_template.jinja", None, "is there and cannot be read: Is a directory"),
    ],
)
def test_a_file_that_a_base_may_have_and_nobody_can_read_is_refused_by_its_name(language_model, tmp_path, file, content, said):
    base = shutil.copytree(language_model / "base", tmp_path / "base")
    (base / file).unlink(missing_ok=True)
    if content is None:
        (base / file).mkdir()
    else:
        (base / file).write_bytes(content)
    with pytest.raises(UnusableMember) as caught:
        load(base, {})
    assert f"{base / file}: {said}" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not JSON"),
        ("{}", "names no weights"),
        ('{"weight_map": {"a": 1}}', "names no weights"),
        (
            '{"weight_map": {"a": "gone.safetensors", "b": "gone.safetensors", "c": "lost.safetensors"}}',
            "names gone.safetensors, which is not",
        ),
    ],
)
def test_an_index_of_weights_that_leads_to_none_is_refused_by_its_name(language_model, tmp_path, content, said):
    base = shutil.copytree(language_model / "base", tmp_path / "base")
    index = base / "model.safetensors.index.json"
    index.write_text(content)
    load(base, {})  # beside one file with all weights nobody reads it
    (base / "model.safetensors").unlink()
    with pytest.raises(UnusableMember) as caught:
        load(base, {})
    assert f"{index}: {said}" in str(caught.value)


def test_a_link_to_a_file_that_has_gone_is_there_and_cannot_be_read(language_model, tmp_path):
    base = shutil.copytree(language_model / "base", tmp_path / "base")
    (base / "generation_config.json").unlink()
    load(base, {})
    (base / "generation_config.json").symlink_to(tmp_path / "gone")
    with pytest.raises(UnusableMember, match=r"generation_config\.json: is there and cannot be read: No such file"):
        load(base, {})


@pytest.mark.parametrize("ids", ["two", -1, 1.5, True, [2, "</s>"], 384])
def test_an_end_that_no_answer_could_have_is_refused_with_what_is_needed(language_model, tmp_path, ids):
    base = shutil.copytree(language_model / "base", tmp_path / "base")
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    with pytest.raises(UnusableMember, match=r"generation_config\.json: eos_token_id holds .*; ids from 0 to 383 are needed"):
        load(base, {})


def test_a_context_in_which_nothing_has_room_is_refused_with_its_number(language_model, tmp_path):
    base = shutil.copytree(language_model / "base", tmp_path / "base")
    edit = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(edit | {"max_position_embeddings": -5}))
    with pytest.raises(UnusableMember, match="names the context length -5; 1 token or more is needed"):
        load(base, {})


def test_deeply_nested_files_are_refused_in_a_sentence(language_model, adapter):
    (adapter / "adapter_config.json").write_text("[" * 100_000)
    assert "is not JSON" in refused(language_model / "base", adapter)


def test_an_adapter_in_the_place_of_a_base_is_refused(language_model, adapter):
    shutil.copy(language_model / "base" / "config.json", adapter)
    with pytest.raises(UnusableMember, match="an adapter belongs into the field adapter"):
        load(adapter, {})


def what_a_load_without_torch_says(language_model, beforehand):
    code = f"""
import sys
{beforehand}
from attune.service.members.local import LocalEngine
engine = LocalEngine({str(language_model / "base")!r}, {{}})
engine.member("concise")
try:
    engine.load()
except ValueError as error:
    print(error)
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_a_package_that_is_missing_is_named_with_what_to_install(language_model):
    told = what_a_load_without_torch_says(language_model, 'sys.modules["torch"] = None')
    assert told.startswith("member 'concise', base: needs the package torch, which is not installed: pip install '.[local]' in a checkout")


def test_a_package_that_is_there_and_does_not_load_is_told_with_its_own_words(language_model, tmp_path):
    (tmp_path / "torch.py").write_text('raise OSError("libcudart.so.13: cannot open shared object file")')
    told = what_a_load_without_torch_says(language_model, f"sys.path.insert(0, {str(tmp_path)!r})")
    assert told == "member 'concise', base: what runs a base does not load: OSError: libcudart.so.13: cannot open shared object file\n"


def test_files_that_are_not_what_their_names_say_are_refused(language_model, adapter):
    (adapter / WEIGHTS).write_bytes(b"not tensors")
    assert "is not a safetensors file" in refused(language_model / "base", adapter)
    (adapter / "adapter_config.json").write_text("{")
    assert "is not JSON" in refused(language_model / "base", adapter)


def test_a_base_that_is_no_model_is_refused(tmp_path, language_model):
    with pytest.raises(UnusableMember, match=r"holds no config\.json"):
        load(tmp_path, {})
    broken = shutil.copytree(language_model / "base", tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UnusableMember, match="does not load"):
        load(broken, {})


def test_a_base_that_lacks_weights_is_refused_instead_of_filled_with_random_numbers(tmp_path, language_model):
    base = shutil.copytree(language_model / "base", tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnusableMember, match=r"lacks 1 tensor \(model\.layers\.1\.mlp\.up_proj\.weight\)"):
        load(base, {})


def test_cuda_is_refused_where_there_is_none(language_model):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(UnusableMember, match="sees no CUDA device"):
        load(language_model / "base", {}, device="cuda")


def test_context_and_end_tokens_come_from_the_model_and_context_can_be_overridden(language_model, tmp_path):
    model = load(language_model / "base", {})
    assert (model.context, model.end_tokens) == (CONTEXT, {2})
    base = shutil.copytree(language_model / "base", tmp_path / "base")
    settings = json.loads((base / "generation_config.json").read_text())
    (base / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": [2, 5]}))
    model = load(base, {}, context=64)
    assert (model.context, model.end_tokens) == (64, {2, 5})


def test_an_engine_has_no_member_for_an_adapter_it_was_not_given(language_model):
    with pytest.raises(UnusableMember, match="'verbose' is not among"):
        LocalEngine(language_model / "base", {"concise": language_model / "adapters" / "concise"}).member("m", "verbose")


def test_importing_the_members_imports_no_model_library():
    code = "import sys, attune.service.members.build; print([m for m in ('torch', 'transformers', 'peft', 'jinja2') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
