"""The sections `artifacts` and `images`: what is stored in a bucket, and what is pulled from a registry."""

from typing import Annotated, Literal

from pydantic import Field

from settings.section import Section
from settings.value_types import PORT, SUBDOMAIN, DnsSubdomain, kms_key, matching


class Artifacts(Section):
    """The bucket for artifacts. Clients need no AWS credentials."""

    bucket: (
        Annotated[
            str,
            matching(
                r"(?!.*\.\.)(?!(\d+\.){3}\d+$)(?!xn--|sthree-|amzn-s3-demo-)(?!.*(-s3alias|--ol-s3|\.mrap|--x-s3|--table-s3)$)"
                r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]",
                "write a bucket's name, for example my-mlflow-artifacts",
            ),
        ]
        | None
    ) = None
    """Name of a bucket that exists. Default: the program creates one."""
    kms_key_arn: Annotated[str, kms_key] | None = None
    """KMS key of the bucket. A bucket that exists and is encrypted with a key of yours needs it too: without it each artifact is refused.
    Default: the account's key ``aws/s3``."""
    identity: Literal["podIdentity", "irsa"] = "podIdentity"
    """Way in which the pods get their AWS role: EKS Pod Identity (needs its agent add-on) or IRSA (needs the cluster's OIDC provider)."""
    transfers: Literal["direct", "proxied"] = "proxied"
    """Way of files between clients and the bucket. ``proxied``, the default: through the pods, because every client reaches those. ``direct``:
    through addresses that the pods sign, so each client needs a route to S3, and one without fails after minutes. Needs chart 1.11.5. See
    ``docs/artifact-transfers.md``."""


class Images(Section):
    """The registry that images are pulled from."""

    registry: (
        Annotated[
            str,
            # A first part without a dot or a port would be a name on Docker's own registry.
            matching(
                rf"(?=.{{1,200}}$)(?=localhost[:/]|[^/]*[.:]){SUBDOMAIN}(:{PORT})?"
                r"(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*",
                "write the registry's host and a path, without https:// and without a slash at the end",
            ),
        ]
        | None
    ) = Field(default=None, examples=["registry.example.com/mirror"])
    """Registry and path that mirror ``burakince/mlflow``, ``library/busybox`` and ``haproxytech/kubernetes-ingress``."""
    pull_secret: DnsSubdomain | None = Field(default=None, examples=["registry-login"])
    """Name of a Secret of type dockerconfigjson, in both namespaces. The first ``up`` creates these: see ``docs/private-registry.md``."""
