"""List prices, and the monthly cost of a database server: what `make cost` and a review's comment reckon with."""

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import yaml

HOURS = 730
"""Hours of a month, as AWS computes prices."""
POINT_KIB = 2.5
"""KiB of a point of enhanced monitoring."""
SERVER_LOG_GIB = 0.1
"""GiB a month that PostgreSQL logs, which are errors and connections, no statements."""
CHANGED_A_DAY = 0.02
"""Share of the database that changes in a day, for the size of its backups."""
ZONES = (2, 3)
"""Zones of a load balancer: at least, and mostly at most."""

INSTANCE = "aws:rds/instance:Instance"
SNAPSHOT = "aws:rds/snapshot:Snapshot"
ALARM = "aws:cloudwatch/metricAlarm:MetricAlarm"
LOG_GROUP = "aws:cloudwatch/logGroup:LogGroup"


@functools.cache
def table() -> Mapping[str, Any]:
    """Return the price table."""
    return yaml.safe_load((Path(__file__).parent / "prices.yaml").read_text())


def price(name: str, region: str) -> float:
    """Return the price of one unit in one of the table's regions."""
    return table()["prices"][name][table()["regions"].index(region)]


@dataclass(frozen=True)
class Item:
    """A line of the estimate."""

    what: str
    dollars: float | None
    """Dollars in a quiet month. None for an unknown price."""
    most: float | None = None
    """Dollars at most, where that is another number."""
    of: str = INSTANCE
    """Type of the resource that the item is for."""


@dataclass(frozen=True)
class Server:
    """Properties of an RDS instance that have a price."""

    instance_class: str
    engine_version: str
    """Major version of PostgreSQL."""
    multi_az: bool
    storage: int
    """GiB at first."""
    max_storage: int
    """GiB to which the storage grows by itself. 0: it does not."""
    storage_type: str
    backup_days: int
    monitoring_interval: int
    """Seconds between two points of enhanced monitoring. 0: none."""
    own_key: bool
    """True if a KMS key of its own encrypts it."""

    def items(self, region: str, today: date) -> list[Item]:
        """Return the priced items."""
        return [*self._instance(region, today), *self._storage(region), *self._logs(region)]

    @property
    def _zones(self) -> int:
        return 2 if self.multi_az else 1

    def _instance(self, region: str, today: date) -> Iterator[Item]:
        hours: Mapping[str, list[float]] = table()["instanceHour"]
        name = f"RDS {self.instance_class}{', two zones' if self.multi_az else ''}"
        prices = hours.get(self.instance_class)
        column: int = table()["regions"].index(region)
        yield Item(name, prices[column] * HOURS * self._zones if prices else None)
        size = self.instance_class.rpartition(".")[2]
        vcpus = _vcpus(size)
        if self.instance_class.startswith("db.t"):
            above = vcpus * (1 - table()["baseline"].get(size, 0)) * HOURS * self._zones
            yield Item("CPU credits, at most: all vCPUs all the time", 0, above * price("credit", region))
        ends: date | None = table()["endOfStandardSupport"].get(int(self.engine_version))
        if ends and today > ends:
            support = vcpus * self._zones * HOURS * price("extendedSupport", region)
            what = f"Extended Support of PostgreSQL {self.engine_version}, whose standard support ended on {ends}"
            yield Item(what, support, 2 * support)

    def _storage(self, region: str) -> Iterator[Item]:
        last = max(self.storage, self.max_storage)
        each = price("storage", region) * self._zones
        grown = f" to {last} GiB" if last > self.storage else " GiB"
        yield Item(f"RDS storage, {self.storage}{grown} {self.storage_type}", self.storage * each, last * each)
        # As much as the storage is free, which the first backup alone takes at most.
        changed = last * CHANGED_A_DAY * self.backup_days
        yield Item(f"RDS backups of {self.backup_days} days", 0, changed * price("backup", region))
        if self.own_key:
            yield Item("KMS key", price("key", region))

    def _logs(self, region: str) -> Iterator[Item]:
        interval = self.monitoring_interval
        written = (HOURS * 3600 / interval * POINT_KIB / 2**20 if interval else 0.0) + SERVER_LOG_GIB
        yield Item(
            "Logs of the server" + (" and enhanced monitoring" if interval else ""),
            written * (price("logs", region) + price("keptLogs", region)),
            of=LOG_GROUP,
        )


def _vcpus(size: str) -> int:
    """Return the vCPUs of an instance size. Sizes below `xlarge` have two."""
    match = re.fullmatch(r"(\d*)xlarge", size)
    return 4 * int(match[1] or 1) if match else 2
