"""The chart, rendered and linted by Helm itself where its library is installed (PyPI: helm-python-sdk), and read where it is not."""

from __future__ import annotations

import re
from functools import reduce
from typing import Any

import pytest
import yaml

from attune.service.settings import Settings, variable
from tests.project.tree import ROOT

CHART = ROOT / "deploy" / "helm" / "attune"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
TEMPLATES = {path.name: path.read_text(encoding="utf-8") for path in sorted((CHART / "templates").iterdir())}
SECRET = {"secret": {"existing": "attune"}}
CASES: dict[str, dict[str, Any]] = {
    "a claim and an external Redis": SECRET,
    "a job that fills the claim": {**SECRET, "bundle": {"source": "job", "url": "s3://models/bundle-own-1", "credentials": "store"}},
    "an init container": {
        **SECRET,
        "bundle": {"source": "init", "url": "https://models.example.com/bundle-own-1"},
        "scaling": {"mode": "keda"},
    },
    "a bundle as an image": {
        **SECRET,
        "bundle": {"source": "image", "image": "registry.example.com/b@sha256:0"},
        "scaling": {"mode": "none"},
    },
    "everything on a GPU": {
        "secret": {"userSecret": "made with openssl", "apiKeys": "key:acme"},
        "gpu": {"enabled": True},
        "redis": {"mode": "bundled"},
        "vllm": {"enabled": True, "args": ["--enable-lora"], "adaptersClaim": "adapters", "cacheClaim": "weights"},
        "ingress": {"enabled": True, "className": "nginx", "annotations": {"cert-manager.io/cluster-issuer": "letsencrypt"}},
        "monitoring": {"serviceMonitor": True, "rules": True, "dashboard": True, "labels": {"release": "prometheus"}},
        "roster": {"concise": {"kind": "openai", "base_url": "http://attune-vllm:8000/v1", "model": "concise"}},
        "networkPolicy": {"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]},
    },
}


def rendered(values: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the manifests that Helm makes of these values."""
    helm = pytest.importorskip("helm_python", reason="Helm's library is not installed: pip install helm-python-sdk")
    texts = helm.Chart.load(CHART).render(values, name="attune", namespace="products")
    return [found for name, text in texts.items() if name.endswith(".yaml") for found in yaml.safe_load_all(text) if found is not None]


def one(manifests: list[dict[str, Any]], kind: str, name: str = "attune") -> dict[str, Any]:
    (found,) = [each for each in manifests if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def test_every_value_that_a_template_reads_is_there_to_be_set_and_every_value_is_read():
    read = {name for text in TEMPLATES.values() for name in re.findall(r"\.Values((?:\.\w+)+)", text)}
    for name in read:
        assert reduce(lambda values, key: values[key], name.strip(".").split("."), VALUES) is not None, name
    leaves = (
        {f".{name}.{key}" if isinstance(value, dict) else f".{name}" for name, value in VALUES.items() for key in value or [name]}
        if VALUES
        else set()
    )
    whole = {".settings", ".roster", ".affinity"}
    unread = {leaf for leaf in leaves if not any(leaf.startswith(name) or name.startswith(leaf) for name in read | whole)}
    assert unread == set()


def test_the_chart_sets_only_settings_that_exist():
    named = {name for text in TEMPLATES.values() for name in re.findall(r"ATTUNE_[A-Z_]*[A-Z]", text)} - {"ATTUNE"}
    assert named <= set(map(variable, Settings.model_fields))
    assert set(VALUES["settings"]) <= set(Settings.model_fields)


def test_rules_and_dashboard_of_the_chart_are_those_of_the_repository():
    for name, source in (("alerts.yml", "prometheus"), ("recording.yml", "prometheus"), ("attune.json", "grafana")):
        assert (CHART / "files" / name).resolve() == ROOT / "deploy" / source / name


@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
def test_helm_finds_nothing_wrong_with_the_chart(values):
    helm = pytest.importorskip("helm_python", reason="Helm's library is not installed: pip install helm-python-sdk")
    told = helm.lint(CHART, values, strict=True)
    assert told["errors"] == []
    assert [message for message in told["messages"] if message["severity"] > 1] == []


@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
def test_what_is_rendered_is_what_kubernetes_takes(values):
    manifests = rendered(values)
    assert {"Deployment", "Service", "ConfigMap", "PodDisruptionBudget"} <= {each["kind"] for each in manifests}
    names = [(each["kind"], each["metadata"]["name"]) for each in manifests]
    assert len(names) == len(set(names))
    validate = pytest.importorskip("kubernetes_validate", reason="schemas of Kubernetes are not installed: pip install kubernetes-validate")
    for each in manifests:
        if "." not in each["apiVersion"] or each["apiVersion"].split("/")[0].endswith(".k8s.io"):
            validate.validate(each, "1.33", strict=True)


def paths(value: object, at: str = "") -> set[str]:
    """Returns the names of all fields of a document, each with those above it; items of a list count as one."""
    if isinstance(value, dict):
        return {at}.union(*(paths(each, f"{at}.{name}") for name, each in value.items()))
    return {at}.union(*(paths(each, at) for each in value)) if isinstance(value, list) else {at}


CUSTOM = {
    "ServiceMonitor": ("monitoring.coreos.com/v1", {"selector.matchLabels", "endpoints.port", "endpoints.path", "endpoints.interval"}),
    "PrometheusRule": (
        "monitoring.coreos.com/v1",
        {f"groups.{name}" for name in ("name", "interval")}
        | {f"groups.rules.{name}" for name in ("record", "alert", "expr", "for", "labels", "annotations")},
    ),
    "ScaledObject": (
        "keda.sh/v1alpha1",
        {"scaleTargetRef.name", "minReplicaCount", "maxReplicaCount", "triggers.type"}
        | {f"triggers.metadata.{name}" for name in ("serverAddress", "query", "threshold")}
        | {"advanced.horizontalPodAutoscalerConfig.behavior.scaleDown.stabilizationWindowSeconds"},
    ),
}
"""Fields of the operators' resources that are written here: names that a schema does not have would be dropped without a word."""


def test_resources_of_operators_have_the_fields_that_their_schemas_know():
    made = [each for case in ("an init container", "everything on a GPU") for each in rendered(CASES[case]) if each["kind"] in CUSTOM]
    assert {each["kind"] for each in made} == set(CUSTOM)
    for each in made:
        version, fields = CUSTOM[each["kind"]]
        assert each["apiVersion"] == version
        free = re.compile(r"\.(labels|annotations|matchLabels)\..*")
        written = {path for path in paths(each["spec"]) if path and not free.search(path)}
        assert {path for path in written if not any(f".{field}".startswith(path) for field in fields)} == set()
        assert all(isinstance(value, str) for trigger in each["spec"].get("triggers", []) for value in trigger["metadata"].values())


def test_the_name_of_all_replicas_leads_to_the_servers_pods_and_is_not_scraped_a_second_time():
    manifests = rendered(CASES["everything on a GPU"])
    every, service = one(manifests, "Service", "attune-replicas"), one(manifests, "Service")
    assert (every["spec"]["clusterIP"], every["spec"]["selector"]) == ("None", service["spec"]["selector"])
    scraped = one(manifests, "ServiceMonitor")["spec"]["selector"]["matchLabels"].items()
    assert scraped <= service["metadata"]["labels"].items()
    assert not scraped <= every["metadata"]["labels"].items()
    plain = {
        each["metadata"]["name"]: each
        for each in yaml.safe_load_all((ROOT / "deploy/kubernetes/base/service.yaml").read_text(encoding="utf-8"))
    }
    assert plain["attune-replicas"]["spec"]["selector"] == plain["attune"]["spec"]["selector"]
    assert plain["attune-replicas"]["metadata"]["labels"] != plain["attune"]["metadata"]["labels"]


def test_the_server_of_the_chart_is_that_of_the_plain_manifests():
    (plain,) = yaml.safe_load_all((ROOT / "deploy/kubernetes/base/deployment.yaml").read_text(encoding="utf-8"))
    ours, theirs = one(rendered(SECRET), "Deployment")["spec"], plain["spec"]
    pod, other = ours["template"]["spec"], theirs["template"]["spec"]
    assert ours["strategy"] == theirs["strategy"]
    for name in ("enableServiceLinks", "automountServiceAccountToken", "terminationGracePeriodSeconds", "securityContext", "volumes"):
        assert pod[name] == other[name], name
    (container,), (twin,) = pod["containers"], other["containers"]
    for name in (
        "envFrom",
        "ports",
        "resources",
        "securityContext",
        "startupProbe",
        "readinessProbe",
        "livenessProbe",
        "volumeMounts",
    ):
        assert container[name] == twin[name], name
    assert [each for each in container["env"] if each["name"] != "ATTUNE_BUNDLE_POLL_S"] == twin["env"]


def test_every_way_to_a_bundle_ends_in_a_folder_that_the_server_is_told():
    for case, values in CASES.items():
        (container,) = one(rendered(values), "Deployment")["spec"]["template"]["spec"]["containers"]
        told = {each["name"]: each.get("value") for each in container["env"]}
        assert told["ATTUNE_BUNDLE"] == "/bundles/current", case
    job = one(rendered(CASES["a job that fills the claim"]), "Job", "attune-bundle")["spec"]["template"]["spec"]
    assert job["containers"][0]["args"] == ["bundle", "fetch", "s3://models/bundle-own-1", "--out", "/bundles", "--link", "current"]
    assert job["volumes"][0]["persistentVolumeClaim"] == {"claimName": "attune-bundles"}


def test_settings_are_written_as_the_server_reads_them():
    settings = {
        "user_ttl_s": 31_536_000,
        "max_body_bytes": 10_485_760,
        "routing_epsilon": 0.05,
        "keep_text": False,
        "cors_origins": ["https://one.example", "https://two.example"],
    }
    data = one(rendered({**SECRET, "settings": settings}), "ConfigMap")["data"]
    written = Settings(api_keys_file="keys", **{name: data[variable(name)] for name in settings})
    for name, value in settings.items():
        assert getattr(written, name) == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize(
    ("name", "value"), [("port", 9000), ("drain_notice_s", 60), ("api_keys", "key:acme"), ("redis_url", "redis://store")]
)
def test_settings_that_the_chart_has_another_place_for_are_refused(name, value):
    helm = pytest.importorskip("helm_python", reason="Helm's library is not installed: pip install helm-python-sdk")
    with pytest.raises(helm.HelmError, match=rf"settings\.{name}: the chart sets it itself"):
        rendered({**SECRET, "settings": {name: value}})


@pytest.mark.parametrize("values", [values for name, values in CASES.items() if "GPU" not in name])
def test_a_pod_of_the_server_has_what_it_asks_for_guaranteed(values):
    spec = one(rendered(values), "Deployment")["spec"]["template"]["spec"]
    for container in (*spec.get("initContainers", ()), *spec["containers"]):
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert {"cpu", "memory"} <= set(container["resources"]["limits"])


def test_what_is_missing_is_named():
    helm = pytest.importorskip("helm_python", reason="Helm's library is not installed: pip install helm-python-sdk")
    for values, named in (
        ({}, r"secret\.userSecret"),
        ({**SECRET, "bundle": {"source": "job"}}, r"bundle\.url"),
        ({**SECRET, "bundle": {"source": "disk"}}, "claim, job, init or image"),
        ({**SECRET, "redis": {"mode": "cluster"}}, "external or bundled"),
        ({**SECRET, "scaling": {"mode": "cpu"}}, "hpa, keda or none"),
    ):
        with pytest.raises(helm.HelmError, match=named):
            rendered(values)
