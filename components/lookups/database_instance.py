"""Look up the RDS instance of a stack as it is."""

import re
from collections.abc import Mapping

import pulumi
import pulumi_aws as aws

COPY = re.compile(r".*-(old\d+|green-[a-z0-9]+|drill|restored)")
"""Names of copies beside the instance in use: those of a blue/green deployment, and of a restore or its drill."""


def look_up_database_instance(tags: Mapping[str, str]) -> aws.rds.GetInstanceResult | None:
    """Read the instance that carries all of these tags.

    Args:
        tags: tags that only the instances of one stack have.

    Returns:
        The instance. None if there is none, or several, of which a warning tells.

    Raises:
        pulumi.RunError: the instances cannot be listed.
    """
    try:
        # A plain call, not an output: its error can be caught and explained.
        listed = aws.rds.get_instances(tags=dict(tags)).instance_identifiers
    except Exception as error:
        raise pulumi.RunError(
            f"the RDS instances cannot be listed ({error}); the role that runs pulumi needs rds:DescribeDBInstances: docs/iam.md"
        ) from None
    found = [identifier for identifier in listed if not COPY.fullmatch(identifier)]
    if len(found) > 1:
        pulumi.log.warn(
            f"{len(found)} RDS instances carry the tags of this stack ({', '.join(sorted(found))}), so the settings are not compared with the "
            "one in use. Take the tag Stack off the others."
        )
    return aws.rds.get_instance(db_instance_identifier=found[0]) if len(found) == 1 else None
