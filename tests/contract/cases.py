"""Settings for which the charts' output is recorded, and the values that the program makes of them."""

import functools
from collections.abc import Mapping
from typing import Any

from tests.unit.harness import ANY_CLUSTER, LDAP, MINIMAL, OIDC, changed, deploy, plain, stack_config

LARGE = {"postgres.instanceClass": "db.m7g.large"}
"""An instance class with connections for more than one pod."""
PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
ACM = "arn:aws:acm:eu-west-1:123456789012:certificate/11111111-2222-3333-4444-555555555555"

ON_BOTH_VERSIONS: Mapping[str, Mapping[str, Any]] = {
    "least": MINIMAL,
    "ldap": changed(MINIMAL, {"mlflow.auth": {"mode": "ldap", "ldap": {**LDAP, "caCertificate": PEM}}}),
    "no-login": changed(MINIMAL, {"mlflow.auth": {"mode": "none"}}),
    "no-cache": changed(MINIMAL, {"mlflow.auth": {"cacheSeconds": 0}}),
    "tls-secret": changed(MINIMAL, {"ingress": {"tlsSecretName": "site-tls"}}),
    "tls-issuer": changed(MINIMAL, {"ingress": {"clusterIssuer": "letsencrypt"}}),
    "tls-load-balancer": changed(MINIMAL, {"ingress": {"certificateArn": ACM}}),
    "plain-http": changed(MINIMAL, {"ingress": {"plainHttp": True}}),
    "existing-bucket": changed(MINIMAL, {"artifacts": {"bucket": "my-mlflow-artifacts"}}),
    "irsa": changed(MINIMAL, {"artifacts": {"identity": "irsa"}}),
    "existing-server": changed(MINIMAL, {"postgres": ANY_CLUSTER["postgres"]}),
    "any-cluster": ANY_CLUSTER,
    "replicas": changed(MINIMAL, {**LARGE, "mlflow.replicas": 2}),
    "autoscaler": changed(MINIMAL, {**LARGE, "mlflow.autoscaling": {"maxReplicas": 4}}),
    "private-registry": changed(
        MINIMAL, {"images": {"registry": "registry.example.com/mirror", "pullSecret": "registry-login"}}
    ),
    "newer-mlflow": changed(MINIMAL, {"mlflow.image": {"tag": "3.17.2", "digest": f"sha256:{'a' * 64}"}}),
    "metrics": changed(MINIMAL, {"monitoring": {"enabled": True, "labels": {"release": "prometheus"}}}),
    "other-names": changed(
        MINIMAL,
        {
            "mlflow.namespace": "tracking",
            "ingress": {"className": "internal", "namespace": "edge"},
            "mlflow.url": "https://mlflow.example.com:8443",
        },
    ),
}
"""Name of a case to its settings. Each is recorded with both versions of MLflow's chart."""

OF_THE_INGRESS: Mapping[str, Mapping[str, Any]] = {
    "public": changed(MINIMAL, {"ingress": {"scheme": "internet-facing", "allowedCidrs": ["203.0.113.0/24"]}}),
    "auto-mode": changed(MINIMAL, {"ingress": {"loadBalancerClass": "eks.amazonaws.com/nlb"}}),
    "metrics": changed(
        MINIMAL, {"ingress": {"serviceMonitor": True, "serviceMonitorLabels": {"release": "prometheus"}}}
    ),
    "one-controller": changed(MINIMAL, {"ingress": {"replicas": 1}}),
}
"""Name of a case to its settings, for cases that change the values of the ingress chart only."""

STACKS = ("dev", "prod", "local")
"""Stacks whose settings are committed."""


def _cases() -> dict[str, Mapping[str, Any]]:
    cases = {f"mlflow-1.11.5/{name}": config for name, config in ON_BOTH_VERSIONS.items()}
    cases |= {
        f"mlflow-1.8.1/{name}": changed(config, {"mlflow.chartVersion": "1.8.1"})
        for name, config in ON_BOTH_VERSIONS.items()
    }
    cases |= {f"mlflow-1.11.5/{stack}": stack_config(stack) for stack in STACKS}
    provider = {**OIDC, "caCertificate": PEM}
    cases["mlflow-1.11.5/oidc"] = changed(MINIMAL, {"mlflow.auth": {"mode": "oidc", "oidc": provider}})
    of_the_ingress = {
        **OF_THE_INGRESS,
        **{stack: stack_config(stack) for stack in STACKS},
        **{
            name: ON_BOTH_VERSIONS[name]
            for name in ("least", "tls-load-balancer", "any-cluster", "private-registry", "other-names")
        },
    }
    return cases | {f"kubernetes-ingress-1.52.1/{name}": config for name, config in of_the_ingress.items()}


CASES = _cases()
"""Chart, version and name of a case (`mlflow-1.11.5/ldap`) to its settings."""


@functools.cache
def release(case: str) -> Mapping[str, Any]:
    """Return the inputs of a case's release.

    Checksums are left empty: they change with each edit of the code in the pods.
    """
    chart = case.split("/", maxsplit=1)[0].rsplit("-", 1)[0]
    deployment = deploy(CASES[case], secrets=["mlflow", "postgres"])
    (inputs,) = (plain(each.inputs) for each in deployment.resources if each.inputs.get("chart") == chart)
    annotations = inputs["values"].get("podAnnotations", {})
    annotations |= {name: "" for name in annotations if name.startswith("checksum/")}
    return inputs
