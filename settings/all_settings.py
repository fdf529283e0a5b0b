"""All settings of a stack, and the rules between sections."""

from pydantic import Field

from settings.artifacts import Artifacts, Images
from settings.cluster import Cluster
from settings.database import Database
from settings.iam import Iam
from settings.ingress import Ingress
from settings.max_connections import max_connections
from settings.mlflow import Mlflow
from settings.monitoring import Monitoring
from settings.postgres import AllowFrom, Postgres
from settings.problem import Problem
from settings.retention import Retention
from settings.section import Section
from settings.tags import tag_problems
from settings.value_types import are_wide, arn_place, is_open_host

AWS_LOAD_BALANCER_CONTROLLER = "service.k8s.aws/nlb"
"""Class of the network load balancers of the AWS Load Balancer Controller."""
AUTO_MODE_LOAD_BALANCER = "eks.amazonaws.com/nlb"
"""Class of the network load balancers of EKS Auto Mode."""

CLEAN_UP_CONNECTIONS = 3
"""Connections to the database of the clean-up, with its pool of that size."""


class Settings(Section):
    """All settings of a stack."""

    cluster: Cluster
    """The Kubernetes cluster, which must exist."""
    mlflow: Mlflow
    """The tracking server."""
    postgres: Postgres = Postgres()
    """The private RDS instance, or a server that exists."""
    database: Database = Database()
    """MLflow's database on the server."""
    artifacts: Artifacts = Artifacts()
    """The bucket for artifacts."""
    retention: Retention = Retention()
    """Times after which deleted things and traces go for ever."""
    ingress: Ingress = Ingress()
    """The ingress controller."""
    monitoring: Monitoring = Monitoring()
    """Metrics, alerts and a dashboard for the cluster's Prometheus."""
    images: Images = Images()
    """The registry that images are pulled from."""
    iam: Iam = Iam()
    """The IAM roles of the pods and of the database's monitoring."""
    protect: bool = True
    """True to refuse the deletion of the database, the bucket and the generated keys (Pulumi's protect, RDS's deletion protection, a final snapshot). False
    makes a stack that ``pulumi destroy`` removes whole, and applies changes to the instance at once instead of in the maintenance window."""
    tags: dict[str, str] = Field(default={}, examples=[{"Team": "ml-platform"}])
    """Tags of every AWS resource, in addition to ``Project`` and ``Stack``. 48 at most, with the characters that RDS takes: letters,
    digits, spaces and ``_ . : / = + - @``."""

    @property
    def on_eks(self) -> bool:
        """True if the cluster is an EKS cluster, and so AWS is used at all."""
        return self.cluster.name is not None

    @property
    def url(self) -> str:
        """Address of the site."""
        return self.mlflow.url or f"{'http' if self.ingress.plain_http else 'https'}://{self.mlflow.host}"

    @property
    def applies_immediately(self) -> bool:
        """True if changes that interrupt the database do not wait for the maintenance window."""
        return not self.protect if self.postgres.apply_immediately is None else self.postgres.apply_immediately

    def load_balancer_class(self, *, auto_mode: bool) -> str | None:
        """Return the class of the load balancer. None: the cluster's default.

        Args:
            auto_mode: True on a cluster with EKS Auto Mode, which makes load balancers itself.
        """
        of_eks = AUTO_MODE_LOAD_BALANCER if auto_mode else AWS_LOAD_BALANCER_CONTROLLER
        return self.ingress.load_balancer_class or (of_eks if self.on_eks else None)

    def proxy_protocol(self, *, auto_mode: bool) -> bool:
        """Return True if the load balancer tells HAProxy the addresses of clients.

        Args:
            auto_mode: True on a cluster with EKS Auto Mode.
        """
        if self.ingress.proxy_protocol is not None:
            return self.ingress.proxy_protocol
        chosen = self.load_balancer_class(auto_mode=auto_mode)
        return self.on_eks and self.ingress.install and chosen == AWS_LOAD_BALANCER_CONTROLLER

    @property
    def max_replicas(self) -> int:
        """Largest number of pods that serve at the same time, without the additional ones of a rollout."""
        return self.mlflow.autoscaling.max_replicas if self.mlflow.autoscaling else self.mlflow.replicas

    @property
    def connections(self) -> int:
        """Largest number of connections to the database that the pods keep open, without the additional ones of a rollout."""
        return self._connections_of(self.max_replicas)

    @property
    def _pools(self) -> int:
        return 1 if self.mlflow.auth.mode == "none" else 2

    def _connections_of(self, pods: int) -> int:
        return pods * self.mlflow.workers * self.mlflow.pool.connections * self._pools

    def problems(self) -> list[Problem]:
        """Reject what a section cannot see alone."""
        found = [
            *tag_problems(self.tags),
            *self._without_aws(),
            *self._shared_storage(),
            *self._transfers(),
            *self.connection_budget(self.postgres.instance_class),
            *self._places(),
            *self._names(),
        ]
        if self.mlflow.dns_zone and not self.ingress.install and not self.ingress.address:
            found.append(
                Problem(
                    "ingress.address",
                    "is missing: with install: false the record of mlflow.dnsZone needs the load balancer's name",
                    based_on=["mlflow.dnsZone", "ingress.install"],
                )
            )
        if self.retention.archive_traces_days and self.mlflow.chart_version == "1.8.1":
            found.append(
                Problem(
                    "retention.archiveTracesDays",
                    "needs chart 1.11.5: MLflow 3.7.0 has no archive; drop it, or set mlflow.chartVersion",
                    based_on=["mlflow.chartVersion"],
                )
            )
        if self.mlflow.dns_zone == self.mlflow.host and self.ingress.needs_cname:
            found.append(
                Problem(
                    "mlflow.host",
                    f"is the name of mlflow.dnsZone itself, where no CNAME to ingress.address {self.ingress.address} may be; write "
                    f"a host such as mlflow.{self.mlflow.dns_zone}, or drop mlflow.dnsZone and create the record yourself",
                    based_on=["mlflow.dnsZone", "ingress.address"],
                )
            )
        if self.url.startswith("http:") and not self.ingress.plain_http:
            found.append(
                Problem(
                    "mlflow.url",
                    f"is {self.url} but TLS is on; write https, or set ingress.plainHttp to true and read what that costs",
                    based_on=["ingress.plainHttp"],
                )
            )
        if self.mlflow.auth.oidc and self.url.startswith("http:"):
            found.append(
                Problem(
                    "mlflow.auth.mode",
                    f"is oidc and the site is {self.url}; its cookie is for HTTPS only: drop ingress.plainHttp, or write mode: basic",
                    based_on=["mlflow.url", "ingress.plainHttp"],
                )
            )
        return found

    def _without_aws(self) -> list[Problem]:
        if self.on_eks:
            return []
        needs_aws = {
            "postgres.existing": (
                "is missing: with cluster.kubeContext there is no VPC to put a database in",
                self.postgres.existing is None,
            ),
            "artifacts.bucket": (
                "needs cluster.name: the pods' identity for a bucket comes from EKS",
                self.artifacts.bucket,
            ),
            "ingress.certificateArn": (
                "needs cluster.name: only an AWS load balancer takes an ACM certificate",
                self.ingress.certificate_arn,
            ),
            "artifacts.kmsKeyArn": (
                "needs cluster.name: it is the key of a bucket; drop it",
                self.artifacts.kms_key_arn,
            ),
            "retention": (
                "needs cluster.name: the files of what goes are in a bucket, which this stack has not; drop it",
                self.retention.is_on,
            ),
            "artifacts.identity": (
                "needs cluster.name: there are no AWS credentials to give to the pods; drop it",
                "identity" in self.artifacts.model_fields_set,
            ),
            "artifacts.transfers": (
                "needs cluster.name: there is no bucket to transfer to; drop it",
                "transfers" in self.artifacts.model_fields_set,
            ),
            "ingress.proxyProtocol": (
                "needs cluster.name: HAProxy has to know the networks of the load balancer; drop it",
                self.ingress.proxy_protocol,
            ),
            "ingress.scheme": (
                "needs an AWS load balancer; write ingress.loadBalancerClass too, for example service.k8s.aws/nlb, or drop it",
                "scheme" in self.ingress.model_fields_set and not self.ingress.load_balancer_class,
            ),
            "mlflow.dnsZone": ("needs cluster.name: the zone is in Route 53", self.mlflow.dns_zone),
            "iam": ("needs cluster.name: without EKS the program creates no role; drop it", self.iam.model_fields_set),
        }
        return [
            Problem(
                key,
                sentence,
                based_on=["cluster", "ingress.loadBalancerClass"] if key == "ingress.scheme" else ["cluster"],
            )
            for key, (sentence, wrong) in needs_aws.items()
            if wrong
        ]

    def _shared_storage(self) -> list[Problem]:
        if self.on_eks or self.max_replicas == 1:
            return []
        return [
            Problem(
                f"mlflow.{'autoscaling' if self.mlflow.autoscaling else 'replicas'}",
                "needs a bucket, which only cluster.name has: several pods cannot share one pod's artifacts; write replicas: 1",
                based_on=["cluster"],
            )
        ]

    def _transfers(self) -> list[Problem]:
        if self.artifacts.transfers == "proxied":
            return []
        found: list[Problem] = []
        if "." in (self.artifacts.bucket or ""):
            found.append(
                Problem(
                    "artifacts.transfers",
                    f"is direct, but no certificate of S3 covers the host of a bucket with a dot in its name ({self.artifacts.bucket}); write "
                    "transfers: proxied, or name another bucket",
                    based_on=["artifacts.bucket"],
                )
            )
        if self.mlflow.chart_version == "1.8.1":
            found.append(
                Problem(
                    "artifacts.transfers",
                    "is direct, but MLflow 3.7.0 of chart 1.8.1 tells no client to ask for signed addresses; write chartVersion 1.11.5, or "
                    "transfers: proxied",
                    based_on=["mlflow.chartVersion"],
                )
            )
        return found

    def connection_budget(self, instance_class: str) -> list[Problem]:
        """Return the problem of too many connections for an instance class."""
        limit = max_connections(instance_class)
        if not self.on_eks or self.postgres.existing or limit is None:
            return []
        pool, pools = self.mlflow.pool.connections, self._pools
        clean_up = CLEAN_UP_CONNECTIONS if self.retention.is_on else 0
        needed = self._connections_of(self.max_replicas + 1) + clean_up
        if needed <= limit:
            return []
        several = self.mlflow.autoscaling or self.mlflow.replicas > 1
        key = (
            "mlflow.autoscaling.maxReplicas"
            if self.mlflow.autoscaling
            else "mlflow.replicas"
            if several
            else "mlflow.workers"
        )
        return [
            Problem(
                key,
                f"is too high for the database's connections: ({self.max_replicas} pods + 1 in a rollout) x {self.mlflow.workers} workers "
                f"x {pool} (pool {self.mlflow.pool.size} + overflow {self.mlflow.pool.overflow}) x {pools} "
                f"{'(tracking and login)' if pools == 2 else '(tracking)'}{f' + {clean_up} (clean-up)' if clean_up else ''} = {needed}, and {instance_class} has about {limit}; "
                "write fewer pods or workers, a smaller mlflow.pool, or a larger postgres.instanceClass",
                based_on=[
                    *("mlflow.replicas", "mlflow.autoscaling", "mlflow.workers", "mlflow.pool", "mlflow.auth.mode"),
                    *("postgres.instanceClass", "postgres.existing", "cluster", "retention"),
                ],
            )
        ]

    def _places(self) -> list[Problem]:
        # HAProxy's controller divides the requests that a pod may get among its own pods, and drops the rest. HAProxy takes the result 0
        # for no limit. In a rollout the pods that start count, and those that end, too.
        places, sharing = self.mlflow.pool.connections - 1, 2 * self.ingress.replicas
        if not self.ingress.install or sharing <= places:
            return []
        fewer = f"{places // 2} or fewer, or " if places >= 2 else ""
        return [
            Problem(
                "ingress.replicas",
                f"is {self.ingress.replicas}, so in a rollout {sharing} controllers share the places of a pod of MLflow, of which there are "
                f"{places}, one fewer than mlflow.pool has connections: write {fewer}an mlflow.pool.size of "
                f"{self.mlflow.pool.size + sharing - places} or more",
                based_on=["mlflow.pool", "ingress.install"],
            )
        ]

    def _names(self) -> list[Problem]:
        found: list[Problem] = []
        if self.ingress.install and self.mlflow.namespace == self.ingress.namespace:
            found.append(
                Problem(
                    "mlflow.namespace",
                    f"and ingress.namespace are both {self.mlflow.namespace}; write another for one of them",
                    based_on=["ingress.namespace", "ingress.install"],
                )
            )
        existing = self.postgres.existing
        admin = existing.admin_username if existing else self.postgres.master_username
        if admin in {self.database.user, f"{self.database.user}_2", f"{self.database.name}_app"}:
            key = "name" if admin == f"{self.database.name}_app" else "user"
            found.append(
                Problem(
                    f"database.{key}",
                    f"would make a role {admin}, which is the server's admin; write another, for example mlflow_user",
                    based_on=["postgres.masterUsername", "postgres.existing"],
                )
            )
        return found

    def problems_in(self, region: str, partition: str) -> list[Problem]:
        """Return the ARNs that are of no use to a cluster in this region and partition of AWS."""
        arns = {
            "artifacts.kmsKeyArn": self.artifacts.kms_key_arn,
            "postgres.kmsKeyArn": self.postgres.kms_key_arn,
            "postgres.alarmTopicArn": self.postgres.alarm_topic_arn,
            "ingress.certificateArn": self.ingress.certificate_arn,
            "iam.permissionsBoundary": self.iam.permissions_boundary,
        }
        return [
            Problem(
                key,
                f"is in {' '.join(arn_place(arn)).rstrip()}, but the cluster is in {partition} {region}; write one of that region",
            )
            for key, arn in arns.items()
            # A policy of IAM is in no region.
            if arn and arn_place(arn) not in {(partition, region), (partition, "")}
        ]

    def warnings(self) -> list[str]:
        """Return what is allowed but has a price, a sentence each, for the log of every preview."""
        ingress, mlflow = self.ingress, self.mlflow
        public = self.on_eks and ingress.install and ingress.scheme == "internet-facing" and not ingress.allowed_cidrs
        rules = {
            "mlflow.chartVersion 1.8.1 runs MLflow 3.7.0, which has CVE-2026-2651, CVE-2026-2652, CVE-2026-0545 and CVE-2026-8147, and "
            "through /ajax-api pages of other sites can write with a visitor's login. 1.11.5 (the default) is newer.": mlflow.chart_version
            == "1.8.1"
            and not mlflow.image,
            "ingress.plainHttp: passwords and data cross the network unencrypted.": ingress.plain_http,
            "ingress: no certificate is set, so HAProxy serves its self-signed one: encrypted, but browsers warn and clients need "
            "MLFLOW_TRACKING_INSECURE_TLS=true. Set certificateArn, tlsSecretName or clusterIssuer.": ingress.self_signed,
            "ingress.scheme internet-facing without allowedCidrs: only the login is between the internet and MLflow.": public,
            "mlflow.auth.ldap.startTls false: passwords travel to the directory unencrypted.": bool(
                mlflow.auth.ldap and mlflow.auth.ldap.uri.startswith("ldap:") and not mlflow.auth.ldap.start_tls
            ),
            "mlflow.auth.ldap.tlsVerify none: an attacker who impersonates the directory receives every password.": bool(
                mlflow.auth.ldap and mlflow.auth.ldap.tls_verify == "none"
            ),
            "mlflow.allowedHosts *: MLflow answers to Host headers of others, so a web page can reach it under a name of its own. Write "
            "a * only before a domain of yours.": any(map(is_open_host, mlflow.allowed_hosts)),
            f"mlflow.auth.defaultPermission {mlflow.auth.default_permission}: every user may change everybody's experiments and models.": mlflow.auth.default_permission
            in {"EDIT", "MANAGE"},
            "ingress.allowedCidrs: a network larger than a /8 lets in a large part of the internet.": self.on_eks
            and are_wide(ingress.allowed_cidrs),
            "postgres.allowFrom.cidrs: a network larger than a /8 is more than any VPC and what is connected to it.": self.on_eks
            and isinstance(self.postgres.allow_from, AllowFrom)
            and are_wide(self.postgres.allow_from.cidrs),
            "mlflow.gateway: the pods send requests of users to providers of models, with API keys of yours. Who may use an endpoint spends "
            "with its key, and administrators choose its address.": mlflow.gateway,
            "mlflow.auth.mode none: every visitor who reaches the host may read, change and delete everything.": mlflow.auth.mode
            == "none",
            "mlflow.corsAllowedOrigins *: every web site that a logged-in person visits can act with that login.": "*"
            in mlflow.cors_allowed_origins,
            "postgres.allowFrom vpc: every machine in the VPC can try to log in to the database, not just the cluster.": self.on_eks
            and self.postgres.allow_from == "vpc",
            f"retention.deleteTracesDays {self.retention.delete_traces_days}: traces go for ever, whether or not somebody has deleted them.": self.retention.delete_traces_days
            is not None
            and not self.retention.dry_run,
            "artifacts: without a bucket they are in the pod's own storage and are lost with the pod.": not self.on_eks,
        }
        return [sentence for sentence, applies in rules.items() if applies]
