"""What cannot be run in a test is at least read: manifests, rules and dashboard name settings and metrics that exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib

import pytest
import yaml

from attune.service.observe.metrics import Metrics
from attune.service.settings import CONFIG_VARIABLE, Settings, variable
from tests.project.tree import ROOT, tracked

RULES = ROOT / "deploy" / "prometheus"
MANIFESTS = [
    path for path in tracked() if path.startswith(("deploy/", "docker/")) and path.endswith((".yaml", ".yml")) and "/templates/" not in path
]


def exposed() -> set[str]:
    """Returns the name of every series that the service can expose."""
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "summary": ["_sum", "_count"], "gauge": [""]}
    return {family.name + suffix for family in Metrics().registry.collect() for suffix in suffixes.get(family.type, [""])}


def expressions() -> list[str]:
    """Returns every PromQL expression of rules and dashboard."""
    rules = [yaml.safe_load((RULES / name).read_text(encoding="utf-8")) for name in ("recording.yml", "alerts.yml")]
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "attune.json").read_text(encoding="utf-8"))
    found = [rule["expr"] for document in rules for group in document["groups"] for rule in group["rules"]]
    found += [annotation["expr"] for annotation in dashboard["annotations"]["list"]]
    return found + [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


@pytest.mark.parametrize("path", MANIFESTS)
def test_a_manifest_is_yaml_and_sets_only_settings_that_exist(path):
    text = (ROOT / path).read_text(encoding="utf-8")
    assert all(document for document in yaml.safe_load_all(text))
    assert set(re.findall(r"ATTUNE_[A-Z_]+", text)) <= {CONFIG_VARIABLE, *map(variable, Settings.model_fields)}


def test_the_image_sets_only_settings_that_exist():
    text = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
    assert set(re.findall(r"ATTUNE_[A-Z_]+", text)) <= {CONFIG_VARIABLE, *map(variable, Settings.model_fields)}


def test_what_the_image_is_built_from_is_there_let_in_and_whole():
    text = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
    copied = {source for line in re.findall(r"^COPY (?!--)(.+)$", text, re.MULTILINE) for source in line.split()[:-1]}
    ignored = (ROOT / "docker" / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert {f"!{source}" for source in copied} == {line for line in ignored if line.startswith("!")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    needed = set(project["tool"]["setuptools"]["packages"]["find"]["where"]) | {project["project"]["readme"]}
    links = [path for path in (ROOT / "src" / "attune").iterdir() if path.is_symlink()]
    needed |= {path.resolve().relative_to(ROOT).as_posix() for path in links}
    assert len(links) == 3
    assert needed - copied == set()
    assert [source for source in copied if not (ROOT / source).exists()] == []


def test_rules_and_dashboard_ask_for_metrics_that_exist():
    names = {name for expression in expressions() for name in re.findall(r"\battune_\w+", expression)}
    assert names
    assert names - exposed() == set()


def test_recorded_series_are_recorded_before_they_are_asked_for():
    document = yaml.safe_load((RULES / "recording.yml").read_text(encoding="utf-8"))
    recorded = {rule["record"] for group in document["groups"] for rule in group["rules"]}
    assert {name for expression in expressions() for name in re.findall(r"\battune:[\w:]+", expression)} <= recorded


def test_every_panel_says_what_it_shows_and_has_a_place_of_its_own():
    panels = json.loads((ROOT / "deploy" / "grafana" / "attune.json").read_text(encoding="utf-8"))["panels"]
    assert [panel["title"] for panel in panels if not panel.get("description", "").endswith(".")] == []
    for key in ("id", "title"):
        assert len({panel[key] for panel in panels}) == len(panels)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)


def test_the_dashboard_draws_what_costs_what_drifts_what_falls_back_and_what_was_swapped():
    asked = " ".join(expressions())
    for name in ("member_tokens_total", "member_cost_total", "member_drift", "fallbacks_total", "store_memory_bytes"):
        assert f"attune_{name}" in asked
    for name in ("bundle_info", "bundle_reloads_total", "texts_dropped_total"):
        assert f"attune_{name}" in asked


def test_every_alert_says_what_to_do():
    document = yaml.safe_load((RULES / "alerts.yml").read_text(encoding="utf-8"))
    alerts = [rule for group in document["groups"] for rule in group["rules"]]
    assert [
        rule["alert"] for rule in alerts if not {"summary", "action"} <= set(rule["annotations"]) or "severity" not in rule["labels"]
    ] == []


def test_a_pod_may_drain_before_it_is_killed():
    (deployment,) = yaml.safe_load_all((ROOT / "deploy/kubernetes/base/deployment.yaml").read_text(encoding="utf-8"))
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    notice_s = next(int(each["value"]) for each in container["env"] if each["name"] == "ATTUNE_DRAIN_NOTICE_S")
    assert notice_s + Settings().drain_s < pod["terminationGracePeriodSeconds"]
    assert "lifecycle" not in container  # the server itself goes on serving while endpoints are told
    probes = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert probes == {"startup": "/livez", "readiness": "/readyz", "liveness": "/livez"}
    assert pod["enableServiceLinks"] is False


def test_promtool_accepts_the_rules_and_their_tests():
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not on the PATH (Debian: apt-get install prometheus)")
    for arguments in (["check", "rules", "recording.yml", "alerts.yml"], ["test", "rules", "rules_test.yml"]):
        run = subprocess.run([promtool, *arguments], cwd=RULES, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout + run.stderr


def test_promtool_accepts_the_exposition():
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not on the PATH (Debian: apt-get install prometheus)")
    metrics = Metrics()
    metrics.answered("/score", "POST", 200, 0.1)
    run = subprocess.run([promtool, "check", "metrics"], input=metrics.render()[0], capture_output=True, check=False)
    assert run.returncode == 0, (run.stdout + run.stderr).decode()


def test_a_claim_that_somebody_fills_can_be_written_and_the_servers_only_read_it():
    (claim,) = yaml.safe_load_all((ROOT / "deploy/kubernetes/base/bundles.yaml").read_text(encoding="utf-8"))
    chart = yaml.safe_load((ROOT / "deploy/helm/attune/values.yaml").read_text(encoding="utf-8"))
    assert claim["spec"]["accessModes"] == chart["bundle"]["claim"]["accessModes"] == ["ReadWriteMany"]
    deployment = yaml.safe_load((ROOT / "deploy/kubernetes/base/deployment.yaml").read_text(encoding="utf-8"))
    mounts = [mount for each in deployment["spec"]["template"]["spec"]["containers"] for mount in each["volumeMounts"]]
    assert [mount.get("readOnly") for mount in mounts if mount["name"] == "bundles"] == [True]


@pytest.mark.parametrize(
    ("pod", "own"),
    [("shop-5d9f7c6b8d-x2k4q", True), ("shop-two-5d9f7c6b8d-x2k4q", False), ("shop-vllm-0", False), ("shopping-5d9f7c6b8d-x2k4q", False)],
)
def test_a_release_is_scaled_by_its_own_pods_alone(pod, own):
    template = (ROOT / "deploy/helm/attune/templates/scaling.yaml").read_text(encoding="utf-8")
    (pattern,) = re.findall(r'pod=~"(.+?)"', template)
    assert (re.fullmatch(pattern.replace("{{ $name }}", "shop"), pod) is not None) == own
