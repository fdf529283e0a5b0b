"""Names of the release and of what belongs to it, each unique in the release's namespace."""

CHART_REPOSITORY = "https://community-charts.github.io/helm-charts"
RELEASE = "mlflow"
SERVICE_ACCOUNT = "mlflow"
DATABASE_SECRET = "postgres-database-secret"  # noqa: S105  (the name of a Secret)
ADMIN_SECRET = "mlflow-auth"  # noqa: S105
KEYS_SECRET = "mlflow-keys"  # noqa: S105
OIDC_SECRET = "mlflow-oidc"  # noqa: S105
DATABASE_CA = "mlflow-database-ca"
TLS_SECRET = "mlflow-tls"  # noqa: S105
CONTAINER_PORT = 5000
METRICS_PORT = 9464
POD_LABELS = {"app.kubernetes.io/name": "mlflow", "app.kubernetes.io/instance": RELEASE}
CLEAN_UP = "mlflow-clean-up"
# Not those of the server's pods: a Service would send requests here.
CLEAN_UP_LABELS = {"app.kubernetes.io/name": CLEAN_UP, "app.kubernetes.io/instance": RELEASE}
