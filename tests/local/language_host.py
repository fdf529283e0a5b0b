"""The local stack's language host with the two answers that only `pulumi new` asks for: it has no options and installs nothing."""

from collections.abc import Iterator

import grpc
from pulumi.runtime.proto import language_pb2

from local.plugins import language_host


class Host(language_host.Host):
    def RuntimeOptionsPrompts(  # noqa: N802  (the protocol's name)
        self, request: language_pb2.RuntimeOptionsRequest, context: grpc.ServicerContext
    ) -> language_pb2.RuntimeOptionsResponse:
        return language_pb2.RuntimeOptionsResponse()

    def InstallDependencies(  # noqa: N802  (the protocol's name)
        self, request: language_pb2.InstallDependenciesRequest, context: grpc.ServicerContext
    ) -> Iterator[language_pb2.InstallDependenciesResponse]:
        return iter(())
