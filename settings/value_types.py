"""The kinds of value that a setting may have, each with its rule and with what to write instead of a wrong one.

``{example}`` in a message stands for the example of the setting that the message is about.
"""

import ipaddress
import re
from collections.abc import Sequence
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr

PORT = r"(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3})"
"""Pattern of a TCP port, 1 to 65535."""
SUBDOMAIN = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*"
"""Pattern of labels with dots between them, without the limits of length."""
HOST_NAME = r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*"
"""Pattern of a name or an IPv4 address of a host to connect to, which DNS takes in either case."""
UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
"""Pattern of the ids that AWS gives to keys and certificates."""
QUALIFIED_NAME = rf"((?=.{{1,253}}/){SUBDOMAIN}/)?[A-Za-z0-9]([A-Za-z0-9._-]{{0,61}}[A-Za-z0-9])?"
"""Pattern of Kubernetes names that may have a DNS name before a slash."""
SHOWN = 60
"""Characters of a wrong value that a message shows."""


def shown(value: str) -> str:
    """Return a value as messages quote it, cut where it is long."""
    return repr(value if len(value) <= SHOWN else f"{value[:SHOWN]}…")


def matching(pattern: str, hint: str) -> AfterValidator:
    """Make a rule out of a pattern for the whole value.

    Args:
        pattern: regular expression.
        hint: what to write instead.
    """
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise ValueError(f"is {shown(value)}; {hint}")
        return value

    return AfterValidator(check)


def arn(service: str, resource: str, hint: str) -> AfterValidator:
    """Make the rule for an ARN.

    Args:
        service: AWS's name of the service.
        resource: regular expression for the part behind the account.
        hint: what to write instead.
    """
    return matching(rf"arn:aws(-[a-z]+)*:{service}:[a-z]{{2}}(-[a-z]+)+-[0-9]:[0-9]{{12}}:{resource}", hint)


kms_key = arn("kms", rf"key/({UUID}|mrk-[0-9a-f]{{32}})", "write the key's own ARN, arn:aws:kms:…:key/…, not an alias")
"""Rule for the ARN of a KMS key. AWS answers with the key's ARN where an alias was given, which would be a difference in each preview."""


def arn_place(arn: str) -> tuple[str, str]:
    """Return partition and region of an ARN."""
    _, partition, _, region, *_ = arn.split(":")
    return partition, region


def everybody(networks: Sequence[str]) -> bool:
    """Return True if IPv4 networks together are every address, as the halves of 0.0.0.0/0 are."""
    return [*ipaddress.collapse_addresses(map(ipaddress.IPv4Network, networks))] == [ipaddress.IPv4Network("0.0.0.0/0")]


def are_wide(networks: Sequence[str]) -> bool:
    """Return True if IPv4 networks together have one that is larger than any private one, which is a /8."""
    together = ipaddress.collapse_addresses(map(ipaddress.IPv4Network, networks))
    return any(network.prefixlen < 8 for network in together)


def is_open_host(pattern: str) -> bool:
    """Return True if a Host header with `*` fits names that anybody can have: the last two parts of the name must be fixed."""
    return any("*" in label for label in pattern.partition(":")[0].split(".")[-2:])


def split_url(value: str) -> SplitResult | None:
    """Split a URL; None where its port is not one."""
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        return None
    return parts


def mebibytes(memory: str) -> int:
    """Return a value of `Memory` in MiB."""
    return int(memory[:-2]) * (1024 if memory.endswith("Gi") else 1)


def _secret_matching(pattern: str, rule: str) -> AfterValidator:
    """Make a rule out of a pattern for a secret, whose value is in no message. Without the secret one is generated."""

    def check(value: SecretStr) -> SecretStr:
        if not re.fullmatch(pattern, value.get_secret_value()):
            raise ValueError(f"must be {rule}; leave it out to have one generated")
        return value

    return AfterValidator(check)


def _not_empty(value: SecretStr) -> SecretStr:
    if not value.get_secret_value():
        raise ValueError("is empty; set it with `pulumi config set --secret --path`")
    return value


def _network(value: str) -> str:
    try:
        return str(ipaddress.IPv4Network(value))
    except ValueError as error:
        raise ValueError(f"is {shown(value)}: {error}; write an IPv4 network such as 203.0.113.0/24") from None


def _host(value: str) -> str:
    longest = max(value.split("."), key=len)
    if not value.isascii():
        odd = next(character for character in value if not character.isascii())
        raise ValueError(
            f"is {shown(value)}; DNS takes no {odd!r}: write the name in its ASCII form, which begins with xn--"
        )
    if len(value) > 253:
        raise ValueError(
            f"is {shown(value)} with {len(value)} characters; a DNS name has 253 at most: write a shorter one"
        )
    if value.endswith("."):
        raise ValueError(f"is {shown(value)}; leave out the dot at the end")
    if len(longest) > 63:
        raise ValueError(
            f"is {shown(value)}; between two dots DNS takes 63 characters, and {shown(longest)} has {len(longest)}: write a shorter one"
        )
    if not re.fullmatch(SUBDOMAIN, value):
        raise ValueError(
            f"is {shown(value)}; write a DNS name in lower case without scheme or port, for example {{example}}"
        )
    return value


def _origin(value: str) -> str:
    if value == "*":
        return value
    parts = split_url(value)
    whole = parts is not None and re.fullmatch(r"https?://[A-Za-z0-9.-]+(:[1-9][0-9]*)?", value)
    if not parts or not whole:
        raise ValueError(f"is {shown(value)}; write scheme and host without a path, for example {{example}}")
    if value != value.lower():
        raise ValueError(f"is {shown(value)}; write it in lower case, as browsers send it")
    _host(parts.hostname or "")
    if parts.port == {"http": 80, "https": 443}[parts.scheme]:
        raise ValueError(
            f"is {shown(value)}; leave out the port, as browsers do with the default port of {parts.scheme}"
        )
    return value


def _site(value: str) -> str:
    if value == "*":
        raise ValueError("is '*'; write scheme and host, for example {example}")
    return _origin(value)


def _decimal(value: object) -> object:
    # `Section` makes texts of whole numbers only. In these settings a number with a point gets its own rule's message.
    return str(value) if isinstance(value, float) else value


Host = Annotated[str, AfterValidator(_host)]
HostAndPort = Annotated[str, matching(rf"{HOST_NAME}:{PORT}", "write host:port, for example {example}")]
Identifier = Annotated[
    str,
    matching(
        r"[a-z][a-z0-9_]{0,62}",
        "write a PostgreSQL name of a-z, 0-9 and _ that starts with a letter, at most 63 characters",
    ),
]
DnsLabel = Annotated[
    str,
    matching(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", "write a Kubernetes name of a-z, 0-9 and -, at most 63 characters"),
]
DnsSubdomain = Annotated[
    str,
    matching(
        rf"(?=.{{1,253}}$){SUBDOMAIN}",
        "write a Kubernetes name of a-z, 0-9, - and dots, at most 253 characters, with a letter or digit beside each dot",
    ),
]
QualifiedName = Annotated[
    str,
    matching(
        QUALIFIED_NAME,
        "write a name of at most 63 characters, with a DNS name and a slash before it, for example {example}",
    ),
]
Cpu = Annotated[
    str,
    BeforeValidator(_decimal),
    # Kubernetes takes no fraction of a thousandth.
    matching(r"[0-9]+m|[0-9]+(\.[0-9]{1,3})?", 'write CPUs as a string, for example "500m", "0.5" or "2"'),
]
Memory = Annotated[
    str,
    BeforeValidator(_decimal),
    matching(r"[1-9][0-9]*(Mi|Gi)", 'write Mi or Gi as a string, for example "768Mi" or "2Gi"'),
]
MajorVersion = Annotated[
    str,
    BeforeValidator(_decimal),
    matching(r"1[5-9]|2[0-9]", 'write the major version as a string, for example "17": minor ones are automatic'),
]
Network = Annotated[str, AfterValidator(_network)]
Password = Annotated[
    SecretStr,
    _secret_matching(
        r"[A-Za-z0-9._-]{12,128}",
        "12 to 128 characters out of A-Z a-z 0-9 . _ - (the chart hands it through sed, an ini file and a URI, "
        "which silently change other characters)",
    ),
]
ForeignPassword = Annotated[SecretStr, AfterValidator(_not_empty)]
ClientSecret = Annotated[
    SecretStr,
    _secret_matching(r"[!-~]{8,512}", "8 to 512 characters of ASCII without spaces, as the provider shows it"),
]
KeyText = Annotated[
    SecretStr,
    _secret_matching(
        r"[!-~]{32,256}",
        "32 to 256 characters of ASCII without spaces, for example from `openssl rand -base64 32`",
    ),
]
WebhookKey = Annotated[
    SecretStr,
    _secret_matching(
        r"[A-Za-z0-9_-]{43}=",
        "32 bytes in URL-safe base64, for example from `openssl rand -base64 32 | tr -- '+/' '-_'`",
    ),
]
Origin = Annotated[str, AfterValidator(_origin)]
Site = Annotated[str, AfterValidator(_site)]
DistinguishedName = Annotated[str, matching(r"[^=\n]+=[^\n]+", "write a DN, for example {example}")]
Certificate = Annotated[
    str, matching(r"(?s).*-----BEGIN CERTIFICATE-----.*", "write a PEM certificate: -----BEGIN CERTIFICATE-----…")
]
LdapUri = Annotated[
    str,
    matching(
        rf"ldaps?://{HOST_NAME}(:{PORT})?(/\S*)?",
        "write a URI such as ldaps://ldap.example.com:636",
    ),
]
