"""Requests that users make the server send go to public addresses only: those of webhooks and those of the gateway.

Each address is checked where the connection is made, so a name that resolves to another address later and a redirect
are checked, too. MLflow 3.7.0 has no such check, 3.15 has one for webhooks, and 3.17 has one for most of the gateway.

It runs in MLflow's pod, where `authorization.py` calls it.
"""
# The virtualenv of this checkout has none of these packages.
# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false

import functools
import ipaddress
import os
import socket

import requests
from mlflow.webhooks import delivery
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

INTERNAL = [ipaddress.ip_network(text) for text in os.environ.get("INTERNAL_NETWORKS", "").split(",") if text]
"""Networks of the cluster's VPC, which need not be private ones."""
NAT64 = ipaddress.ip_network("64:ff9b::/96")
"""Network in which a cluster without IPv4 finds every IPv4 address."""


class InternalAddressError(Exception):
    """A connection would lead to an address that is not public. No client tries again after an error that it does not know."""


def is_public(address: str) -> bool:
    """Return True for an address of the internet, and False for one of this machine, the cluster or its network."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip.version == 6:
        ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in NAT64 else ip.ipv4_mapped or ip.sixtofour or ip
    return ip.is_global and not any(ip in network for network in INTERNAL)


def _require_public(address: str) -> None:
    if not is_public(address):
        raise InternalAddressError(f"{address} is not a public address.")


class _Connection(HTTPConnection):
    """A connection that is closed before anything is sent where its other end is not public."""

    def _new_conn(self) -> socket.socket:
        connected = super()._new_conn()
        try:
            _require_public(connected.getpeername()[0])
        except BaseException:
            connected.close()
            raise
        return connected


class _TlsConnection(_Connection, HTTPSConnection):
    """The same with TLS."""


class _Connections(HTTPConnectionPool):
    ConnectionCls = _Connection  # pyright: ignore[reportAssignmentType]


class _TlsConnections(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection  # pyright: ignore[reportAssignmentType]


_plain_session = delivery._create_webhook_session


def _session() -> requests.Session:
    session = _plain_session()
    # With a proxy the other end would be the proxy's.
    session.trust_env = False
    for adapter in session.adapters.values():
        adapter.poolmanager.pool_classes_by_scheme = {"http": _Connections, "https": _TlsConnections}
    return session


def _socket(address: tuple) -> socket.socket:
    """Return a socket for an address of `getaddrinfo`, which aiohttp then connects."""
    family, kind, protocol, _, (host, *_) = address
    _require_public(host)
    return socket.socket(family, kind, protocol)


def guard_webhooks() -> None:
    """Let webhooks lead to public addresses only."""
    delivery._create_webhook_session = _session


def guard_gateway() -> None:
    """Let the gateway lead to public addresses only. In the server nothing but the gateway uses aiohttp."""
    # Only a server with the gateway loads this package.
    import aiohttp  # noqa: PLC0415

    connector = aiohttp.TCPConnector
    connector.__init__ = functools.partialmethod(connector.__init__, socket_factory=_socket)
