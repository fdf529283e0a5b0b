import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from operations import doctor

ANSWERS = {
    "get-caller-identity": {"Arn": "arn:aws:iam::123456789012:user/ada"},
    "describe-cluster": {
        "cluster": {"status": "ACTIVE", "version": "1.34", "resourcesVpcConfig": {"endpointPublicAccess": True}}
    },
    "describe-addon": {"addon": {"addonVersion": "v1.3.10-eksbuild.1"}},
    "describe-certificate": {"Certificate": {"Status": "ISSUED", "DomainName": "mlflow.example.com"}},
    "list-hosted-zones-by-name": {"HostedZones": [{"Id": "/hostedzone/Z1", "Name": "example.com."}]},
    "get-topic-attributes": {},
}


@dataclass
class Account:
    table: Path
    answers: dict[str, object]

    def __setitem__(self, operation: str, answer: object) -> None:
        self.answers[operation] = answer

    def screen(self) -> tuple[str, int]:
        self.table.write_text(json.dumps(self.answers))
        lines, missing = doctor.examine(doctor.checks("prod"))
        return "\n".join(lines), missing


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Account:
    """An `aws` command that answers from a table, which a test changes."""
    table = tmp_path / "answers.json"
    command = tmp_path / "aws"
    command.write_text(
        "#!/usr/bin/env python3\nimport json, sys\n"
        f"answer = json.load(open({str(table)!r}))[sys.argv[2]]\n"
        "if isinstance(answer, str): sys.exit(answer)\nprint(json.dumps(answer))\n"
    )
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(doctor, "_reachable", lambda url: url)
    monkeypatch.setattr(doctor, "_pulumi", lambda: "v3.259.0")
    return Account(table, dict(ANSWERS))


def test_an_account_with_everything_gets_ticks_only(aws: Account) -> None:
    text, missing = aws.screen()
    assert missing == 0, text
    assert "✗" not in text


def test_a_certificate_for_another_host_is_said_with_both_names(aws: Account) -> None:
    aws["describe-certificate"] = {"Certificate": {"Status": "ISSUED", "DomainName": "other.example.com"}}
    text, missing = aws.screen()
    assert missing == 1
    assert "it is for other.example.com, not for mlflow.example.com" in text


def test_a_wildcard_certificate_is_enough(aws: Account) -> None:
    aws["describe-certificate"] = {"Certificate": {"Status": "ISSUED", "DomainName": "*.example.com"}}
    assert aws.screen()[1] == 0


def test_a_missing_zone_is_named(aws: Account) -> None:
    aws["list-hosted-zones-by-name"] = {"HostedZones": [{"Id": "/hostedzone/Z1", "Name": "other.org."}]}
    assert "there is no zone example.com in this account" in aws.screen()[0]


def test_a_cluster_that_is_not_ready_is_said_with_its_state(aws: Account) -> None:
    aws["describe-cluster"] = {"cluster": {"status": "UPDATING"}}
    assert "my-prod-cluster is UPDATING" in aws.screen()[0]


def test_a_refusal_of_aws_is_shown_in_its_own_words(aws: Account) -> None:
    aws["describe-addon"] = "ResourceNotFoundException: No addon"
    text, missing = aws.screen()
    assert missing == 1
    assert "ResourceNotFoundException: No addon" in text
    assert "artifacts.identity to irsa" in text


def test_missing_credentials_are_said_once(aws: Account) -> None:
    for operation in ANSWERS:
        aws[operation] = "Unable to locate credentials. You can configure credentials by running aws configure."
    text, missing = aws.screen()
    assert missing == len(ANSWERS)
    assert text.count("Unable to locate credentials") == 1
    assert text.count("needs credentials (see above)") == len(ANSWERS) - 1
    assert "irsa" not in text
