"""HAProxy's rules in front of the pods, as lines for the backend of an Ingress.

Rules are asked before a request takes a place in a pod. docs/security.md says what they stop, and what was tried.
"""

from collections.abc import Sequence

from .arguments import LoginMode, MlflowReleaseArgs

MAX_BODY = 25 * 1024 * 1024
"""Bytes of the largest body that is no file. MLflow's client sends 1 MiB at most (`log-batch`)."""
MAX_REQUESTS = 100
"""Requests of one client at a time, in each part of the site. A browser that opens MLflow's page for the first time has 17."""
MAX_LONG = 4
"""Long requests of one client at a time."""


def site_rules(args: MlflowReleaseArgs, files: Sequence[str], places: int) -> list[str]:
    """Return the rules of the Ingress for everything that has none of its own.

    A long request is one that can hold a place in a pod for as long as its client likes: its body is more than HAProxy waits for, or
    its answer is the file of a logged model, whose path no Ingress can tell from others.

    Args:
        args: the release.
        files: beginnings of the paths that have an Ingress of their own.
        places: requests that a pod gets at once.
    """
    buffered = args.site.request_buffer * 3 // 4
    # Each pod of the controller has its share of the places, and counts for itself.
    share = places // args.site.controllers * args.pods.min_pods
    longest = max(1, share - max(1, share // 3))
    return [
        *_login(args),
        # In another spelling such a path would come here, where a slow transfer takes the place of something else.
        f"acl is_file path,url_dec -m beg {' '.join(files)} /static-files/",
        _refuse(400, "write this path without percent signs", "if is_file"),
        *_no_signed_addresses(args),
        *_per_client(args),
        # HAProxy waits for a body of unknown length only, to see whether it is short. The other rules know the length.
        "acl has_length req.hdr(content-length) -m found",
        f"http-request wait-for-body time 60s at-least {buffered} unless has_length",
        "http-request set-var(txn.headers) req.hdrs,length",
        "http-request set-var(txn.url) url,length",
        f"acl is_long req.body_size,add(txn.headers),add(txn.url) gt {buffered}",
        _refuse(413, "a body of this size needs Content-Length", "if is_long !has_length"),
        _refuse(413, "the body is larger than 25 MiB", f"if {{ req.body_size gt {MAX_BODY} }}"),
        "acl is_model_file path,url_dec -m reg ^/ajax-api/2.0/mlflow/logged-models/[^/]+/artifacts/files",
        "http-request track-sc1 str(long-),concat(,txn.client) if is_long || is_model_file",
        "http-request track-sc2 str(long) if is_long || is_model_file",
        _refuse(
            429,
            "too many large requests at once",
            f"if {{ sc1_conn_cur gt {MAX_LONG} }} || {{ sc2_conn_cur gt {longest} }}",
        ),
        # A new pod takes seconds for its first answers, on a busy node longer than the controller's 5 s. A rollout would lose what waits.
        "timeout queue 15s",
        *_passing_on(),
    ]


def files_rules(args: MlflowReleaseArgs) -> list[str]:
    """Return the rules of the Ingress for transfers of files. They wait for a place, because MLflow's client sends many at once."""
    return [*_login(args), *_per_client(args), "timeout queue 300s", *_passing_on()]


def page_rules(args: MlflowReleaseArgs) -> list[str]:
    """Return the rules of the Ingress for the page that loads the scripts and styles."""
    return [*_login(args), *script_rules(args)]


def script_rules(args: MlflowReleaseArgs) -> list[str]:
    """Return the rules of the Ingress for scripts and styles, which need no login."""
    return [
        *_per_client(args),
        "http-request wait-for-body time 5s at-least 1",
        _refuse(400, "send no body to this path", "if { req.body_size gt 0 }"),
        *_passing_on(),
    ]


def stays_with_tls(args: MlflowReleaseArgs) -> list[str]:
    """Return the rule by which a browser asks this host over TLS only.

    The controller's annotation for headers leaves out the answers of HAProxy itself: 401, 403, 413, 429, 503 and 504.
    """
    if not args.site.url.startswith("https:"):
        return []
    return ['http-after-response set-header Strict-Transport-Security "max-age=31536000"']


def _login(args: MlflowReleaseArgs) -> list[str]:
    """Refuse a request without a login before it takes a place. MLflow answers only when it has the whole body."""
    if args.login.mode == LoginMode.NONE:
        return []
    reason, header = "log in with a name and a password", "hdr WWW-Authenticate 'Basic realm=\"mlflow\"' "
    accepted = ['acl has_login req.hdr(authorization) -m beg -i "basic "']
    if args.login.mode == LoginMode.OIDC:
        reason, header = "log in at the site, or send a token", "hdr WWW-Authenticate 'Bearer realm=\"mlflow\"' "
        accepted = [
            'acl has_login req.hdr(authorization) -m beg -i "basic " "bearer "',
            "acl has_login req.cook(__Host-mlflow) -m found",
            # MLflow answers a browser without a session with the way to the provider.
            "acl is_open method GET",
        ]
    return [
        *accepted,
        "acl is_open path /health",
        # A browser asks so, without a login, whether a page may send a request. MLflow answers by the page's origin.
        "acl is_open method OPTIONS",
        _refuse(401, reason, "if !has_login !is_open", header),
        "http-request wait-for-body time 5s at-least 1 unless has_login",
        _refuse(401, reason, "if !has_login { req.body_size gt 0 }", header),
    ]


def _no_signed_addresses(args: MlflowReleaseArgs) -> list[str]:
    """Answer as an MLflow from before signed addresses, where no login code in the pods keeps it from offering them."""
    if args.login.mode != LoginMode.NONE or args.bucket is None or args.bucket.direct:
        return []
    return [
        "acl is_server_info path,url_dec -m end /mlflow/server-info",
        _refuse(404, "artifacts pass through the pods", "if is_server_info"),
    ]


def _per_client(args: MlflowReleaseArgs) -> list[str]:
    """Count the requests of each client, and limit them where the address is the client's."""
    count = [
        "stick-table type string len 64 size 100k expire 5m store conn_cur",
        "http-request set-var(txn.client) src",
    ]
    if not args.site.client_addresses:
        return count
    return [
        *count,
        "http-request track-sc0 var(txn.client)",
        _refuse(429, "too many requests at once", f"if {{ sc0_conn_cur gt {MAX_REQUESTS} }}"),
    ]


def _passing_on() -> list[str]:
    return [
        # A body may pause for this long. The controller's own 5 s ends a request whose client thinks.
        "timeout http-request 60s",
        # With two workers or more uvicorn answers 40 ms late on a connection that is kept (its issue 3149), and it closes a kept
        # connection after 5 s, at times just when HAProxy sends the next request on it.
        "option http-server-close",
        # A pod may end before it has answered, because the chart has no place for a pause before a pod is stopped. MLflow's own client
        # sends a request again, too, whatever the request was. HAProxy can send again only what it has received whole, so it waits for
        # the body, as far as its buffer holds it.
        "option http-buffer-request",
        "retry-on conn-failure empty-response",
        # To another pod, and none to a pod that just refused a connection until it answers a check. Without the second line every
        # retry goes to the dead pod, which has the most free places.
        "option redispatch 1",
        "default-server observe layer4 error-limit 1 on-error mark-down",
    ]


def _refuse(status: int, reason: str, condition: str, header: str = "") -> str:
    if status == 429:
        header = 'hdr Retry-After "1" '
    return f'http-request return status {status} content-type text/plain {header}string "{reason}\\n" {condition}'
