"""Estimate of a stack's monthly cost: ``make cost STACK=dev``.

Prices are list prices in US dollars, on demand, in us-east-1, of the date below. Other regions differ by up to a fifth. The cluster's
nodes are not included: they exist already, and the resources that the pods request are printed instead.
"""

import argparse
from dataclasses import dataclass

from operations.stack_file import read
from settings.all_settings import Settings

PRICES_OF = "2026-11-24"
"""Date of the prices."""
HOURS = 730
"""Hours of a month, as AWS computes prices."""

INSTANCE_HOUR = {
    "db.t3.micro": 0.018,
    "db.t3.small": 0.036,
    "db.t3.medium": 0.072,
    "db.t3.large": 0.145,
    "db.t4g.micro": 0.016,
    "db.t4g.small": 0.032,
    "db.t4g.medium": 0.065,
    "db.t4g.large": 0.129,
    "db.m6g.large": 0.159,
    "db.m6g.xlarge": 0.318,
    "db.m7g.large": 0.168,
    "db.m7g.xlarge": 0.337,
    "db.m7g.2xlarge": 0.674,
    "db.r6g.large": 0.225,
    "db.r7g.large": 0.239,
}
"""Instance class to dollars an hour, RDS for PostgreSQL in one zone. A standby doubles the price."""
STORAGE_GIB_MONTH = 0.115
NETWORK_LOAD_BALANCER_HOUR = 0.0225
CAPACITY_UNIT_HOUR = 0.006
PUBLIC_ADDRESS_HOUR = 0.005
BUCKET_GIB_MONTH = 0.023
ALARM_MONTH = 0.10
LOG_GIB = 0.50


@dataclass(frozen=True)
class Item:
    """A line of the estimate."""

    what: str
    dollars: float | None
    """Dollars a month. None for an unknown price."""


def estimate(settings: Settings, artifacts_gib: int = 100) -> list[Item]:
    """Return the priced items of a stack.

    Args:
        settings: the stack's settings.
        artifacts_gib: GiB of artifacts to assume, default 100.
    """
    items: list[Item] = []
    postgres, ingress = settings.postgres, settings.ingress
    if settings.on_eks and not postgres.existing:
        zones = 2 if postgres.multi_az else 1
        hour = INSTANCE_HOUR.get(postgres.instance_class)
        name = f"RDS {postgres.instance_class}{', two zones' if postgres.multi_az else ''}"
        items.append(Item(name, hour * HOURS * zones if hour is not None else None))
        items.append(
            Item(
                f"RDS storage {postgres.allocated_storage} GiB {postgres.storage_type}",
                postgres.allocated_storage * STORAGE_GIB_MONTH * zones,
            )
        )
        if postgres.monitoring_interval:
            # About 2.5 KiB a point.
            items.append(
                Item("Enhanced monitoring", HOURS * 3600 / postgres.monitoring_interval * 2.5 / 2**20 * LOG_GIB)
            )
        if postgres.alarm_topic_arn:
            items.append(Item("4 CloudWatch alarms", 4 * ALARM_MONTH))
    if settings.on_eks and ingress.install:
        items.append(
            Item("Network load balancer, one capacity unit", (NETWORK_LOAD_BALANCER_HOUR + CAPACITY_UNIT_HOUR) * HOURS)
        )
        if ingress.scheme == "internet-facing":
            items.append(Item("2 public addresses", 2 * PUBLIC_ADDRESS_HOUR * HOURS))
    if settings.on_eks:
        items.append(Item(f"Bucket with {artifacts_gib} GiB", artifacts_gib * BUCKET_GIB_MONTH))
    return items


def report(stack: str, settings: Settings, artifacts_gib: int) -> str:
    """Return the estimate as a table for a terminal."""
    items = estimate(settings, artifacts_gib)
    width = max((len(item.what) for item in items), default=10)
    lines = [f"{stack}: a month at list prices of {PRICES_OF}, us-east-1, US dollars"]
    lines += [
        f"  {item.what:<{width}}  {'unknown' if item.dollars is None else f'{item.dollars:9.2f}'}" for item in items
    ]
    lines.append(f"  {'together':<{width}}  {sum(item.dollars or 0 for item in items):9.2f}")
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
    return "\n".join(lines)


def main() -> None:
    """Print the estimates of the named stacks."""
    parser = argparse.ArgumentParser(prog="make cost", description="What a stack costs a month, roughly.")
    parser.add_argument("stacks", nargs="+", help="names of stacks, for example dev prod")
    parser.add_argument("--artifacts-gib", type=int, default=100, help="GiB of artifacts to assume (default 100)")
    given = parser.parse_args()
    print("\n\n".join(report(stack, read(stack), given.artifacts_gib) for stack in given.stacks))


if __name__ == "__main__":
    main()
