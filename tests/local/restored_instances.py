"""The ``aws`` command of a local stack for restores: the account makes the instance, and this its server, from the data of the source.

RDS makes both. The local account has the description only, because the program itself restores nothing.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import psycopg

from local import aws_account, paths
from local.aws_account.command import run
from local.plugins.aws.database_server import DatabaseServer
from local.supervisor.client import Supervisor

PARAMETERS = {"rds.force_ssl": "1"}


def folder(name: str) -> Path:
    return paths.stack_dir() / "postgres" / name


def copy(source: str, name: str, version: str) -> None:
    """Copy the data of a running server, as its manual says for backups, and start a server on the copy."""
    connection = psycopg.connect(
        host="127.0.0.1",
        port=DatabaseServer(source).port,
        user="rdsadmin",
        password=(folder(source) / "rdsadmin-password").read_text(),
        dbname="postgres",
        sslmode="require",
        autocommit=True,
    )
    connection.execute("SELECT pg_backup_start('copy', true)")
    shutil.copytree(folder(source), folder(name), ignore=shutil.ignore_patterns("postmaster.pid", "pg_wal"))
    stopped = connection.execute("SELECT labelfile FROM pg_backup_stop(false)").fetchone()
    shutil.copytree(folder(source) / "data" / "pg_wal", folder(name) / "data" / "pg_wal")
    assert stopped is not None
    (folder(name) / "data" / "backup_label").write_text(stopped[0])
    owner = folder(source).stat()
    for path in (folder(name), *folder(name).rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)
    DatabaseServer(name).start(PARAMETERS, version)


def move(old: str, new: str, version: str) -> None:
    Supervisor(paths.stack_dir()).delete(f"rds-{old}")
    folder(old).rename(folder(new))
    DatabaseServer(new).start(PARAMETERS, version)


def aws(arguments: list[str]) -> str:
    endpoint = f"http://{aws_account.ADDRESS}:{Supervisor(paths.stack_dir()).free_port(aws_account.PROCESS)}"
    answer = json.loads(run(endpoint, arguments))
    given = dict(zip(arguments, [*arguments[1:], ""], strict=True))
    instance = answer.get("DBInstance", {})
    match arguments[1]:
        case "restore-db-instance-to-point-in-time":
            copy(given["--source-db-instance-identifier"], instance["DBInstanceIdentifier"], instance["EngineVersion"])
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
