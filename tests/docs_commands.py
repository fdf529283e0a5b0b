"""The commands in README and docs, and a table of those that a test runs."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from tests import ROOT

PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "examples/README.md",
    "local/README.md",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")),
]
SHELL = {"", "console", "sh", "shell", "bash"}

RUN = {
    ("README.md", "make up"),
    ("README.md", "pulumi stack init"),
    ("README.md", "pulumi new"),
    ("docs/alerts.md", "awk"),
    ("docs/alerts.md", "cut"),
    ("docs/alerts.md", "pg_stat_activity"),
    ("docs/alerts.md", "SELECT now()"),
    ("docs/backup-and-restore.md", "postgres.existing.host"),
    ("docs/backup-and-restore.md", "pg_dump"),
    ("docs/first-stack.md", "pulumi stack init"),
    ("docs/first-stack.md", "output adminPassword"),
    ("docs/first-stack.md", "output client"),
    ("docs/from-the-guide.md", "pulumi import"),
    ("docs/keys.md", "rotate-kek"),
    ("docs/lost-state.md", "jq"),
    ("docs/lost-state.md", "preview --import-file"),
    ("docs/lost-state.md", "import --file lost.json"),
    ("docs/reaching-the-database.md", "database.adminAddress"),
    ("docs/rotation.md", "rotation' 1"),
    ("docs/rotation.md", "rotation' 3"),
    ("docs/rotation.md", "make rotate-admin"),
    ("docs/stuck-states.md", "make unstick"),
    ("docs/upgrade-postgresql.md", "applyImmediately' true"),
    ("docs/upgrade-postgresql.md", "jq --arg"),
    ("docs/upgrade.md", "kubectl -n mlflow scale"),
    ("docs/upgrade.md", "mlflow.image.tag"),
    ("docs/upgrade.md", "psql"),
    ("docs/upgrade.md", "pg_restore"),
    ("docs/users-and-permissions.md", "make user STACK=dev NAME=alice"),
    ("docs/users-and-permissions.md", "make new-password"),
    ("docs/users-and-permissions.md", "make team"),
    ("docs/users-and-permissions.md", "USERS=carol"),
    ("docs/users-and-permissions.md", "> ci-churn.env"),
    ("docs/users-and-permissions.md", "make remove-user"),
    ("docs/users-and-permissions.md", "operations.people"),
    ("local/README.md", "make status"),
}
"""Page and a word of a block. The tests in tests/local run the block's commands, except those in NOT_RUN."""

PROGRAMS = (
    *(
        "make ",
        "pulumi ",
        "python ",
        ".venv/bin/python ",
        "eval ",
        "kubectl ",
        "psql ",
        "pg_dump ",
        "pg_restore ",
        "jq ",
    ),
)
"""Programs of the shell in those tests. A command with another program cannot be run."""

NOT_RUN = {
    ("README.md", "git clone"): "needs the address of a repository",
    ("README.md", "python3 -m venv"): "minutes of downloads; `make` installs the same pins",
    (
        "README.md",
        "make doctor",
    ): "needs an AWS account; tests/operations/test_doctor.py has one that answers from a table",
    ("README.md", "make verify"): "needs a site with a name; tests/local/test_day_two.py runs it on the local stack",
    ("README.md", "pulumi up"): "needs an AWS account; `make up` is the same program on the local stack",
    ("CONTRIBUTING.md", "git clone"): "needs the address of a repository",
    ("CONTRIBUTING.md", "make check"): "is what runs beside this test in CI",
    ("CONTRIBUTING.md", "make unit"): "is what runs this test",
    ("CONTRIBUTING.md", "make up"): "run from README.md",
    ("CONTRIBUTING.md", "uv tool run zizmor"): "`make check` runs it, and the versions are compared",
    ("CONTRIBUTING.md", "go run"): "`make check` runs it, and the versions are compared",
    ("examples/README.md", "cp examples/"): "as for README.md; tests/unit/test_examples.py previews each file",
    ("examples/README.md", "pulumi stack init"): "as for docs/first-stack.md",
    ("examples/README.md", "pulumi preview"): "needs an AWS account; tests/unit/test_examples.py previews each file",
    ("local/README.md", "make up"): "run from README.md",
    ("local/README.md", "make logs"): "follows the logs until Ctrl-C",
    ("local/README.md", "make down"): "run from README.md",
    **dict.fromkeys(
        [
            ("docs/alerts.md", f"kubectl {rest}")
            for rest in ("-n mlflow", "-n haproxy get", "-n haproxy describe", "get")
        ],
        "the local stack has no API server",
    ),
    ("docs/alerts.md", "make watch"): "needs an API server; tests/operations/test_release_watch.py has one",
    ("docs/alerts.md", "make verify"): "as for README.md",
    (
        "docs/backup-and-restore.md",
        "aws rds",
    ): "the local account has no snapshots; compared with the API's description",
    ("docs/backup-and-restore.md", "make drill"): "tests/local/test_restore.py runs what it runs",
    ("docs/backup-and-restore.md", "make restore"): "tests/local/test_restore.py runs what it runs",
    ("docs/backup-and-restore.md", "make verify"): "as for README.md",
    ("docs/backup-and-restore.md", "pulumi up --refresh"): "tests/local/test_restore.py runs it",
    ("docs/backup-and-restore.md", "aws ec2"): "compared with the API's description",
    ("docs/backup-and-restore.md", "read -rs"): "asks for a password that only `aws rds` takes",
    (
        "docs/backup-and-restore.md",
        "pulumi config rm",
    ): "the local stack has no section `postgres`; the settings that follow are accepted without it",
    (
        "docs/deployments.md",
        "make bootstrap",
    ): "needs an AWS account; tests/operations/test_bootstrap.py runs it on moto's",
    (
        "docs/deployments.md",
        ".venv/bin/python -m operations.plugins",
    ): "downloads plugins; tests/operations/test_plugins.py has a CLI that writes files",
    ("docs/first-stack.md", "make bootstrap"): "as for docs/deployments.md",
    ("docs/first-stack.md", "aws eks update-kubeconfig"): "writes ~/.kube/config; no command of a test reads it",
    ("docs/first-stack.md", "git clone"): "needs the address of a repository",
    ("docs/first-stack.md", "aws s3api"): "compared with the API's description",
    ("docs/first-stack.md", "pulumi destroy"): "needs an AWS account; `make down` does the same on the local stack",
    ("docs/first-stack.md", "pulumi stack rm"): "as for `pulumi destroy`",
    ("docs/first-stack.md", "python3 -m venv"): "as for README.md",
    (
        "docs/first-stack.md",
        "pulumi stack output dnsRecordToCreate",
    ): "the local stack's host, localhost, has no record; tests/unit/test_dns_record.py has the output",
    ("docs/first-stack.md", "pulumi login s3:"): "needs a bucket on AWS; the state is in a folder here",
    ("docs/first-stack.md", "aws kms"): "the test makes this key through the API; compared with the API's description",
    ("docs/first-stack.md", "make doctor"): "as for README.md",
    ("docs/first-stack.md", "make cost"): "asks nobody; tests/operations/test_cost.py has its figures",
    ("docs/first-stack.md", "make verify"): "as for README.md",
    ("docs/first-stack.md", "pulumi up"): "as for README.md",
    ("docs/iam.md", "make iam-policies"): "tests/unit/test_iam.py runs the command behind it",
    ("docs/iam.md", "aws iam"): "compared with the API's description",
    ("docs/iam.md", "aws eks"): "compared with the API's description",
    ("docs/iam.md", "gh api"): "needs GitHub",
    ("docs/keys.md", "kubectl -n mlflow get secret"): "the same command as in docs/upgrade.md, for another Secret",
    ("docs/keys.md", "openssl rand"): "the test takes another random text",
    ("docs/keys.md", "pulumi up && kubectl"): "no pod of the local stack restarts without another release",
    ("docs/lost-state.md", "aws s3api"): "the state is in a folder here; compared with the API's description",
    ("docs/ldap.md", "LDAPTLS_CACERT"): "needs a directory; tests/local_ldap logs in to one where slapd is installed",
    ("docs/single-sign-on.md", "kcadm.sh"): "was run with Keycloak 26.7.3; tests/keycloak imports a realm",
    ("docs/single-sign-on.md", "ID=$(kcadm.sh"): "as for kcadm.sh",
    ("docs/single-sign-on.md", "M=$(kcadm.sh"): "as for kcadm.sh",
    ("docs/single-sign-on.md", "make doctor"): "as for README.md",
    ("docs/single-sign-on.md", "pulumi up"): "as for README.md; tests/keycloak runs it with this login",
    ("docs/reaching-the-database.md", "curl"): "needs the internet",
    (
        "docs/reaching-the-database.md",
        "pulumi config set --path 'mlflow-eks:database.caFile'",
    ): "needs that file; tests/local/test_false_database.py has another one",
    (
        "docs/private-registry.md",
        "pulumi config set",
    ): "needs a registry; the values are compared with the charts' images",
    ("docs/from-the-guide.md", "kubectl -n mlflow"): "needs a second MLflow that was made by hand",
    ("docs/from-the-guide.md", "mlflow artifacts"): "needs the artifacts of that MLflow",
    **dict.fromkeys(
        [("docs/from-the-guide.md", start) for start in ("pg_dump", "psql", "pg_restore")],
        "needs the database of that MLflow; docs/upgrade.md has the same programs with the same options",
    ),
    ("docs/private-registry.md", "aws eks update-kubeconfig"): "as for docs/first-stack.md",
    ("docs/private-registry.md", "kubectl"): "no kubelet pulls an image here",
    ("docs/private-registry.md", "PULUMI_K8S_UPSERT_EXISTING_OBJECTS"): "needs the real provider and an API server",
    ("docs/users-and-permissions.md", "kubectl create secret"): "the local stack has no API server",
    ("docs/users-and-permissions.md", "rm ci-churn.env"): "the test has the file in a folder of its own",
    (
        "docs/use-a-component.md",
        ".venv/bin/pip install",
    ): "needs a network; tests/unit/test_wheel.py installs the same folder without one",
    (
        "docs/use-a-component.md",
        "pulumi ",
    ): "needs a PostgreSQL of others; tests/unit/test_wheel.py runs the program with the same settings",
    (
        "docs/tls-and-dns.md",
        "pulumi config",
    ): "a ClusterIssuer or a certificate of the page's account; the values are checked as settings",
    ("docs/tls-and-dns.md", "pulumi up"): "as for README.md",
    ("docs/tls-and-dns.md", "kubectl -n mlflow create secret tls"): "tests/local_cluster has such a Secret",
    ("docs/tls-and-dns.md", "kubectl -n mlflow get certificate"): "the local stack has no API server",
    ("docs/tls-and-dns.md", "kubectl -n mlflow describe"): "the local stack has no API server",
    ("docs/tls-and-dns.md", "pulumi stack output dnsRecordToCreate"): "as for docs/first-stack.md",
    ("docs/tls-and-dns.md", "dig"): "the local stack has no DNS",
    ("docs/tls-and-dns.md", "curl"): "needs a name in DNS",
    ("docs/reaching-the-database.md", "aws ec2"): "compared with the API's description",
    ("docs/reaching-the-database.md", "aws ssm"): "needs an instance; a forwarded port stands in for the tunnel",
    ("docs/upgrade-postgresql.md", "aws rds"): "compared with the API's description; tests/local makes the same calls",
    ("docs/upgrade-postgresql.md", "INSTANCE="): "the test asks for the name itself",
    ("docs/upgrade-postgresql.md", "rm state.json"): "the test has the files in a folder of its own",
    ("docs/tls-and-dns.md", "aws elbv2"): "compared with the API's description",
    ("docs/retention.md", "kubectl"): "the local stack starts no CronJob; tests/local/test_clean_up.py runs its pod",
    ("docs/stuck-states.md", "aws rds"): "compared with the API's description",
    ("docs/stuck-states.md", "aws resourcegroupstaggingapi"): "compared with the API's description",
    ("docs/stuck-states.md", "aws eks"): "compared with the API's description",
    ("docs/stuck-states.md", "kubectl"): "the local stack has no cert-manager and no API server",
}
"""Page and beginning of a command, to the reason why no test runs it."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    language: str
    text: str

    def commands(self) -> list[str]:
        """Return the commands without prompts, each with its continuation lines and its here-document."""
        if self.language not in SHELL:
            return []
        commands: list[str] = []
        open_until = ""
        for line in self.text.splitlines():
            if open_until or (commands and commands[-1].endswith("\\")):
                commands[-1] += f"\n{line}"
                open_until = "" if line == open_until else open_until
                continue
            commands.append(line.removeprefix("$ "))
            document = re.search(r"<<'(\w+)'$", line)
            open_until = document[1] if document else ""
        return commands

    def to_run(self) -> list[str]:
        """Return the commands that can be run here."""
        return [command for command in self.commands() if not reason(self.page, command)]


def blocks(page: str) -> list[Block]:
    """Return all fenced blocks of a page."""
    fence = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return [Block(page, language, text) for language, text in fence.findall((ROOT / page).read_text())]


def block(page: str, word: str) -> Block:
    """Return the only block of a page with this word. RUN must contain it."""
    assert (page, word) in RUN, f"{page}, {word}: add it to RUN in tests/docs_commands.py"
    (only,) = [one for one in blocks(page) if one.commands() and word in one.text]
    return only


def reason(page: str, command: str) -> str:
    """Return the reason why a command is not run, or an empty text."""
    return next((why for (where, start), why in NOT_RUN.items() if where == page and command.startswith(start)), "")


def prose(page: str) -> str:
    """Return a page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)


def all_commands(page: str) -> Iterator[str]:
    """Return the commands in fenced blocks, in comments of settings and between backticks, without here-documents."""
    programs = r"(?:make|pulumi|kubectl|helm|aws|python|eval|pg_dump|uv|\.venv/\S+) "
    for one in blocks(page):
        for command in one.commands():
            yield from re.split(r" && ", re.sub(r"<<'(\w+)'\n.*", "", command, flags=re.DOTALL))
        if one.language == "yaml":
            yield from re.findall(rf"# ({programs}.*)", one.text)
    yield from re.findall(rf"`({programs}[^`]+)`", prose(page).replace("\n", " "))


def words(command: str) -> list[str]:
    """Return the words of a command as the shell splits it, without comments."""
    return shlex.split(command.replace("\\\n", " "), comments=True)
