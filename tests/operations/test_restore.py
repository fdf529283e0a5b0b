"""The copy of a database from its backups: what RDS is asked for, what is compared, and what stays when something fails."""

import json
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest

from operations.aws_cli import Aws
from operations.checks import MissingError
from operations.restore import copy_of, drill, experiment, use
from operations.restore.arguments import arguments, source_of
from operations.restore.comparison import Address, lacks, table
from operations.restore.copy_of import Source

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
SEEN = {"runs": 10, "users": 3, "newest run": "abc", "its values": 4, "their sum": 2.5}


class Account(Aws):
    """An account with instances, which answers as RDS and takes down what it was asked."""

    def __init__(self, *names: str, refuses: str = "") -> None:
        super().__init__("eu-west-1")
        object.__setattr__(self, "asked", [])
        object.__setattr__(self, "refuses", refuses)
        object.__setattr__(self, "instances", {name: self.instance(name) for name in names})

    marks: ClassVar[list[dict[str, Any]]] = []
    asked: list[list[str]]
    instances: dict[str, dict[str, Any]]
    refuses: str

    def instance(self, name: str) -> dict[str, Any]:
        return {
            "DBInstanceIdentifier": name,
            "DBInstanceArn": f"arn:aws:rds:eu-west-1:123456789012:db:{name}",
            "DbiResourceId": f"db-{name.upper()}",
            "DBInstanceClass": "db.t3.small",
            "DBInstanceStatus": "available",
            "DBSubnetGroup": {"DBSubnetGroupName": "private"},
            "VpcSecurityGroups": [{"VpcSecurityGroupId": "sg-1"}],
            "DBParameterGroups": [{"DBParameterGroupName": "tls-only"}],
            "Endpoint": {"Address": f"{name}.example", "Port": 5432},
            "LatestRestorableTime": NOON.isoformat(),
            "TagList": [{"Key": "Stack", "Value": "prod"}, {"Key": "aws:x", "Value": "y"}],
        }

    def __call__(self, *arguments: str) -> Any:
        self.asked.append([*arguments])
        _, call, *options = arguments
        given = dict(zip(options, [*options[1:], ""], strict=True))
        name = given.get("--db-instance-identifier", "")
        if self.refuses and self.refuses in arguments:
            raise MissingError("not allowed")
        if call == "describe-db-instances":
            if name not in self.instances:
                raise MissingError("An error occurred (DBInstanceNotFound): DBInstance not found")
            return {"DBInstances": [self.instances[name]]}
        if call == "modify-db-instance":
            new = given["--new-db-instance-identifier"]
            self.instances[new] = self.instances.pop(name) | {"DBInstanceIdentifier": new}
        if call == "restore-db-instance-to-point-in-time":
            self.instances[given["--target-db-instance-identifier"]] = self.instance(
                given["--target-db-instance-identifier"]
            )
        if call == "delete-db-instance":
            del self.instances[name]
        if call == "list-object-versions":
            return {"DeleteMarkers": self.marks}
        if call == "describe-db-snapshots":
            return {"DBSnapshots": [{"SnapshotCreateTime": NOON.isoformat()}]}
        return {}

    def calls(self) -> list[str]:
        return [arguments[1] for arguments in self.asked]


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Account:
    """A stack `prod` with an instance `db`. Its cluster shows the same in every database."""
    account = Account("db")
    state = {"deployment": {"resources": [{"type": "aws:rds/instance:Instance", "id": "db-DB"}]}}
    outputs = {"databaseIdentifier": "db"}
    for module in (drill, use, experiment):
        monkeypatch.setattr(module, "config", lambda _stack: {})
        monkeypatch.setattr(module, "read_state", lambda *_: None)
        monkeypatch.setattr(module, "seen_by_mlflow", lambda *_: [SEEN, SEEN], raising=False)
        monkeypatch.setattr(module.aws_cli, "from_config", lambda *_: account)
    monkeypatch.setattr(copy_of, "run_pulumi", lambda *_: json.dumps(outputs))
    imported: list[str] = []

    def pulumi(*arguments: str, text: str | None = None) -> str:
        imported.extend([text] if text else [])
        return json.dumps(state)

    monkeypatch.setattr(use, "run_pulumi", pulumi)
    object.__setattr__(account, "imported", imported)
    return account


def restored(account: Account, source: Source) -> list[str]:
    copy_of.restore(account, account.instances["db"], "db-drill", source, {"Purpose": "drill"})
    return account.asked[-1]


def test_a_copy_is_private_and_has_the_network_and_parameters_of_its_source() -> None:
    asked = restored(Account("db"), Source())
    assert asked[:2] == ["rds", "restore-db-instance-to-point-in-time"]
    text = " ".join(asked)
    assert "--use-latest-restorable-time" in text
    assert "--no-publicly-accessible" in text
    assert "--db-subnet-group-name private" in text
    assert "--vpc-security-group-ids sg-1" in text
    assert "--db-parameter-group-name tls-only" in text


def test_a_copy_has_no_tag_by_which_the_program_would_take_it_for_the_database_of_the_stack() -> None:
    asked = restored(Account("db"), Source())
    assert json.loads(asked[asked.index("--tags") + 1]) == [{"Key": "Purpose", "Value": "drill"}]


def test_a_moment_and_a_snapshot_are_restored_when_they_are_named() -> None:
    assert "--restore-time 2026-11-30T12:00:00Z" in " ".join(restored(Account("db"), Source(time=NOON)))
    assert "--db-snapshot-identifier before" in " ".join(restored(Account("db"), Source(snapshot="before")))


def test_a_moment_after_the_last_backup_is_refused_with_the_last_one() -> None:
    account = Account("db")
    with pytest.raises(MissingError, match="latest moment is 2026-11-30T12:00:00Z"):
        copy_of.moment_of(account, account.instances["db"], Source(time=datetime(2026, 12, 1, tzinfo=UTC)))


def test_an_instance_that_cannot_be_restored_ends_the_wait() -> None:
    account = Account("db")
    account.instances["db"]["DBInstanceStatus"] = "incompatible-restore"
    with pytest.raises(MissingError, match="describe-events"):
        copy_of.wait(account, "db")


def test_a_copy_with_fewer_runs_or_other_values_lacks_them_and_one_with_more_does_not() -> None:
    assert lacks(SEEN, SEEN) == []
    assert lacks(SEEN, {**SEEN, "runs": 11, "users": 2}) == []
    assert lacks(SEEN, {**SEEN, "runs": 9}) == ["runs: 9 of 10"]
    assert lacks(SEEN, {**SEEN, "their sum": 1.0}) == ["values of run abc: 4 of 4"]
    assert "| runs | 10 | 9 |" in table(SEEN, {**SEEN, "runs": 9})


def test_a_drill_compares_throws_the_copy_away_and_says_how_long_it_took(stack: Account) -> None:
    report, lacking = drill.drill("prod", Source(), "pulumi", "aws")
    assert lacking == []
    assert "The copy has everything." in report
    assert "The copy was there after" in report
    assert set(stack.instances) == {"db"}


def test_a_drill_whose_comparison_fails_leaves_no_instance(stack: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise MissingError("MLflow cannot read it")

    monkeypatch.setattr(drill, "seen_by_mlflow", refused)
    with pytest.raises(MissingError, match="cannot read"):
        drill.drill("prod", Source(), "pulumi", "aws")
    assert set(stack.instances) == {"db"}


def test_a_drill_beside_the_copy_of_an_older_one_says_how_to_delete_it(stack: Account) -> None:
    stack.instances["db-drill"] = stack.instance("db-drill")
    with pytest.raises(SystemExit, match="delete-db-instance --db-instance-identifier db-drill"):
        drill.drill("prod", Source(), "pulumi", "aws")
    assert "delete-db-instance" not in stack.calls()


def test_a_restore_keeps_the_name_the_tags_and_the_old_instance_and_tells_the_state(stack: Account) -> None:
    stack.instances["db-restored"] = stack.instance("db-restored")
    old = use.take_into_use(stack, "prod", "pulumi", stack.instances["db"], "db-restored")
    assert old == "db-old1"
    assert set(stack.instances) == {"db", "db-old1"}
    (imported,) = stack.imported  # pyright: ignore[reportAttributeAccessIssue]
    assert json.loads(imported)["deployment"]["resources"][0]["id"] == "db-DB-RESTORED"
    (tagged,) = (asked for asked in stack.asked if asked[1] == "add-tags-to-resource")
    assert json.loads(tagged[-1]) == [{"Key": "Stack", "Value": "prod"}]


def test_a_restore_that_stops_between_the_two_names_says_the_way_back(stack: Account) -> None:
    object.__setattr__(stack, "refuses", "db-restored")
    stack.instances["db-restored"] = stack.instance("db-restored")
    with pytest.raises(MissingError, match="--db-instance-identifier db-old1 --new-db-instance-identifier db --apply"):
        use.take_into_use(stack, "prod", "pulumi", stack.instances["db"], "db-restored")


def test_a_restore_without_a_moment_asks_for_one(stack: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["use", "prod"])
    with pytest.raises(SystemExit, match="TIME or SNAPSHOT is missing"):
        use.main()
    assert stack.asked == []


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(SystemExit, match="such as 2026-11-30T02:00:00Z"):
        source_of(arguments("drill", "").parse_args(["prod", "--time", "2026-11-30 02:00"]))


def test_no_answer_to_the_question_changes_nothing(stack: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["use", "prod", "--time", "2026-11-30T11:00:00Z"])
    monkeypatch.setattr("builtins.input", lambda _: "")
    with pytest.raises(SystemExit, match="Nothing was changed"):
        use.main()
    assert "modify-db-instance" not in stack.calls()
    assert stack.instances["db"]["Endpoint"] == {"Address": Address("db.example", 5432).host, "Port": 5432}


def test_a_backup_of_an_older_mlflow_is_taken_into_use_unseen_and_with_the_pods_stopped(
    stack: Account, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreadable(*_: object) -> None:
        raise MissingError("MLflow cannot read it")

    def on_pods(_: object, *command: str) -> None:
        done.append((" ".join(command), "db-old1" in stack.instances))

    done: list[tuple[str, bool]] = []
    stack.instances["db-restored"] = stack.instance("db-restored")
    monkeypatch.setattr(use, "seen_by_mlflow", unreadable)
    monkeypatch.setattr(use, "on_pods", on_pods)
    monkeypatch.setattr("sys.argv", ["use", "prod", "--yes", "--older", "--snapshot", "before"])
    use.main()
    # They stop before the copy has the address, or the newer MLflow would migrate it.
    assert done == [("scale deploy/mlflow --replicas=0", False)]
    assert "set the older mlflow.chartVersion" in capsys.readouterr().out


# One experiment

STATE = {
    "deployment": {
        "resources": [
            {"type": "x", "inputs": {"chart": "kubernetes-ingress", "values": {}}},
            {
                "type": "x",
                "inputs": {"chart": "mlflow", "values": {"artifactRoot": {"s3": {"bucket": "b", "path": "mlflow"}}}},
            },
            {"type": "y"},
        ]
    }
}
FOUND = {"id": 12, "name": "churn", "files": "mlflow-artifacts:/12", "rows": {}}


def mark(key: str, *, latest: bool = True, when: datetime = NOON) -> dict[str, Any]:
    return {"Key": key, "VersionId": f"of-{key}", "IsLatest": latest, "LastModified": when.isoformat()}


@pytest.mark.parametrize(
    ("location", "folder"),
    [
        ("mlflow-artifacts:/12", ("b", "mlflow/12/")),
        ("mlflow-artifacts:/a/12/", ("b", "mlflow/a/12/")),
        ("mlflow-artifacts:/", None),
        ("s3://of-somebody/12", None),
    ],
)
def test_the_files_of_an_experiment_are_in_its_folder_and_never_in_the_whole_bucket(
    location: str, folder: tuple[str, str] | None
) -> None:
    assert experiment.folder_of(json.dumps(STATE), location) == folder


def test_files_that_were_deleted_after_the_moment_come_back_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "replace", lambda aws, **_: aws)
    account = Account("db")
    before = NOON.replace(hour=11)
    many = [mark(str(number), when=NOON) for number in range(150)]
    marks = [mark("deleted-by-a-user", when=before), mark("written-again", latest=False), *many]
    object.__setattr__(account, "marks", marks)
    assert experiment.files_back(account, "b", "mlflow/12/", before) == 150
    (listed, *deleted) = account.asked
    assert listed[-4:] == ["--bucket", "b", "--prefix", "mlflow/12/"]
    sent = [one for asked in deleted for one in json.loads(asked[-1])["Objects"]]
    assert sent == [{"Key": str(number), "VersionId": f"of-{number}"} for number in range(150)]
    assert max(len(json.loads(asked[-1])["Objects"]) for asked in deleted) == 100


@pytest.mark.parametrize("refused", [False, True])
def test_an_experiment_comes_back_with_its_files_before_its_rows_and_the_copy_goes(
    stack: Account, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    def in_pod(_: object, file: str, given: list[str], **__: object) -> dict[str, Any]:
        assert (file, given[:3]) == ("rows.py", ["db-experiment.example", "5432", "churn"])
        stack.asked.append(["pod", given[3]])
        return {"refused": "experiment 12 is there"} if refused else {**FOUND, "rows": {"runs": 3}}

    monkeypatch.setattr(experiment, "python_in_pod", in_pod)
    monkeypatch.setattr(experiment, "replace", lambda aws, **_: aws)
    monkeypatch.setattr(experiment, "run_pulumi", lambda *_: json.dumps(STATE))
    object.__setattr__(stack, "marks", [mark("file")])
    if refused:
        with pytest.raises(MissingError, match="12 is there"):
            experiment.bring_back("prod", "churn", Source(time=NOON.replace(hour=11)), "pulumi", "aws")
    else:
        said = experiment.bring_back("prod", "churn", Source(time=NOON.replace(hour=11)), "pulumi", "aws")
        assert "churn is back as experiment 12" in said
        assert said.endswith("1 files, 3 runs")
    order = [call for call in stack.calls() if call in {"look", "delete-objects", "bring", "delete-db-instance"}]
    assert order == (
        ["look", "delete-db-instance"] if refused else ["look", "delete-objects", "bring", "delete-db-instance"]
    )
    assert set(stack.instances) == {"db"}
