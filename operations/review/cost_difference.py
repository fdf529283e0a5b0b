"""Reckons what a preview changes in the monthly cost, from the old and the new state of each resource."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from operations import prices
from operations.review.foreign import code
from operations.review.preview import Change, Preview, at, mapping

RELEASE = "kubernetes:helm.sh/v3:Release"


def cost_lines(preview: Preview) -> list[str]:
    """Return a sentence with the difference, then a line for each resource. Empty if nothing of the price list changes."""
    region = str(preview.config.get("aws:region") or "")
    known: list[str] = prices.table()["regions"]
    priced = region if region in known else known[0]
    lines: list[str] = []
    difference = 0.0
    unknown = False
    for change in preview.changes:
        reckon = _RECKONED.get(change.type)
        if reckon is None or change.kind in {"other", "forgotten", "drifted", "imported"}:
            continue
        before = _dollars(reckon, there(change), priced) if change.kind not in {"lost", "gone"} else 0.0
        # A replacement by another one that exists has no new state.
        last = change.old if change.kind == "replaced" and not change.new else change.new
        after = _dollars(reckon, mapping(last.get("inputs")), priced) if change.kind != "deleted" else 0.0
        if before is None or after is None:
            unknown = True
            lines.append(f"{code(change.name)}: a price is not in the list")
        elif round(after - before, 2):
            difference += after - before
            lines.append(f"{code(change.name)}: {before:,.2f} → {after:,.2f}")
    if not lines:
        return []
    other = f" There are none for {code(region)} here." if region and region != priced else ""
    said = f"**{difference:+,.2f} US dollars** a month{' and what has no price here' if unknown else ''}"
    return [
        f"{said}, at list prices of {prices.table()['date']} in {priced}, in a quiet month: `make cost` has the rest.{other}",
        *lines,
    ]


def there(change: Change) -> Mapping[str, Any]:
    """Return the inputs of a resource as it is. One that waits for the maintenance window has other values than the state's inputs."""
    inputs, outputs = (mapping(change.old.get(key)) for key in ("inputs", "outputs"))
    return {**inputs, **{name: outputs[name] for name in change.differs if name in outputs}}


def _dollars(
    reckon: Callable[[Mapping[str, Any], str], float | None], inputs: Mapping[str, Any], region: str
) -> float | None:
    try:
        return reckon(inputs, region) if inputs else 0.0
    except (TypeError, ValueError, OverflowError):
        return None


def _instance(inputs: Mapping[str, Any], region: str) -> float | None:
    server = prices.Server(
        instance_class=str(inputs.get("instanceClass")),
        engine_version=str(inputs.get("engineVersion") or 0).partition(".")[0],
        multi_az=inputs.get("multiAz") is True,
        storage=int(inputs.get("allocatedStorage") or 0),
        max_storage=int(inputs.get("maxAllocatedStorage") or 0),
        storage_type=str(inputs.get("storageType")),
        backup_days=int(inputs.get("backupRetentionPeriod") or 0),
        monitoring_interval=int(inputs.get("monitoringInterval") or 0),
        own_key=bool(inputs.get("kmsKeyId")),
    )
    dollars = [item.dollars for item in server.items(region, datetime.now(UTC).date())]
    return None if None in dollars else sum(one or 0.0 for one in dollars)


def _alarm(inputs: Mapping[str, Any], region: str) -> float:
    return prices.price("alarm", region)


def _release(inputs: Mapping[str, Any], region: str) -> float:
    # The cluster's controller makes a load balancer for HAProxy's Service.
    service = mapping(at(inputs, "values.controller.service"))
    if not service:
        return 0.0
    public = "internet-facing" in mapping(service.get("annotations")).values()
    addresses = prices.ZONES[0] * prices.price("publicAddress", region) if public else 0.0
    return (prices.price("loadBalancer", region) + addresses) * prices.HOURS


_RECKONED: Mapping[str, Callable[[Mapping[str, Any], str], float | None]] = {
    prices.INSTANCE: _instance,
    prices.ALARM: _alarm,
    RELEASE: _release,
}
