"""The `aws` command of the local stack takes the calls and options of the AWS CLI."""

import json
from collections.abc import Iterator

import pytest
from moto import mock_aws

from local.aws_account.command import CommandError, run

ENDPOINT = "https://sns.eu-west-1.amazonaws.com"
"""Address that moto answers for."""


@pytest.fixture(autouse=True)
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    with mock_aws():
        yield


def test_a_call_is_answered_as_json_and_the_options_of_every_call_are_left_out() -> None:
    always = ("--output", "json", "--profile", "company", "--region", "eu-west-1")
    made = json.loads(run(ENDPOINT, ["sns", "create-topic", "--name", "alarms", *always]))
    assert made == {"TopicArn": "arn:aws:sns:eu-west-1:123456789012:alarms"}
    assert json.loads(run(ENDPOINT, ["sns", "list-topics"])) == {"Topics": [made]}


def test_lists_flags_and_times_are_taken_and_given_as_the_cli_does() -> None:
    ec2 = "https://ec2.eu-west-1.amazonaws.com"
    group = json.loads(run(ec2, ["ec2", "create-security-group", "--group-name", "a", "--description", "b"]))["GroupId"]
    found = json.loads(run(ec2, ["ec2", "describe-security-groups", "--group-ids", group, "--no-dry-run"]))
    assert [each["GroupId"] for each in found["SecurityGroups"]] == [group]
    kms = "https://kms.eu-west-1.amazonaws.com"
    tags = json.dumps([{"TagKey": "Stack", "TagValue": "dev"}])
    made = json.loads(run(kms, ["kms", "create-key", "--multi-region", "--tags", tags]))["KeyMetadata"]
    assert json.loads(run(kms, ["kms", "list-resource-tags", "--key-id", made["KeyId"]]))["Tags"] == json.loads(tags)
    assert (made["MultiRegion"], made["CreationDate"][:2]) == (True, "20")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (["sns", "publish-everything"], "there is no call sns publish-everything"),
        (["sns", "create-topic", "--names", "x"], "sns create-topic has no option --names; it has --attributes"),
        (["sns", "create-topic", "--name"], "the option --name of sns create-topic needs a value"),
        (["sns", "get-topic-attributes", "--topic-arn", "arn:aws:sns:eu-west-1:123456789012:none"], "NotFound"),
    ],
)
def test_a_call_that_fails_is_one_sentence(call: list[str], said: str) -> None:
    with pytest.raises(CommandError, match=said):
        run(ENDPOINT, call)
