# ruff: noqa: D102, S105 - the docstrings of the methods, and the types of the tables, are in `Resource`; a token is a type's name
# boto3 and jmespath have no types of their own.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Route 53: records."""

from typing import Any

import jmespath

from local.plugins.aws.api import as_written, call, unless_gone
from local.plugins.provider_base import Properties, Resource, State


class Record(Resource):
    """A record in a hosted zone."""

    token = "aws:route53/record:Record"
    supported = frozenset({"aliases", "name", "records", "ttl", "type", "zoneId"})
    replace = frozenset({"name", "type", "zoneId"})
    computed = frozenset({"fqdn"})

    def create(self, inputs: Properties) -> tuple[str, Properties]:
        self._change("CREATE", inputs)
        return f"{inputs['zoneId']}_{inputs['name']}_{inputs['type']}", {"fqdn": inputs["name"]}

    def read(self, resource_id: str, inputs: Properties, outputs: Properties) -> State | None:
        zone, name, kind = resource_id.split("_")
        answer = unless_gone(
            "route53",
            "list_resource_record_sets",
            HostedZoneId=zone,
            StartRecordName=name,
            StartRecordType=kind,
            MaxItems="1",
        )
        record = jmespath.search("ResourceRecordSets[0]", answer)
        if record is None or (record["Name"].rstrip("."), record["Type"]) != (name, kind):
            return None
        actual = {
            "ttl": record.get("TTL"),
            "records": jmespath.search("ResourceRecords[].Value", record),
            "aliases": jmespath.search(
                "[AliasTarget.{name: DNSName, zoneId: HostedZoneId, evaluateTargetHealth: EvaluateTargetHealth}]",
                record,
            ),
        }
        fixed = {"zoneId": zone, "name": name, "type": kind}
        described = {field: as_written(value, actual.get(field)) for field, value in inputs.items()} or fixed
        return State(resource_id, described, {"fqdn": name})

    def update(self, resource_id: str, old: Properties, inputs: Properties) -> Properties:
        self._change("UPSERT", inputs)
        return {"fqdn": inputs["name"]}

    def delete(self, resource_id: str, properties: Properties) -> None:
        if self.read(resource_id, properties, {}) is not None:
            self._change("DELETE", properties)

    @staticmethod
    def _change(action: str, inputs: Properties) -> None:
        record: dict[str, Any] = {"Name": inputs["name"], "Type": inputs["type"]}
        for alias in inputs.get("aliases", []):
            record["AliasTarget"] = {
                "DNSName": alias["name"],
                "HostedZoneId": alias["zoneId"],
                "EvaluateTargetHealth": alias["evaluateTargetHealth"],
            }
        if "records" in inputs:
            record |= {"TTL": inputs["ttl"], "ResourceRecords": [{"Value": value} for value in inputs["records"]]}
        batch = {"Changes": [{"Action": action, "ResourceRecordSet": record}]}
        call("route53", "change_resource_record_sets", HostedZoneId=inputs["zoneId"], ChangeBatch=batch)
