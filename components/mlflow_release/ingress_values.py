"""The Ingress of the release, as values of the chart."""

from typing import Any

from .arguments import MlflowReleaseArgs
from .names import TLS_SECRET


def ingress_values(args: MlflowReleaseArgs) -> dict[str, Any]:
    """Return the chart's values for the Ingress, with annotations for HAProxy's controller."""
    site, database = args.site, args.database
    ingress: dict[str, Any] = {
        "enabled": True,
        "className": site.ingress_class,
        "annotations": {
            "haproxy.org/ssl-redirect": "true" if site.redirect_to_https else "false",
            # Large artifacts take longer than the default of 50 s.
            "haproxy.org/timeout-server": "300s",
            # A request can hold one database connection while it waits for a second one. If there are as many requests as connections,
            # all of them can wait for each other for ever. With one request fewer, one of them always gets its second connection.
            "haproxy.org/pod-maxconn": str(database.pool_size + database.pool_overflow - 1),
            # http-server-close: with two workers or more uvicorn answers 40 ms late on a connection that is kept (its issue 3149), and it
            # closes a kept connection after 5 s, at times just when HAProxy sends the next request on it.
            # retry-on: a pod may end before it has answered, because the chart has no place for a pause before a pod is stopped. MLflow's
            # own client sends a request again, too, whatever the request was.
            # http-buffer-request: HAProxy can send again only what it has received whole (16 KiB at most), so it waits for the body.
            "haproxy.org/backend-config-snippet": "option http-server-close\noption http-buffer-request\n"
            "retry-on conn-failure empty-response",
        },
        "hosts": [{"host": site.host, "paths": [{"path": "/", "pathType": "Prefix"}]}],
    }
    if site.url.startswith("https:"):
        ingress["annotations"]["haproxy.org/response-set-header"] = 'Strict-Transport-Security "max-age=31536000"'
    if site.cluster_issuer:
        ingress["annotations"]["cert-manager.io/cluster-issuer"] = site.cluster_issuer
    secret = site.tls_secret_name or (TLS_SECRET if site.cluster_issuer else None)
    if secret:
        ingress["tls"] = [{"secretName": secret, "hosts": [site.host]}]
    return ingress
