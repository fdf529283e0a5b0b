"""HaproxyIngress: the ports of the load balancer, the networks that may connect, and the end of TLS."""

from collections.abc import Mapping
from typing import Any

import pytest

from components.haproxy_ingress import HaproxyIngressArgs, haproxy_values, network_policy
from tests.unit.harness import ANY_CLUSTER, MINIMAL, Account, Deployment, changed, deploy

ACM = "arn:aws:acm:eu-west-1:123456789012:certificate/11111111-2222-3333-4444-555555555555"
PREFIX = "service.beta.kubernetes.io/aws-load-balancer-"


def controller(**args: Any) -> dict[str, Any]:
    return haproxy_values(HaproxyIngressArgs(**args))["controller"]


def published(deployment: Deployment) -> set[str]:
    return {port for port, enabled in deployment.controller["service"]["enablePorts"].items() if enabled}


def test_only_http_and_https_are_published(dev: Deployment) -> None:
    # The chart publishes every port that is not turned off: QUIC, statistics and pprof, on a public load balancer too.
    assert set(dev.controller["service"]["enablePorts"]) == {"http", "https", "quic", "stat", "admin"}
    assert published(dev) == {"http", "https"}
    assert dev.controller["pprof"] == {"enabled": False}
    assert dev.controller["service"]["type"] == "LoadBalancer"


def test_a_certificate_at_the_load_balancer_closes_port_80(prod: Deployment) -> None:
    # A network load balancer that terminates TLS cannot redirect.
    assert published(prod) == {"https"}


def test_the_topic_hears_of_the_end_of_a_certificate_of_acm(prod: Deployment, dev: Deployment) -> None:
    alarm = prod.named("ingress-certificate")
    assert alarm["dimensions"] == {"CertificateArn": ACM}
    assert alarm["alarmActions"] == ["arn:aws:sns:eu-west-1:123456789012:platform-alarms"]
    assert (alarm["metricName"], alarm["comparisonOperator"], alarm["threshold"]) == (
        "DaysToExpiry",
        "LessThanThreshold",
        21,
    )
    # An alarm that fires goes on when ACM has nothing more to report.
    assert alarm["treatMissingData"] == "ignore"
    assert "ingress-certificate" not in {resource.name for resource in dev.resources}


def test_a_certificate_at_the_load_balancer_ends_tls_there(prod: Deployment) -> None:
    service = prod.controller["service"]
    assert service["targetPorts"] == {"https": "http"}
    assert service["annotations"][f"{PREFIX}ssl-cert"] == ACM
    assert service["annotations"][f"{PREFIX}ssl-ports"] == "https"
    assert "TLS13" in service["annotations"][f"{PREFIX}ssl-negotiation-policy"]
    # HAProxy gets plain HTTP only, so a redirect would be redirected again for ever.
    assert prod.controller["config"]["ssl-redirect"] == "false"


def test_without_one_haproxy_ends_tls_and_redirects_to_it(dev: Deployment) -> None:
    service = dev.controller["service"]
    assert "targetPorts" not in service
    assert not [key for key in service["annotations"] if "ssl" in key]
    assert dev.controller["config"]["ssl-redirect"] == "true"
    # The chart's default is 8443, a port that the load balancer does not publish.
    assert dev.controller["config"]["ssl-redirect-port"] == "443"


def test_the_redirect_leads_to_the_port_that_people_use(local: Deployment) -> None:
    assert local.controller["config"]["ssl-redirect-port"] == "8443"


def test_on_eks_it_is_a_network_load_balancer_that_is_not_public_unless_asked_for(dev: Deployment) -> None:
    service = dev.controller["service"]
    assert service["loadBalancerClass"] == "service.k8s.aws/nlb"
    assert service["annotations"][f"{PREFIX}scheme"] == "internal"
    assert service["annotations"][f"{PREFIX}nlb-target-type"] == "ip"
    assert "loadBalancerSourceRanges" not in service


def test_auto_mode_makes_the_load_balancer_itself() -> None:
    service = deploy(MINIMAL, account=Account(auto_mode=True)).controller["service"]
    assert service["loadBalancerClass"] == "eks.amazonaws.com/nlb"
    # Auto Mode's documentation has no annotation for it, so HAProxy must not wait for it.
    assert not [name for name in service["annotations"] if "proxy-protocol" in name]


def test_a_class_in_the_settings_counts_in_auto_mode_too() -> None:
    config = changed(MINIMAL, {"ingress.loadBalancerClass": "service.k8s.aws/nlb"})
    service = deploy(config, account=Account(auto_mode=True)).controller["service"]
    assert service["loadBalancerClass"] == "service.k8s.aws/nlb"


def test_a_public_load_balancer_lets_in_whom_the_settings_name() -> None:
    service = controller(
        load_balancer_class="eks.amazonaws.com/nlb", scheme="internet-facing", allowed_cidrs=["203.0.113.0/24"]
    )["service"]
    assert service["loadBalancerClass"] == "eks.amazonaws.com/nlb"
    assert service["annotations"][f"{PREFIX}scheme"] == "internet-facing"
    assert service["loadBalancerSourceRanges"] == ["203.0.113.0/24"]


def test_on_any_other_cluster_the_load_balancer_is_the_clusters_business(any_cluster: Deployment) -> None:
    assert not {"loadBalancerClass", "annotations"} & set(any_cluster.controller["service"])


def test_the_load_balancer_tells_haproxy_who_the_client_is(dev: Deployment) -> None:
    # Both sides or neither: HAProxy refuses connections from these networks that do not say it, and cannot read those that do otherwise.
    assert dev.controller["service"]["annotations"][f"{PREFIX}proxy-protocol"] == "*"
    assert dev.controller["config"]["proxy-protocol"] == "10.0.0.0/16"
    for changes in ({"ingress.proxyProtocol": False}, {"ingress.loadBalancerClass": "eks.amazonaws.com/nlb"}):
        other = deploy(changed(MINIMAL, changes)).controller
        assert f"{PREFIX}proxy-protocol" not in other["service"]["annotations"]
        assert "proxy-protocol" not in other["config"]


def test_no_client_is_invited_to_quic(dev: Deployment) -> None:
    # The load balancer has no UDP port. The controller announces one unless it is told not to.
    assert "--disable-quic" in dev.controller["extraArgs"]


def test_each_request_is_in_the_log(dev: Deployment) -> None:
    # By default the controller sends the log to an address where nobody listens.
    assert dev.controller["config"]["syslog-server"].startswith("address:stdout")


def test_haproxy_holds_the_usual_requests_whole(dev: Deployment) -> None:
    assert dev.controller["config"]["global-config-snippet"] == "tune.bufsize 65536"


def test_every_value_of_the_config_map_is_a_string(dev: Deployment, prod: Deployment) -> None:
    for deployment in (dev, prod):
        assert {type(value) for value in deployment.controller["config"].values()} == {str}


def test_large_artifacts_have_the_time_that_they_take(dev: Deployment) -> None:
    for key in ("timeout-client", "timeout-server"):
        assert dev.controller["config"][key] == "300s"


def served(deployment: Deployment) -> list[str]:
    """Return the namespaces whose Ingresses the controller serves."""
    return whitelist(deployment.controller)


def whitelist(controller: Mapping[str, Any]) -> list[str]:
    option = "--namespace-whitelist="
    return [each.removeprefix(option) for each in controller["extraArgs"] if each.startswith(option)]


def test_an_ingress_of_another_namespace_is_not_served(dev: Deployment) -> None:
    # It could take a longer path of the site's host, and with it the passwords of everybody who logs in.
    assert served(dev) == ["mlflow"]


def test_further_namespaces_are_served_if_the_settings_name_them() -> None:
    config = changed(ANY_CLUSTER, {"mlflow.namespace": "tracking", "ingress.namespaces": ["notebooks", "docs"]})
    assert served(deploy(config, secrets=["postgres"])) == ["tracking", "notebooks", "docs"]


def test_the_class_is_served_and_is_not_the_clusters_default(dev: Deployment) -> None:
    assert dev.controller["ingressClass"] == "haproxy"
    assert dev.controller["ingressClassResource"] == {"name": "haproxy", "default": False}
    assert dev.values["ingress"]["className"] == "haproxy"


@pytest.mark.parametrize(("replicas", "budget"), [(1, False), (2, True)])
def test_a_disruption_budget_keeps_one_of_several_pods_and_never_the_only_one(replicas: int, budget: bool) -> None:
    # A budget for a single pod would keep its node from being drained. The chart ignores any other spelling of the key.
    assert controller(replicas=replicas)["PodDisruptionBudget"] == {"enable": budget, "minAvailable": 1}
    assert controller(replicas=replicas)["replicaCount"] == replicas


def test_pods_are_spread_over_zones_and_nodes(dev: Deployment) -> None:
    constraint, on_nodes = dev.controller["topologySpreadConstraints"]
    assert constraint["topologyKey"] == "topology.kubernetes.io/zone"
    assert on_nodes == {**constraint, "topologyKey": "kubernetes.io/hostname"}
    # Both pods must be able to run on the only node of a small cluster.
    assert constraint["whenUnsatisfiable"] == "ScheduleAnyway"
    assert (
        constraint["labelSelector"]["matchLabels"]["app.kubernetes.io/instance"] == dev.named("ingress-release")["name"]
    )


def test_a_private_registry_moves_the_image() -> None:
    values = controller(registry="registry.example.com/mirror", pull_secret="regcred")
    assert values["image"]["repository"] == "registry.example.com/mirror/haproxytech/kubernetes-ingress"
    assert values["existingImagePullSecret"] == "regcred"
    assert not {"image", "existingImagePullSecret"} & set(controller())


def test_metrics_are_for_who_asks_for_them() -> None:
    assert controller(service_monitor=True)["serviceMonitor"] == {"enabled": True, "extraLabels": {}}
    labels = {"release": "prometheus"}
    monitor = controller(service_monitor=True, service_monitor_labels=labels)["serviceMonitor"]
    assert monitor["extraLabels"] == labels
    assert "serviceMonitor" not in controller()


def test_what_kubernetes_does_not_change_is_replaced_in_the_preview_too(dev: Deployment) -> None:
    release = dev.named("ingress-release")
    (path,) = release.replace_on_changes
    assert path == "values.controller.service.loadBalancerClass"
    value: Any = release.inputs
    for key in path.split("."):
        value = value[key]
    assert value == "service.k8s.aws/nlb"
    # The IngressClass of the old release is in the way of a new one in another namespace.
    assert release.delete_before_replace


def test_the_release_is_pinned_and_leaves_nothing_half_installed(dev: Deployment) -> None:
    release = dev.named("ingress-release")
    assert (release["chart"], release["version"]) == ("kubernetes-ingress", "1.52.1")
    # A chart from a directory could differ from machine to machine.
    assert release["repositoryOpts"]["repo"].startswith("https://")
    assert release["atomic"] is True
    assert release["cleanupOnFail"] is True
    assert 300 <= release["timeout"] <= 1800
    assert (release["name"], release["namespace"]) == ("ha-proxy-ingress", "haproxy")
    assert dev.named("ingress-namespace")["metadata"]["name"] == "haproxy"


def test_the_address_is_read_from_the_service_that_the_chart_makes(dev: Deployment) -> None:
    service = dev.named("ingress-service")
    assert service.read
    assert service["id"] == "haproxy/ha-proxy-ingress-kubernetes-ingress"
    assert dev.outputs["loadBalancerAddress"] == "lb-0123.elb.eu-west-1.amazonaws.com"


def test_a_second_controller_shares_no_name_with_the_first() -> None:
    config = changed(ANY_CLUSTER, {"ingress": {"namespace": "edge", "className": "edge"}})
    deployment = deploy(config, secrets=["postgres"])
    # The chart gives this name to its ClusterRoles.
    assert deployment.named("ingress-release")["values"]["fullnameOverride"] == "edge-haproxy"
    assert deployment.named("ingress-service")["id"] == "edge/edge-haproxy"


def test_a_controller_in_the_usual_namespace_keeps_its_name_and_its_load_balancer() -> None:
    assert "fullnameOverride" not in haproxy_values(HaproxyIngressArgs(class_name="internal"))


def test_the_names_of_a_long_namespace_are_whole() -> None:
    # The chart cuts at 63 characters. Cut there, the names of two of its ClusterRoles would be the same.
    assert len(HaproxyIngressArgs(namespace="n" * 63).fullname + "-default-cert") == 63


def peers(rules: list[dict[str, Any]], port: int) -> list[Any] | None:
    """Return the peers of the only rule with a port, None for every address."""
    (rule,) = (rule for rule in rules if port in [each["port"] for each in rule.get("ports", [])])
    return rule.get("from", rule.get("to"))


def test_clients_reach_the_ports_of_the_site_and_no_other(dev: Deployment) -> None:
    spec = dev.named("ingress-network-policy")["spec"]
    assert spec["podSelector"]["matchLabels"] == {"app.kubernetes.io/instance": dev.named("ingress-release")["name"]}
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    (rule,) = spec["ingress"]
    # The load balancer sends to the pods, with its own addresses or the clients'.
    assert rule == {"ports": [{"protocol": "TCP", "port": port} for port in (8080, 8443)]}


def test_metrics_are_for_pods_of_the_cluster() -> None:
    policy: Any = network_policy(HaproxyIngressArgs(service_monitor=True))
    assert policy["ingress"][1] == {
        "from_": [{"namespace_selector": {}}],
        "ports": [{"protocol": "TCP", "port": 1024}],
    }


def test_the_controller_reaches_the_api_server_and_the_pods_that_it_serves(dev: Deployment) -> None:
    rules = dev.named("ingress-network-policy")["spec"]["egress"]
    # The first address of the Services' network is the API server's. It has interfaces in the VPC.
    assert peers(rules, 443) == [{"ipBlock": {"cidr": "172.20.0.1/32"}}, {"ipBlock": {"cidr": "10.0.0.0/16"}}]
    (pods,) = (rule for rule in rules if "ports" not in rule)
    assert pods == {"to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "mlflow"}}}]}


def test_on_any_other_cluster_the_api_server_may_be_anywhere(any_cluster: Deployment) -> None:
    # On a node, for example, where Cilium applies no network.
    rules = any_cluster.named("ingress-network-policy")["spec"]["egress"]
    assert (peers(rules, 443), peers(rules, 6443)) == (None, None)


def test_a_controller_for_every_namespace_reaches_the_pods_of_all() -> None:
    args = HaproxyIngressArgs(namespaces=())
    policy: Any = network_policy(args)
    assert policy["egress"][-1] == {"to": [{"namespace_selector": {}}]}
    assert whitelist(haproxy_values(args)["controller"]) == []


def test_mlflow_waits_for_its_ingress_class(dev: Deployment) -> None:
    assert "ingress-release" in dev.named("mlflow-release").depends_on


def test_a_controller_that_exists_is_used_as_it_is() -> None:
    config = changed(
        ANY_CLUSTER, {"ingress": {"install": False, "className": "edge", "namespace": "edge-system", "plainHttp": True}}
    )
    deployment = deploy(config, secrets=["postgres"])
    assert not [resource for resource in deployment.resources if resource.name.startswith("ingress")]
    assert deployment.outputs["url"] == "http://mlflow.example.com"
    assert deployment.values["ingress"]["className"] == "edge"
    (rule,) = deployment.named("mlflow-network-policy")["spec"]["ingress"]
    (peer,) = rule["from"]
    assert peer["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "edge-system"}


def drain(**args: Any) -> str:
    return controller(**args)["lifecycle"]["preStop"]["exec"]["command"][-1]


def test_a_pod_that_ends_answers_what_it_has_begun() -> None:
    # TERM ends HAProxy at once. USR1 lets it answer, after nothing new comes any more.
    assert drain().startswith("sleep 10;")
    assert "kill -USR1" in drain()
    # One that comes while HAProxy loads another configuration is lost: seen on a cluster, and with HAProxy alone.
    assert "while kill -USR1 $each; do sleep 1" in drain()
    # A load balancer of AWS goes on for some two minutes.
    assert drain(load_balancer_class="eks.amazonaws.com/nlb").startswith("sleep 120;")
    # Without it HAProxy closes a connection just when the client sends the next request on it.
    assert controller()["config"]["frontend-config-snippet"] == "option idle-close-on-response"


@pytest.mark.parametrize(("load_balancer", "pause"), [(None, 10), ("service.k8s.aws/nlb", 120)])
def test_a_pod_has_time_for_what_it_has_begun_and_is_gone_when_the_namespace_is_looked_at(
    load_balancer: str | None, pause: int
) -> None:
    grace = controller(load_balancer_class=load_balancer)["terminationGracePeriodSeconds"]
    assert grace - pause >= 150
    # Kubernetes looks at a namespace that it deletes again after half of its pods' longest grace.
    assert grace / 2 > pause + 10


def test_a_rollout_takes_no_controller_away_before_another_is_ready(dev: Deployment) -> None:
    assert dev.controller["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    labels = dev.named("ingress-namespace")["metadata"]["labels"]
    assert labels["elbv2.k8s.aws/pod-readiness-gate-inject"] == "enabled"


def test_only_the_controller_of_aws_is_asked_whether_a_pod_is_ready(any_cluster: Deployment) -> None:
    assert set(any_cluster.named("ingress-namespace")["metadata"]["labels"]) == {"pod-security.kubernetes.io/enforce"}


def test_the_release_waits_for_every_pod_that_a_load_balancer_takes_in() -> None:
    four = deploy(changed(MINIMAL, {"ingress.replicas": 4}))
    assert four.named("ingress-release")["timeout"] == 1200
