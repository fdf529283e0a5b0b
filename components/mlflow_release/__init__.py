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
    RetentionArgs,
    SiteArgs,
)
from .names import CLEAN_UP, SERVICE_ACCOUNT, TLS_SECRET
from .release import MlflowRelease

__all__ = [
    "CLEAN_UP",
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
    "RetentionArgs",
    "SiteArgs",
]
