"""Checks of the site's name and certificate: ACM, cert-manager, the Route 53 zone, and a record that is there already."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from operations.aws_cli import moment
from operations.checks import MissingError, NotedError, skip
from operations.doctor.subject import Subject

DAYS = 30
"""Days that a certificate must live on at least, if nothing renews it."""


def certificate(subject: Subject) -> str:
    """Look at the ACM certificate: its state, its names, and its days."""
    arn = subject.settings.ingress.certificate_arn
    if arn is None:
        return skip("this stack uses no ACM certificate")
    found = subject.aws("acm", "describe-certificate", "--certificate-arn", arn)["Certificate"]
    names: list[str] = found.get("SubjectAlternativeNames") or [found["DomainName"]]
    host = subject.settings.mlflow.host
    if found["Status"] != "ISSUED":
        raise MissingError(f"its status is {found['Status']}; finish its validation first")
    if host not in names and f"*.{host.split('.', 1)[-1]}" not in names:
        raise MissingError(f"it is for {', '.join(names)}, not for {host}")
    end: str | float | None = found.get("NotAfter")
    days = None if end is None else (moment(end) - datetime.now(UTC)).days
    if days is not None and days < DAYS and found.get("RenewalEligibility") != "ELIGIBLE":
        raise MissingError(f"it ends in {days} days, and ACM does not renew it; import or request another")
    return f"issued for {', '.join(names)}" + (f", {days} days left" if days is not None else "")


def issuer(subject: Subject) -> str:
    """Look whether cert-manager has the ClusterIssuer, and whether its challenge can work."""
    name = subject.settings.ingress.cluster_issuer
    if name is None:
        return skip("this stack uses no ClusterIssuer")
    try:
        found = subject.kubectl("get", "clusterissuer", name)
    except MissingError as error:
        if "doesn't have a resource type" in str(error):
            raise MissingError(
                "the cluster has no cert-manager; install it, or choose another way (docs/tls-and-dns.md)"
            ) from None
        if "NotFound" in str(error):
            raise MissingError(
                f"there is no ClusterIssuer {name}; create it, or write the name of another that `kubectl get clusterissuer` lists"
            ) from None
        raise
    conditions: list[dict[str, str]] = found.get("status", {}).get("conditions", [])
    ready = next((each for each in conditions if each["type"] == "Ready"), {"status": "Unknown"})
    if ready["status"] != "True":
        raise MissingError(f"{name} is not ready: {ready.get('message', 'cert-manager has not looked at it')}")
    solvers = found["spec"].get("acme", {}).get("solvers", [])
    internal = subject.settings.on_eks and subject.settings.ingress.scheme == "internal"
    if internal and solvers and all("http01" in solver for solver in solvers):
        raise MissingError(
            f"{name} has HTTP-01 challenges only, and the load balancer is internal, so no certificate is issued; "
            "add a DNS-01 solver (docs/tls-and-dns.md)"
        )
    return f"{name} is ready"


def zone(subject: Subject) -> str:
    """Look for the zone as the program does: by name, and public unless the settings say private."""
    return f"{_zone(subject)}, {_kind(_private(subject))}"


def record(subject: Subject) -> str:
    """Look for a record of the host, which would make the last step of `up` fail."""
    host = f"{subject.settings.mlflow.host}."
    try:
        zone_id = _zone(subject)
    except MissingError:
        return skip("needs the zone (see above)")
    at = ("--hosted-zone-id", zone_id, "--start-record-name", host, "--max-items", "4")
    found = subject.aws("route53", "list-resource-record-sets", *at)["ResourceRecordSets"]
    own = [each for each in found if each["Name"] == host and each["Type"] in {"A", "AAAA", "CNAME"}]
    if own:
        raise NotedError(
            f"{own[0]['Type']} leads to {_target(own[0])}; if this stack has not made it, delete it before `up`, which fails at the end otherwise"
        )
    return "none yet for this host"


def _private(subject: Subject) -> bool:
    return subject.settings.mlflow.private_zone


def _kind(private: bool) -> str:
    return "private" if private else "public"


def _zone(subject: Subject) -> str:
    """Return the id of the zone."""
    name, private = subject.settings.mlflow.dns_zone, _private(subject)
    if name is None:
        return skip("mlflow.dnsZone is not set: the record to create is an output")
    answer = subject.aws("route53", "list-hosted-zones-by-name", "--dns-name", name)
    zones: list[dict[str, Any]] = answer.get("HostedZones") or []
    named = [each for each in zones if each["Name"].rstrip(".") == name]
    found = [each for each in named if bool(each.get("Config", {}).get("PrivateZone")) == private]
    if len(found) > 1:
        raise MissingError(
            f"there are {len(found)} {_kind(private)} zones {name}, and the program takes none; delete one"
        )
    if found:
        return found[0]["Id"].rsplit("/", 1)[-1]
    if named:
        fix = "drop mlflow.privateZone" if private else "set mlflow.privateZone to true"
        raise MissingError(
            f"the zone {name} of this account is {_kind(not private)}; {fix}, or create a {_kind(private)} one"
        )
    raise MissingError(f"there is no zone {name} in this account; create it or drop mlflow.dnsZone")


def _target(found: Mapping[str, Any]) -> str:
    if "AliasTarget" in found:
        return found["AliasTarget"]["DNSName"].rstrip(".")
    return ", ".join(each["Value"] for each in found.get("ResourceRecords", []))
