"""DnsRecord: the host's record in Route 53, or an output with the record to create elsewhere."""

import pulumi
import pytest

from components.dns_record import DnsRecord, DnsRecordArgs
from settings.reader import parse
from tests.unit.harness import MINIMAL, Account, Deployment, changed, deploy, refused

RECORD = "aws:route53/record:Record"
LOAD_BALANCER = "lb-0123.elb.eu-west-1.amazonaws.com"


def test_the_host_is_an_alias_of_the_load_balancer(prod: Deployment) -> None:
    (record,) = prod.of_type(RECORD)
    assert (record["name"], record["type"], record["zoneId"]) == ("mlflow.example.com", "A", "Z0001")
    (alias,) = record["aliases"]
    # The zone of an alias is the zone of the region's network load balancers, not this host's zone.
    assert (alias["name"], alias["zoneId"]) == (LOAD_BALANCER, "Z2IFOLAFXWLO4F")
    # AWS refuses an alias with a TTL.
    assert not {"ttl", "records"} & set(record.inputs)


def test_with_a_zone_nobody_is_told_to_make_a_record(prod: Deployment) -> None:
    assert "dnsRecordToCreate" not in prod.outputs


def test_without_a_zone_the_record_to_make_is_an_output(dev: Deployment) -> None:
    assert not dev.of_type(RECORD)
    assert "aws:route53/getZone:getZone" not in dev.calls
    assert dev.outputs["dnsRecordToCreate"] == {
        "name": "mlflow.dev.example.com",
        "type": "CNAME",
        "value": LOAD_BALANCER,
    }


def test_for_a_name_without_a_dot_nobody_is_told_to_make_a_record(local: Deployment) -> None:
    assert local.outputs["url"] == "https://localhost:8443"
    assert "dnsRecordToCreate" not in local.outputs


@pytest.mark.parametrize("host", ["example.com", "mlflow.team.example.com"])
def test_the_host_may_be_the_zone_itself_or_deep_in_it(host: str) -> None:
    settings, problems = parse(changed(MINIMAL, {"mlflow.host": host, "mlflow.dnsZone": "example.com"}), set())
    assert settings is not None, problems
    args = DnsRecordArgs(host=settings.mlflow.host, zone="example.com", target=LOAD_BALANCER)
    record = deploy(MINIMAL, program=lambda: DnsRecord("dns", args)).named("dns-record")
    # A CNAME is not allowed at the zone apex; an alias is.
    assert (record["name"], record["type"]) == (host, "A")


def test_a_zone_that_is_not_in_the_account_is_named_with_the_two_ways_out() -> None:
    account = Account(failing={"getZone": "no matching Route 53 Hosted Zone found"})
    args = DnsRecordArgs(host="mlflow.example.com", zone="example.com", target=LOAD_BALANCER)
    refusal = refused(MINIMAL, account=account, program=lambda: DnsRecord("dns", args))
    assert isinstance(refusal.error, pulumi.RunError)
    assert "the public zone example.com" in refusal.message
    assert "mlflow.privateZone" in refusal.message
    assert "create the zone" in refusal.message
    assert "create the record yourself" in refusal.message


def test_a_private_zone_is_the_one_of_the_clusters_vpc() -> None:
    public, private = (
        deploy(changed(MINIMAL, {"mlflow.dnsZone": "example.com", "mlflow.privateZone": choice})).named("dns-record")
        for choice in (False, True)
    )
    assert (public["zoneId"], private["zoneId"]) == ("Z0001", "Z0002")


def not_ours(address: str) -> Deployment:
    config = changed(MINIMAL, {"mlflow.dnsZone": "example.com", "ingress": {"install": False, "address": address}})
    return deploy(config, preview=True)


def test_the_record_of_a_controller_that_is_not_ours_leads_to_the_address_in_the_settings() -> None:
    address = "edge-0123.elb.eu-west-1.amazonaws.com"
    deployment = not_ours(address)
    (alias,) = deployment.named("dns-record")["aliases"]
    assert alias["name"] == address
    assert deployment.outputs["loadBalancerAddress"] == address


@pytest.mark.parametrize("address", ["edge.example.net", "edge-1234567.eu-west-1.elb.amazonaws.com"])
def test_the_record_of_what_is_no_network_load_balancer_is_a_cname(address: str) -> None:
    record = not_ours(address).named("dns-record")
    assert (record["type"], record["records"]) == ("CNAME", [address])
    assert "aliases" not in record.inputs
