"""The section `iam`: what an organisation requires of every role."""

from typing import Annotated

from pydantic import Field

from settings.section import Section
from settings.value_types import matching


class Iam(Section):
    """The IAM roles of the pods and of the database's monitoring. ``docs/iam.md`` has the policies of those who deploy."""

    permissions_boundary: (
        Annotated[
            str,
            matching(
                r"arn:aws(-[a-z]+)*:iam::(aws|[0-9]{12}):policy/([!-.0-~]+/)*[A-Za-z0-9+=,.@_-]{1,128}",
                "write the ARN of a managed policy, for example arn:aws:iam::123456789012:policy/boundary",
            ),
        ]
        | None
    ) = Field(default=None, examples=["arn:aws:iam::123456789012:policy/boundary"])
    """ARN of the policy that limits each role, whatever else is attached to it. Many organisations refuse to create a role without one."""
    path: Annotated[
        str,
        matching(
            r"(?=.{1,512}$)/([!-.0-~]+/)*",
            "write a path that begins and ends with a slash, for example /platform/, of at most 512 characters without spaces",
        ),
    ] = "/"
    """Path of the roles, which is a part of their ARNs, for example ``/platform/``. A change replaces both roles. With
    ``artifacts.identity: podIdentity`` restart MLflow's pods afterwards."""
