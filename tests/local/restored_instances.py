"""The ``aws`` command of a local stack for restores: the account makes the instance, and this its server, from the data of the source.

RDS makes both. The local account has the description only, because the program itself restores nothing. For the same reason a snapshot is a
description, so a test that wants an older moment backs the data up itself: ``back-up INSTANCE``. The next copy is made of this.
"""

import json
import os
import shutil
import sys
from pathlib import Path

from local import aws_account, paths
from local.aws_account.command import run
from local.plugins.aws.database_server import DatabaseServer
from local.stack import PYTHON, LocalStack
from local.supervisor.client import Supervisor
from tests import ROOT
from tests.local.docs_shell import Shell

AWS = f"{PYTHON} -m tests.local.restored_instances"
PARAMETERS = {"rds.force_ssl": "1"}


def make_restore(stack: LocalStack, what: str, *options: str) -> str:
    """Run a command of `operations/restore` as `make` does, and return what a person sees."""
    line = f'{PYTHON} -m operations.restore.{what} --pulumi "{PYTHON} -m local pulumi" --aws "{AWS}" {" ".join(options)} local'
    return Shell(stack).run(f"cd {ROOT}", line).stdout


def keep_a_backup(stack: LocalStack) -> None:
    """Back up the data of a stack's server as it is now."""
    Shell(stack).run(f"cd {ROOT}", f"{AWS} back-up {stack.resources()['postgres-instance']['inputs']['identifier']}")


def folder(name: str) -> Path:
    return paths.stack_dir() / "postgres" / name


def back_up(source: str, name: str) -> None:
    """Copy the data of a running server, as its manual says for backups."""
    with DatabaseServer(source).rdsadmin() as connection:
        connection.execute("SELECT pg_backup_start('copy', true)")
        shutil.copytree(folder(source), folder(name), ignore=shutil.ignore_patterns("postmaster.pid", "pg_wal"))
        stopped = connection.execute("SELECT labelfile FROM pg_backup_stop(false)").fetchone()
    shutil.copytree(folder(source) / "data" / "pg_wal", folder(name) / "data" / "pg_wal")
    assert stopped is not None
    (folder(name) / "data" / "backup_label").write_text(stopped[0])
    owner = folder(source).stat()
    for path in (folder(name), *folder(name).rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)


def restore(source: str, name: str, version: str) -> None:
    """Start a server on what a test has backed up, or else on a copy of the data as it is."""
    kept = folder(f"{source}-backup")
    if kept.exists():
        kept.rename(folder(name))
    else:
        back_up(source, name)
    DatabaseServer(name).start(PARAMETERS, version)


def move(old: str, new: str, version: str) -> None:
    Supervisor(paths.stack_dir()).delete(f"rds-{old}")
    folder(old).rename(folder(new))
    DatabaseServer(new).start(PARAMETERS, version)


def aws(arguments: list[str]) -> str:
    if arguments[0] == "back-up":
        back_up(arguments[1], f"{arguments[1]}-backup")
        return ""
    endpoint = f"http://{aws_account.ADDRESS}:{Supervisor(paths.stack_dir()).free_port(aws_account.PROCESS)}"
    answer = json.loads(run(endpoint, arguments))
    given = dict(zip(arguments, [*arguments[1:], ""], strict=True))
    instance = answer.get("DBInstance", {})
    match arguments[1]:
        case "restore-db-instance-to-point-in-time":
            restore(
                given["--source-db-instance-identifier"], instance["DBInstanceIdentifier"], instance["EngineVersion"]
            )
        case "restore-db-instance-from-db-snapshot":
            asked = ["rds", "describe-db-snapshots", "--db-snapshot-identifier", given["--db-snapshot-identifier"]]
            (snapshot,) = json.loads(run(endpoint, asked))["DBSnapshots"]
            restore(snapshot["DBInstanceIdentifier"], instance["DBInstanceIdentifier"], instance["EngineVersion"])
        case "modify-db-instance" if "--new-db-instance-identifier" in given:
            move(given["--db-instance-identifier"], given["--new-db-instance-identifier"], instance["EngineVersion"])
        case "delete-db-instance":
            DatabaseServer(given["--db-instance-identifier"]).remove()
    for found in answer.get("DBInstances", []):
        if DatabaseServer(found["DBInstanceIdentifier"]).exists:
            found["Endpoint"] = {"Address": "127.0.0.1", "Port": DatabaseServer(found["DBInstanceIdentifier"]).port}
    return json.dumps(answer)


if __name__ == "__main__":
    try:
        print(aws(sys.argv[1:]))
    except Exception as error:
        raise SystemExit(str(error)) from None
