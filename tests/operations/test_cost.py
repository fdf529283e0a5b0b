import re
from datetime import date
from typing import Any

import pytest

from operations.cost import Estimate, report
from operations.planned import WORDS, aws_resources
from operations.prices import ALARM, LOG_GROUP, Item, table
from operations.stack_file import ROOT, config, read
from settings.all_settings import Settings

TODAY = date(2026, 11, 29)


def priced(settings: Settings, **given: Any) -> dict[str, Item]:
    """Return the items by the first words of their names."""
    region = given.pop("region", "us-east-1")
    return {item.what.split(",")[0]: item for item in Estimate(settings, region, today=TODAY, **given).items()}


def with_postgres(stack: str, **changes: object) -> Settings:
    settings = read(stack)
    return settings.model_copy(update={"postgres": settings.postgres.model_copy(update=changes)})


def test_the_figures_in_the_readme_are_those_of_the_command() -> None:
    readme = " ".join((ROOT / "README.md").read_text().split())
    first, last = (Estimate(read(stack), config(stack)["aws:region"]).total() for stack in ("dev", "prod"))
    assert f"about {first:.0f} dollars a month as `dev` and {last:.0f} as `prod` (list prices of eu-west-1)" in readme


def test_what_the_program_creates_has_a_price_or_is_free() -> None:
    prod = read("prod")
    public = prod.model_copy(update={"ingress": prod.ingress.model_copy(update={"scheme": "internet-facing"})})
    items = {item.of for item in Estimate(public, "eu-west-1").items()}
    free = set(table()["free"])
    without = set(WORDS) - items - free
    assert without == set(), "give the type an item in operations/cost.py, or list it as free in operations/prices.yaml"
    assert items & free == set()
    assert free <= set(WORDS), "the program no longer creates these"


def test_every_price_has_four_regions_and_none_is_unused() -> None:
    regions = table()["regions"]
    assert regions == ["us-east-1", "us-west-2", "eu-west-1", "eu-central-1"]
    lists = {**table()["instanceHour"], **table()["prices"]}
    assert {name: prices for name, prices in lists.items() if len(prices) != 4 or min(prices) <= 0} == {}
    source = "".join((ROOT / "operations" / file).read_text() for file in ("cost.py", "prices.py"))
    used = set(re.findall(r"""price\(["'](\w+)["']""", source))
    assert used == set(table()["prices"])


def test_a_dearer_region_costs_more_and_never_more_than_a_quarter() -> None:
    for stack in ("dev", "prod"):
        first, *others = (Estimate(read(stack), region).total() for region in table()["regions"])
        assert all(first <= other <= first * 1.25 for other in others)


def test_a_standby_doubles_the_instance_and_its_storage() -> None:
    single, double = (priced(with_postgres("dev", multi_az=zones)) for zones in (False, True))
    for name in ("RDS db.t3.micro", "RDS storage"):
        assert double[name].dollars == 2 * (single[name].dollars or 0)


def test_storage_has_both_ends() -> None:
    storage = priced(read("prod"))["RDS storage"]
    # Two zones; 50 GiB at first, 500 at most.
    assert (storage.dollars, storage.most) == (pytest.approx(50 * 0.115 * 2), pytest.approx(500 * 0.115 * 2))


def test_a_class_of_t_can_cost_credits_and_another_cannot() -> None:
    item = priced(read("dev"))["CPU credits"]
    assert (item.dollars, item.most) == (0, pytest.approx(2 * 0.9 * 730 * 0.075))
    assert "CPU credits" not in priced(read("prod"))


@pytest.mark.parametrize(("instance_class", "alarms"), [("db.m7g.large", 5), ("db.z9.odd", 4)])
def test_there_are_as_many_alarms_as_the_program_makes(instance_class: str, alarms: int) -> None:
    settings = with_postgres("prod", instance_class=instance_class)
    assert aws_resources(settings)[ALARM] == alarms
    assert priced(settings)[f"{alarms} CloudWatch alarms"].dollars == pytest.approx(alarms * 0.10)


def test_an_old_major_version_costs_extended_support_after_its_last_day() -> None:
    settings = with_postgres("prod", engine_version="15")
    for today, paid in ((date(2028, 2, 29), False), (date(2028, 3, 1), True)):
        items = Estimate(settings, "us-east-1", today=today).items()
        assert [item.dollars for item in items if "Extended Support" in item.what] == (
            [pytest.approx(2 * 2 * 730 * 0.1)] if paid else []
        )
    assert "ends on 2028-02-29. Extended Support costs 0.112" in report("prod", settings, "eu-west-1", 100)


def test_logs_cost_without_enhanced_monitoring_too() -> None:
    with_points, without = (priced(with_postgres("dev", monitoring_interval=every)) for every in (1, 0))
    assert without["Logs of the server"].of == LOG_GROUP
    assert (
        (with_points["Logs of the server and enhanced monitoring"].dollars or 0)
        > 3
        > (without["Logs of the server"].dollars or 0)
        > 0
    )


def test_a_class_without_a_known_price_is_said_to_be_unknown() -> None:
    assert "unknown" in report("dev", with_postgres("dev", instance_class="db.z9.large"), "eu-west-1", 100)


def test_a_region_without_prices_gets_those_of_another_and_says_so() -> None:
    said = report("dev", read("dev"), "ap-southeast-1", 100)
    assert "There are no prices for ap-southeast-1 here" in said
    assert "in eu-central-1." in said


def test_a_stack_without_aws_has_no_price() -> None:
    assert (
        Estimate(
            read("dev").model_copy(
                update={"cluster": read("dev").cluster.model_copy(update={"name": None, "kube_context": "kind"})}
            ),
            "us-east-1",
        ).items()
        == []
    )


def test_a_stack_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(SystemExit, match=r"no Pulumi\.nowhere\.yaml; the stacks here are dev, local, prod"):
        read("nowhere")
