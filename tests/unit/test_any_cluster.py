"""A stack with a context of the kubeconfig and an existing server calls no function of AWS."""

from tests.unit.harness import ANY_CLUSTER, Deployment, changed, deploy


def test_nothing_touches_aws(any_cluster: Deployment) -> None:
    assert any_cluster.calls == [], "a person with such a stack need not have an AWS account"
    packages = {resource.type.split(":")[0] for resource in any_cluster.resources}
    assert packages == {"kubernetes", "mlflow-eks", "postgresql", "pulumi", "random"}
    providers = {resource.type for resource in any_cluster.resources if resource.type.startswith("pulumi:")}
    assert providers == {"pulumi:providers:kubernetes", "pulumi:providers:postgresql"}


def test_nothing_touches_aws_in_a_preview_either() -> None:
    deployment = deploy(ANY_CLUSTER, secrets=["postgres"], preview=True)
    assert deployment.calls == []
    assert not [resource for resource in deployment.resources if "aws" in resource.type]


def test_what_is_left_is_the_database_the_ingress_and_mlflow(any_cluster: Deployment) -> None:
    components = {resource.name for resource in any_cluster.resources if resource.type.startswith("mlflow-eks:")}
    assert components == {"database", "ingress", "mlflow"}


def test_the_server_that_exists_is_the_one_that_is_used(any_cluster: Deployment) -> None:
    server = any_cluster.named("database-server")
    assert (server["host"], server["username"]) == ("db.example.com", "postgres")
    # This password may have any character, because it goes to the provider only.
    assert server["password"] == "it's 100% secret"
    assert any_cluster.values["backendStore"]["postgres"]["host"] == "db.example.com"
    assert any_cluster.outputs["databaseAddress"] == "db.example.com"


def test_with_a_controller_that_exists_there_is_no_load_balancer_either() -> None:
    config = changed(ANY_CLUSTER, {"ingress": {"install": False, "tlsSecretName": "site-tls"}})
    deployment = deploy(config, secrets=["postgres"])
    assert deployment.calls == []
    services = deployment.of_type("kubernetes:core/v1:Service")
    assert not [service.name for service in services if service["spec"].get("type") == "LoadBalancer"]
    assert deployment.outputs["loadBalancerAddress"] is None
