import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from operations import doctor

CLUSTER: Mapping[str, Any] = {
    "status": "ACTIVE",
    "version": "1.34",
    "arn": "arn:aws:eks:eu-west-1:123456789012:cluster/my-prod-cluster",
    "endpoint": "https://0123.gr7.eu-west-1.eks.amazonaws.com",
    "certificateAuthority": {"data": "Y2E="},
    "resourcesVpcConfig": {"endpointPublicAccess": True},
    "kubernetesNetworkConfig": {"ipFamily": "ipv4"},
}
ANSWERS = {
    "get-caller-identity": {"Arn": "arn:aws:iam::123456789012:user/ada"},
    "describe-cluster": {"cluster": CLUSTER},
    "describe-addon": {"addon": {"addonVersion": "v1.3.10-eksbuild.1"}},
    "describe-certificate": {"Certificate": {"Status": "ISSUED", "DomainName": "mlflow.example.com"}},
    "list-hosted-zones-by-name": {"HostedZones": [{"Id": "/hostedzone/Z1", "Name": "example.com."}]},
    "get-topic-attributes": {},
}


def daemon_set(name: str, *arguments: str) -> dict[str, Any]:
    containers = [{"name": name}, {"name": "agent", "args": list(arguments)}]
    return {"metadata": {"name": name}, "spec": {"template": {"spec": {"containers": containers}}}}


ENFORCING = daemon_set("aws-node", "--enable-ipv6=false", "--enable-network-policy=true")


@dataclass
class Account:
    table: Path
    answers: dict[str, object]

    def __setitem__(self, operation: str, answer: object) -> None:
        self.answers[operation] = answer

    def screen(self) -> tuple[str, int]:
        self.table.write_text(json.dumps(self.answers))
        lines, missing = doctor.examine(doctor.checks("prod"))
        return "\n".join(lines), missing


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Account:
    """Commands `aws` and `kubectl` that answer from a table, which a test changes."""
    table = tmp_path / "answers.json"
    for program, key in (("aws", "sys.argv[2]"), ("kubectl", "sys.argv[sys.argv.index('get') + 1]")):
        command = tmp_path / program
        command.write_text(
            "#!/usr/bin/env python3\nimport json, sys\n"
            f"answer = json.load(open({str(table)!r}))[{key}]\n"
            "if isinstance(answer, str): sys.exit(answer)\nprint(json.dumps(answer))\n"
        )
        command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(doctor, "_reachable", lambda url: url)
    monkeypatch.setattr(doctor, "_pulumi", lambda: "v3.259.0")
    return Account(table, {**ANSWERS, "daemonsets": {"items": [ENFORCING]}, "configmap": {}})


def test_an_account_with_everything_gets_ticks_only(aws: Account) -> None:
    text, missing = aws.screen()
    assert missing == 0, text
    assert "✗" not in text


def test_a_certificate_for_another_host_is_said_with_both_names(aws: Account) -> None:
    aws["describe-certificate"] = {"Certificate": {"Status": "ISSUED", "DomainName": "other.example.com"}}
    text, missing = aws.screen()
    assert missing == 1
    assert "it is for other.example.com, not for mlflow.example.com" in text


def test_a_wildcard_certificate_is_enough(aws: Account) -> None:
    aws["describe-certificate"] = {"Certificate": {"Status": "ISSUED", "DomainName": "*.example.com"}}
    assert aws.screen()[1] == 0


def test_a_missing_zone_is_named(aws: Account) -> None:
    aws["list-hosted-zones-by-name"] = {"HostedZones": [{"Id": "/hostedzone/Z1", "Name": "other.org."}]}
    assert "there is no zone example.com in this account" in aws.screen()[0]


def test_a_cluster_that_is_not_ready_is_said_with_its_state(aws: Account) -> None:
    aws["describe-cluster"] = {"cluster": {"status": "UPDATING"}}
    assert "my-prod-cluster is UPDATING" in aws.screen()[0]


def test_a_refusal_of_aws_is_shown_in_its_own_words(aws: Account) -> None:
    aws["describe-addon"] = "ResourceNotFoundException: No addon"
    text, missing = aws.screen()
    assert missing == 1
    assert "ResourceNotFoundException: No addon" in text
    assert "artifacts.identity to irsa" in text


def test_missing_credentials_are_said_once(aws: Account) -> None:
    for operation in ANSWERS:
        aws[operation] = "Unable to locate credentials. You can configure credentials by running aws configure."
    text, missing = aws.screen()
    # Two checks ask for the cluster.
    assert missing == len(ANSWERS) + 1
    assert text.count("Unable to locate credentials") == 1
    assert text.count("needs credentials (see above)") == len(ANSWERS)
    assert "irsa" not in text


def test_a_cluster_with_ipv6_pods_is_refused(aws: Account) -> None:
    aws["describe-cluster"] = {"cluster": {**CLUSTER, "kubernetesNetworkConfig": {"ipFamily": "ipv6"}}}
    text, missing = aws.screen()
    assert (missing, "have IPv6 addresses; name a cluster with IPv4" in text) == (1, True)


@pytest.mark.parametrize(
    "sets",
    [
        pytest.param([], id="no-plugin"),
        pytest.param([daemon_set("aws-node", "--enable-network-policy=false")], id="not-told"),
        pytest.param([daemon_set("aws-node"), daemon_set("kube-proxy")], id="an-older-plugin"),
    ],
)
def test_policies_that_nothing_enforces_are_said_with_the_way_out(aws: Account, sets: list[Any]) -> None:
    aws["daemonsets"] = {"items": sets}
    text, missing = aws.screen()
    assert missing == 1
    assert "nothing enforces them in my-prod-cluster" in text
    assert """--addon-name vpc-cni --configuration-values '{"enableNetworkPolicy":"true"}'""" in text


@pytest.mark.parametrize(("name", "engine"), [("calico-node", "Calico"), ("antrea-agent", "Antrea")])
def test_another_plugin_enforces_them_without_being_told(aws: Account, name: str, engine: str) -> None:
    aws["daemonsets"] = {"items": [daemon_set("aws-node", "--enable-network-policy=false"), daemon_set(name)]}
    text, missing = aws.screen()
    assert (missing, f"network policies        {engine}" in text) == (0, True)


def test_cilium_is_found_with_what_it_does_to_pod_identity(aws: Account) -> None:
    aws["daemonsets"] = {"items": [daemon_set("cilium")]}
    text, missing = aws.screen()
    assert (missing, "Cilium; it keeps pods from the Pod Identity agent" in text) == (0, True)


@pytest.mark.parametrize(("told", "failures"), [("true", 0), ("false", 1), (None, 1)])
def test_auto_mode_enforces_them_once_it_is_told(aws: Account, told: str | None, failures: int) -> None:
    aws["describe-cluster"] = {"cluster": {**CLUSTER, "computeConfig": {"enabled": True}}}
    aws["daemonsets"] = {"items": []}
    aws["configmap"] = {"data": {"enable-network-policy-controller": told}} if told else {}
    text, missing = aws.screen()
    assert missing == failures
    assert ("EKS Auto Mode does not enforce them until told" in text) == bool(failures)


def test_an_api_that_does_not_answer_is_said_in_the_words_of_kubectl(aws: Account) -> None:
    aws["daemonsets"] = "Unable to connect to the server: i/o timeout"
    text, missing = aws.screen()
    assert (missing, "kubectl says: Unable to connect to the server" in text) == (1, True)
