"""Transfers of artifacts through the pods only, unless the stack's settings let clients go to the bucket.

MLflow tells its clients to ask for signed addresses of the bucket whenever its store can sign some, and has no switch for that. A client
without a route to the bucket then tries for minutes, and does not come back to the pods. Here the store counts as one that signs nothing:
current clients do not ask, and for those that are told to ask the answer is the one on which they come back.

It runs in MLflow's pod, where `authorization.py` installs it before the first request is answered.
"""
# The virtualenv of this checkout has none of these packages.
# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false

import os

from mlflow.server import handlers


class _NoStore:
    """A class that no store is of."""


def install() -> None:
    """Make MLflow take its store for one that signs no addresses."""
    if os.environ.get("ARTIFACT_TRANSFERS") == "proxied":
        # MLflow 3.7.0 has the first of them only.
        handlers.MultipartUploadMixin = handlers.MultipartDownloadMixin = handlers.PresignedUploadMixin = _NoStore
