"""The section `cluster`."""

from typing import Annotated

from pydantic import Field

from settings.problem import Problem
from settings.section import Section
from settings.value_types import matching


class Cluster(Section):
    """The Kubernetes cluster, which must exist."""

    name: Annotated[str, matching(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", "write the EKS cluster's name")] | None = Field(
        default=None, examples=["my-cluster"]
    )
    """Name of the EKS cluster. Its VPC, subnets, security group, API endpoint and OIDC issuer are read from AWS."""
    kube_context: str | None = Field(default=None, min_length=1, examples=["kind-mlflow"])
    """Context of the kubeconfig, instead of ``name``: any Kubernetes cluster. With ``postgres.existing`` the program then calls no AWS API."""

    def problems(self) -> list[Problem]:
        """Require exactly one of the two."""
        if (self.name is None) == (self.kube_context is None):
            return [Problem("", "needs either `name` (an EKS cluster) or `kubeContext` (any cluster), not both")]
        return []
