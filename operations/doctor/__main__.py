"""Lists what is missing before a first ``pulumi up`` on AWS: ``make doctor STACK=dev``.

The command only reads. It asks AWS through the ``aws`` command, which the login to the cluster needs anyway.
"""

import argparse
import sys

from operations import aws_cli
from operations.checks import examine
from operations.doctor import plan
from operations.doctor.checks import checks
from operations.doctor.subject import Subject
from operations.stack_file import config, read

NOT_CHECKED = (
    "Not checked: whether this machine reaches the database, which does not exist yet (docs/reaching-the-database.md)."
)


def report(stack: str) -> tuple[str, int]:
    """Return the output of a stack, and the number of failed checks."""
    subject = Subject(stack, read(stack), aws_cli.from_config(config(stack)))
    # A few at a time, because each call of the aws command takes a second of CPU.
    lines, missing = examine(checks(subject), workers=5)
    end = (
        f"{missing} check(s) failed. Fix the lines with ✗, then run this again."
        if missing
        else f"All checks passed. {NOT_CHECKED}"
    )
    planned = [f"  {sentence}" for sentence in plan.sentences(subject)]
    return "\n".join([f"Before `pulumi up` of {stack}:", *lines, "", end, "", "`pulumi up` will:", *planned]), missing


def main() -> None:
    """Print the checks and what `up` will do, and exit with 1 if a check failed."""
    parser = argparse.ArgumentParser(prog="make doctor", description="What is missing before a first `pulumi up`.")
    parser.add_argument("stack", help="name of the stack")
    text, missing = report(parser.parse_args().stack)
    print(text)
    sys.exit(1 if missing else 0)


if __name__ == "__main__":
    main()
