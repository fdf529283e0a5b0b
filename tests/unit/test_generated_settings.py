"""Generated settings that the rules accept give a plan that Kubernetes, AWS and the registry of images accept."""

import ipaddress
import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

import hypothesis
import pytest
from botocore.validate import ParamValidator
from hypothesis import strategies as st

from local.charts import haproxy, mlflow
from local.plugins.aws.api import ApiResource, client
from local.plugins.aws.aws_provider import Aws
from settings.reader import parse
from tests.contract import value_rules
from tests.unit.harness import LDAP, MINIMAL, OIDC, Deployment, Resource, changed, deploy, plain


def texts(pattern: str) -> st.SearchStrategy[str]:
    return st.from_regex(pattern, fullmatch=True)


LABEL = texts(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# As many labels as a name may have, so that long ones are tried.
NAME = st.lists(LABEL, min_size=1, max_size=5).map(".".join)
NAME_OR_ODD = st.one_of(NAME, texts(r"[a-zA-Z0-9._/:-]{1,40}"))
NETWORK = st.builds(
    lambda address, prefix: str(ipaddress.IPv4Network((address, prefix), strict=False)),
    st.integers(0, 2**32 - 1),
    st.integers(0, 32),
)
ID = texts(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
QUANTITY = st.one_of(texts(r"[1-9][0-9]{0,4}(Mi|Gi)"), texts(r"[0-9]{1,3}(\.[0-9])?m?"))

GENERATED: Mapping[str, st.SearchStrategy[Any]] = {
    "artifacts.bucket": texts(r"[a-z0-9.-]{1,64}"),
    "artifacts.identity": st.sampled_from(["podIdentity", "irsa"]),
    "cluster.name": texts(r"[A-Za-z0-9_-]{1,101}"),
    "database.name": texts(r"[a-z_0-9]{1,63}"),
    "database.schema": texts(r"[a-z_0-9]{1,63}"),
    "database.user": texts(r"[a-z_0-9]{1,63}"),
    "images.pullSecret": NAME_OR_ODD,
    "images.registry": st.one_of(
        st.builds("{}:{}/{}".format, NAME, st.integers(0, 70000), texts(r"[a-z0-9._/-]{1,30}")),
        st.builds("{}/{}".format, NAME, texts(r"[a-z0-9._/-]{1,10}")),
    ),
    "ingress.allowedCidrs": st.lists(NETWORK, max_size=3),
    "ingress.certificateArn": ID.map("arn:aws:acm:eu-west-1:123456789012:certificate/{}".format),
    "ingress.className": NAME_OR_ODD,
    "ingress.clusterIssuer": NAME_OR_ODD,
    "ingress.loadBalancerClass": st.one_of(
        NAME_OR_ODD, st.builds("{}/{}".format, NAME, texts(r"[A-Za-z0-9._-]{1,64}"))
    ),
    "ingress.namespace": NAME_OR_ODD,
    "ingress.scheme": st.sampled_from(["internal", "internet-facing"]),
    "ingress.serviceMonitor": st.just(True),
    "ingress.serviceMonitorLabels": st.dictionaries(
        texts(r"[a-zA-Z0-9./_-]{1,70}"), texts(r"[A-Za-z0-9._-]{0,65}"), max_size=2
    ),
    "ingress.tlsSecretName": NAME_OR_ODD,
    "mlflow.allowedHosts": st.lists(texts(r"[A-Za-z0-9*.:-]{1,20}"), max_size=3),
    "mlflow.auth.adminUsername": texts(r"[A-Za-z0-9._@-]{1,65}"),
    "mlflow.chartVersion": st.sampled_from(["1.11.5", "1.8.1"]),
    "mlflow.corsAllowedOrigins": st.lists(
        st.builds("{}://{}:{}".format, st.sampled_from(["http", "https"]), NAME, st.integers(0, 70000)), max_size=2
    ),
    "mlflow.image": st.builds(
        lambda tag: {"tag": tag}, texts(r"[0-9]{1,60}(\.[0-9]{1,60}){2}([._-][A-Za-z0-9._-]{0,101})?")
    ),
    "mlflow.host": st.one_of(NAME, texts(r"([0-9]{1,3}\.){3}[0-9]{1,3}")),
    "mlflow.namespace": NAME_OR_ODD,
    "mlflow.resources.cpuRequest": QUANTITY,
    "mlflow.resources.memoryLimit": QUANTITY,
    "mlflow.resources.memoryRequest": QUANTITY,
    "mlflow.resources.storageLimit": QUANTITY,
    "postgres.alarmTopicArn": texts(r"arn:aws:sns:eu-west-1:123456789012:[A-Za-z0-9._:-]{1,40}"),
    "postgres.allowFrom": st.builds(lambda cidrs: {"cidrs": cidrs}, st.lists(NETWORK, min_size=1, max_size=3)),
    "postgres.instanceClass": texts(r"db\.[a-z]{1,2}[0-9]g?\.(micro|large|4xlarge)"),
    "postgres.kmsKeyArn": st.one_of(ID, texts(r"mrk-[0-9a-f]{32}")).map(
        "arn:aws:kms:eu-west-1:123456789012:key/{}".format
    ),
    "postgres.masterUsername": texts(r"[a-z_0-9]{1,63}"),
    "tags": st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=130),
        st.one_of(st.text(max_size=260), st.integers(), st.booleans()),
        max_size=3,
    ),
}
"""Setting to values of which the rules accept many and refuse many."""


@st.composite
def accepted(draw: st.DrawFn) -> Mapping[str, Any]:
    """Draw a stack's settings, without those that the rules refuse."""
    config: Mapping[str, Any] = draw(
        st.sampled_from(
            [
                MINIMAL,
                changed(MINIMAL, {"mlflow.auth": {"mode": "ldap", "ldap": LDAP}}),
                changed(MINIMAL, {"mlflow.auth": {"mode": "oidc", "oidc": OIDC}}),
            ]
        )
    )
    for path in draw(st.permutations(sorted(GENERATED))):
        more = changed(config, {path: draw(GENERATED[path])})
        if not parse(more, {"mlflow"})[1]:
            config = more
    return config


@hypothesis.settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=50,
    # A run of the program takes a third of a second, so a failing example is printed as it is and not made smaller.
    phases=[hypothesis.Phase.generate],
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large],
)
@hypothesis.given(accepted())
def test_what_the_settings_accept_is_accepted_by_what_it_is_for(config: Mapping[str, Any]) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("AWS_DEFAULT_REGION", "eu-west-1")
        assert list(faults(deploy(config, secrets=["mlflow"]))) == []


# Kubernetes, k8s.io/apimachinery/pkg/util/validation
DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
SUBDOMAIN = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*"
DNS_SUBDOMAIN = re.compile(rf"(?=.{{1,253}}$){SUBDOMAIN}")
QUALIFIED = re.compile(rf"((?=.{{1,253}}/){SUBDOMAIN}/)?[A-Za-z0-9]([A-Za-z0-9._-]{{0,61}}[A-Za-z0-9])?")
# github.com/distribution/reference
REPOSITORY = re.compile(
    r"(?=.{1,255}$)[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?)*(:[0-9]+)?"
    r"(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)+"
)
TAG_OF_AN_IMAGE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}(@sha256:[0-9a-f]{64})?")
# Of RDS and IAM, API reference
TAG = re.compile(r"[\w\s.:/=+@-]*")


def faults(deployment: Deployment) -> Iterator[str]:
    for resource in deployment.resources:
        if resource.type.startswith("aws:"):
            yield from aws_faults(resource)
        elif resource.type == "kubernetes:helm.sh/v3:Release":
            yield from release_faults(resource)
        elif resource.type.startswith("kubernetes:"):
            metadata = plain(resource.inputs).get("metadata", {})
            yield from (f"{resource.name}: {fault}" for fault in object_faults(metadata))
    url = urlsplit(deployment.outputs["url"])
    if not url.hostname or not DNS_SUBDOMAIN.fullmatch(url.hostname):
        yield f"url {deployment.outputs['url']}"


def aws_faults(resource: Resource) -> Iterator[str]:
    inputs = {key: value for key, value in plain(resource.inputs).items() if key != "region"}
    for key, value in inputs.get("tags", {}).items():
        if not (TAG.fullmatch(key) and TAG.fullmatch(value)) or not (1 <= len(key) <= 128 and 1 <= len(value) <= 256):
            yield f"{resource.name}: tag {key!r}: {value!r}"
    for key in ("policy", "assumeRolePolicy"):
        if key in inputs:
            json.loads(inputs[key])
    kind = Aws().resources.get(resource.type)
    if isinstance(kind, ApiResource):
        api = client(kind.service).meta
        shape = api.service_model.operation_model(api.method_to_api_mapping[kind.calls[0]]).input_shape
        parameters = kind.parameters(kind.calls[0], inputs)
        # What the stand-in adds itself is not there yet.
        report = ParamValidator().validate(parameters, shape).generate_report()
        yield from (
            f"{resource.name}: {line}" for line in report.splitlines() if line and "Missing required" not in line
        )


def release_faults(resource: Resource) -> Iterator[str]:
    release = plain(resource.inputs)
    values = release["values"]
    yield from (f"{resource.name}: {fault}" for fault in value_rules.release_faults(release))
    for reserved, limit in resources(values):
        for kind in reserved.keys() & limit.keys():
            if amount(reserved[kind]) > amount(limit[kind]):
                yield f"{resource.name}: {kind} {reserved[kind]} is reserved and {limit[kind]} the limit"
    tag = values.get("image", {}).get("tag")
    if tag and not TAG_OF_AN_IMAGE.fullmatch(tag):
        yield f"{resource.name}: tag {tag}"
    for repository in repositories(values):
        if not REPOSITORY.fullmatch(repository):
            yield f"{resource.name}: image {repository}"
    if not DNS_LABEL.fullmatch(release["namespace"]):
        yield f"{resource.name}: namespace {release['namespace']}"
    for secret in secrets(values):
        if not DNS_SUBDOMAIN.fullmatch(secret):
            yield f"{resource.name}: Secret {secret}"
    if release["chart"] == "mlflow":
        rendered = mlflow.render(release["version"], release["name"], release["namespace"], values)
        hosts = [rule["host"] for rule in rendered.ingress["spec"]["rules"]] if rendered.ingress else []
        for host in hosts:
            if not DNS_SUBDOMAIN.fullmatch(host) or re.fullmatch(r"(\d+\.){3}\d+", host):
                yield f"{resource.name}: host {host}"
    else:
        ingress_class = haproxy.render(release["version"], release["name"], release["namespace"], values).ingress_class
        if not DNS_SUBDOMAIN.fullmatch(ingress_class["name"]) or len(ingress_class["spec"]["controller"]) > 250:
            yield f"{resource.name}: ingress class {ingress_class}"
        load_balancer_class = values["controller"]["service"].get("loadBalancerClass")
        if load_balancer_class and not QUALIFIED.fullmatch(load_balancer_class):
            yield f"{resource.name}: load balancer class {load_balancer_class}"


def object_faults(metadata: Mapping[str, Any]) -> Iterator[str]:
    for key, pattern in (("name", DNS_SUBDOMAIN), ("namespace", DNS_LABEL)):
        if key in metadata and not pattern.fullmatch(metadata[key]):
            yield f"{key} {metadata[key]}"
    for key, value in metadata.get("labels", {}).items():
        if not QUALIFIED.fullmatch(key) or not re.fullmatch(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?", value):
            yield f"label {key}: {value}"


def resources(value: Any) -> Iterator[tuple[Mapping[str, str], Mapping[str, str]]]:
    """Return what containers reserve, with their limits."""
    if isinstance(value, Mapping):
        if {"requests", "limits"} <= value.keys():
            yield value["requests"], value["limits"]
        for item in value.values():
            yield from resources(item)
    elif isinstance(value, list):
        for item in value:
            yield from resources(item)


def amount(quantity: str) -> Decimal:
    """Return a quantity of Kubernetes as a number."""
    number, unit = re.fullmatch(r"([0-9.]+)(m|Mi|Gi)?", quantity).groups()  # pyright: ignore[reportOptionalMemberAccess]
    return Decimal(number) * {None: 1, "m": Decimal("0.001"), "Mi": 2**20, "Gi": 2**30}[unit]


def repositories(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key == "repository" and isinstance(item, str):
                yield item
            else:
                yield from repositories(item)


def secrets(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key in {"secretName", "existingSecret"} and isinstance(item, str):
                yield item
            elif key == "imagePullSecrets":
                yield from (each["name"] if isinstance(each, Mapping) else each for each in item)
            else:
                yield from secrets(item)
    elif isinstance(value, list):
        for item in value:
            yield from secrets(item)
