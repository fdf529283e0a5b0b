"""Checks of the pods' AWS identity: the agent or the OIDC provider, Fargate, and an association that is there already."""

from fnmatch import fnmatchcase

from components.mlflow_release.names import SERVICE_ACCOUNT
from operations.checks import MissingError, skip
from operations.doctor.subject import Subject
from settings import PROJECT

AGENT = "eks-pod-identity-agent"
"""Name of the add-on, and of its DaemonSet."""


def identity(subject: Subject) -> str:
    """Look for what gives the pods their AWS role: the Pod Identity agent, or an OIDC provider of IAM."""
    cluster = subject.cluster
    if subject.settings.artifacts.identity == "irsa":
        issuer = cluster["identity"]["oidc"]["issuer"].removeprefix("https://")
        known = subject.aws("iam", "list-open-id-connect-providers")["OpenIDConnectProviderList"]
        if not any(provider["Arn"].endswith(issuer) for provider in known):
            raise MissingError(
                f"IAM has no OIDC provider for {issuer}; `eksctl utils associate-iam-oidc-provider --cluster {cluster['name']} "
                "--approve`, or set artifacts.identity to podIdentity"
            )
        return f"IRSA through {issuer}"
    if subject.auto_mode:
        return "Pod Identity, built into EKS Auto Mode"
    try:
        addon = subject.aws("eks", "describe-addon", "--cluster-name", cluster["name"], "--addon-name", AGENT)
    except MissingError as error:
        if "ResourceNotFoundException" not in str(error):
            raise
        sets = subject.kubectl("get", "daemonsets", "--all-namespaces")["items"]
        if any(each["metadata"]["name"] == AGENT for each in sets):
            return "Pod Identity agent, installed without the add-on"
        raise MissingError(
            f"{error}; `aws eks create-addon --cluster-name {cluster['name']} --addon-name {AGENT}`, "
            "or set artifacts.identity to irsa"
        ) from None
    return f"Pod Identity agent {addon['addon']['addonVersion']}"


def fargate(subject: Subject) -> str:
    """Look for a Fargate profile that takes MLflow's pods, where Pod Identity does not exist."""
    name, namespace = subject.cluster["name"], subject.settings.mlflow.namespace
    if subject.settings.artifacts.identity != "podIdentity":
        skip("IRSA works on Fargate too")
    for profile in subject.aws("eks", "list-fargate-profiles", "--cluster-name", name)["fargateProfileNames"]:
        answer = subject.aws(
            "eks", "describe-fargate-profile", "--cluster-name", name, "--fargate-profile-name", profile
        )
        for selector in answer["fargateProfile"].get("selectors", []):
            if fnmatchcase(namespace, selector["namespace"]) and not selector.get("labels"):
                raise MissingError(
                    f"the profile {profile} takes the pods of namespace {namespace}, and Fargate has no Pod Identity; "
                    "set artifacts.identity to irsa, or mlflow.namespace to another"
                )
    return f"no profile takes the namespace {namespace}"


def association(subject: Subject) -> str:
    """Look for a Pod Identity association of MLflow's service account. EKS takes one for each."""
    name, namespace = subject.cluster["name"], subject.settings.mlflow.namespace
    if subject.settings.artifacts.identity != "podIdentity":
        skip("not used with IRSA")
    place = ("--cluster-name", name, "--namespace", namespace, "--service-account", SERVICE_ACCOUNT)
    for each in subject.aws("eks", "list-pod-identity-associations", *place)["associations"]:
        found = each["associationId"]
        answer = subject.aws(
            "eks", "describe-pod-identity-association", "--cluster-name", name, "--association-id", found
        )
        tags = answer["association"].get("tags", {})
        if (tags.get("Project"), tags.get("Stack")) != (PROJECT, subject.stack):
            owner = f"the stack {tags['Stack']}" if tags.get("Stack") else "nothing that this program knows"
            raise MissingError(
                f"{found} of {owner} has the service account {namespace}/{SERVICE_ACCOUNT} already; set mlflow.namespace to another, "
                "or delete the association"
            )
        return f"{found} is this stack's own"
    return f"none for {namespace}/{SERVICE_ACCOUNT} yet"
