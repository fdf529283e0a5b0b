"""EksCluster: the properties that are read from the existing cluster, and the deployment's login to it."""

import json
from collections.abc import Mapping
from typing import Any

import pulumi
import pytest

from components.lookups.eks_cluster import look_up_eks_cluster
from tests.unit.harness import MINIMAL, PRIVATE_A, PRIVATE_B, PUBLIC, Account, Deployment, deploy, refused

PROVIDER = "pulumi:providers:kubernetes"


def test_the_cluster_is_read_and_not_touched(dev: Deployment) -> None:
    assert "aws:eks/getCluster:getCluster" in dev.calls
    ours = {resource.type for resource in dev.resources if resource.type.startswith("aws:eks/")}
    assert ours == {"aws:eks/podIdentityAssociation:PodIdentityAssociation"}


def test_a_cluster_that_cannot_be_read_is_named_with_what_to_check() -> None:
    account = Account(failing={"getCluster": "ResourceNotFoundException: No cluster found for name: my-cluster."})
    refusal = refused(MINIMAL, account=account)
    assert isinstance(refusal.error, pulumi.RunError)
    assert "EKS cluster my-cluster cannot be read" in refusal.message
    assert "No cluster found" in refusal.message
    assert "aws eks describe-cluster --name my-cluster" in refusal.message
    assert refusal.deployment.resources == []


def test_a_cluster_with_ipv6_pods_is_refused_before_anything_is_created() -> None:
    refusal = refused(MINIMAL, account=Account(ip_family="ipv6"))
    assert isinstance(refusal.error, pulumi.RunError)
    assert refusal.message == (
        "EKS cluster my-cluster has ipFamily ipv6, and MLflow's chart listens on IPv4 only; name a cluster with ipFamily ipv4"
    )
    assert refusal.deployment.resources == []


def test_each_subnet_is_asked_for_once(dev: Deployment) -> None:
    assert dev.calls.count("aws:ec2/getSubnet:getSubnet") == len({PRIVATE_A, PRIVATE_B, PUBLIC})
    assert dev.calls.count("aws:eks/getCluster:getCluster") == 1


def test_the_kubeconfig_logs_in_through_aws_and_holds_no_credential(dev: Deployment) -> None:
    kubeconfig = json.loads(dev.named("cluster")["kubeconfig"])
    (user,) = kubeconfig["users"]
    # The state contains the kubeconfig, so a token or a key in it could be read by everyone who may read the state.
    assert set(user["user"]) == {"exec"}
    login = user["user"]["exec"]
    assert login["command"] == "aws"
    assert login["args"] == [
        *("eks", "get-token", "--cluster-name", "my-dev-cluster"),
        *("--region", "eu-west-1", "--output", "json"),
    ]
    assert "env" not in login


def test_the_kubeconfig_trusts_the_clusters_own_authority(dev: Deployment) -> None:
    kubeconfig = json.loads(dev.named("cluster")["kubeconfig"])
    (cluster,) = kubeconfig["clusters"]
    assert cluster["cluster"] == {
        "server": "https://0123.gr7.eu-west-1.eks.amazonaws.com",
        "certificate-authority-data": "Y2E=",
    }
    (context,) = kubeconfig["contexts"]
    assert kubeconfig["current-context"] == context["name"]
    assert context["context"] == {"cluster": cluster["name"], "user": kubeconfig["users"][0]["name"]}


def test_the_kubeconfig_is_the_same_text_every_time(dev: Deployment) -> None:
    text = dev.named("cluster")["kubeconfig"]
    assert text == json.dumps(json.loads(text), sort_keys=True), "another order of keys would be a change"


def test_only_another_cluster_makes_everything_anew(dev: Deployment, any_cluster: Deployment) -> None:
    assert dev.named("cluster")["clusterIdentifier"] == "my-dev-cluster"
    assert any_cluster.named("cluster")["clusterIdentifier"] == "kind"


def test_secrets_and_config_maps_are_changed_in_place(dev: Deployment, any_cluster: Deployment) -> None:
    # Without these switches the provider deletes them before it creates the new ones. A provider's inputs arrive as
    # JSON.
    for deployment in (dev, any_cluster):
        for switch in ("enableSecretMutable", "enableConfigMapMutable"):
            assert deployment.named("cluster")[switch] in {True, "true"}


def test_a_context_of_the_kubeconfig_is_used_as_it_is(any_cluster: Deployment) -> None:
    cluster = any_cluster.named("cluster")
    assert cluster["context"] == "kind"
    assert "kubeconfig" not in cluster.inputs


def test_everything_in_kubernetes_goes_to_that_cluster(dev: Deployment) -> None:
    resources = [resource for resource in dev.resources if resource.type.startswith("kubernetes:")]
    assert resources
    # The default provider uses the current context of this machine's kubeconfig, which can be another cluster.
    assert {resource.provider for resource in resources} == {"cluster"}


def test_the_region_of_the_bucket_is_the_clusters(dev: Deployment, any_cluster: Deployment) -> None:
    assert dev.environment["AWS_DEFAULT_REGION"] == "eu-west-1"
    assert "AWS_DEFAULT_REGION" not in any_cluster.environment


def test_public_subnets_of_the_cluster_are_left_to_the_load_balancer() -> None:
    private: list[list[str]] = []

    def look_up() -> None:
        subnets = look_up_eks_cluster("my-cluster").private_subnets()
        subnets.apply(lambda subnets: private.append([subnet.id for subnet in subnets]))

    deploy(MINIMAL, account=Account(cluster_subnets=[PUBLIC, PRIVATE_B, PRIVATE_A]), program=look_up)
    assert private == [[PRIVATE_B, PRIVATE_A]]


def test_the_kubeconfig_logs_in_as_the_identity_that_the_provider_has() -> None:
    profile = login_of({"aws:profile": "ml"})
    assert profile["env"] == [{"name": "AWS_PROFILE", "value": "ml"}]
    role = login_of({"aws:assumeRoles": json.dumps([{"roleArn": "arn:aws:iam::123456789012:role/deploy"}])})
    assert role["args"][role["args"].index("--role-arn") + 1] == "arn:aws:iam::123456789012:role/deploy"


@pytest.mark.parametrize(
    ("roles", "words"),
    [
        ([{"roleArn": "arn:aws:iam::123456789012:role/a"}, {"roleArn": "arn:aws:iam::123456789012:role/b"}], "2 roles"),
        ([{"roleArn": "arn:aws:iam::123456789012:role/a", "externalId": "x"}], "externalId"),
    ],
)
def test_an_identity_that_the_login_cannot_have_is_refused(roles: object, words: str) -> None:
    with pytest.raises(pulumi.RunError, match=f"aws:assumeRoles has {words}.*aws:profile"):
        login_of({"aws:assumeRoles": json.dumps(roles)})


def login_of(config: Mapping[str, str]) -> dict[str, Any]:
    """Return the login of the kubeconfig of a stack with this configuration of the AWS provider."""

    def program() -> None:
        for key, value in config.items():
            pulumi.runtime.set_config(key, value)
        pulumi.export("kubeconfig", look_up_eks_cluster("my-cluster").kubeconfig)

    (user,) = json.loads(deploy(MINIMAL, program=program).outputs["kubeconfig"])["users"]
    return user["user"]["exec"]
