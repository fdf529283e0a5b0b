"""The local stack's AWS account and its stand-in for the plugin `aws`. The account's EKS cluster is the cluster of the tests."""

import base64
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from pulumi.runtime.proto import provider_pb2_grpc

from local import aws_account
from local.aws_account import server
from local.plugins.aws.aws_provider import Aws
from local.plugins.aws.lookups import get_cluster
from local.plugins.provider_base import Properties
from local.plugins.provider_service import Servicer
from local.plugins.server import serve
from tests import ROOT
from tests.cluster.real_cluster import ClusterStack, kubectl

_ACCOUNT_PORT = 443
"""Port of the account. NetworkPolicies let pods reach AWS at this port alone, and some clusters enforce them."""


@dataclass(frozen=True)
class Account:
    """A running account."""

    pods: Mapping[str, str]
    """Environment of a pod that reaches it."""
    environment: Mapping[str, str]
    """Environment of a Pulumi command that reaches it, and logs in to the cluster as EKS wants it."""


@contextlib.contextmanager
def account(context: str, address: str, folder: Path) -> Iterator[Account]:
    """Run an account, empty but for its EKS cluster.

    Args:
        context: context of the kubeconfig for the cluster.
        address: address of this machine that pods reach.
        folder: folder for its files, which exists.
    """
    cluster, token = _login(context)
    _script(folder / "aws", json.dumps(token))
    ports = _ACCOUNT_PORT, _free_port("127.0.0.1")
    endpoint = f"http://{address}:{ports[0]}"
    credentials = aws_account.credentials(endpoint)
    programs = [
        ("account", address, str(ports[0]), str(folder / "journal")),
        ("plugin", str(ports[1]), cluster["server"], cluster["certificate-authority-data"]),
    ]
    with contextlib.ExitStack() as running:
        for program in programs:
            log = running.enter_context((folder / f"{program[0]}.log").open("wb"))
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.cluster.account", *program],
                cwd=ROOT,
                env={**os.environ, **credentials},
                stdout=log,
                stderr=log,
            )
            running.callback(process.wait)
            running.callback(process.kill)
        for host, port in ((address, ports[0]), ("127.0.0.1", ports[1])):
            _wait(host, port)
        yield Account(
            pods={name: value for name, value in credentials.items() if os.devnull not in value},
            environment={
                **credentials,
                # The stand-in writes down there which role a service account has.
                "MLFLOW_EKS_STACK_DIR": str(folder),
                "PULUMI_DEBUG_PROVIDERS": f"aws:{ports[1]}",
                "PATH": f"{folder}:{os.environ['PATH']}",
            },
        )


def reaches_the_account(site: ClusterStack, account: Account, workload: str, container: str) -> None:
    """Give the pods of a workload the variables that EKS Pod Identity gives to new pods."""
    variables = [f"{name}={value}" for name, value in account.pods.items()]
    site.kubectl("-n", "mlflow", "set", "env", workload, "-c", container, *variables)


def _login(context: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Return a context's cluster, and what `aws eks get-token` would print for it."""
    view = kubectl(context, "config", "view", "--raw", "--minify", "--flatten", "-o", "json").stdout
    config = json.loads(view)
    user = config["users"][0]["user"]
    status = {"token": user.get("token")}
    if "client-key-data" in user:
        pair = {"clientCertificateData": "client-certificate-data", "clientKeyData": "client-key-data"}
        status = {name: base64.b64decode(user[key]).decode() for name, key in pair.items()}
    token = {"apiVersion": "client.authentication.k8s.io/v1beta1", "kind": "ExecCredential", "status": status}
    return config["clusters"][0]["cluster"], token


def _script(file: Path, said: str) -> None:
    """Write an `aws` command that always prints the same."""
    file.touch(mode=0o700)
    file.write_text(f"#!/bin/sh\ncat <<'END'\n{said}\nEND\n")


def _free_port(address: str) -> int:
    with socket.create_server((address, 0)) as listener:
        return listener.getsockname()[1]


def _wait(host: str, port: int) -> None:
    for attempt in range(360):
        with contextlib.suppress(OSError):
            socket.create_connection((host, port), timeout=10).close()
            return
        time.sleep(0.5)
        assert attempt < 359, f"nothing listens on {host}:{port}"


class _WithCluster(Aws):
    """The stand-in, with another cluster's address behind the account's EKS cluster."""

    def __init__(self, endpoint: str, authority: str) -> None:
        super().__init__()

        def found(arguments: Properties) -> Properties:
            return {**get_cluster(arguments), "endpoint": endpoint, "certificateAuthorities": [{"data": authority}]}

        self.functions["aws:eks/getCluster:getCluster"] = found


def _main(program: str, *words: str) -> None:
    if program == "account":
        aws_account.ADDRESS, port, journal = words
        server.main(int(port), Path(journal))
        return
    port, endpoint, authority = words
    plugin = Servicer(partial(_WithCluster, endpoint, authority))
    kept = serve(int(port), partial(provider_pb2_grpc.add_ResourceProviderServicer_to_server, plugin))
    Event().wait()
    del kept


if __name__ == "__main__":
    _main(*sys.argv[1:])
