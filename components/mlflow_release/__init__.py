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
    MlflowReleaseArgs,
    OidcArgs,
    PodArgs,
    RetentionArgs,
    SiteArgs,
)
from .names import SERVICE_ACCOUNT
from .release import MlflowRelease

__all__ = [
    "SERVICE_ACCOUNT",
    "AutoscalerArgs",
    "BucketArgs",
    "DatabaseArgs",
    "ImageArgs",
    "KeysArgs",
    "LdapArgs",
    "LoginArgs",
    "LoginMode",
    "MlflowRelease",
    "MlflowReleaseArgs",
    "OidcArgs",
    "PodArgs",
    "RetentionArgs",
    "SiteArgs",
]
