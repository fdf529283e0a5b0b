"""The section `mlflow`."""

import re
from typing import Annotated, Literal

from pydantic import Field

from settings.ingress import NAMESPACES_OF_KUBERNETES
from settings.login import Auth
from settings.problem import Problem
from settings.section import Section
from settings.value_types import (
    Cpu,
    DnsLabel,
    Host,
    KeyText,
    Memory,
    Origin,
    Site,
    WebhookKey,
    matching,
    mebibytes,
    split_url,
)

MEMORY_OF_A_POD = {"1.11.5": 238, "1.8.1": 115}
"""MiB of a pod under load without its workers, by chart version. docs/sizing.md: MLflow 3.15.1 uses 425 MiB with one worker, 591 to 629
with two and 987 with four, 3.7.0 uses 489 to 527 with two."""
MEMORY_OF_A_WORKER = 187
"""MiB of each worker."""
STORAGE_OF_A_POD = 100
"""MiB of disk that the scheduler reserves for a pod."""
MLFLOW_OF_A_CHART = {"1.11.5": "3.15.1", "1.8.1": "3.7.0"}
"""Version of MLflow in the chart's image, by chart version."""


class Resources(Section):
    """CPU and memory of one MLflow pod. MLflow 3.15.1 used 630 MiB with two workers under load, and 426 MiB with one."""

    cpu_request: Cpu = "500m"
    """CPU that the scheduler reserves, in cores (``"2"``) or thousandths (``"500m"``). There is no CPU limit, which would only slow requests down."""
    memory_request: Memory = "1Gi"
    """Memory that the scheduler reserves, in Mi or Gi."""
    memory_limit: Memory = "2Gi"
    """Memory at which the pod is killed, in Mi or Gi."""
    storage_limit: Memory = "10Gi"
    """Disk at which the pod is evicted, in Mi or Gi: temporary files of the uploads in progress, the log, and without a bucket the artifacts."""

    def problems(self) -> list[Problem]:
        """Reject what the API server rejects: a limit below what is reserved."""
        found: list[Problem] = []
        if mebibytes(self.memory_request) > mebibytes(self.memory_limit):
            found.append(
                Problem(
                    "memoryRequest",
                    f"is {self.memory_request}, more than `memoryLimit` {self.memory_limit}; raise the limit",
                    based_on=["memoryLimit"],
                )
            )
        if mebibytes(self.storage_limit) < STORAGE_OF_A_POD:
            found.append(
                Problem(
                    "storageLimit",
                    f"is {self.storage_limit}, and the pod reserves {STORAGE_OF_A_POD} MiB; write {STORAGE_OF_A_POD}Mi or more",
                )
            )
        return found


class Image(Section):
    """Another MLflow than the chart's, in the same image repository."""

    tag: Annotated[
        str,
        matching(
            r"[0-9]{1,9}(\.[0-9]{1,9}){2}([._-][A-Za-z0-9._-]{0,98})?",
            "write a tag that begins with MLflow's version, such as {example}",
        ),
    ] = Field(examples=["3.17.2"])
    """Tag of the image. It begins with MLflow's version, at least that of the chart: MLflow refuses a database that a newer version has upgraded."""
    digest: Annotated[str, matching(r"sha256:[0-9a-f]{64}", "write sha256: and 64 hexadecimal digits")] | None = None
    """Digest of the image, so that nobody can move the tag."""


class Keys(Section):
    """Keys with which MLflow encrypts what it keeps in its database: ``docs/keys.md``."""

    passphrase: KeyText | None = None
    """Passphrase for the gateway's API keys, a secret. Generated when absent."""
    version: int = Field(default=1, ge=1)
    """Number of the passphrase. Raise it by one with each new passphrase. A change replaces the pods."""
    webhooks: WebhookKey | None = None
    """Key for the secrets of webhooks, a secret. Generated when absent. A change does not replace the pods."""


class Autoscaling(Section):
    """A HorizontalPodAutoscaler at 80 % of the requested CPU."""

    min_replicas: int = Field(default=2, ge=1, le=100)
    """Smallest number of pods."""
    max_replicas: int = Field(default=5, ge=1, le=100)
    """Largest number of pods. The connection budget is computed with it."""

    def problems(self) -> list[Problem]:
        """Reject an empty range."""
        if self.max_replicas < self.min_replicas:
            return [
                Problem(
                    "maxReplicas",
                    f"is {self.max_replicas}, below `minReplicas` ({self.min_replicas}); raise it",
                    based_on=["minReplicas"],
                )
            ]
        return []


class ConnectionPool(Section):
    """Database connections of one worker, in each of SQLAlchemy's pools. HAProxy passes ``size`` + ``overflow`` - 1 requests at a time to a pod, however many workers it has, and queues the rest."""

    size: int = Field(default=10, ge=1, le=100)
    """Connections that stay open once they were needed."""
    overflow: int = Field(default=0, ge=0, le=100)
    """Further connections under load, each opened for one request. That takes a fifth of the throughput, and memory of the database is saved."""

    @property
    def connections(self) -> int:
        """Largest number of connections of a worker in one pool."""
        return self.size + self.overflow

    def problems(self) -> list[Problem]:
        """Reject a pool in which a single request can wait for ever."""
        if self.connections < 2:
            return [Problem("", "has one connection, and a request can need two at once; write size 2 or more")]
        return []


class Mlflow(Section):
    """The tracking server."""

    host: Host = Field(examples=["mlflow.example.com"])
    """DNS name of the site."""
    url: Site | None = Field(default=None, examples=["https://mlflow.example.com:8443"])
    """Address of the site in a browser, default ``https://<host>``. Set it, for example, for another port."""
    namespace: DnsLabel = "mlflow"
    """Namespace of the server."""
    chart_version: Literal["1.11.5", "1.8.1"] = "1.11.5"
    """Version of community-charts/mlflow. 1.11.5 runs MLflow 3.15.1. 1.8.1 runs MLflow 3.7.0, which has known vulnerabilities. The
    OpenTelemetry endpoint is off there, because 3.7.0 serves it without a login."""
    image: Image | None = None
    """Another MLflow than the chart's, for example a newer one."""
    replicas: int = Field(default=1, ge=1, le=100)
    """Number of pods."""
    autoscaling: Autoscaling | None = None
    """An autoscaler, instead of ``replicas``."""
    workers: int = Field(default=2, ge=1, le=32)
    """Server processes in each pod. Each process has its own connections and takes about 200 MiB. If a pod dies, only
    other replicas serve on."""
    resources: Resources = Resources()
    """CPU and memory of a pod."""
    pool: ConnectionPool = ConnectionPool()
    """Database connections of a worker."""
    auth: Auth = Auth()
    """The login."""
    keys: Keys = Keys()
    """Keys with which MLflow encrypts what it keeps in its database."""
    gateway: bool = False
    """True for MLflow's gateway to providers of models: administrators enter API keys and addresses, and the pods send what users of an
    endpoint ask. Addresses inside the cluster and its VPC are refused. Needs a login and chart 1.11.5. See ``docs/security.md``."""
    cors_allowed_origins: list[Origin] = Field(default=[], examples=[["https://notebooks.example.com"]])
    """Origins, in addition to the site's own, whose pages may call the API. ``*`` lets every web site act with a visitor's login."""
    allowed_hosts: list[Annotated[str, matching(r"[A-Za-z0-9*.:-]+", "write a Host header, * matches any part")]] = (
        Field(default=[], examples=[["mlflow.internal"]])
    )
    """Host headers to accept, in addition to ``host`` and the name inside the cluster."""
    allowed_namespaces: list[DnsLabel] = Field(default=[], examples=[["training"]])
    """Namespaces whose pods may open connections to MLflow inside the cluster, at ``http://mlflow.<namespace>.svc``. They use the login, but
    neither TLS nor HAProxy's limits."""
    dns_zone: Host | None = Field(default=None, examples=["example.com"])
    """Name of the Route 53 zone for the host's record. Without it, an output names the record to create."""
    private_zone: bool = False
    """True if ``dnsZone`` is the private zone of the cluster's VPC, in which an internal load balancer's name belongs. False: the public
    zone of that name."""
    timeout_seconds: int = Field(default=600, ge=60, le=3600)
    """Seconds that an installation or upgrade may take before it is rolled back."""

    @property
    def version(self) -> str:
        """Version of MLflow."""
        return self.image.tag if self.image else MLFLOW_OF_A_CHART[self.chart_version]

    def problems(self) -> list[Problem]:
        """Reject names that contradict each other."""
        found: list[Problem] = []
        if self.private_zone and not self.dns_zone:
            found.append(
                Problem("privateZone", "says which zone `dnsZone` is, and that is missing; write it, or drop this")
            )
        if self.dns_zone and self.host != self.dns_zone and not self.host.endswith(f".{self.dns_zone}"):
            found.append(
                Problem(
                    "host",
                    f"is {self.host}, which is not in `dnsZone` {self.dns_zone}; write a host that ends in .{self.dns_zone}",
                    based_on=["dnsZone"],
                )
            )
        if re.fullmatch(r"(\d+\.){3}\d+", self.host):
            found.append(
                Problem("host", f"is {self.host}, an address, and an Ingress takes names only; write a DNS name")
            )
        site = split_url(self.url) if self.url else None
        if site and site.hostname != self.host:
            found.append(
                Problem(
                    "url",
                    f"is {self.url}, but `host` is {self.host}; only scheme and port may differ",
                    based_on=["host"],
                )
            )
        if self.autoscaling and "replicas" in self.model_fields_set:
            found.append(
                Problem(
                    "replicas",
                    "and `autoscaling` are both given, and only one can decide; drop one of them",
                    based_on=["autoscaling"],
                )
            )
        if self.gateway and self.auth.mode == "none":
            found.append(
                Problem(
                    "gateway",
                    "is true but `auth.mode` is none, so everybody could spend your API keys; write mode: basic or drop gateway",
                    based_on=["auth.mode"],
                )
            )
        if self.gateway and self.chart_version == "1.8.1":
            found.append(
                Problem(
                    "gateway",
                    "is true but chart 1.8.1 serves no gateway; write chartVersion 1.11.5 or drop gateway",
                    based_on=["chartVersion"],
                )
            )
        if self.auth.oidc and self.chart_version == "1.8.1":
            found.append(
                Problem(
                    "auth.mode",
                    "is oidc, and MLflow 3.7.0 of chart 1.8.1 lacks the roles and routes that this login builds on; write chartVersion 1.11.5, "
                    "or mode: basic",
                    based_on=["chartVersion"],
                )
            )
        charts = MLFLOW_OF_A_CHART[self.chart_version]
        if self.image and _version(self.image.tag) < _version(charts):
            found.append(
                Problem(
                    "image.tag",
                    f"is {self.image.tag}, older than MLflow {charts} of chart {self.chart_version}; write {charts} or newer",
                    based_on=["chartVersion"],
                )
            )
        needed = MEMORY_OF_A_POD[self.chart_version] + self.workers * MEMORY_OF_A_WORKER
        if mebibytes(self.resources.memory_limit) < needed:
            found.append(
                Problem(
                    "resources.memoryLimit",
                    f"is {self.resources.memory_limit}, and MLflow needs {needed} MiB under load with `workers` {self.workers}; "
                    f"write {needed}Mi or more, or fewer workers",
                    based_on=["workers", "chartVersion"],
                )
            )
        if self.namespace in NAMESPACES_OF_KUBERNETES:
            found.append(
                Problem("namespace", f"is {self.namespace}, which is Kubernetes's; write another, for example mlflow")
            )
        return found


def _version(text: str) -> tuple[int, ...]:
    """Return the three numbers with which a tag begins, to compare them."""
    return tuple(int(number) for number in re.findall(r"[0-9]+", text)[:3])
