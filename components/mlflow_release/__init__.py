"""MlflowRelease: the MLflow server, from the community chart."""

from .arguments import (
    AutoscalerArgs,
    BucketArgs,
    DatabaseArgs,
    ImageArgs,
    KeysArgs,
    LdapArgs,
    LoginArgs,
    LoginMode,
    MetricsArgs,
    MlflowReleaseArgs,
    OidcArgs,
    PodArgs,
    SiteArgs,
)
from .names import SERVICE_ACCOUNT, TLS_SECRET
from .release import MlflowRelease

__all__ = [
    "SERVICE_ACCOUNT",
    "TLS_SECRET",
    "AutoscalerArgs",
    "BucketArgs",
    "DatabaseArgs",
    "ImageArgs",
    "KeysArgs",
    "LdapArgs",
    "LoginArgs",
    "LoginMode",
    "MetricsArgs",
    "MlflowRelease",
    "MlflowReleaseArgs",
    "OidcArgs",
    "PodArgs",
    "SiteArgs",
]
