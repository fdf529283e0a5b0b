"""From settings to each component's arguments: the one place where the two vocabularies meet."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import pulumi
import pulumi_kubernetes as kubernetes
from pydantic import SecretStr

from components.artifact_store import ArtifactStore, ArtifactStoreArgs
from components.dns_record import DnsRecordArgs
from components.eks_cluster import EksCluster
from components.haproxy_ingress import HaproxyIngress, HaproxyIngressArgs
from components.mlflow_database import MlflowDatabase, MlflowDatabaseArgs
from components.mlflow_release import SERVICE_ACCOUNT, LdapArgs, MlflowReleaseArgs
from components.postgres_alarms import PostgresAlarmsArgs
from components.private_postgres import PrivatePostgres, PrivatePostgresArgs
from components.subnet import look_up_subnets
from settings.rds_connections import max_connections
from settings.stack import Settings

EVERYWHERE = "0.0.0.0/0"


@dataclass(frozen=True)
class DatabaseServer:
    """A PostgreSQL server, whoever made it."""

    host: pulumi.Output[str]
    port: pulumi.Output[int]
    admin_username: pulumi.Output[str]
    admin_password: pulumi.Output[str]
    networks: Mapping[str, pulumi.Input[str]]
    """Networks that its address is in."""


def kubernetes_provider(settings: Settings, cluster: EksCluster | None) -> kubernetes.Provider:
    """Log in to the EKS cluster, or use a context of the kubeconfig."""
    return kubernetes.Provider(
        "cluster",
        kubeconfig=cluster.kubeconfig if cluster else None,
        context=settings.cluster.kube_context,
        # Only another cluster is a reason to make everything anew, not a new endpoint or certificate.
        cluster_identifier=settings.cluster.name or settings.cluster.kube_context,
        # Else a Secret whose data changes is deleted and made again, and is gone for a moment.
        enable_secret_mutable=True,
        enable_config_map_mutable=True,
    )


def postgres(settings: Settings, cluster: EksCluster) -> PrivatePostgresArgs:
    """Build the arguments of the instance, its subnets looked up."""
    given = settings.postgres
    cidrs: dict[str, pulumi.Input[str]] = {}
    groups: dict[str, pulumi.Input[str]] = {}
    if given.allow_from == "cluster":
        groups["cluster"] = cluster.security_group_id
    elif given.allow_from == "vpc":
        cidrs |= _vpc_networks(cluster)
    else:
        cidrs |= {cidr: cidr for cidr in given.allow_from.cidrs}
        groups |= {group: group for group in given.allow_from.security_groups}
    return PrivatePostgresArgs(
        account_id=cluster.account_id,
        partition=cluster.partition,
        vpc_id=cluster.vpc_id,
        subnets=look_up_subnets(given.subnet_ids, cluster.vpc_id) if given.subnet_ids else cluster.private_subnets(),
        engine_version=given.engine_version,
        instance_class=given.instance_class,
        allow_cidrs=cidrs,
        allow_security_groups=groups,
        allocated_storage=given.allocated_storage,
        max_allocated_storage=given.max_allocated_storage,
        storage_type=given.storage_type,
        multi_az=given.multi_az,
        backup_retention_days=given.backup_retention_days,
        monitoring_interval=given.monitoring_interval,
        master_username=given.master_username,
        master_password=_secret(given.master_password),
        kms_key_arn=given.kms_key_arn,
        alarm_topic_arn=given.alarm_topic_arn,
        protect=settings.protect,
        tags=_tags(settings),
    )


def alarms(settings: Settings, instance: PrivatePostgres) -> PostgresAlarmsArgs:
    """Build the arguments of the alarms on our instance."""
    given = settings.postgres
    if given.alarm_topic_arn is None:
        raise ValueError("alarms need a topic")
    return PostgresAlarmsArgs(
        instance_identifier=instance.identifier,
        topic_arn=given.alarm_topic_arn,
        allocated_storage=given.allocated_storage,
        max_connections=max_connections(given.instance_class),
        tags=_tags(settings),
    )


def database_server(settings: Settings, instance: PrivatePostgres | None, cluster: EksCluster | None) -> DatabaseServer:
    """Describe the server to build on: our instance, or the one that the settings name."""
    existing = settings.postgres.existing
    if instance is not None and cluster is not None:
        return DatabaseServer(
            host=instance.address,
            port=instance.port,
            admin_username=instance.master_username,
            admin_password=instance.master_password,
            networks=_vpc_networks(cluster),
        )
    if existing is None:
        raise ValueError("the settings let this through: no instance and no existing server")
    return DatabaseServer(
        host=pulumi.Output.from_input(existing.host),
        port=pulumi.Output.from_input(existing.port),
        admin_username=pulumi.Output.from_input(existing.admin_username),
        admin_password=pulumi.Output.secret(existing.admin_password.get_secret_value()),
        # A name says nothing about its network.
        networks={"everywhere": EVERYWHERE},
    )


def database(settings: Settings, server: DatabaseServer) -> MlflowDatabaseArgs:
    """Build the arguments of MLflow's database."""
    given = settings.database
    tunnel_host, _, tunnel_port = (given.admin_address or "").rpartition(":")
    return MlflowDatabaseArgs(
        admin_host=tunnel_host or server.host,
        admin_port=int(tunnel_port) if tunnel_port else server.port,
        admin_username=server.admin_username,
        admin_password=server.admin_password,
        name=given.name,
        user=given.user,
        schema=given.schema_name,
        password=_secret(given.password),
        rotation=given.rotation,
        protect=settings.protect,
    )


def artifacts(settings: Settings, cluster: EksCluster) -> ArtifactStoreArgs:
    """Build the arguments of the artifact store."""
    return ArtifactStoreArgs(
        cluster_name=cluster.name,
        account_id=cluster.account_id,
        partition=cluster.partition,
        oidc_issuer=cluster.oidc_issuer,
        namespace=settings.mlflow.namespace,
        service_account=SERVICE_ACCOUNT,
        identity=settings.artifacts.identity,
        bucket=settings.artifacts.bucket,
        protect=settings.protect,
        tags=_tags(settings),
    )


def ingress(settings: Settings) -> HaproxyIngressArgs:
    """Build the arguments of the ingress controller."""
    given = settings.ingress
    aws_class = "service.k8s.aws/nlb" if settings.on_eks else None
    return HaproxyIngressArgs(
        class_name=given.class_name,
        namespace=given.namespace,
        chart_version=given.chart_version,
        replicas=given.replicas,
        load_balancer_class=given.load_balancer_class or aws_class,
        scheme=given.scheme,
        allowed_cidrs=given.allowed_cidrs,
        certificate_arn=given.certificate_arn,
        https_port=urlsplit(settings.url).port or 443,
        service_monitor=given.service_monitor,
        registry=settings.images.registry,
        pull_secret=settings.images.pull_secret,
    )


def mlflow(
    settings: Settings,
    cluster: EksCluster | None,
    server: DatabaseServer,
    database: MlflowDatabase,
    artifacts: ArtifactStore | None,
    ingress: HaproxyIngress | None,
) -> MlflowReleaseArgs:
    """Build the arguments of the release from what the other components made."""
    given, door = settings.mlflow, settings.ingress
    autoscaling, ldap = given.autoscaling, given.auth.ldap
    return MlflowReleaseArgs(
        host=given.host,
        url=settings.url,
        database_host=server.host,
        database_port=server.port,
        database_name=database.name,
        database_user=database.user,
        database_password=database.password,
        database_cidrs=server.networks,
        ingress_class=ingress.class_name if ingress else door.class_name,
        ingress_namespace=door.namespace,
        namespace=given.namespace,
        chart_version=given.chart_version,
        bucket=artifacts.bucket if artifacts else None,
        region=cluster.region if cluster else None,
        role_arn=artifacts.role_arn if artifacts and settings.artifacts.identity == "irsa" else None,
        auth_mode=given.auth.mode,
        admin_username=given.auth.admin_username,
        admin_password=_secret(given.auth.admin_password),
        default_permission=given.auth.default_permission,
        auth_cache_seconds=given.auth.cache_seconds,
        ldap=LdapArgs(**ldap.model_dump()) if ldap else None,
        replicas=given.replicas,
        min_replicas=autoscaling.min_replicas if autoscaling else None,
        max_replicas=autoscaling.max_replicas if autoscaling else None,
        workers=given.workers,
        pool_size=given.pool.size,
        pool_overflow=given.pool.overflow,
        cpu_request=given.resources.cpu_request,
        memory_request=given.resources.memory_request,
        memory_limit=given.resources.memory_limit,
        tls_secret_name=door.tls_secret_name,
        cluster_issuer=door.cluster_issuer,
        tls_in_haproxy=not (door.plain_http or door.certificate_arn),
        cors_allowed_origins=given.cors_allowed_origins,
        allowed_hosts=given.allowed_hosts,
        registry=settings.images.registry,
        pull_secret=settings.images.pull_secret,
        timeout_seconds=given.timeout_seconds,
    )


def dns_record(settings: Settings, load_balancer: pulumi.Input[str]) -> DnsRecordArgs:
    """Build the arguments of the host's record."""
    return DnsRecordArgs(
        host=settings.mlflow.host,
        zone=settings.mlflow.dns_zone or "",
        target=load_balancer,
        alias=not settings.ingress.needs_cname,
    )


def client_snippet(settings: Settings) -> str:
    """Shell lines with which an MLflow client logs in."""
    lines = [
        f"export MLFLOW_TRACKING_URI={settings.url}",
        f"export MLFLOW_TRACKING_USERNAME={settings.mlflow.auth.admin_username}",
        'export MLFLOW_TRACKING_PASSWORD="$(pulumi stack output adminPassword --show-secrets)"',
    ]
    if settings.ingress.self_signed:
        lines.append("export MLFLOW_TRACKING_INSECURE_TLS=true")
    return "\n".join(lines)


def _vpc_networks(cluster: EksCluster) -> dict[str, pulumi.Input[str]]:
    first, *others = cluster.vpc_cidrs
    networks: dict[str, pulumi.Input[str]] = {"vpc": first}
    return networks | {f"vpc-{cidr}": cidr for cidr in others}


def _secret(value: SecretStr | None) -> pulumi.Output[str] | None:
    return pulumi.Output.secret(value.get_secret_value()) if value is not None else None


def _tags(settings: Settings) -> dict[str, str]:
    return {"Project": pulumi.get_project(), "Stack": pulumi.get_stack(), **settings.tags}
