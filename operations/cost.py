"""Estimate of a stack's monthly cost: ``make cost STACK=dev``.

The prices are in ``operations/prices.yaml``. They were typed on 29 November 2026; the file says which of them were
found again elsewhere. Each item has two ends: a quiet month just after the first `up`, and the most that the settings allow. The cluster and its nodes are not included: they exist already, and the resources that the pods request are
printed instead.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

from operations.planned import aws_resources
from operations.prices import ALARM, HOURS, SNAPSHOT, ZONES, Item, Server, price, table
from operations.stack_file import config, read
from settings.all_settings import Settings

OBJECT_MIB = 1
"""MiB of an artifact, for the number of requests."""
BUCKET = "aws:s3/bucket:Bucket"
LOAD_BALANCER = "load balancer"
"""Not a resource of Pulumi: the cluster's controller makes it."""


@dataclass(frozen=True)
class Estimate:
    """Prices of a stack in one region."""

    settings: Settings
    region: str
    """Region with prices: one of the table's."""
    artifacts_gib: int = 100
    """GiB of artifacts that are stored, and that are written and read in a month."""
    today: date = field(default_factory=lambda: datetime.now(UTC).date())

    def price(self, name: str) -> float:
        """Return the price of one unit."""
        return price(name, self.region)

    def items(self) -> list[Item]:
        """Return the priced items."""
        settings = self.settings
        if not settings.on_eks:
            return []
        found: list[Item] = []
        if not settings.postgres.existing:
            found += [*self._server().items(self.region, self.today), *self._snapshot(), *self._alarms()]
        if settings.ingress.install:
            found += self._load_balancer()
        return [*found, *self._bucket(), *self._traffic()]

    def _server(self) -> Server:
        section = self.settings.postgres
        return Server(
            instance_class=section.instance_class,
            engine_version=section.engine_version,
            multi_az=section.multi_az,
            storage=section.allocated_storage,
            max_storage=section.max_allocated_storage,
            storage_type=section.storage_type,
            backup_days=section.backup_retention_days,
            monitoring_interval=section.monitoring_interval,
            own_key=bool(section.kms_key_arn),
        )

    def _snapshot(self) -> Iterator[Item]:
        section = self.settings.postgres
        if section.snapshot_before_upgrade:
            # At first it is within the free size of the backups.
            size = max(section.allocated_storage, section.max_allocated_storage)
            yield Item("Each snapshot before an upgrade", 0, size * self.price("backup"), of=SNAPSHOT)

    def _alarms(self) -> Iterator[Item]:
        number = aws_resources(self.settings).get(ALARM, 0)
        if number:
            yield Item(f"{number} CloudWatch alarms", number * self.price("alarm"), of=ALARM)

    def _load_balancer(self) -> Iterator[Item]:
        yield Item("Network load balancer", self.price("loadBalancer") * HOURS, of=LOAD_BALANCER)
        # A unit is a GiB in an hour.
        units = 2 * self.artifacts_gib * self.price("capacityUnit")
        most = max(units, HOURS * self.price("capacityUnit"))
        yield Item("Its capacity units, at most: one all the time", units, most, LOAD_BALANCER)
        if self.settings.ingress.scheme == "internet-facing":
            first, last = (number * self.price("publicAddress") * HOURS for number in ZONES)
            yield Item(f"{ZONES[0]} to {ZONES[1]} public addresses, one for each zone", first, last, LOAD_BALANCER)

    def _bucket(self) -> Iterator[Item]:
        stored = self.artifacts_gib * self.price("bucket")
        yield Item(f"Bucket with {self.artifacts_gib} GiB, at most with old versions", stored, 2 * stored, BUCKET)
        thousands = self.artifacts_gib * 1024 / OBJECT_MIB / 1000
        requests = thousands * (self.price("writes") + self.price("reads"))
        yield Item(f"Its requests, with files of {OBJECT_MIB} MiB", requests, of=BUCKET)

    def _traffic(self) -> Iterator[Item]:
        # Artifacts go from the load balancer to HAProxy and from there to MLflow, once in and once out. Half of the pods are in another zone.
        hops = 2 * 2 * self.artifacts_gib * self.price("betweenZones")
        yield Item("Traffic between zones", hops / 2, hops, LOAD_BALANCER)
        through = 2 * self.artifacts_gib * self.price("throughNat")
        yield Item("NAT gateway, without a gateway endpoint for S3", 0, through, BUCKET)

    def total(self) -> float:
        """Return the dollars of a quiet month."""
        return sum(item.dollars or 0 for item in self.items())


def report(stack: str, settings: Settings, region: str | None, artifacts_gib: int) -> str:
    """Return the estimate as a table for a terminal.

    Args:
        stack: name of the stack.
        settings: its settings.
        region: its region.
        artifacts_gib: GiB of artifacts to assume.
    """
    regions: Sequence[str] = table()["regions"]
    priced = region if region and region in regions else regions[0]
    estimate = Estimate(settings, priced, artifacts_gib)
    items = estimate.items()
    width = max((len(item.what) for item in items), default=10)
    lines = [f"{stack}: a month at list prices of {table()['date']}, {priced}, US dollars"]
    if region and region != priced:
        lines.append(f"  There are no prices for {region} here; other regions differ by up to a fifth.")
    lines.append(f"  {'':<{width}}  {'at first':>9}  {'at most':>9}")
    lines += [f"  {item.what:<{width}}  {_money(item.dollars)}  {_money(_most(item))}" for item in items]
    most = sum(_most(item) or 0 for item in items)
    lines.append(f"  {'together':<{width}}  {_money(estimate.total())}  {_money(most)}")
    others = [(other, Estimate(settings, other, artifacts_gib).total()) for other in regions if other != priced]
    if items:
        lines.append("  Elsewhere at first: " + ", ".join(f"{total:.0f} in {other}" for other, total in others) + ".")
    pods = settings.max_replicas
    asked = settings.mlflow.resources
    lines.append(
        f"  On nodes that you have: {pods} MLflow pod(s) asking {asked.cpu_request} CPU and {asked.memory_request} memory each"
        + (
            f", {settings.ingress.replicas} HAProxy pod(s) asking 250m and 400Mi each."
            if settings.ingress.install
            else "."
        )
    )
    if settings.on_eks:
        lines.append(
            f"  There already: the cluster, {estimate.price('clusterHour') * HOURS:.0f} a month, and its NAT gateways."
        )
    if settings.protect and settings.on_eks:
        lines.append(
            "  After `pulumi destroy` the snapshots and the automated backups stay, and cost (docs/stuck-states.md)."
        )
    ends: date | None = table()["endOfStandardSupport"].get(int(settings.postgres.engine_version))
    if ends and settings.on_eks and not settings.postgres.existing:
        lines.append(
            f"  Standard support of PostgreSQL {settings.postgres.engine_version} ends on {ends}. Extended Support costs "
            f"{estimate.price('extendedSupport'):.3f} a vCPU and hour from the next day on, and twice as much in its third year."
        )
    return "\n".join(lines)


def _most(item: Item) -> float | None:
    return item.dollars if item.most is None else item.most


def _money(dollars: float | None) -> str:
    return f"{'unknown':>9}" if dollars is None else f"{dollars:9.2f}"


def main() -> None:
    """Print the estimates of the named stacks."""
    parser = argparse.ArgumentParser(prog="make cost", description="What a stack costs a month, roughly.")
    parser.add_argument("stacks", nargs="+", help="names of stacks, for example dev prod")
    parser.add_argument("--artifacts-gib", type=int, default=100, help="GiB of artifacts to assume (default 100)")
    given = parser.parse_args()
    print(
        "\n\n".join(
            report(stack, read(stack), config(stack).get("aws:region"), given.artifacts_gib) for stack in given.stacks
        )
    )


if __name__ == "__main__":
    main()
