"""Checks of the cluster: its state, its API, the login to it, its add-ons, and its network policies."""

from typing import Any

from operations.checks import MissingError, skip
from operations.doctor.subject import Subject

POLICY_ENGINES = {
    "antrea-agent": "Antrea",
    "calico-node": "Calico",
    "canal": "Canal",
    "cilium": "Cilium",
    "kindnet": "kindnet",
    "kube-router": "kube-router",
    "rke2-canal": "Canal",
}
"""DaemonSet to the network plugin that enforces NetworkPolicies without being told to. Amazon's VPC CNI must be told. Kind's kindnet does since
kind 0.24."""
ADMIN_POLICY = "arn:aws:eks::aws:cluster-access-policy/AmazonEKSClusterAdminPolicy"
"""Access policy of EKS with all rights in a cluster. The HAProxy chart makes a ClusterRole, which needs them."""


def cluster(subject: Subject) -> str:
    """Look whether the cluster is there and ready."""
    if not subject.settings.on_eks:
        subject.kubectl_text("version", "--output", "json")
        return f"the context {subject.settings.cluster.kube_context} answers"
    found, name = subject.described, subject.settings.cluster.name
    if found["status"] != "ACTIVE":
        raise MissingError(f"{name} is {found['status']}; wait until it is ACTIVE")
    if found["kubernetesNetworkConfig"]["ipFamily"] == "ipv6":
        raise MissingError(f"the pods of {name} have IPv6 addresses; name a cluster with IPv4")
    if subject.auto_mode:
        return f"{name} {found['version']}, EKS Auto Mode: Pod Identity and load balancing are built in"
    return f"{name} {found['version']}"


def endpoint(subject: Subject) -> str:
    """Look whether this machine reaches the cluster's API, with one TCP connection."""
    network = subject.cluster["resourcesVpcConfig"]
    if not subject.refusal:
        return "answers" if network["endpointPublicAccess"] else "private, and answers from here"
    inside = (
        "run pulumi on a machine in the VPC, or one connected to it, "
        f"that the cluster's group {network.get('clusterSecurityGroupId', '')} lets in on port 443"
    )
    if not network["endpointPublicAccess"]:
        raise MissingError(f"private, and does not answer from here ({subject.refusal}); {inside}")
    allowed = network.get("publicAccessCidrs", [])
    if allowed and allowed != ["0.0.0.0/0"]:
        raise MissingError(
            f"public for {', '.join(allowed)} only, and does not answer from here ({subject.refusal}); "
            f"add the address of this machine to publicAccessCidrs, or {inside}"
        )
    raise MissingError(f"public, and does not answer from here ({subject.refusal}); check this machine's way out")


def login(subject: Subject) -> str:
    """Look whether this identity may do everything in Kubernetes. The EKS API does not know."""
    try:
        answer = subject.kubectl_text("auth", "can-i", "*", "*", "--all-namespaces").strip()
    except MissingError as error:
        if "logged in" not in str(error) and "Unauthorized" not in str(error):
            raise
        answer = "refused"
    if answer == "yes":
        return "may do everything in the cluster"
    found = "this identity cannot log in" if answer == "refused" else "this identity may not do everything"
    if not subject.settings.on_eks:
        raise MissingError(f"{found}; the HAProxy chart makes a ClusterRole, so use a login with cluster-admin")
    name, principal = subject.settings.cluster.name, _principal(subject.aws("sts", "get-caller-identity")["Arn"])
    raise MissingError(
        f"{found}; the owner of the cluster gives it AmazonEKSClusterAdminPolicy:\n"
        f"aws eks create-access-entry --cluster-name {name} --principal-arn {principal}\n"
        f"aws eks associate-access-policy --cluster-name {name} --principal-arn {principal} "
        f"--policy-arn {ADMIN_POLICY} --access-scope type=cluster"
    )


def _principal(arn: str) -> str:
    """Return the ARN that an access entry takes: the role itself, not a session of it."""
    if ":assumed-role/" not in arn:
        return arn
    start, _, rest = arn.partition(":assumed-role/")
    return f"{start.replace(':sts:', ':iam:')}:role/{rest.split('/')[0]}"


def add_ons(subject: Subject) -> str:
    """Look whether an add-on of the cluster is broken."""
    name = subject.cluster["name"]
    states: dict[str, str] = {}
    for add_on in subject.aws("eks", "list-addons", "--cluster-name", name).get("addons", []):
        answer = subject.aws("eks", "describe-addon", "--cluster-name", name, "--addon-name", add_on)
        states[add_on] = answer["addon"].get("status", "ACTIVE")
    broken = [f"{add_on} is {state}" for add_on, state in states.items() if state not in {"ACTIVE", "UPDATING"}]
    if broken:
        raise MissingError(f"{', '.join(broken)}; `aws eks describe-addon` says why")
    return ", ".join(states) or skip("none is asked for" if subject.auto_mode else "the cluster has none")


def network_policies(subject: Subject) -> str:
    """Look which network plugin enforces NetworkPolicies."""
    found = _policy_engine(subject)
    if not subject.settings.on_eks:
        return found or skip("no plugin that is known to enforce them: some clusters, such as K3s, have one inside")
    if found is None and subject.auto_mode:
        found = _policies_in_auto_mode(subject)
    if found is None:
        name = subject.settings.cluster.name
        raise MissingError(
            f"nothing enforces them in {name}; `aws eks update-addon --cluster-name {name} --addon-name vpc-cni "
            """--configuration-values '{"enableNetworkPolicy":"true"}'`, or install an engine"""
        )
    if found == "Cilium" and subject.settings.artifacts.identity == "podIdentity":
        return "Cilium; it keeps pods from the Pod Identity agent: docs/security.md, In the cluster"
    return found


def _policy_engine(subject: Subject) -> str | None:
    """Return the network plugin that enforces NetworkPolicies, None if there is none that is known."""
    sets = subject.kubectl("get", "daemonsets", "--all-namespaces")["items"]
    by_name = {each["metadata"]["name"]: each for each in sets}
    known = [engine for name, engine in POLICY_ENGINES.items() if name in by_name]
    if known:
        return known[0]
    containers: list[Any] = (
        by_name["aws-node"]["spec"]["template"]["spec"]["containers"] if "aws-node" in by_name else []
    )
    told = any("--enable-network-policy=true" in container.get("args", []) for container in containers)
    return "Amazon VPC CNI" if told else None


def _policies_in_auto_mode(subject: Subject) -> str:
    arguments = ("-n", "kube-system", "get", "configmap", "amazon-vpc-cni", "--ignore-not-found")
    settings: dict[str, Any] = subject.kubectl(*arguments)
    if settings.get("data", {}).get("enable-network-policy-controller") != "true":
        raise MissingError(
            "EKS Auto Mode does not enforce them until told; `kubectl -n kube-system create configmap amazon-vpc-cni "
            "--from-literal=enable-network-policy-controller=true`"
        )
    return "EKS Auto Mode"


def prometheus_operator(subject: Subject) -> str:
    """Look whether the cluster knows the objects of the Prometheus operator, which `pulumi preview` does not ask."""
    section = subject.settings.monitoring
    if not (section.enabled or subject.settings.ingress.service_monitor):
        return skip("monitoring is off")
    kinds = ["servicemonitors", *(["prometheusrules"] if section.enabled else [])]
    missing = [
        kind
        for kind in kinds
        if not subject.kubectl("get", "customresourcedefinition", f"{kind}.monitoring.coreos.com", "--ignore-not-found")
    ]
    if missing:
        raise MissingError(
            f"the cluster does not know {' and '.join(missing)}; install the Prometheus operator, for example with "
            "kube-prometheus-stack, or write monitoring.enabled: false"
        )
    if section.enabled and not subject.kubectl("get", "namespace", section.namespace, "--ignore-not-found"):
        raise MissingError(
            f"there is no namespace {section.namespace}, of which pods may read the metrics; write that of Prometheus "
            "into monitoring.namespace"
        )
    return f"knows {' and '.join(kinds)}"
