"""Two MLflow sites from the wheel `mlflow_eks`: two databases on one server, two buckets, and one ingress controller."""

import pulumi
import pulumi_kubernetes as kubernetes
from mlflow_eks.artifact_store import ArtifactStore, ArtifactStoreArgs
from mlflow_eks.haproxy_ingress import HaproxyIngress, HaproxyIngressArgs
from mlflow_eks.lookups.eks_cluster import look_up_eks_cluster
from mlflow_eks.mlflow_database import MlflowDatabase, MlflowDatabaseArgs
from mlflow_eks.mlflow_release import (
    SERVICE_ACCOUNT,
    BucketArgs,
    DatabaseArgs,
    MlflowRelease,
    MlflowReleaseArgs,
    PodArgs,
    SiteArgs,
)
from mlflow_eks.network_rules import ClusterAddresses
from mlflow_eks.private_postgres import PrivatePostgres, PrivatePostgresArgs

TEAMS = ("red", "blue")

config = pulumi.Config()
cluster = look_up_eks_cluster(config.require("cluster"))
in_cluster = pulumi.ResourceOptions(
    provider=kubernetes.Provider("cluster", kubeconfig=cluster.kubeconfig, enable_secret_mutable=True)
)

postgres = PrivatePostgres(
    "postgres",
    PrivatePostgresArgs(
        account_id=cluster.account_id,
        partition=cluster.partition,
        vpc_id=cluster.vpc_id,
        subnets=cluster.private_subnets(),
        engine_version="17",
        instance_class="db.t4g.small",
        allow_security_groups={"cluster": cluster.security_group_id},
        protect=False,
        apply_immediately=True,
    ),
)
addresses = ClusterAddresses(dns=cluster.dns_address, api_server=cluster.api_networks)
ingress_args = HaproxyIngressArgs(
    load_balancer_class="service.k8s.aws/nlb",
    namespaces=TEAMS,
    cluster=addresses,
)
ingress = HaproxyIngress("ingress", ingress_args, in_cluster)

for team in TEAMS:
    host = f"{team}.example.com"
    database = MlflowDatabase(
        f"{team}-database",
        MlflowDatabaseArgs(
            admin_host=postgres.address,
            admin_port=postgres.port,
            admin_username=postgres.master_username,
            admin_password=postgres.master_password,
            name=team,
            user=f"{team}_user",
            protect=False,
        ),
    )
    artifacts = ArtifactStore(
        f"{team}-artifacts",
        ArtifactStoreArgs(
            cluster_name=cluster.name,
            account_id=cluster.account_id,
            partition=cluster.partition,
            oidc_issuer=cluster.oidc_issuer,
            namespace=team,
            service_account=SERVICE_ACCOUNT,
            protect=False,
        ),
    )
    release = MlflowRelease(
        team,
        MlflowReleaseArgs(
            site=SiteArgs(
                host=host,
                url=f"https://{host}",
                ingress_class=ingress.class_name,
                ingress_namespace=ingress_args.namespace,
                cluster_issuer="selfsigned",
            ),
            database=DatabaseArgs(
                host=postgres.address,
                port=postgres.port,
                name=database.name,
                user=database.user,
                password=database.password,
                networks={"vpc": cluster.vpc_cidrs[0]},
            ),
            bucket=BucketArgs(name=artifacts.bucket, region=cluster.region, path=team),
            pods=PodArgs(workers=1),
            namespace=team,
            protect=False,
            cluster=addresses,
        ),
        in_cluster,
    )
    pulumi.export(f"{team}Bucket", artifacts.bucket)
    pulumi.export(f"{team}Password", release.admin_password)
pulumi.export("server", {"host": postgres.address, "port": postgres.port})
