"""Modules that Python's fork server imports, so that the processes of the programs need not."""

import gc
import importlib

_MODULES = (
    "local.plugins.language_host",
    *(f"pulumi_aws.{service}" for service in ("ec2", "eks", "iam", "rds", "s3")),
    *(f"pulumi_kubernetes.{group}" for group in ("core.v1", "helm.v3", "networking.v1")),
    "pulumi_postgresql",
    "pulumi_random",
    "pydantic.main",
)
"""Modules that the program imports. Of a large SDK, only the parts that every stack uses."""

# Modules are never freed. The garbage collector would still search them again and again, which was measured as a
# quarter of the time of these imports.
gc.disable()
for _module in _MODULES:
    # Some SDKs load their parts only when an attribute is read.
    getattr(importlib.import_module(_module), "__all__", None)
# The collector writes to the objects that it searches, and the forks then have their own copies of that memory.
gc.collect()
gc.freeze()
gc.enable()
