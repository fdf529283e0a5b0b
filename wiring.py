"""Build each component's arguments from the settings. No other file knows both.

An argument that follows from several settings is computed here, for example whether HAProxy redirects HTTP to HTTPS.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pulumi
import pulumi_aws as aws
import pulumi_kubernetes as kubernetes
from pydantic import SecretStr

from components.artifact_store import ArtifactStore, ArtifactStoreArgs
from components.dns_record import DnsRecordArgs
from components.haproxy_ingress import REQUEST_BUFFER, HaproxyIngress, HaproxyIngressArgs
from components.lookups.cluster_nodes import nodes_outside
from components.lookups.eks_cluster import EksCluster
from components.lookups.subnets import look_up_subnets
from components.mlflow_database import MlflowDatabase, MlflowDatabaseArgs
from components.mlflow_release import (
    CLEAN_UP,
    SERVICE_ACCOUNT,
    TLS_SECRET,
    AutoscalerArgs,
    BucketArgs,
    DatabaseArgs,
    ImageArgs,
    KeysArgs,
    LdapArgs,
    LoginArgs,
    LoginMode,
    MetricsArgs,
    MlflowRelease,
    MlflowReleaseArgs,
    OidcArgs,
    PodArgs,
    RetentionArgs,
    SiteArgs,
)
from components.network_rules import ClusterAddresses
from components.postgres_alarms import PostgresAlarmsArgs
from components.private_postgres import PrivatePostgres, PrivatePostgresArgs
from components.site_alerts import SiteAlertsArgs
from settings.all_settings import Settings
from settings.login import Auth
from settings.max_connections import max_connections
from settings.oidc import Oidc


@dataclass(frozen=True)
class DatabaseServer:
    """A PostgreSQL server: the instance of `PrivatePostgres`, or one that exists."""

    host: pulumi.Output[str]
    port: pulumi.Output[int]
    admin_username: pulumi.Output[str]
    admin_password: pulumi.Output[str]
    networks: Mapping[str, pulumi.Input[str]]
    """Networks that the server's address is in, by a label. Empty: not known."""
    snapshot: pulumi.Resource | None = None
    """Snapshot that is taken before an upgrade. None: the settings want none, or the server is another's."""


def kubernetes_provider(settings: Settings, cluster: EksCluster | None) -> kubernetes.Provider:
    """Return a provider for the EKS cluster, or for a context of the kubeconfig."""
    return kubernetes.Provider(
        "cluster",
        kubeconfig=cluster.kubeconfig if cluster else None,
        context=settings.cluster.kube_context,
        # Only another cluster replaces everything in it; another endpoint or certificate does not.
        cluster_identifier=settings.cluster.name or settings.cluster.kube_context,
        # Else a Secret whose data changes is deleted and created again, and is missing for a moment.
        enable_secret_mutable=True,
        enable_config_map_mutable=True,
    )


def postgres(settings: Settings, cluster: EksCluster, there: aws.rds.GetInstanceResult | None) -> PrivatePostgresArgs:
    """Return the arguments of the RDS instance, with its subnets looked up.

    Args:
        settings: the stack's settings.
        cluster: the cluster.
        there: the instance that the stack has already.
    """
    section = settings.postgres
    cidrs, groups = _sources(settings, cluster)
    return PrivatePostgresArgs(
        account_id=cluster.account_id,
        partition=cluster.partition,
        vpc_id=cluster.vpc_id,
        subnets=look_up_subnets(section.subnet_ids, cluster.vpc_id)
        if section.subnet_ids
        else cluster.private_subnets(),
        follow_subnets=bool(section.subnet_ids),
        engine_version=section.engine_version,
        allow_major_upgrade=section.allow_major_upgrade,
        instance_class=section.instance_class,
        allow_cidrs=cidrs,
        allow_security_groups=groups,
        identifier=there.db_instance_identifier if there else None,
        allocated_storage=section.allocated_storage,
        storage_there=there.allocated_storage if there else 0,
        max_allocated_storage=section.max_allocated_storage,
        storage_type=section.storage_type,
        multi_az=section.multi_az,
        backup_retention_days=section.backup_retention_days,
        backup_window=section.backup_window,
        maintenance_window=section.maintenance_window,
        apply_immediately=settings.applies_immediately,
        log_retention_days=section.log_retention_days,
        monitoring_interval=section.monitoring_interval,
        master_username=section.master_username,
        master_password=_secret(section.master_password),
        kms_key_arn=section.kms_key_arn,
        alarm_topic_arn=section.alarm_topic_arn,
        snapshot_before=settings.mlflow.version if section.snapshot_before_upgrade else None,
        protect=settings.protect,
        permissions_boundary=settings.iam.permissions_boundary,
        role_path=_role_path(settings),
        tags=_tags(settings),
    )


def _sources(settings: Settings, cluster: EksCluster) -> tuple[dict[str, str], dict[str, str]]:
    """Return the networks and the security groups that may connect to the instance, by their labels.

    A label is part of a rule's name, and AWS refuses a second rule for one source. So it follows from the source, however that was written.
    """
    section = settings.postgres.allow_from
    cidrs: dict[str, str] = {}
    groups: dict[str, str] = {}
    if section == "vpc":
        cidrs |= _vpc_networks(cluster)
    elif section == "cluster":
        groups["cluster"] = cluster.security_group_id
    else:
        labels = {cidr: label for label, cidr in _vpc_networks(cluster).items()}
        cidrs |= {labels.get(cidr, cidr): cidr for cidr in section.cidrs}
        listed = [*([cluster.security_group_id] if section.cluster else []), *section.security_groups]
        groups |= {"cluster" if group == cluster.security_group_id else group: group for group in listed}
    return cidrs, groups


def nodes_shut_out(settings: Settings, cluster: EksCluster) -> str | None:
    """Return a warning if nodes of the cluster cannot connect to the instance; None if they can, or if networks decide."""
    cidrs, groups = _sources(settings, cluster)
    outside = [] if cidrs else nodes_outside(cluster.name, [*groups.values()])
    if not outside:
        return None
    return (
        f"postgres.allowFrom lets in the security groups {', '.join(groups.values())}, and {len(outside)} nodes of {cluster.name} have none of "
        f"them ({', '.join(outside[:3])}{', …' if len(outside) > 3 else ''}), so MLflow there cannot reach the database unless its pods have "
        "groups of their own. Add the nodes' group: docs/reaching-the-database.md."
    )


def alarms(
    settings: Settings, instance: PrivatePostgres, there: aws.rds.GetInstanceResult | None
) -> PostgresAlarmsArgs:
    """Return the arguments of the alarms on the RDS instance, for its storage and class as they are now."""
    section = settings.postgres
    if section.alarm_topic_arn is None:
        raise ValueError("alarms need a topic")
    return PostgresAlarmsArgs(
        instance_identifier=instance.identifier,
        topic_arn=section.alarm_topic_arn,
        allocated_storage=max(section.allocated_storage, there.allocated_storage if there else 0),
        max_connections=max_connections(
            there.db_instance_class if there and not settings.applies_immediately else section.instance_class
        ),
        kept_connections=settings.connections,
        tags=_tags(settings),
    )


def database_server(settings: Settings, instance: PrivatePostgres | None, cluster: EksCluster | None) -> DatabaseServer:
    """Describe the server to build on: the RDS instance, or the server that the settings name."""
    existing = settings.postgres.existing
    if instance is not None and cluster is not None:
        return DatabaseServer(
            host=instance.address,
            port=instance.port,
            admin_username=instance.master_username,
            admin_password=instance.master_password,
            networks=_vpc_networks(cluster),
            snapshot=instance.snapshot,
        )
    if existing is None:
        raise ValueError("bug: settings without an instance and without postgres.existing passed validation")
    return DatabaseServer(
        host=pulumi.Output.from_input(existing.host),
        port=pulumi.Output.from_input(existing.port),
        admin_username=pulumi.Output.from_input(existing.admin_username),
        admin_password=pulumi.Output.secret(existing.admin_password.get_secret_value()),
        # The network of a host name is not known.
        networks={},
    )


def database(settings: Settings, server: DatabaseServer) -> MlflowDatabaseArgs:
    """Return the arguments of MLflow's database."""
    section = settings.database
    tunnel_host, _, tunnel_port = (section.admin_address or "").rpartition(":")
    return MlflowDatabaseArgs(
        admin_host=tunnel_host or server.host,
        admin_port=int(tunnel_port) if tunnel_port else server.port,
        admin_username=server.admin_username,
        admin_password=server.admin_password,
        ca_file=section.ca_file,
        through_tunnel=section.admin_address is not None,
        name=section.name,
        user=section.user,
        schema=section.schema_name,
        password=_secret(section.password),
        rotation=section.rotation,
        protect=settings.protect,
    )


def artifacts(settings: Settings, cluster: EksCluster) -> ArtifactStoreArgs:
    """Return the arguments of the artifact store."""
    return ArtifactStoreArgs(
        cluster_name=cluster.name,
        account_id=cluster.account_id,
        partition=cluster.partition,
        oidc_issuer=cluster.oidc_issuer,
        namespace=settings.mlflow.namespace,
        service_account=SERVICE_ACCOUNT,
        identity=settings.artifacts.identity,
        bucket=settings.artifacts.bucket,
        kms_key_arn=settings.artifacts.kms_key_arn,
        direct=settings.artifacts.transfers == "direct",
        protect=settings.protect,
        permissions_boundary=settings.iam.permissions_boundary,
        role_path=_role_path(settings),
        tags=_tags(settings),
    )


def ingress(settings: Settings, cluster: EksCluster | None) -> HaproxyIngressArgs:
    """Return the arguments of the ingress controller."""
    section = settings.ingress
    return HaproxyIngressArgs(
        class_name=section.class_name,
        namespace=section.namespace,
        chart_version=section.chart_version,
        replicas=section.replicas,
        load_balancer_class=settings.load_balancer_class(auto_mode=_auto_mode(cluster)),
        scheme=section.scheme,
        allowed_cidrs=section.allowed_cidrs,
        proxy_protocol_networks=cluster.vpc_cidrs
        if cluster and settings.proxy_protocol(auto_mode=cluster.auto_mode)
        else (),
        certificate_arn=section.certificate_arn,
        alarm_topic_arn=settings.postgres.alarm_topic_arn,
        https_port=urlsplit(settings.url).port or 443,
        service_monitor=section.service_monitor or settings.monitoring.enabled,
        service_monitor_labels={**settings.monitoring.labels, **section.service_monitor_labels},
        metrics_namespace=settings.monitoring.namespace if settings.monitoring.enabled else None,
        registry=settings.images.registry,
        pull_secret=settings.images.pull_secret,
        namespaces=[settings.mlflow.namespace, *section.namespaces],
        cluster=_addresses(cluster),
        tags=_tags(settings),
    )


def mlflow(
    settings: Settings,
    cluster: EksCluster | None,
    server: DatabaseServer,
    database: MlflowDatabase,
    artifacts: ArtifactStore | None,
    ingress: HaproxyIngress | None,
) -> MlflowReleaseArgs:
    """Return the arguments of the release, from the settings and the outputs of the other components."""
    section, autoscaling = settings.mlflow, settings.mlflow.autoscaling
    irsa = settings.artifacts.identity == "irsa"
    return MlflowReleaseArgs(
        site=SiteArgs(
            host=section.host,
            url=settings.url,
            ingress_class=ingress.class_name if ingress else settings.ingress.class_name,
            ingress_namespace=settings.ingress.namespace,
            tls_secret_name=settings.ingress.tls_secret_name,
            cluster_issuer=settings.ingress.cluster_issuer,
            client_addresses=settings.proxy_protocol(auto_mode=_auto_mode(cluster)),
            controllers=settings.ingress.replicas,
            request_buffer=REQUEST_BUFFER if ingress else 16384,
            redirect_to_https=not (settings.ingress.plain_http or settings.ingress.certificate_arn),
            cors_allowed_origins=section.cors_allowed_origins,
            allowed_hosts=section.allowed_hosts,
            client_namespaces=section.allowed_namespaces,
        ),
        database=DatabaseArgs(
            host=server.host,
            port=server.port,
            name=database.name,
            user=database.user,
            password=database.password,
            networks=server.networks,
            ca_certificates=Path(settings.database.ca_file).read_text() if settings.database.ca_file else None,
            pool_size=section.pool.size,
            pool_overflow=section.pool.overflow,
        ),
        bucket=BucketArgs(
            name=artifacts.bucket,
            region=artifacts.region or cluster.region,
            role_arn=artifacts.role_arn if irsa else None,
            identity=artifacts.identity,
            direct=settings.artifacts.transfers == "direct",
        )
        if artifacts and cluster
        else None,
        login=_login(section.auth),
        keys=KeysArgs(
            passphrase=_secret(section.keys.passphrase),
            version=section.keys.version,
            webhooks=_secret(section.keys.webhooks),
        ),
        gateway=section.gateway,
        internal_networks=[*_vpc_networks(cluster).values()] if cluster else None,
        pods=PodArgs(
            replicas=section.replicas,
            autoscaler=AutoscalerArgs(min_replicas=autoscaling.min_replicas, max_replicas=autoscaling.max_replicas)
            if autoscaling
            else None,
            workers=section.workers,
            cpu_request=section.resources.cpu_request,
            memory_request=section.resources.memory_request,
            memory_limit=section.resources.memory_limit,
            storage_limit=section.resources.storage_limit,
        ),
        retention=RetentionArgs(**settings.retention.model_dump()) if settings.retention.is_on else None,
        images=ImageArgs(
            registry=settings.images.registry,
            pull_secret=settings.images.pull_secret,
            mlflow_tag="@".join(filter(None, (section.image.tag, section.image.digest))) if section.image else None,
        ),
        metrics=MetricsArgs(namespace=settings.monitoring.namespace, labels=settings.monitoring.labels)
        if settings.monitoring.enabled
        else None,
        namespace=section.namespace,
        chart_version=section.chart_version,
        timeout_seconds=section.timeout_seconds,
        protect=settings.protect,
        cluster=_addresses(cluster),
        snapshot=server.snapshot,
    )


def _login(section: Auth) -> LoginArgs:
    return LoginArgs(
        mode=LoginMode(section.mode),
        admin_username=section.admin_username,
        admin_password=_secret(section.admin_password),
        default_permission=section.default_permission,
        cache_seconds=section.cache_seconds,
        ldap=LdapArgs(**section.ldap.model_dump()) if section.ldap else None,
        oidc=_oidc(section.oidc) if section.oidc else None,
    )


def _oidc(section: Oidc) -> OidcArgs:
    secret = section.client_secret.get_secret_value()
    return OidcArgs(client_secret=pulumi.Output.secret(secret), **section.model_dump(exclude={"client_secret"}))


def alerts_of_site(settings: Settings, release: MlflowRelease) -> SiteAlertsArgs:
    """Return the arguments of the alerts and the dashboard."""
    section = settings.monitoring
    return SiteAlertsArgs(
        namespace=release.namespace,
        site_namespace=settings.mlflow.namespace,
        labels=section.labels,
        runbook_url=section.runbook_url,
        # Its Certificate has the name of the Secret.
        certificate=TLS_SECRET if settings.ingress.cluster_issuer else None,
        clean_up=CLEAN_UP if settings.retention.is_on else None,
    )


def dns_record(settings: Settings, cluster: EksCluster | None, load_balancer: pulumi.Input[str]) -> DnsRecordArgs:
    """Return the arguments of the host's record."""
    return DnsRecordArgs(
        host=settings.mlflow.host,
        zone=settings.mlflow.dns_zone or "",
        target=load_balancer,
        alias=not settings.ingress.needs_cname,
        private_zone_of=cluster.vpc_id if cluster and settings.mlflow.private_zone else None,
    )


def client_snippet(settings: Settings) -> str:
    """Return shell lines with which an MLflow client logs in."""
    lines = [
        f"export MLFLOW_TRACKING_URI={settings.url}",
        f"export MLFLOW_TRACKING_USERNAME={settings.mlflow.auth.admin_username}",
        'export MLFLOW_TRACKING_PASSWORD="$(pulumi stack output adminPassword --show-secrets)"',
    ]
    if settings.ingress.self_signed:
        lines.append("export MLFLOW_TRACKING_INSECURE_TLS=true")
    return "\n".join(lines)


def _auto_mode(cluster: EksCluster | None) -> bool:
    return cluster is not None and cluster.auto_mode


def _vpc_networks(cluster: EksCluster) -> dict[str, str]:
    first, *others = cluster.vpc_cidrs
    return {"vpc": first} | {f"vpc-{cidr}": cidr for cidr in others}


def _addresses(cluster: EksCluster | None) -> ClusterAddresses | None:
    return ClusterAddresses(dns=cluster.dns_address, api_server=cluster.api_networks) if cluster else None


def _secret(value: SecretStr | None) -> pulumi.Output[str] | None:
    return pulumi.Output.secret(value.get_secret_value()) if value is not None else None


def own_tags() -> dict[str, str]:
    """Return the tags that this stack's resources have and no other's."""
    return {"Project": pulumi.get_project(), "Stack": pulumi.get_stack()}


def _role_path(settings: Settings) -> str | None:
    # Roles of stacks from before this setting have no path among their inputs, and a new input may replace a role.
    return None if settings.iam.path == "/" else settings.iam.path


def _tags(settings: Settings) -> dict[str, str]:
    return {**own_tags(), **settings.tags}
