"""The plugin server: one process that holds the stand-ins of every plugin. The engines of all commands attach to it.

A preview without changes would spend most of its time on the start of plugins: gRPC, boto3 and the SDKs, in four
providers and the language host of every command. The supervisor runs this process, and a Pulumi command finds it
through PULUMI_DEBUG_PROVIDERS and PULUMI_DEBUG_LANGUAGES.
"""

import os
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event

import grpc
from pulumi.runtime.proto import language_pb2_grpc, provider_pb2_grpc

from local.plugins import language_host
from local.plugins.aws.aws_provider import Aws
from local.plugins.kubernetes import Kubernetes
from local.plugins.postgresql import PostgreSql
from local.plugins.provider_base import Provider
from local.plugins.provider_service import Servicer
from local.plugins.random import Random

_MAX_MESSAGE_BYTES = 400 * 1024 * 1024
"""Largest message in bytes, the engine's own limit. gRPC's default, 4 MiB, is too small for a large program's state."""
_THREADS = 64
"""Operations of one plugin that can run at once. Each blocks its thread: a release, for example, waits for its pods."""

PROVIDERS: Mapping[str, Callable[[], Provider]] = {
    Aws.package: Aws,
    Kubernetes.package: Kubernetes,
    PostgreSql.package: PostgreSql,
    Random.package: Random,
}
"""Package to the class of its stand-in."""


def serve(port: int, register: Callable[[grpc.Server], None]) -> grpc.Server:
    """Serve one plugin on a loopback port, as long as the caller keeps the server that this returns.

    Args:
        port: port to listen on. 0: any free port.
        register: function that adds the plugin's service to a server.
    """
    options = [
        ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
        # Without this, two servers can share a port, and each gets a part of the connections.
        ("grpc.so_reuseport", 0),
    ]
    server = grpc.server(ThreadPoolExecutor(max_workers=_THREADS), options=options)
    register(server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return server


def main(ports: dict[str, int]) -> None:
    """Serve every plugin until this process is killed.

    Args:
        ports: port of each package and of the language host, by name.
    """
    os.umask(0o022)
    language_host.load_sdks()
    servers: list[grpc.Server] = []
    for package, provider in PROVIDERS.items():
        add = partial(provider_pb2_grpc.add_ResourceProviderServicer_to_server, Servicer(provider))
        servers.append(serve(ports[package], add))
    # The supervisor takes the language host's port as the sign that all plugins are ready.
    add = partial(language_pb2_grpc.add_LanguageRuntimeServicer_to_server, language_host.Host())
    servers.append(serve(ports[language_host.RUNTIME], add))
    Event().wait()


if __name__ == "__main__":
    main({name: int(port) for name, _, port in (argument.partition(":") for argument in sys.argv[1:])})
