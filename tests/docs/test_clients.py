"""The table of clients in the page on upgrades is what the last run of them recorded."""

from local.charts.mlflow import APP_VERSIONS
from tests.local import clients


def test_the_page_has_the_recorded_table() -> None:
    assert clients.table(clients.recorded()) in clients.PAGE.read_text(), (
        "the table is written by a run: UPDATE_CLIENTS=1 make clients"
    )


def test_the_record_has_every_client_and_every_server() -> None:
    record = clients.recorded()
    assert set(record) == set(APP_VERSIONS.values())
    assert {tuple(of_server) for of_server in record.values()} == {tuple(clients.CLIENTS)}
