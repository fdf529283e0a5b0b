"""Doctor, with commands `aws` and `kubectl` that answer from a table. Each fault is one row.

No process is started, because a run of all checks calls some forty commands.
"""

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import botocore.session
import pytest
from botocore import xform_name

from operations import aws_cli, checks
from operations.aws_cli import Aws
from operations.doctor import __main__ as command
from operations.doctor import artifacts, machine, plan
from operations.doctor.checks import CHECKS
from operations.doctor.checks import checks as all_checks
from operations.doctor.subject import Subject
from settings.reader import parse
from tests.unit.harness import ANY_CLUSTER, changed, stack_config

CLUSTER_GROUP, NODE_GROUP, VPC = "sg-0c1u57e2", "sg-0n0de", "vpc-0c1"
CLUSTER: Mapping[str, Any] = {
    "name": "my-prod-cluster",
    "status": "ACTIVE",
    "version": "1.34",
    "arn": "arn:aws:eks:eu-west-1:123456789012:cluster/my-prod-cluster",
    "certificateAuthority": {"data": "Y2E="},
    "identity": {"oidc": {"issuer": "https://oidc.eks.eu-west-1.amazonaws.com/id/0123"}},
    "resourcesVpcConfig": {
        "endpointPublicAccess": True,
        "publicAccessCidrs": ["0.0.0.0/0"],
        "clusterSecurityGroupId": CLUSTER_GROUP,
        "vpcId": VPC,
    },
    "kubernetesNetworkConfig": {"ipFamily": "ipv4", "elasticLoadBalancing": {"enabled": False}},
}
AUTO_MODE = {
    "computeConfig": {"enabled": True},
    "kubernetesNetworkConfig": {"ipFamily": "ipv4", "elasticLoadBalancing": {"enabled": True}},
}
OWN_CLUSTER, FOREIGN_CLUSTER = "kubernetes.io/cluster/my-prod-cluster", "kubernetes.io/cluster/other"


def daemon_set(name: str, *arguments: str) -> dict[str, Any]:
    containers = [{"name": name}, {"name": "agent", "args": list(arguments)}]
    return {"metadata": {"name": name}, "spec": {"template": {"spec": {"containers": containers}}}}


def node(*groups: str, name: str = "i-0a", address: str = "10.0.1.7") -> dict[str, Any]:
    ids = [{"GroupId": group} for group in groups]
    interfaces = [{"Groups": ids}]
    return {"InstanceId": name, "PrivateIpAddress": address, "SecurityGroups": ids, "NetworkInterfaces": interfaces}


def subnet(zone: str, *tags: str, free: int = 200) -> dict[str, Any]:
    return {
        "SubnetId": f"subnet-0{zone[-1]}",
        "AvailabilityZone": zone,
        "AvailableIpAddressCount": free,
        "Tags": [{"Key": tag, "Value": "1"} for tag in tags],
    }


def controller(ready: int = 2) -> dict[str, Any]:
    image = "public.ecr.aws/eks/aws-load-balancer-controller:v2.14.1"
    return {
        "metadata": {"name": "aws-load-balancer-controller", "namespace": "kube-system"},
        "spec": {"template": {"spec": {"containers": [{"image": image}]}}},
        "status": {"readyReplicas": ready},
    }


def zone(name: str, number: int = 1, *, private: bool = False) -> dict[str, Any]:
    return {"Id": f"/hostedzone/Z{number}", "Name": f"{name}.", "Config": {"PrivateZone": private}}


def issuer(status: str, *solvers: str) -> dict[str, Any]:
    return {
        "spec": {"acme": {"solvers": [{solver: {}} for solver in solvers]}},
        "status": {"conditions": [{"type": "Ready", "status": status, "message": "the account is not registered"}]},
    }


def quota(**used: int) -> list[dict[str, Any]]:
    names = {
        "DBInstances": 40,
        "DBParameterGroups": 50,
        "DBSubnetGroups": 50,
        "EventSubscriptions": 20,
        "ManualSnapshots": 100,
    }
    return [{"AccountQuotaName": name, "Used": used.get(name, 3), "Max": most} for name, most in names.items()]


def nodes(*found: Mapping[str, Any]) -> dict[str, Any]:
    return {"Reservations": [{"Instances": list(found)}]}


def certificate(**changes: object) -> dict[str, Any]:
    end = (datetime.now(UTC) + timedelta(days=200)).isoformat()
    return {"Certificate": {"Status": "ISSUED", "DomainName": "mlflow.example.com", "NotAfter": end, **changes}}


INTERNAL = "kubernetes.io/role/internal-elb"
ANSWERS: Mapping[str, Any] = {
    "get-caller-identity": {"Arn": "arn:aws:sts::123456789012:assumed-role/Admin/ada"},
    "describe-cluster": {"cluster": CLUSTER},
    "list-addons": {"addons": ["vpc-cni"]},
    "describe-addon": {"addon": {"addonVersion": "v1.3.10-eksbuild.1", "status": "ACTIVE"}},
    "list-fargate-profiles": {"fargateProfileNames": []},
    "list-pod-identity-associations": {"associations": []},
    "describe-instances": nodes(node(CLUSTER_GROUP)),
    "describe-security-groups": {"SecurityGroups": [{"GroupId": CLUSTER_GROUP}]},
    "describe-subnets": {"Subnets": [subnet("eu-west-1a", INTERNAL), subnet("eu-west-1b", INTERNAL, OWN_CLUSTER)]},
    "describe-vpc-endpoints": {"VpcEndpoints": [{"VpcEndpointId": "vpce-01", "VpcEndpointType": "Gateway"}]},
    "describe-certificate": certificate(),
    "list-hosted-zones-by-name": {"HostedZones": [zone("example.com")]},
    "list-resource-record-sets": {"ResourceRecordSets": []},
    "describe-key": {"KeyMetadata": {"Enabled": True, "KeyId": "1111"}},
    "get-topic-attributes": {"Attributes": {}},
    "describe-account-attributes": {"AccountQuotas": quota()},
    "get-account-plan-state": {"accountPlanType": "PAID"},
    # Answers of kubectl.
    "can-i": {"text": "yes"},
    "daemonsets": {"items": [daemon_set("aws-node", "--enable-ipv6=false", "--enable-network-policy=true")]},
    "configmap": {},
    "deployments": {"items": [controller()]},
    "clusterissuer": issuer("True", "dns01"),
    "servicemonitors.monitoring.coreos.com": {"kind": "CustomResourceDefinition"},
    "prometheusrules.monitoring.coreos.com": {"kind": "CustomResourceDefinition"},
    "namespace": {"kind": "Namespace"},
}


class Call(NamedTuple):
    """A call of a program, with the identity in its environment."""

    program: str
    arguments: list[str]
    profile: str
    key: str


@dataclass
class Account:
    """The answers of AWS and Kubernetes, and the settings of the stack."""

    endpoint: str
    answers: dict[str, Any] = field(default_factory=lambda: {**ANSWERS})
    settings: dict[str, Any] = field(default_factory=lambda: stack_config("prod"))
    secrets: set[str] = field(default_factory=set[str])
    config: dict[str, Any] = field(default_factory=lambda: {"aws:region": "eu-west-1"})
    calls: list[Call] = field(default_factory=list[Call])
    table: dict[str, Any] = field(default_factory=dict[str, Any])

    def subject(self) -> Subject:
        answers = dict(self.answers)
        if isinstance(answers["describe-cluster"], dict):
            answers["describe-cluster"] = {
                "cluster": {"endpoint": self.endpoint, **answers["describe-cluster"]["cluster"]}
            }
        self.table = answers
        settings, problems = parse(self.settings, self.secrets)
        assert settings is not None, problems
        return Subject("prod", settings, aws_cli.from_config(self.config))

    def screen(self) -> tuple[str, int]:
        lines, missing = checks.examine(all_checks(self.subject()))
        return "\n".join(lines), missing

    def run(self, command: list[str], env: dict[str, str], **_: object) -> subprocess.CompletedProcess[str]:
        """Answer a command in the place of `subprocess.run`."""
        program, *arguments = command
        self.calls.append(Call(program, arguments, env.get("AWS_PROFILE", ""), env.get("AWS_ACCESS_KEY_ID", "")))
        answer = self.table[next(word for word in arguments if word in self.table)]
        if isinstance(answer, str):
            return subprocess.CompletedProcess(command, 1, "", answer)
        text = answer.get("text")
        return subprocess.CompletedProcess(command, text == "no", text or json.dumps(answer), "")


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    """Commands `aws` and `kubectl` that answer from a table, which a test changes."""
    (tmp_path / "aws").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    for title in ("pulumi", "ingress charts", "mlflow charts"):
        monkeypatch.setitem(CHECKS, title, lambda _: "there")
    with socket.create_server(("127.0.0.1", 0)) as api:
        account = Account(f"https://127.0.0.1:{api.getsockname()[1]}")
        monkeypatch.setattr(subprocess, "run", account.run)
        yield account


def test_an_account_with_everything_gets_ticks_only(aws: Account) -> None:
    text, missing = aws.screen()
    assert missing == 0, text
    assert "✗" not in text
    assert "!" not in text


def test_every_call_reads(aws: Account) -> None:
    aws.settings = changed(aws.settings, {"ingress.certificateArn": None, "ingress.clusterIssuer": "letsencrypt"})
    aws.screen()
    operations = {call.arguments[1] for call in aws.calls if call.program == "aws"}
    assert len(operations) > 15
    assert not [name for name in operations if not re.match("(describe|get|list)-", name)]
    verbs = {"get", "auth"}
    assert all(verbs.intersection(call.arguments) for call in aws.calls if call.program == "kubectl")


def unknown(shape: Any, value: Any, path: str) -> Iterator[str]:
    """Return the fields of an answer that AWS's description does not have."""
    if shape.type_name == "structure" and isinstance(value, dict):
        for key, item in value.items():
            if key in shape.members:
                yield from unknown(shape.members[key], item, f"{path}.{key}")
            else:
                yield f"{path}.{key}"
    elif shape.type_name == "list":
        for item in value:
            yield from unknown(shape.member, item, path)


def test_calls_and_answers_are_those_of_aws(aws: Account) -> None:
    for answers, settings, _ in [*FAULTS.values(), *NOTES.values(), *FINE.values()]:
        if "postgres" not in settings:
            aws.answers = {**ANSWERS, **answers}
            aws.settings = changed(stack_config("prod"), settings)
            aws.screen()
    session: Any = botocore.session.get_session()
    wrong: set[str] = set()
    asked: set[str] = set()
    for service, operation, *options in (call.arguments for call in aws.calls if call.program == "aws"):
        model = session.get_service_model("s3" if service == "s3api" else service)
        names = {xform_name(name, "-"): name for name in model.operation_names}
        described = model.operation_model(names[operation])
        members = (
            {f"--{xform_name(name, '-')}" for name in described.input_shape.members} if described.input_shape else set()
        )
        known = members | {"--output", "--region", "--max-items"}
        wrong.update(f"{operation} {option}" for option in options if option.startswith("--") and option not in known)
        for table in [ANSWERS, *(row[0] for rows in (FAULTS, NOTES, FINE) for row in rows.values())]:
            if isinstance(answer := table.get(operation), dict):
                wrong.update(unknown(described.output_shape, answer, operation))
        asked.add(operation)
    assert wrong == set()
    assert {"get-account-plan-state", "get-key-policy", "list-open-id-connect-providers"} <= asked


def cluster(**changes: object) -> dict[str, Any]:
    return {"describe-cluster": {"cluster": {**CLUSTER, **changes}}}


def network(**changes: object) -> dict[str, Any]:
    return cluster(resourcesVpcConfig={**CLUSTER["resourcesVpcConfig"], **changes}, endpoint="https://127.0.0.1:1")


def subnets(*found: Mapping[str, Any]) -> dict[str, Any]:
    return {"describe-subnets": {"Subnets": list(found)}}


def association(**tags: str) -> dict[str, Any]:
    return {
        "list-pod-identity-associations": {"associations": [{"associationId": "a-1"}]},
        "describe-pod-identity-association": {"association": {"tags": tags}},
    }


def topic(key: str, policy: object) -> dict[str, Any]:
    return {"get-topic-attributes": {"Attributes": {"KmsMasterKeyId": key}}, "get-key-policy": policy}


NO_ADD_ON = "An error occurred (ResourceNotFoundException) when calling DescribeAddon: No addon"
NO_POLICY_ENGINE = "nothing enforces them in my-prod-cluster"
LAUNCH_TEMPLATE = {"describe-instances": nodes(node(CLUSTER_GROUP), node(NODE_GROUP, name="i-0b"))}
ISSUER = {"ingress.certificateArn": None, "ingress.clusterIssuer": "letsencrypt"}
BUCKET = {"artifacts.bucket": "my-artifacts"}
LETS_IN = '"Service":["cloudwatch.amazonaws.com","events.rds.amazonaws.com"]'

FAULTS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any], str]] = {
    "a key of another region": (
        {},
        {"postgres.kmsKeyArn": "arn:aws:kms:us-east-1:123456789012:key/11111111-2222-3333-4444-555555555555"},
        "postgres.kmsKeyArn is in aws us-east-1, but the cluster is in aws eu-west-1",
    ),
    "a cluster that is not ready": (cluster(status="UPDATING"), {}, "my-prod-cluster is UPDATING"),
    "pods with ipv6": (cluster(kubernetesNetworkConfig={"ipFamily": "ipv6"}), {}, "have IPv6 addresses"),
    "a private api": (network(endpointPublicAccess=False), {}, "private, and does not answer from here"),
    "an api for others": (
        network(publicAccessCidrs=["203.0.113.0/24"]),
        {},
        "public for 203.0.113.0/24 only, and does not answer from here",
    ),
    "an api that is away": (network(), {}, "public, and does not answer from here"),
    "no access entry": (
        {"can-i": "error: You must be logged in to the server (Unauthorized)"},
        {},
        "create-access-entry --cluster-name my-prod-cluster --principal-arn arn:aws:iam::123456789012:role/Admin",
    ),
    "few rights in the cluster": ({"can-i": {"text": "no"}}, {}, "AmazonEKSClusterAdminPolicy"),
    "a broken add-on": (
        {"describe-addon": {"addon": {"addonVersion": "v1", "status": "DEGRADED"}}},
        {},
        "vpc-cni is DEGRADED",
    ),
    "no plugin for policies": ({"daemonsets": {"items": []}}, {}, NO_POLICY_ENGINE),
    "a plugin that is not told": (
        {"daemonsets": {"items": [daemon_set("aws-node", "--enable-network-policy=false")]}},
        {},
        """--addon-name vpc-cni --configuration-values '{"enableNetworkPolicy":"true"}'""",
    ),
    "an older plugin": (
        {"daemonsets": {"items": [daemon_set("aws-node"), daemon_set("kube-proxy")]}},
        {},
        NO_POLICY_ENGINE,
    ),
    "no prometheus operator": (
        {"servicemonitors.monitoring.coreos.com": {}, "prometheusrules.monitoring.coreos.com": {}},
        {"monitoring.enabled": True},
        "does not know servicemonitors and prometheusrules; install the Prometheus operator",
    ),
    "no namespace of prometheus": (
        {"namespace": {}},
        {"monitoring.enabled": True},
        "there is no namespace monitoring, of which pods may read the metrics",
    ),
    "no pod identity agent": (
        {"list-addons": {"addons": []}, "describe-addon": NO_ADD_ON},
        {},
        "No addon; `aws eks create-addon --cluster-name my-prod-cluster",
    ),
    "no oidc provider": (
        {"list-open-id-connect-providers": {"OpenIDConnectProviderList": [{"Arn": "arn:aws:iam::1:oidc-provider/x"}]}},
        {"artifacts.identity": "irsa"},
        "IAM has no OIDC provider for oidc.eks.eu-west-1.amazonaws.com/id/0123",
    ),
    "an association of another stack": (
        association(Project="mlflow-eks", Stack="dev"),
        {},
        "a-1 of the stack dev has the service account mlflow/mlflow already",
    ),
    "an association of nobody": (association(), {}, "a-1 of nothing that this program knows"),
    "fargate": (
        {
            "list-fargate-profiles": {"fargateProfileNames": ["serverless"]},
            "describe-fargate-profile": {"fargateProfile": {"selectors": [{"namespace": "ml*"}]}},
        },
        {},
        "the profile serverless takes the pods of namespace mlflow, and Fargate has no Pod Identity",
    ),
    "nodes of a launch template": (
        LAUNCH_TEMPLATE,
        {},
        f"write postgres.allowFrom: {{securityGroups: [{CLUSTER_GROUP}, {NODE_GROUP}]}}",
    ),
    "nodes outside a list": (
        LAUNCH_TEMPLATE,
        {"postgres.allowFrom": {"cidrs": ["10.9.0.0/16"]}},
        "lets 2 of 2 nodes not in",
    ),
    "two tagged groups": (
        {
            "describe-instances": nodes(node(CLUSTER_GROUP, NODE_GROUP)),
            "describe-security-groups": {"SecurityGroups": [{"GroupId": CLUSTER_GROUP}, {"GroupId": NODE_GROUP}]},
        },
        {},
        "the controller then registers no target",
    ),
    "no controller": ({"deployments": {"items": []}}, {}, "install the AWS Load Balancer Controller"),
    "a controller that is down": ({"deployments": {"items": [controller(0)]}}, {}, "no pod of it is ready"),
    "the class of auto mode elsewhere": (
        {},
        {"ingress.loadBalancerClass": "eks.amazonaws.com/nlb"},
        "is served by EKS Auto Mode, which is off in this cluster",
    ),
    "the controller's class in auto mode": (
        {**cluster(**AUTO_MODE), "deployments": {"items": []}},
        {"ingress.loadBalancerClass": "service.k8s.aws/nlb"},
        "or leave ingress.loadBalancerClass out for eks.amazonaws.com/nlb",
    ),
    "subnets of another cluster": (
        subnets(subnet("eu-west-1a", INTERNAL, FOREIGN_CLUSTER)),
        {},
        "no subnet fits: subnet-0a is tagged for the cluster other",
    ),
    "full subnets": (subnets(subnet("eu-west-1a", INTERNAL, free=7)), {}, "subnet-0a has 7 free addresses of 8"),
    "untagged subnets in auto mode": (
        {
            **cluster(**AUTO_MODE),
            **subnets(subnet("eu-west-1a")),
            "configmap": {"data": {"enable-network-policy-controller": "true"}},
        },
        {"ingress.scheme": "internet-facing"},
        "no subnet of vpc-0c1 has the tag kubernetes.io/role/elb",
    ),
    "a certificate for another host": (
        {"describe-certificate": certificate(DomainName="other.example.com")},
        {},
        "it is for other.example.com, not for mlflow.example.com",
    ),
    "a certificate that waits": (
        {"describe-certificate": certificate(Status="PENDING_VALIDATION")},
        {},
        "its status is PENDING_VALIDATION",
    ),
    "a certificate at its end": (
        # Version 1 of the aws command writes seconds.
        {"describe-certificate": certificate(NotAfter=datetime.now(UTC).timestamp() + 86400 * 5.5)},
        {},
        "it ends in 5 days, and ACM does not renew it",
    ),
    "no cert-manager": (
        {"clusterissuer": """error: the server doesn't have a resource type "clusterissuer\""""},
        ISSUER,
        "the cluster has no cert-manager",
    ),
    "no such issuer": (
        {"clusterissuer": 'Error from server (NotFound): clusterissuers "letsencrypt" not found'},
        ISSUER,
        "there is no ClusterIssuer letsencrypt",
    ),
    "an issuer that is not ready": (
        {"clusterissuer": issuer("False")},
        ISSUER,
        "letsencrypt is not ready: the account is not registered",
    ),
    "an issuer that nobody looked at": ({"clusterissuer": {"spec": {}}}, ISSUER, "cert-manager has not looked at it"),
    "http-01 on an internal load balancer": (
        {"clusterissuer": issuer("True", "http01")},
        ISSUER,
        "has HTTP-01 challenges only, and the load balancer is internal",
    ),
    "no zone": (
        {"list-hosted-zones-by-name": {"HostedZones": [zone("other.org")]}},
        {},
        "there is no zone example.com in this account",
    ),
    "a private zone only": (
        {"list-hosted-zones-by-name": {"HostedZones": [zone("example.com", private=True)]}},
        {},
        "the zone example.com of this account is private; set mlflow.privateZone to true",
    ),
    "two zones of a name": (
        {"list-hosted-zones-by-name": {"HostedZones": [zone("example.com"), zone("example.com", 2)]}},
        {},
        "there are 2 public zones example.com",
    ),
    "a key that is off": (
        {"describe-key": {"KeyMetadata": {"Enabled": False, "KeyState": "PendingDeletion", "KeyId": "1111"}}},
        {},
        "it is PendingDeletion; `aws kms enable-key --key-id 1111`",
    ),
    "an asymmetric key": (
        {"describe-key": {"KeyMetadata": {"Enabled": True, "KeySpec": "RSA_2048", "KeyUsage": "SIGN_VERIFY"}}},
        {},
        "it is RSA_2048 for SIGN_VERIFY",
    ),
    "no such topic": (
        {"get-topic-attributes": "An error occurred (NotFound): Topic does not exist"},
        {},
        "Topic does not exist",
    ),
    "a fifo topic": ({"get-topic-attributes": {"Attributes": {"FifoTopic": "true"}}}, {}, "it is a FIFO topic"),
    "a topic with aws's key": (topic("alias/aws/sns", {}), {}, "so it stays silent"),
    "a topic whose key lets nobody in": (
        topic("1111", {"Policy": '{"Statement":[{"Principal":{"Service":"events.rds.amazonaws.com"}}]}'}),
        {},
        "does not let in cloudwatch.amazonaws.com; the policy of its key 1111 needs this statement:",
    ),
    "no more subscriptions": (
        {"describe-account-attributes": {"AccountQuotas": quota(EventSubscriptions=19)}},
        {},
        "EventSubscriptions: 19 of 20 are in use, and this stack takes 2",
    ),
    "no more snapshots": (
        {"describe-account-attributes": {"AccountQuotas": quota(ManualSnapshots=100)}},
        {},
        "ManualSnapshots: 100 of 100 are in use, and this stack takes 1",
    ),
    "no such bucket": (
        {"get-bucket-location": "An error occurred (NoSuchBucket) when calling GetBucketLocation"},
        BUCKET,
        "there is no bucket my-artifacts",
    ),
    "another account's bucket": (
        {"get-bucket-location": "An error occurred (AccessDenied) when calling GetBucketLocation"},
        BUCKET,
        "my-artifacts refuses this identity",
    ),
}
"""Fault to answers, settings and the sentence that the fault gets."""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_that_says_what_to_do(aws: Account, fault: str) -> None:
    answers, settings, sentence = FAULTS[fault]
    aws.answers |= answers
    aws.settings = changed(aws.settings, settings)
    text, missing = aws.screen()
    assert sentence in text
    assert missing == 1, text


NOTES: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any], str]] = {
    "no gateway endpoint": (
        {"describe-vpc-endpoints": {"VpcEndpoints": [{"VpcEndpointId": "vpce-1", "VpcEndpointType": "Interface"}]}},
        {},
        "aws ec2 create-vpc-endpoint --vpc-id vpc-0c1 --service-name com.amazonaws.eu-west-1.s3",
    ),
    "a bucket elsewhere": (
        {"get-bucket-location": {"LocationConstraint": None}},
        BUCKET,
        "my-artifacts is in us-east-1",
    ),
    "the free plan": ({"get-account-plan-state": {"accountPlanType": "FREE"}}, {}, "this stack has 30 days"),
    "a topic whose key is secret": (
        topic("1111", "An error occurred (AccessDeniedException)"),
        {},
        "not known whether it stays silent",
    ),
    "a record that is there": (
        {
            "list-resource-record-sets": {
                "ResourceRecordSets": [
                    {"Name": "mlflow.example.com.", "Type": "A", "AliasTarget": {"DNSName": "old.elb.amazonaws.com."}}
                ]
            }
        },
        {},
        "A leads to old.elb.amazonaws.com; if this stack has not made it",
    ),
    "one zone only": (subnets(subnet("eu-west-1a", INTERNAL), subnet("eu-west-1b")), {}, "in eu-west-1a only"),
    "untagged subnets": (subnets(subnet("eu-west-1a")), {}, "From 2.12.1 on the controller looks at route tables"),
}
"""Case to answers, settings and a sentence on what works at a price."""


@pytest.mark.parametrize("case", NOTES)
def test_what_works_at_a_price_is_noted_and_no_failure(aws: Account, case: str) -> None:
    answers, settings, sentence = NOTES[case]
    aws.answers |= answers
    aws.settings = changed(aws.settings, settings)
    text, missing = aws.screen()
    assert sentence in text
    assert missing == 0, text
    assert "\n  ! " in text


FINE: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any], str]] = {
    "a wildcard certificate": (
        {"describe-certificate": certificate(DomainName="*.example.com")},
        {},
        "issued for *.example.com, 199 days left",
    ),
    "auto mode": (
        {
            **cluster(**AUTO_MODE),
            "list-addons": {"addons": []},
            "describe-addon": NO_ADD_ON,
            "deployments": {"items": []},
            "daemonsets": {"items": []},
            "configmap": {"data": {"enable-network-policy-controller": "true"}},
        },
        {},
        "EKS Auto Mode serves eks.amazonaws.com/nlb",
    ),
    "an agent without the add-on": (
        {
            "list-addons": {"addons": []},
            "describe-addon": NO_ADD_ON,
            "daemonsets": {"items": [daemon_set("calico-node"), daemon_set("eks-pod-identity-agent")]},
        },
        {},
        "installed without the add-on",
    ),
    "irsa": (
        {
            "list-open-id-connect-providers": {
                "OpenIDConnectProviderList": [
                    {"Arn": "arn:aws:iam::123456789012:oidc-provider/oidc.eks.eu-west-1.amazonaws.com/id/0123"}
                ]
            }
        },
        {"artifacts.identity": "irsa"},
        "IRSA through oidc.eks",
    ),
    "an association of its own": (
        association(Project="mlflow-eks", Stack="prod"),
        {},
        "a-1 is this stack's own",
    ),
    "a private api from inside": (
        cluster(resourcesVpcConfig={**CLUSTER["resourcesVpcConfig"], "endpointPublicAccess": False}),
        {},
        "private, and answers from here",
    ),
    "the whole vpc": (LAUNCH_TEMPLATE, {"postgres.allowFrom": "vpc"}, "postgres.allowFrom is vpc"),
    "a list with every node": (
        LAUNCH_TEMPLATE,
        {"postgres.allowFrom": {"cidrs": ["10.0.0.0/16"]}},
        "postgres.allowFrom lets all 2 in",
    ),
    "no node yet": ({"describe-instances": nodes()}, {}, "no node runs"),
    "a topic whose key lets both in": (
        topic("1111", {"Policy": f'{{"Statement":[{{"Principal":{{{LETS_IN}}}}}]}}'}),
        {},
        "encrypted with 1111, which CloudWatch and RDS may use",
    ),
    "an issuer": ({}, ISSUER, "letsencrypt is ready"),
    "a prometheus operator": ({}, {"monitoring.enabled": True}, "knows servicemonitors and prometheusrules"),
    "a prometheus operator for haproxy alone": (
        {"prometheusrules.monitoring.coreos.com": {}, "namespace": {}},
        {"ingress.serviceMonitor": True},
        "knows servicemonitors",
    ),
    "an older aws command": (
        {"get-account-plan-state": "aws: error: argument command: Invalid choice"},
        {},
        "not known: aws: error",
    ),
    "calico": ({"daemonsets": {"items": [daemon_set("calico-node")]}}, {}, "Calico"),
    "antrea": (
        {
            "daemonsets": {
                "items": [daemon_set("aws-node", "--enable-network-policy=false"), daemon_set("antrea-agent")]
            }
        },
        {},
        "Antrea",
    ),
    "cilium": (
        {"daemonsets": {"items": [daemon_set("cilium")]}},
        {},
        "Cilium; it keeps pods from the Pod Identity agent",
    ),
    "a server that exists": (
        {},
        {"postgres": {"existing": {"host": "db.example.com", "adminPassword": "a-secret"}}},
        "this stack creates no database server",
    ),
}
"""Case to answers, settings and the sentence of a check that passes."""


@pytest.mark.parametrize("case", FINE)
def test_what_is_right_in_another_way_passes(aws: Account, case: str) -> None:
    answers, settings, sentence = FINE[case]
    aws.answers |= answers
    aws.settings = changed(aws.settings, settings)
    aws.secrets = {"postgres"} if "postgres" in settings else set()
    text, missing = aws.screen()
    assert missing == 0, text
    assert sentence in text


@pytest.mark.parametrize(("private", "failures"), [(True, 0), (False, 1)])
def test_a_private_zone_is_found_when_the_settings_ask_for_it(aws: Account, private: bool, failures: int) -> None:
    aws.answers["list-hosted-zones-by-name"] = {"HostedZones": [zone("example.com", private=private)]}
    subject = aws.subject()
    mlflow = subject.settings.mlflow.model_copy(update={"private_zone": True})
    asked = Subject("prod", subject.settings.model_copy(update={"mlflow": mlflow}), subject.aws)
    lines, missing = checks.examine([check for check in all_checks(asked) if check.title == "dns zone"])
    said = "Z1, private" if private else "is public; drop mlflow.privateZone"
    assert (missing, said in lines[0]) == (failures, True)


@pytest.mark.parametrize("told", ["false", None])
def test_auto_mode_does_not_enforce_policies_until_it_is_told(aws: Account, told: str | None) -> None:
    aws.answers |= {**cluster(**AUTO_MODE), "daemonsets": {"items": []}}
    aws.answers["configmap"] = {"data": {"enable-network-policy-controller": told}} if told else {}
    text, missing = aws.screen()
    assert (missing, "EKS Auto Mode does not enforce them until told" in text) == (1, True)


def test_missing_credentials_are_said_once(aws: Account) -> None:
    answers = [name for name in ANSWERS if re.match("(describe|get|list)-", name)]
    aws.answers |= dict.fromkeys(answers, "Unable to locate credentials. You can configure credentials.")
    text, _ = aws.screen()
    assert text.count("Unable to locate credentials") == 1
    assert text.count("needs credentials of AWS") > 5
    assert text.count("needs the cluster (see above)") > 5
    assert "irsa" not in text


def test_a_login_that_is_refused_is_said_once(aws: Account) -> None:
    refused = "error: You must be logged in to the server (Unauthorized)"
    aws.answers |= {"can-i": refused, "daemonsets": refused, "deployments": refused}
    text, missing = aws.screen()
    assert missing == 1
    assert text.count("needs the login to Kubernetes (see above)") == 2


def test_an_api_that_does_not_answer_kubectl_is_said_in_its_words(aws: Account) -> None:
    aws.answers["daemonsets"] = "Unable to connect to the server: i/o timeout"
    text, missing = aws.screen()
    assert (missing, "kubectl says: Unable to connect to the server" in text) == (1, True)


def test_another_cluster_is_asked_through_its_context_and_aws_not_at_all(aws: Account) -> None:
    aws.settings, aws.secrets = dict(ANY_CLUSTER), {"postgres"}
    aws.answers |= {"version": {}, "daemonsets": {"items": [daemon_set("kindnet")]}}
    text, missing = aws.screen()
    assert (missing, "the context kind answers" in text, "kindnet" in text) == (0, True, True)
    assert {call.program for call in aws.calls} == {"kubectl"}
    assert all(call.arguments[:2] == ["--context", "kind"] for call in aws.calls)


def test_the_profile_of_the_stack_is_used_for_aws_and_for_the_login_to_the_cluster(aws: Account) -> None:
    aws.config["aws:profile"] = "company"
    _, missing = aws.screen()
    assert missing == 0
    for call in aws.calls:
        assert call.profile == "company"
        if call.program == "aws":
            assert "--profile company" in " ".join(call.arguments)


@pytest.mark.parametrize("written", ["list", "text", "one"])
def test_the_roles_of_the_stack_are_assumed_and_their_keys_are_in_no_argument(aws: Account, written: str) -> None:
    role = {"roleArn": "arn:aws:iam::210987654321:role/deploy", "externalId": "x-1"}
    value = {"list": [role], "text": json.dumps([role]), "one": role}[written]
    aws.config |= {"aws:profile": "company", f"aws:assumeRole{'' if written == 'one' else 's'}": value}
    keys = {"AccessKeyId": "ASIA-KEY", "SecretAccessKey": "ASIA-SECRET", "SessionToken": "ASIA-TOKEN"}
    aws.answers["assume-role"] = {"Credentials": keys}
    text, missing = aws.screen()
    assert missing == 0
    assert "ASIA" not in text
    calls = aws.calls
    assert not [call for call in calls if "ASIA" in " ".join(call.arguments)]
    assumed = [call for call in calls if call.arguments[1] == "assume-role"]
    assert {("--external-id x-1" in " ".join(call.arguments), call.profile) for call in assumed} == {(True, "company")}
    assert {(call.profile, call.key) for call in calls if call not in assumed} == {("", "ASIA-KEY")}


def test_a_command_that_is_not_there_is_said_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(checks.MissingError, match="needs the aws command"):
        Aws("eu-west-1")("sts", "get-caller-identity")
    with pytest.raises(checks.MissingError, match="not on PATH: install it"):
        machine.program("aws", "install it")


@pytest.mark.parametrize(
    ("settings", "sentences"),
    [
        (
            {},
            [
                "28 resources on AWS (",
                "1 RDS instance",
                "5 CloudWatch alarms",
                "the controller of service.k8s.aws/nlb make an internal load balancer: nothing is public",
                "protected: deletion is refused",
                "need `pulumi stack init prod` first",
            ],
        ),
        ({"ingress.scheme": "internet-facing"}, ["make a public load balancer", "open for the whole internet"]),
        ({"ingress.loadBalancerClass": "eks.amazonaws.com/nlb"}, ["the controller of eks.amazonaws.com/nlb"]),
        (
            {"ingress": {"install": False, "className": "nginx", "address": "lb.example.com"}},
            ["the Ingress class nginx, and make no load balancer"],
        ),
    ],
)
def test_the_last_lines_say_what_up_will_do(aws: Account, settings: Mapping[str, Any], sentences: list[str]) -> None:
    aws.settings = changed(aws.settings, settings)
    said = "\n".join(plan.sentences(aws.subject()))
    assert [sentence for sentence in sentences if sentence not in said] == []


def test_the_command_ends_with_one_when_a_check_failed(
    aws: Account, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["doctor", "prod"])
    for answer, code in ((controller(), 0), (controller(0), 1)):
        aws.answers["deployments"] = {"items": [answer]}
        aws.subject()
        with pytest.raises(SystemExit) as end:
            command.main()
        assert end.value.code == code
        assert "`pulumi up` will:\n  create" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("transfers", "refusal", "says"),
    [
        ("proxied", "timed out", "✓ transfers  through the pods, so clients need no route to S3"),
        ("direct", None, "✓ transfers  straight to S3, which this machine reaches at s3.eu-west-1.amazonaws.com"),
        (
            "direct",
            "timed out",
            "! transfers  a client on this machine could read no file: s3.eu-west-1.amazonaws.com cannot be",
        ),
    ],
)
def test_the_way_to_s3_is_tried_where_clients_take_it(
    aws: Account, monkeypatch: pytest.MonkeyPatch, transfers: str, refusal: str | None, says: str
) -> None:
    asked: list[tuple[str, int]] = []
    monkeypatch.setattr(artifacts, "refusal_of", lambda *place: asked.append(place) or refusal)
    aws.settings = changed(aws.settings, {"artifacts.transfers": transfers})
    text, missing = aws.screen()
    assert (missing, says in re.sub(" +", " ", text).replace("transfers ", "transfers  ", 1)) == (0, True), text
    assert asked == ([] if transfers == "proxied" else [("s3.eu-west-1.amazonaws.com", 443)])
