"""DnsRecord: the host's record in Route 53."""

from dataclasses import dataclass

import pulumi
import pulumi_aws as aws


@dataclass(frozen=True)
class DnsRecordArgs:
    """From where to where."""

    host: str
    """Full name of the record."""
    zone: str
    """Name of the public zone that holds it."""
    target: pulumi.Input[str]
    """Host name of the load balancer."""
    alias: bool = True
    """Whether that is a network load balancer of this region; a CNAME leads to anything else."""


class DnsRecord(pulumi.ComponentResource):
    """An alias record, which a zone's own name may be too and which costs nothing to ask."""

    fqdn: pulumi.Output[str]
    """Name of the record."""

    def __init__(self, name: str, args: DnsRecordArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mlflow-eks:index:DnsRecord", name, {}, opts)
        record = aws.route53.Record(
            f"{name}-record",
            zone_id=_zone_id(args.zone, self),
            name=args.host,
            type="A" if args.alias else "CNAME",
            ttl=None if args.alias else 300,
            records=None if args.alias else [args.target],
            aliases=[
                {
                    "name": args.target,
                    "zone_id": aws.lb.get_hosted_zone_id_output(
                        load_balancer_type="network", opts=pulumi.InvokeOutputOptions(parent=self)
                    ).id,
                    "evaluate_target_health": False,
                }
            ]
            if args.alias
            else None,
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.fqdn = record.fqdn
        self.register_outputs({"fqdn": self.fqdn})


def _zone_id(name: str, parent: pulumi.Resource) -> str:
    try:
        # Not as an output, whose failure nobody could put into words.
        return aws.route53.get_zone(name=name, opts=pulumi.InvokeOptions(parent=parent)).zone_id
    except Exception as error:
        raise pulumi.RunError(
            f"mlflow.dnsZone {name}: there is no such zone in this account ({error}); create it, or leave the setting out "
            "and make the record that the output dnsRecordToCreate names"
        ) from None
