"""MLflow on a cluster that exists: settings, then components, then what a person needs next."""

import pulumi

import wiring
from components.artifact_store import ArtifactStore
from components.dns_record import DnsRecord
from components.haproxy_ingress import HaproxyIngress
from components.lookups.database_instance import look_up_database_instance
from components.lookups.eks_cluster import look_up_eks_cluster
from components.mlflow_database import MlflowDatabase
from components.mlflow_release import MlflowRelease
from components.postgres_alarms import PostgresAlarms
from components.private_postgres import PrivatePostgres
from components.site_alerts import SiteAlerts
from settings import reader

settings = reader.load()
for warning in settings.warnings():
    pulumi.log.warn(warning)

# The cluster that exists. Without an EKS cluster's name nothing below touches AWS.
cluster = look_up_eks_cluster(settings.cluster.name) if settings.cluster.name else None
if cluster:
    reader.check_place(settings, cluster.region, cluster.partition)
in_cluster = pulumi.ResourceOptions(provider=wiring.kubernetes_provider(settings, cluster))

# The database server: ours, private to the cluster, or one that exists.
if cluster and not settings.postgres.existing:
    if warning := wiring.nodes_shut_out(settings, cluster):
        pulumi.log.warn(warning)
    there = look_up_database_instance(wiring.own_tags())
    if there:
        reader.check_instance(settings, there)
    postgres = PrivatePostgres("postgres", wiring.postgres(settings, cluster, there))
    if settings.postgres.alarm_topic_arn:
        PostgresAlarms("postgres-alarms", wiring.alarms(settings, postgres, there))
else:
    postgres = None
server = wiring.database_server(settings, postgres, cluster)

# MLflow's place on it.
database = MlflowDatabase("database", wiring.database(settings, server))

# Artifacts: a bucket and the pods' identity for it.
artifacts = ArtifactStore("artifacts", wiring.artifacts(settings, cluster)) if cluster else None

# The front door: ours, or a controller that serves the class already.
ingress = (
    HaproxyIngress("ingress", wiring.ingress(settings, cluster), opts=in_cluster) if settings.ingress.install else None
)

# The server itself.
release = MlflowRelease(
    "mlflow", wiring.mlflow(settings, cluster, server, database, artifacts, ingress), opts=in_cluster
)

# Alerts and a dashboard for the cluster's Prometheus.
if settings.monitoring.enabled:
    SiteAlerts("alerts", wiring.alerts_of_site(settings, release), opts=in_cluster)

# Its name.
load_balancer = ingress.address if ingress else settings.ingress.address
if settings.mlflow.dns_zone and load_balancer:
    DnsRecord("dns", wiring.dns_record(settings, cluster, load_balancer))

pulumi.export("url", settings.url)
pulumi.export("loadBalancerAddress", load_balancer)
pulumi.export("databaseAddress", server.host)
if postgres:
    pulumi.export("databaseIdentifier", postgres.identifier)
# A name without a dot, such as localhost, is in no zone.
if not settings.mlflow.dns_zone and "." in settings.mlflow.host:
    pulumi.export("dnsRecordToCreate", {"name": settings.mlflow.host, "type": "CNAME", "value": load_balancer})
if release.admin_password is not None:
    pulumi.export("adminUser", settings.mlflow.auth.admin_username)
    pulumi.export("adminPassword", release.admin_password)
    pulumi.export("adminPasswordCommand", "pulumi stack output adminPassword --show-secrets")
    pulumi.export("client", wiring.client_snippet(settings))
