import pytest

from operations.cost import estimate, report
from operations.stack_file import ROOT, read


def total(stack: str) -> float:
    return sum(item.dollars or 0 for item in estimate(read(stack)))


def test_the_figures_in_the_readme_are_those_of_the_command() -> None:
    readme = (ROOT / "README.md").read_text()
    assert f"about {total('dev'):.0f} dollars a month as `dev` and {total('prod'):.0f} as `prod`" in readme


def test_a_standby_doubles_the_instance_and_its_storage() -> None:
    single, double = (
        read("dev"),
        read("dev").model_copy(update={"postgres": read("dev").postgres.model_copy(update={"multi_az": True})}),
    )
    prices = [
        {item.what.split(",")[0]: item.dollars or 0 for item in estimate(settings)} for settings in (single, double)
    ]
    assert prices[1]["RDS db.t3.micro"] == 2 * prices[0]["RDS db.t3.micro"]


def test_a_class_without_a_known_price_is_said_to_be_unknown() -> None:
    settings = read("dev")
    odd = settings.model_copy(
        update={"postgres": settings.postgres.model_copy(update={"instance_class": "db.z9.large"})}
    )
    assert "unknown" in report("dev", odd, 100)


def test_a_stack_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(SystemExit, match=r"no Pulumi\.nowhere\.yaml; the stacks here are dev, local, prod"):
        read("nowhere")
