"""DnsRecord: a record in Route 53 for the site."""

from dataclasses import dataclass

import pulumi
import pulumi_aws as aws


@dataclass(frozen=True)
class DnsRecordArgs:
    """The record and its target."""

    host: str
    """Full name of the record."""
    zone: str
    """Name of the zone of the record."""
    target: pulumi.Input[str]
    """Host name of the load balancer."""
    alias: bool = True
    """True (default) if the target is a network load balancer of this region. False makes a CNAME."""
    private_zone_of: str | None = None
    """VPC whose private zone is meant. None: the public zone."""


class DnsRecord(pulumi.ComponentResource):
    """An alias record. It is allowed at the zone apex, and queries for it are free.

    Raises:
        pulumi.RunError: the account has no such zone.
    """

    def __init__(self, name: str, args: DnsRecordArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mlflow-eks:index:DnsRecord", name, {}, opts)
        aws.route53.Record(
            f"{name}-record",
            zone_id=_zone_id(args, self),
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
        self.register_outputs({})


def _zone_id(args: DnsRecordArgs, parent: pulumi.Resource) -> str:
    private = args.private_zone_of is not None
    try:
        # A plain call, not an output: its error can be caught and explained.
        return aws.route53.get_zone(
            name=args.zone,
            private_zone=private,
            vpc_id=args.private_zone_of,
            opts=pulumi.InvokeOptions(parent=parent),
        ).zone_id
    except Exception as error:
        kind = f"private zone {args.zone} of {args.private_zone_of}" if private else f"public zone {args.zone}"
        raise pulumi.RunError(
            f"the {kind} of Route 53 is not in this account ({error}); create the zone, say with mlflow.privateZone whether it is a private "
            "one, or leave the zone out of the settings and create the record yourself"
        ) from None
