"""A sweep of faults, one at every operation of an `up`. After each, a plain `make up` must complete the stack.

The result must equal that of an undisturbed `up`.

    python -m tests.local.faults                                      # everything; hours
    python -m tests.local.faults --phase up --kind error --every 5    # the 1st, 6th, 11th … operation of a first `up`
    python -m tests.local.faults --minutes 40                         # as much of it as fits, spread evenly

The results are in artifacts/faults.json, from which the next call continues, and in artifacts/faults.md.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import boto3
import psycopg

from components.mlflow_release.names import ADMIN_SECRET, DATABASE_SECRET
from local import aws_account, paths
from local.cluster.objects import Objects
from local.stack import LocalStack, free_ports
from local.supervisor.client import Supervisor
from tests import ROOT

KINDS = ("error", "kill", "error-after", "kill-after", "lost")
PHASES = ("up", "rotate")
RESULTS = ROOT / "artifacts" / "faults.json"
REPORT = ROOT / "artifacts" / "faults.md"
NEVER = "0:error"
"""A fault that never happens. With it, operations are counted."""

View = Counter[str]
"""Everything that a stack consists of, one line each. Stacks that differ in generated values only have equal views."""

_SECRET = "4dabf18193072939515e22adb298388d"  # the engine's mark of a secret in its state
_GENERATED = (
    (r"\b(vpc|subnet|sg|sgr)-[0-9a-f]{17}\b", r"\1-*"),
    (r"\bmlflow-[0-9a-f]{10}-(\d+)\b", r"mlflow-*-\1"),
    (r"\b(a)-[0-9a-f]{16}\b", r"\1-*"),
    # Seven signs of a provider, eight of a RandomId.
    (r"(?<=[a-z])-[0-9a-f]{7,8}\b", "-*"),
    (r'("checksum/secrets": )"[0-9a-f]{16}"', r'\1"*"'),
    (r'"revision": \d+', '"revision": "*"'),
    (r"(sh\.helm\.release\.v1\.[\w-]+)\.v\d+", r"\1.v*"),
    (r'("status": "deployed", "version": )"\d+"', r'\1"*"'),
    # Ports that the supervisor assigns.
    (r"\b2\d{4}\b", "PORT"),
)


def view(stack: LocalStack, rotation: int = 0) -> View:
    """Return everything that a run can leave behind, read without the engine where possible.

    Args:
        stack: a stack that is deployed.
        rotation: the stack's `database.rotation`. A view does not depend on the number itself, so it is replaced.
    """
    lines = [*_state(stack), *_files(stack), *_objects(stack), *_account(stack), *_processes(stack), *_site(stack)]
    for server in sorted((stack.folder / "postgres").glob("*")):
        lines += _postgres(stack, server)
    turns = {f'"rotation": "{rotation - back}"': f'"rotation": "turn - {back}"' for back in range(3)}
    return Counter(_normalised(line, turns, stack.https_port) for line in lines)


def outside(stack: LocalStack) -> View:
    """Return everything of a stack except its state: in the cluster, in the account and in the supervisor."""
    return Counter([*_files(stack), *_objects(stack), *_account(stack), *_processes(stack)])


def differences(actual: View, expected: View) -> list[str]:
    """Return the lines that are extra and those that are missing."""
    extra, missing = actual - expected, expected - actual
    return [f"extra: {line}" for line in sorted(extra.elements())] + [
        f"missing: {line}" for line in sorted(missing.elements())
    ]


def _normalised(line: str, turns: Mapping[str, str], https_port: int) -> str:
    for old, new in turns.items():
        line = line.replace(old, new)
    line = re.sub(rf"\b{https_port}\b", "HTTPS", line)
    for pattern, replacement in _GENERATED:
        line = re.sub(pattern, replacement, line)
    return line


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        if _SECRET in value:
            return "a secret"
        return {key: _without_secrets(item) for key, item in value.items() if key != "kubeconfig"}
    return [_without_secrets(item) for item in value] if isinstance(value, list) else value


def _state(stack: LocalStack) -> Iterator[str]:
    file = stack.folder / "backend" / ".pulumi" / "stacks" / "mlflow-eks" / "local.json"
    latest = json.loads(file.read_text())["checkpoint"]["latest"]
    for operation in latest.get("pending_operations") or []:
        yield f"state: pending {operation['type']} of {operation['resource']['urn']}"
    for resource in latest["resources"]:
        kind, name = resource["type"], resource["urn"].rsplit("::", 1)[-1]
        odd = [mark for mark in ("delete", "initErrors", "pendingReplacement", "taint") if resource.get(mark)]
        yield f"state: {kind} {name} {_text(_without_secrets(resource.get('inputs')))} {odd or ''}"
        if kind == "pulumi:pulumi:Stack":
            yield f"state: outputs {sorted(resource['outputs'])}"


def _files(stack: LocalStack) -> Iterator[str]:
    for folder in ("backend/.pulumi/locks", "cluster/pods", "postgres", "supervisor/specs"):
        for file in (stack.folder / folder).glob("*"):
            if folder != "backend/.pulumi/locks" or list(file.rglob("*.json")):
                yield f"file: {folder}/{file.name}"


def _objects(stack: LocalStack) -> Iterator[str]:
    for file in (stack.folder / "cluster" / "objects").rglob("*.json"):
        item = json.loads(file.read_text())
        item["metadata"] = {
            name: value for name, value in item["metadata"].items() if name not in {"uid", "creationTimestamp"}
        }
        if item["metadata"].get("labels", {}).get("status") in {"superseded", "failed"}:
            # Helm's memory of earlier revisions.
            continue
        if item["kind"] == "Secret":
            item["data"] = sorted(item["data"])
        item.pop("stringData", None)
        yield f"object: {_text(item)}"


def _account(stack: LocalStack) -> Iterator[str]:
    keys = {"aws_access_key_id": "local", "aws_secret_access_key": "local", "region_name": aws_account.REGION}
    endpoint = f"http://127.0.0.1:{Supervisor(stack.folder).free_port(aws_account.PROCESS)}"

    def client(service: str) -> Any:
        return boto3.client(service, endpoint_url=endpoint, **keys)

    rds, ec2, iam, s3 = (client(service) for service in ("rds", "ec2", "iam", "s3"))
    for instance in rds.describe_db_instances()["DBInstances"]:
        yield f"aws: instance {instance['DBInstanceIdentifier']} {instance['DBInstanceStatus']}"
    for group in rds.describe_db_subnet_groups()["DBSubnetGroups"]:
        yield f"aws: subnet group {group['DBSubnetGroupName']}"
    for group in rds.describe_db_parameter_groups()["DBParameterGroups"]:
        name = group["DBParameterGroupName"]
        parameters = rds.describe_db_parameters(DBParameterGroupName=name, Source="user")["Parameters"]
        values = {item["ParameterName"]: item.get("ParameterValue") for item in parameters}
        yield f"aws: parameter group {name} {_text(values)}"
    for group in ec2.describe_security_groups()["SecurityGroups"]:
        yield f"aws: security group {group['GroupName']}"
    for rule in ec2.describe_security_group_rules()["SecurityGroupRules"]:
        yield f"aws: rule in {rule['GroupId']} {rule['IsEgress']} {rule['FromPort']}"
    for bucket in s3.list_buckets()["Buckets"]:
        yield f"aws: bucket {bucket['Name']}"
        for setting, member in {
            "public_access_block": "PublicAccessBlockConfiguration",
            "bucket_ownership_controls": "OwnershipControls",
            "bucket_encryption": "ServerSideEncryptionConfiguration",
            "bucket_versioning": "Status",
            "bucket_lifecycle_configuration": "Rules",
            "bucket_policy": "Policy",
        }.items():
            with contextlib.suppress(s3.exceptions.ClientError):
                answer = getattr(s3, f"get_{setting}")(Bucket=bucket["Name"])
                yield f"aws: {setting} of {bucket['Name']}: {_text(answer.get(member))}"
    for role in iam.list_roles()["Roles"]:
        name = role["RoleName"]
        yield f"aws: role {name}"
        for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]:
            yield f"aws: policy {policy} of {name}"
        for policy in iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]:
            yield f"aws: policy {policy['PolicyName']} attached to {name}"
    associations = stack.folder / "pod-identity.json"
    for association in json.loads(associations.read_text()).values() if associations.exists() else ():
        yield f"aws: pod identity {_text(association)}"


def _postgres(stack: LocalStack, server: Path) -> Iterator[str]:
    parameters: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": Supervisor(stack.folder).free_port(f"rds-{server.name}"),
        "user": "rdsadmin",
        "password": (server / "rdsadmin-password").read_text(),
        "sslmode": "require",
        "autocommit": True,
    }
    # Sort the privileges: PostgreSQL lists them in the order of the grants, which the engine makes in parallel.
    acl = "ARRAY(SELECT unnest({})::text ORDER BY 1)"
    of_server = {
        "role": """SELECT rolname, rolcanlogin, rolsuper, rolcreatedb, rolcreaterole, rolpassword IS NOT NULL, setconfig
            FROM pg_authid LEFT JOIN pg_db_role_setting ON setrole = pg_authid.oid WHERE rolname !~ '^pg_'""",
        "member": """SELECT pg_get_userbyid(roleid), pg_get_userbyid(member), admin_option, inherit_option, set_option,
            pg_get_userbyid(grantor) FROM pg_auth_members WHERE pg_get_userbyid(member) !~ '^pg_'""",
        "database": f"SELECT datname, pg_get_userbyid(datdba), {acl.format('datacl')} FROM pg_database",
    }
    of_database = {
        "schema": f"SELECT nspname, pg_get_userbyid(nspowner), {acl.format('nspacl')} FROM pg_namespace WHERE nspname !~ '^pg_'",
        "tables": "SELECT schemaname, tableowner, count(*) FROM pg_tables WHERE schemaname !~ '^pg_' GROUP BY 1, 2",
        "administrator": "SELECT username FROM mlflow.users WHERE is_admin",
    }
    for database, queries in {"postgres": of_server, "mlflow": of_database}.items():
        try:
            with psycopg.connect(dbname=database, **parameters) as connection:
                for kind, query in queries.items():
                    for row in connection.execute(query.encode()):
                        yield f"postgres: {kind} {row}"
        except psycopg.Error as error:
            yield f"postgres: {database}: {error}"


def _processes(stack: LocalStack) -> Iterator[str]:
    for status in Supervisor(stack.folder).list():
        yield f"process: {status.name} {'ready' if status.ready else 'not ready'}"
    # A plugin needs a moment to notice that its engine has ended.
    deadline = time.monotonic() + 20
    while (commands := list(strays(stack.folder))) and time.monotonic() < deadline:
        time.sleep(0.5)
    yield from (f"process: stray {command}" for command in commands)


def strays(folder: Path) -> Iterator[str]:
    """Return the commands of processes that belong to a stack and not to its supervisor."""
    parents: dict[int, int] = {}
    commands: dict[int, str] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            pid = int(process.name)
            parents[pid] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environment = (process / "environ").read_bytes().decode(errors="replace")
            if pid != os.getpid() and re.search(rf"{re.escape(str(folder))}(?![\w-])", command + environment):
                commands[pid] = command
    of_supervisor = {pid for pid, command in commands.items() if "local.supervisor" in command}
    for pid, command in commands.items():
        ancestor = pid
        while ancestor > 1 and ancestor not in of_supervisor:
            ancestor = parents.get(ancestor, 0)
        if ancestor not in of_supervisor:
            yield command


def _site(stack: LocalStack) -> Iterator[str]:
    try:
        admin, database = (secret_data(stack, name) for name in (ADMIN_SECRET, DATABASE_SECRET))
        page = stack.get("/", login=(admin["admin-user"], admin["admin-password"]))
        yield f"site: {page.status} with the password, {stack.get('/').status} without"
        yield f"site: MLflow's user is {database['username']}"
    except OSError as error:
        yield f"site: {error}"


def secret_data(stack: LocalStack, name: str) -> dict[str, str]:
    """Return the data of a Secret in MLflow's namespace."""
    return Objects(stack.folder / "cluster" / "objects").secret_data("mlflow", name)


@dataclass
class Round:
    """A fault and its result."""

    phase: str
    """Phase, one of PHASES."""
    kind: str
    """Kind of fault, one of KINDS."""
    number: int
    """Number of the operation, from 1. 0: the operation was chosen by a resource's name."""
    operation: str = ""
    """Type and name of the resource that the fault hit."""
    happened: bool = False
    """True if the command with the fault failed, as it must."""
    said: str = ""
    """End of the output of a command that behaved wrongly: the fault did not happen, or the next `up` failed."""
    differences: list[str] = field(default_factory=list)
    """Differences from an undisturbed stack after the next `up`."""
    seconds: int = 0
    """Seconds of both commands together."""

    @property
    def converged(self) -> bool:
        return self.happened and not self.said and not self.differences


def new_stack(name: str) -> LocalStack:
    """Return a stack that is not deployed yet, with its own folder and ports."""
    return LocalStack(paths.home() / "stacks" / f"{name}-{os.getpid()}", *free_ports())


def remove(stack: LocalStack) -> None:
    """Stop and delete a stack without the engine."""
    stack.command("down", "--force", ok=False)
    shutil.rmtree(stack.folder, ignore_errors=True)


def up_arguments(rotation: int) -> list[str]:
    """Return the arguments of `make up` with this `database.rotation`."""
    return ["up", "--config-path", "--config", f"mlflow-eks:database.rotation={rotation}"] if rotation else ["up"]


def operations(stack: LocalStack) -> list[str]:
    """Return the types and names of the resources that the last counted run acted on, in order."""
    file = stack.folder / "fault-count"
    return [urn.rpartition("$")[2] for urn in file.read_text().splitlines()[1:]] if file.exists() else []


def strike(stack: LocalStack, fault: str, rotation: int = 0) -> Round:
    """Run an `up` with a fault, which must make it fail."""
    place, _, kind = fault.rpartition(":")
    result = Round("rotate" if rotation else "up", kind, int(place) if place.isdigit() else 0)
    (stack.folder / "fault-count").unlink(missing_ok=True)
    failed = stack.command(*up_arguments(rotation), ok=False, MLFLOW_EKS_FAULT=fault)
    done = operations(stack)
    hit = [urn for urn in done if urn.rpartition("::")[2] == place] if result.number == 0 else done[result.number - 1 :]
    result.operation = hit[0] if hit else ""
    result.happened = failed.returncode != 0 and bool(hit)
    if not result.happened:
        result.said = _end_of(failed)
    return result


def _end_of(command: subprocess.CompletedProcess[str]) -> str:
    return "\n".join((command.stdout + command.stderr).strip().splitlines()[-25:])


def disturbed(stack: LocalStack, fault: str, expected: View, rotation: int = 0) -> Round:
    """Run an `up` with a fault and then one without, and compare the stack with the expected view."""
    started = time.monotonic()
    result = strike(stack, fault, rotation)
    again = stack.command(*up_arguments(rotation), ok=False)
    if again.returncode:
        result.said = _end_of(again)
    else:
        result.differences = differences(view(stack, rotation), expected)
    result.seconds = round(time.monotonic() - started)
    return result


class Sweep:
    """The rounds of all phases. A round of `up` has a new stack; rounds of `rotate` share one until a round fails."""

    def __init__(self) -> None:
        saved = (
            json.loads(RESULTS.read_text()) if RESULTS.exists() else {"expected": {}, "operations": {}, "rounds": []}
        )
        self.expected: dict[str, View] = {name: Counter(lines) for name, lines in saved["expected"].items()}
        self.operations: dict[str, int] = saved["operations"]
        self.rounds = [Round(**values) for values in saved["rounds"]]
        self.rotating: tuple[LocalStack, int] | None = None

    def is_done(self, phase: str, kind: str, number: int) -> bool:
        """Return True if this round has a result."""
        return any((done.phase, done.kind, done.number) == (phase, kind, number) for done in self.rounds)

    def prepare(self, phase: str) -> None:
        """Make undisturbed runs of a phase, and save their views and numbers of operations."""
        if phase in self.operations:
            return
        if phase == "up":
            stack = new_stack("faults")
            try:
                stack.command("up", MLFLOW_EKS_FAULT=NEVER)
                self.expected["up"], self.operations["up"] = view(stack), len(operations(stack))
            finally:
                remove(stack)
        else:
            stack = self._rotating_stack()
            # From the second rotation on, each login role has been active before, as in all later rotations.
            for rotation in (1, 2, 3):
                stack.command(*up_arguments(rotation), MLFLOW_EKS_FAULT=NEVER)
                self.expected[f"rotate {rotation % 2}"] = view(stack, rotation)
                self.operations["rotate"] = len(operations(stack))
                self.rotating = stack, rotation
        self.save()

    def run(self, phase: str, kind: str, number: int) -> Round:
        """Make one round and save its result."""
        if phase == "up":
            stack = new_stack("faults")
            try:
                result = disturbed(stack, f"{number}:{kind}", self.expected["up"])
            finally:
                remove(stack)
        else:
            stack = self._rotating_stack()
            rotation = self.rotating[1] + 1 if self.rotating else 1
            expected = self.expected[f"rotate {rotation % 2}"]
            result = disturbed(stack, f"{number}:{kind}", expected, rotation)
            self.rotating = stack, rotation
            if not result.converged:
                self.close()
        self.rounds.append(result)
        self.save()
        return result

    def close(self) -> None:
        """Remove the stack of the rotations."""
        if self.rotating:
            remove(self.rotating[0])
            self.rotating = None

    def save(self) -> None:
        """Write the results and the report."""
        RESULTS.parent.mkdir(exist_ok=True)
        values = {"expected": self.expected, "operations": self.operations}
        RESULTS.write_text(json.dumps({**values, "rounds": [asdict(done) for done in self.rounds]}, indent=1))
        REPORT.write_text(report(self.rounds, self.operations))

    def _rotating_stack(self) -> LocalStack:
        if self.rotating is None:
            stack = new_stack("faults-rotate")
            self.rotating = stack, 0
            stack.command("up")
        return self.rotating[0]


def spread(total: int, every: int) -> list[int]:
    """Return the numbers from 1 to `total` in steps of `every`. The order begins far apart and then fills the gaps."""
    numbers = list(range(1, total + 1, every))
    ordered: list[int] = []
    for step in (16, 8, 4, 2, 1):
        ordered += [number for number in numbers[::step] if number not in ordered]
    return ordered


def report(rounds: list[Round], totals: Mapping[str, int]) -> str:
    """Return the report as Markdown."""
    lines = ["# Faults", ""]
    lines += [f"An undisturbed `{phase}` has {total} operations." for phase, total in totals.items()]
    lines += ["", "| Phase | Kind | Tried | Converged |", "|---|---|---|---|"]
    for phase in PHASES:
        for kind in KINDS:
            tried = [done for done in rounds if (done.phase, done.kind) == (phase, kind)]
            if tried:
                lines.append(f"| {phase} | {kind} | {len(tried)} | {sum(done.converged for done in tried)} |")
    lines += ["", "| Phase | Kind | n | Operation | Seconds | Result |", "|---|---|---|---|---|---|"]
    for done in sorted(rounds, key=lambda done: (done.phase, done.kind, done.number)):
        problems = [*([] if done.happened else ["the fault did not happen"]), *done.said.splitlines()[-1:]]
        problems += [line[:160] for line in done.differences[:6]]
        result = "converged" if done.converged else "<br>".join(problems).replace("|", "\\|")
        lines.append(f"| {done.phase} | {done.kind} | {done.number} | {done.operation} | {done.seconds} | {result} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the sweep."""
    parser = argparse.ArgumentParser(prog="python -m tests.local.faults", description="Faults at every operation.")
    parser.add_argument("--phase", choices=PHASES, action="append", help="a first up, or a rotation; default: both")
    parser.add_argument("--kind", choices=KINDS, action="append", help="default: all")
    parser.add_argument("--every", type=int, default=1, help="distance between two operations; default: 1, all of them")
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="begin no round after that time; default: no limit"
    )
    options = parser.parse_args()
    end = time.monotonic() + options.minutes * 60
    sweep = Sweep()
    try:
        for phase in options.phase or PHASES:
            sweep.prepare(phase)
        todo = [
            (place, phase, kind, number)
            for phase in options.phase or PHASES
            for kind in options.kind or KINDS
            for place, number in enumerate(spread(sweep.operations[phase], options.every))
            if not sweep.is_done(phase, kind, number)
        ]
        # All kinds of fault at one number come before the next number.
        for _, phase, kind, number in sorted(todo, key=lambda item: item[0]):
            if time.monotonic() > end:
                break
            result = sweep.run(phase, kind, number)
            outcome = "converged" if result.converged else "DID NOT CONVERGE"
            print(f"{phase} {number}:{kind} {result.operation} {result.seconds} s: {outcome}", flush=True)
    finally:
        sweep.close()


if __name__ == "__main__":
    main()
