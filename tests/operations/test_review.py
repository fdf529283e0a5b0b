import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from operations.review.comment import HEADINGS, KEEPS_DATA, LESS_SAFE, LONGEST, MEANS, NO_WAY_BACK, SAVED, render
from operations.review.compare import differences
from operations.review.foreign import code
from operations.review.preview import QUIET, read
from operations.review.record import record

URN = "urn:pulumi:dev::mlflow-eks::mlflow-eks:index:PrivatePostgres$"
INSTANCE = "aws:rds/instance:Instance"
SNAPSHOT = "aws:rds/snapshot:Snapshot"
RELEASE = "kubernetes:helm.sh/v3:Release"
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"


def step(operation: str, kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {"op": operation, "urn": f"{URN}{kind}::{name}", **more}


def comment(*steps: dict[str, Any], **more: Any) -> str:
    return render("dev", json.dumps({"steps": steps, **more}))


def state(*, protect: bool = False, **inputs: Any) -> dict[str, Any]:
    return {"protect": protect, "inputs": inputs}


def replaced(*, before: bool, after: bool) -> list[dict[str, Any]]:
    """Return the steps of a replaced instance that is protected or not, before and after."""
    values = {
        "oldState": state(protect=before, storageEncrypted=False),
        "newState": state(protect=after, storageEncrypted=True),
        "replaceReasons": ["storageEncrypted"],
        "detailedDiff": {"storageEncrypted": {"kind": "update-replace"}},
    }
    operations = ("create-replacement", "replace", "delete-replaced")
    return [step(one, INSTANCE, "postgres-instance", **values) for one in operations]


def test_a_preview_without_changes_says_so() -> None:
    assert "Preview of `dev`: no changes" in comment(step("same", "aws:s3/bucket:Bucket", "b"))


def test_a_change_is_shown_from_old_to_new() -> None:
    markdown = comment(
        step(
            "update",
            INSTANCE,
            "postgres-instance",
            oldState=state(instanceClass="db.t3.micro"),
            newState=state(instanceClass="db.t3.small"),
            detailedDiff={"instanceClass": {"kind": "update", "inputDiff": False}},
        )
    )
    assert "1 changed" in markdown
    assert "`instanceClass`: `db.t3.micro` → `db.t3.small`" in markdown
    assert "CAUTION" not in markdown


def test_a_nested_value_is_found_by_its_path() -> None:
    def values(checksum: str, host: str) -> dict[str, Any]:
        return state(values={"podAnnotations": {"checksum/secrets": checksum}, "hosts": [{"host": host}]})

    markdown = comment(
        step(
            "update",
            "kubernetes:helm.sh/v3:Release",
            "mlflow-release",
            oldState=values("aa", "a"),
            newState=values(UNKNOWN, "b"),
            detailedDiff={
                'values.podAnnotations["checksum/secrets"]': {"kind": "update"},
                "values.hosts[0].host": {"kind": "update"},
            },
        )
    )
    assert "`aa` → known afterwards" in markdown
    assert "`values.hosts[0].host`: `a` → `b`" in markdown


def test_two_long_values_are_shown_where_they_differ() -> None:
    markdown = comment(
        step(
            "update",
            "aws:iam/rolePolicy:RolePolicy",
            "p",
            oldState=state(policy="x" * 500 + "s3:GetObject"),
            newState=state(policy="x" * 500 + "s3:*"),
            diffReasons=["policy"],
        )
    )
    assert "s3:GetObject` → " in markdown
    assert "s3:*`" in markdown


def test_a_replaced_database_comes_first_in_words_with_what_forces_it() -> None:
    markdown = comment(*replaced(before=False, after=False))
    assert markdown.count("[!CAUTION]") == 1
    assert "1 replaced" in markdown.splitlines()[1]
    alarm = "**Replaces the database server `postgres-instance`: all of MLflow's data is lost.** Forced by `storageEncrypted`: `false` → `true`."
    assert alarm in markdown
    assert "`storageEncrypted`: `false` → `true` **forces the replacement**" in markdown


def test_a_protected_database_is_said_to_be_refused_without_the_engines_advice_to_unprotect_it() -> None:
    advice = "unable to replace resource\nas it is currently marked for protection. To unprotect the resource, remove …"
    steps = replaced(before=True, after=True)
    markdown = comment(*steps, diagnostics=[{"severity": "error", "message": advice, "urn": steps[0]["urn"]}])
    assert "Preview of `dev`: refused" in markdown
    assert "It is protected, so `pulumi up` stops before it and nothing is lost." in markdown
    assert "data is lost.**" not in markdown
    assert "To unprotect" not in markdown


def test_a_protection_that_goes_in_the_same_step_protects_nothing() -> None:
    markdown = comment(*replaced(before=True, after=False))
    assert "all of MLflow's data is lost" in markdown
    assert "Its protection is taken away in the same step." in markdown


def test_a_deleted_protected_resource_is_refused_too() -> None:
    assert "refused" in comment(step("delete", "aws:s3/bucket:Bucket", "b", oldState=state(protect=True)))


def test_the_last_snapshot_of_a_deleted_database_is_named() -> None:
    markdown = comment(step("delete", INSTANCE, "i", oldState=state(finalSnapshotIdentifier="last-1")))
    assert "RDS keeps a last snapshot `last-1`" in markdown
    assert "last-1" not in comment(
        step("delete", INSTANCE, "i", oldState=state(finalSnapshotIdentifier="last-1", skipFinalSnapshot=True))
    )


@pytest.mark.parametrize(
    ("operations", "counted", "loses"),
    [
        (["create"], "1 created", False),
        (["update"], "1 changed", False),
        (["delete"], "1 deleted", True),
        (["replace"], "1 replaced", True),
        (["create-replacement"], "1 replaced", True),
        (["delete-replaced"], "1 deleted", True),
        (["create-replacement", "replace", "delete-replaced"], "1 replaced", True),
        (["read-replacement"], "1 replaced", True),
        (["import-replacement"], "1 replaced", True),
        (["import"], "1 imported", False),
        (["refresh-delete"], "1 gone", True),
        (["delete", "create"], "1 gone", True),
        (["refresh", "create"], "1 gone", True),
        (["refresh", "update"], "1 changed", False),
        (["remove-pending-replace"], "1 deleted already", True),
        (["discard"], "1 forgotten", False),
        (["discard-replaced"], "1 forgotten", False),
        (["forget"], "1 forgotten", False),
        (["update", "same"], "1 changed elsewhere", False),
        (["update", "update"], "1 changed elsewhere, 1 changed", False),
        (["a-new-one"], "1 unknown", False),
        *[([operation], "no changes", False) for operation in sorted(QUIET)],
    ],
)
def test_every_operation_of_the_engine_is_told(operations: list[str], counted: str, loses: bool) -> None:
    steps = [step(operation, INSTANCE, "i", oldState=state(x=1)) for operation in operations]
    markdown = comment(*steps)
    assert f"Preview of `dev`: {counted}\n" in markdown
    assert ("Data is lost" in markdown) is loses
    assert ("`a-new-one`" in markdown) is (operations == ["a-new-one"])


def test_a_change_that_somebody_made_elsewhere_is_shown_as_it_is_now() -> None:
    def log_group(operation: str, there: int) -> dict[str, Any]:
        old = {"inputs": {"retentionInDays": 30}, "outputs": {"retentionInDays": there}}
        return step(
            operation, "aws:cloudwatch/logGroup:LogGroup", "l", oldState=old, newState=state(retentionInDays=30)
        )

    markdown = comment(log_group("refresh", 30), {**log_group("update", 7), "diffReasons": ["retentionInDays"]})
    assert "`retentionInDays`: `7` → `30`" in markdown


@pytest.mark.parametrize(("chart", "said"), [("mlflow", True), ("kubernetes-ingress", False)])
def test_an_upgrade_that_migrates_the_tables_is_said_to_have_no_way_back(chart: str, said: bool) -> None:
    old, new = (state(chart=chart, version=version) for version in ("1.8.1", "1.11.5"))
    markdown = comment(
        step("update", "kubernetes:helm.sh/v3:Release", "r", oldState=old, newState=new, diffReasons=["version"])
    )
    assert ("- `r`, `version`: `1.8.1` → `1.11.5`. An MLflow that is older refuses the tables" in markdown) is said


@pytest.mark.parametrize("operations", [[], ["create"], ["create-replacement", "replace", "delete-replaced"]])
def test_an_upgrade_is_said_to_have_a_snapshot_if_the_preview_has_one(operations: list[str]) -> None:
    old, new = (state(chart="mlflow", version=version) for version in ("1.8.1", "1.11.5"))
    release = step("update", RELEASE, "r", oldState=old, newState=new, diffReasons=["version"])
    markdown = comment(*(step(one, SNAPSHOT, "s") for one in operations), release)
    assert f"has migrated. {SAVED[bool(operations)]}.\n" in markdown
    assert "Data is lost" not in markdown


def test_a_protection_that_goes_is_told_and_one_that_comes_is_not() -> None:
    def changed(old: bool, new: bool) -> str:
        values = {"oldState": state(forceDestroy=old), "newState": state(forceDestroy=new)}
        return comment(step("update", "aws:s3/bucket:Bucket", "b", **values, diffReasons=["forceDestroy"]))

    assert "### Less protected\n\n- `b`, `forceDestroy`: `false` → `true`. Its deletion takes" in changed(False, True)
    assert "Less protected" not in changed(True, False)


def test_a_rotated_password_is_a_replacement_without_harm() -> None:
    markdown = comment(step("replace", "random:index/randomPassword:RandomPassword", "p", replaceReasons=["keepers"]))
    assert "- `p` (`random:index/randomPassword:RandomPassword`): a new password is generated" in markdown


def test_what_only_leaves_the_state_is_no_loss() -> None:
    markdown = comment(step("delete", INSTANCE, "i", oldState={"retainOnDelete": True}))
    assert "CAUTION" not in markdown
    assert "stays where it is" in markdown


def test_the_cost_is_reckoned_from_both_states() -> None:
    def instance(zones: bool) -> dict[str, Any]:
        return state(instanceClass="db.t4g.micro", allocatedStorage=20, engineVersion="17.6", multiAz=zones)

    markdown = comment(
        step("update", INSTANCE, "i", oldState=instance(False), newState=instance(True), diffReasons=["multiAz"]),
        config={"aws:region": "eu-west-1"},
    )
    # 0.017 * 730 + 20 * 0.127, once more.
    assert "**+14.95 US dollars** a month" in markdown
    assert "in eu-west-1" in markdown


def test_what_the_instance_costs_now_counts_while_a_change_waits() -> None:
    inputs = {"instanceClass": "db.t4g.small", "allocatedStorage": 20, "engineVersion": "17"}
    outputs = {"instanceClass": "db.t4g.micro", "kmsKeyId": "of AWS", "allocatedStorage": 50}
    old = {"inputs": inputs, "outputs": outputs}
    markdown = comment(
        step("update", INSTANCE, "i", oldState=old, newState={"inputs": inputs}, diffReasons=["instanceClass"])
    )
    assert "`instanceClass`: `db.t4g.micro` → `db.t4g.small`" in markdown
    assert "**+11.68 US dollars**" in markdown


def test_a_class_without_a_price_is_no_cost_of_nothing() -> None:
    markdown = comment(step("create", INSTANCE, "i", newState=state(instanceClass="db.x9.huge", engineVersion="17")))
    assert "a price is not in the list" in markdown
    assert "no prices" not in comment(step("create", "aws:iam/role:Role", "r"))


def test_warnings_errors_and_what_waits_stand_apart() -> None:
    markdown = comment(
        diagnostics=[
            {"severity": "warning", "message": "<{%fg 3%}>ingress.plainHttp: in clear\n"},
            {"severity": "info", "message": "not of interest"},
            {
                "severity": "warning",
                "message": "<{%reset%}>warning: postgres.multiAz waits for the maintenance window\n",
            },
            {"severity": "error", "message": None},
        ]
    )
    assert "### Warnings\n\n- `ingress.plainHttp: in clear`\n" in markdown
    assert "### Maintenance\n\n- `postgres.multiAz waits for the maintenance window`\n" in markdown
    assert "not of interest" not in markdown
    assert "None" not in markdown


def test_a_warning_of_many_resources_stands_once() -> None:
    urns = [f"{URN}{INSTANCE}::i-{number}" for number in range(25)]
    warnings = [{"severity": "warning", "message": "not known", "urn": urn} for urn in urns]
    markdown = comment(diagnostics=[*warnings, *warnings])
    assert markdown.count("not known") == 1
    assert "  - for `i-0`, `i-1`," in markdown
    assert "`i-19` and 5 more\n" in markdown


def test_a_failed_preview_does_not_look_like_one_without_changes() -> None:
    told = ["postgres.engineVersion 29 is not offered\nwrite 18", "preview failed"]
    errors = [{"severity": "error", "message": message} for message in told]
    markdown = comment(diagnostics=errors)
    assert "Preview of `dev`: it failed" in markdown
    assert "- `postgres.engineVersion 29 is not offered`\n  - `write 18`" in markdown
    assert "`preview failed`" not in markdown
    assert "`preview failed`" in comment(diagnostics=errors[1:])
    assert "it failed" in render("dev", "{}", status=255)
    assert "it failed" in render("dev", "error: no stack")
    assert "[the log](https://github.com/a/b/actions/runs/1)" in render(
        "dev", "", "https://github.com/a/b/actions/runs/1"
    )


def test_a_masked_secret_stays_masked_and_an_unmasked_one_is_masked() -> None:
    secret = {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270", "plaintext": '"hunter2"'}
    markdown = comment(
        step(
            "update",
            "postgresql:index/role:Role",
            "r",
            oldState=state(password="[secret]", values={"a": [secret]}),
            newState=state(password="[secret]", values={"a": [secret, secret]}),
            diffReasons=["password", "values", "values.a[0]"],
        )
    )
    assert "`password`: another secret" in markdown
    assert "hunter2" not in markdown


def test_a_long_list_is_folded_and_the_comment_is_cut_between_entries() -> None:
    one = [step("create", "aws:iam/role:Role", f"role-{number}") for number in range(20)]
    markdown = comment(*one)
    assert "<summary><b>Created: 20</b></summary>\n\n- `aws:iam/role:Role`: `role-0`, `role-1`, `role-10`" in markdown
    many = [step("create", "aws:iam/role:Role", f"role-{number}" * 10) for number in range(5000)]
    markdown = comment(step("delete", INSTANCE, "i"), *many)
    assert len(markdown.encode()) <= LONGEST
    assert re.search(r"- … and \d+ more\n\n</details>\n$", markdown)
    assert "Deletes the database server" in markdown


steadily = settings(derandomize=True, deadline=None, max_examples=200)

FOREIGN = st.text(
    st.sampled_from("`\r\n\u2028\x85\x00\ud800\u202e# <>@!-[]()*_|\\~&$ax:.\"'/") | st.characters(), max_size=60
)
SPECIAL = st.sampled_from(
    [
        "</details>",
        "<!-- ",
        "\n## Preview of `prod`: no changes\n",
        "@everyone",
        "```",
        "a::b",
        "\r# b",
        "[a](http://a)",
    ]
)
TEXT = FOREIGN | SPECIAL | st.builds(str.__add__, FOREIGN, SPECIAL)
VALUE = st.recursive(
    TEXT | st.none() | st.booleans() | st.integers() | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
OPERATION = st.sampled_from(["create", "update", "delete", "replace", "forget", "remove-pending-replace"]) | TEXT
KINDS = st.sampled_from([f"{URN}{kind}::" for kind in (INSTANCE, "kubernetes:helm.sh/v3:Release")])
INPUTS = st.fixed_dictionaries(
    {"finalSnapshotIdentifier": TEXT, "instanceClass": TEXT, "engineVersion": st.just("17") | TEXT, "other": VALUE}
)
STATE = st.fixed_dictionaries({"inputs": INPUTS}, optional={"outputs": VALUE, "protect": st.booleans()})
STEP = st.fixed_dictionaries(
    {"op": OPERATION, "urn": st.builds(str.__add__, KINDS, TEXT) | TEXT},
    optional={
        "oldState": STATE,
        "newState": STATE,
        "replaceReasons": st.lists(TEXT, max_size=2),
        "diffReasons": st.lists(TEXT | st.just("other"), max_size=2),
        "detailedDiff": st.dictionaries(TEXT, st.just({"kind": "update-replace"}), max_size=3),
    },
)
SEVERITY = st.sampled_from(["error", "warning", "info"])
DIAGNOSTIC = st.fixed_dictionaries({"severity": SEVERITY, "message": TEXT, "urn": TEXT | st.just("")})
DIGEST = st.fixed_dictionaries(
    {
        "steps": st.lists(STEP, max_size=12),
        "diagnostics": st.lists(DIAGNOSTIC, max_size=3),
        "config": st.fixed_dictionaries({"aws:region": st.just("eu-west-1") | TEXT}),
    },
)
KEYS = st.sampled_from(["steps", "diagnostics", "config", "op", "urn", "oldState", "inputs", "detailedDiff", "message"])
ODD = st.recursive(VALUE, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=10)
COUNTS = r"\d+ [a-z ]+(, \d+ [a-z ]+)*"
LOST = "|".join(lost for _, lost in KEEPS_DATA.values())
# `X` is a code span.
OURS = [
    r"",
    r"<!-- mlflow-eks preview dev -->",
    rf"## Preview of X: (refused|it failed|no changes|{COUNTS})",
    rf"\*\*The preview failed\*\*, so this may not be all\.( Until then it has found: {COUNTS}\.)?",
    r"> \[!CAUTION\]",
    r"> \*\*(Data is lost|Refused: what would be deleted is protected)\.\*\*",
    rf"> - \*\*[A-Z][\w' ]+ X( is gone)?(, and an empty one is created)?(: ({LOST}))?\.\*\*( Forced by X: VALUE → VALUE\.)*"
    r"( It is protected, so X stops before it and nothing is lost\. Take back what causes it\.| Its protection is taken away in the same step\."
    r"| RDS keeps a last snapshot X\.| Its deletion protection is on, so RDS refuses until that is off\.)*",
    rf"### ({'|'.join([*map(re.escape, HEADINGS.values()), 'Errors', 'Warnings', 'Maintenance', 'Cost'])})".replace(
        "`up`", "X"
    ),
    rf"<summary><b>({'|'.join(HEADINGS.values())}): \d+</b></summary>",
    r"</?details>",
    r"- X( \(X\))?(, but the old one stays where it is|, because something that it depends on is replaced)?(: X(, X)*|MEANS)?",
    r"  - X(: (another secret|VALUE → VALUE)( \*\*forces the replacement\*\*)?)?",
    r"  - for X(, X)*( and \d+ more)?",
    r"(> |  )?- … and \d+ more( lines| values)?",
    r"\*\*[+-][\d,.]+ US dollars\*\* a month( and what has no price here)?, at list prices of 2026-11-29 in [a-z0-9-]+, in a quiet month: X has the "
    r"rest\.( There are none for X here\.)?",
    r"### (No way back without a backup|Less protected)",
    rf"- X, X: VALUE → VALUE\. ({'|'.join([*NO_WAY_BACK.values(), *LESS_SAFE.values()])})(\. ({'|'.join(SAVED.values())}))?\.",
    r"- X: ([\d,.]+ → [\d,.]+|a price is not in the list)",
]
WORDS = {"VALUE": "(X|nothing|known afterwards)", "MEANS": f": ({'|'.join(MEANS.values())})"}
OUR_LINE = re.compile(re.sub("VALUE|MEANS", lambda found: WORDS[found[0]], "|".join(f"({one})" for one in OURS)))


BAD = "\n## x `a` <img> @everyone </details>\r# b"
EVERYWHERE = {
    "config": {"aws:region": BAD},
    "diagnostics": [{"severity": severity, "message": BAD, "urn": BAD} for severity in ("error", "warning")],
    "steps": [
        {
            **step(operation, INSTANCE, BAD + operation),
            "oldState": {"inputs": {"finalSnapshotIdentifier": BAD, "instanceClass": BAD, BAD: BAD}},
            "newState": {"inputs": {"instanceClass": "db.t4g.micro", "engineVersion": "17", BAD: BAD + "!"}},
            "replaceReasons": [BAD],
            "diffReasons": ["instanceClass", BAD],
        }
        for operation in ("delete", "replace", "create", "update", BAD)
    ],
}
"""A preview with a text of others in every place that is shown."""


@steadily
@given(DIGEST)
@example(EVERYWHERE)
def test_no_text_of_others_stands_outside_a_code_span(digest: Any) -> None:
    markdown = render("dev", json.dumps(digest))
    assert len(markdown.encode()) <= LONGEST
    for line in re.sub(r"`[^`\n]+`", "X", markdown).split("\n"):
        assert OUR_LINE.fullmatch(line), line


@steadily
@given(st.dictionaries(KEYS, ODD) | ODD)
def test_a_preview_of_any_shape_gets_a_comment_and_a_record(digest: Any) -> None:
    text = json.dumps(digest)
    assert render("dev", text).startswith("<!-- mlflow-eks preview dev -->")
    assert list(differences(record("dev", "c", "t", read(text))["steps"], read(text))) == []


@steadily
@given(TEXT)
def test_a_code_span_holds(text: str) -> None:
    assert re.fullmatch(r"`[^`\r\n\x00-\x1f\u2028\u2029\x85]+`", code(text))


def test_a_text_of_70_000_characters_is_cut() -> None:
    assert len(code("x" * 70_000)) < 130
    assert len(comment(step("update", INSTANCE, "i", oldState=state(a="x" * 70_000), diffReasons=["a"]))) < 1000
    message = {"severity": "error", "message": "<img>`\r" * 10_000}
    assert len(comment(diagnostics=[message] * 10).encode()) <= LONGEST


def run(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"operations.review.{module}", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def written(folder: Path, name: str, *steps: dict[str, Any], **more: Any) -> Path:
    file = folder / name
    file.write_text(json.dumps({"steps": steps, **more}))
    return file


UPDATE = step(
    "update",
    INSTANCE,
    "i",
    oldState=state(instanceClass="db.t4g.micro"),
    newState=state(instanceClass="db.t4g.small"),
    diffReasons=["instanceClass"],
)


@pytest.fixture
def reviewed(tmp_path: Path) -> Path:
    create = step("create", "aws:iam/role:Role", "r", newState=state(path="/", __defaults=["name"], name="r-1234567"))
    done = run("record", "--stack", "dev", "--commit", "c1", "--tree", "t1", written(tmp_path, "a", UPDATE, create))
    assert done.returncode == 0
    file = tmp_path / "record.json"
    file.write_text(done.stdout)
    return file


def compared(record: Path, *steps: dict[str, Any], tree: str = "t1", stack: str = "dev", **more: Any) -> Any:
    file = written(record.parent, "b", *steps, **more)
    return run("compare", "--stack", stack, "--tree", tree, record, file)


def test_the_record_has_no_value_in_it(reviewed: Path) -> None:
    text = reviewed.read_text()
    assert "db.t4g" not in text
    assert json.loads(text)["steps"][1]["differs"] == ["instanceClass"]


def test_what_was_reviewed_may_be_done_all_or_in_part(reviewed: Path) -> None:
    again = step("create", "aws:iam/role:Role", "r", newState=state(path="/", __defaults=["name"], name="r-89abcde"))
    assert compared(reviewed, again, UPDATE, step("same", INSTANCE, "j")).returncode == 0
    part = compared(reviewed, again)
    assert part.returncode == 0
    assert "1 of the reviewed steps are not left to do" in part.stdout


@pytest.mark.parametrize(
    ("planned", "sentence"),
    [
        (step("delete", INSTANCE, "i"), "`delete` is planned, and `update` was reviewed."),
        (step("delete", INSTANCE, "j`"), "`delete` is planned, and nothing was reviewed."),
        (
            {**UPDATE, "newState": state(instanceClass="db.t4g.large")},
            "`instanceClass`: `db.t4g.micro` → `db.t4g.large` is planned, and another value was reviewed.",
        ),
        (
            {**UPDATE, "diffReasons": ["instanceClass", "multiAz"]},
            "`multiAz`: nothing → nothing is planned, and it did not differ in what was reviewed.",
        ),
        ({**UPDATE, "replaceReasons": ["instanceClass"]}, "`instanceClass` forces a replacement now"),
        (
            step("create", "aws:iam/role:Role", "r", newState=state()),
            "`path`: nothing → nothing is planned, and another",
        ),
        (
            step("create", "aws:iam/role:Role", "r", newState=state(path="/", policy="*")),
            "`policy`: nothing → `*` is planned, and another value was reviewed.",
        ),
    ],
)
def test_what_was_not_reviewed_stops_in_words(reviewed: Path, planned: dict[str, Any], sentence: str) -> None:
    done = compared(reviewed, planned)
    assert done.returncode == 3
    assert sentence in done.stdout


def test_another_stacks_or_trees_record_is_refused_in_a_sentence(reviewed: Path, tmp_path: Path) -> None:
    for done, sentence in [
        (compared(reviewed, UPDATE, stack="prod"), "The record is of the stack `dev`, and this is prod."),
        (compared(reviewed, UPDATE, tree="t2"), "Other files were reviewed than these: the record is of commit `c1`."),
        (compared(written(tmp_path, "c"), UPDATE), "cannot be read"),
        (compared(tmp_path / "none", UPDATE), "cannot be read"),
        (compared(reviewed, diagnostics=[{"severity": "error", "message": "x"}]), "The preview of dev failed"),
    ]:
        assert done.returncode == 2
        assert sentence in done.stdout
        assert done.stdout.count("\n") == 1


def test_a_failed_preview_is_not_recorded(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("error: no stack")
    done = run("record", "--stack", "dev", "--commit", "c", "--tree", "t", tmp_path / "a")
    assert (done.returncode, done.stdout) == (2, "")
