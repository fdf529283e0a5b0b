"""Tries a stack that is up, from outside and without harm: ``make verify STACK=dev``.

The command writes a run with a file and makes a user, and removes them. Of AWS it only reads.
"""

import argparse
import os
import sys

from operations.checks import examine
from operations.verify import site
from operations.verify.checks import CHECKS, checks
from operations.verify.subject import read


def main() -> None:
    """Print the checks, and exit with 1 if one failed."""
    parser = argparse.ArgumentParser(prog="make verify", description="Does a stack work?")
    parser.add_argument("stack", help="name of the stack")
    parser.add_argument("--pulumi", default="pulumi", help="how to call pulumi (default: pulumi)")
    parser.add_argument("--aws", default="aws", help="how to call the aws command (default: aws)")
    parser.add_argument(
        "--wait", type=float, default=0, metavar="SECONDS", help="wait so long for the site to answer (default: 0)"
    )
    parser.add_argument("--only", choices=CHECKS, action="append", help="a check to make (default: all)")
    given = parser.parse_args()
    subject = read(given.stack, given.pulumi, given.aws)
    if subject.settings.ingress.self_signed:
        # The stack's own output `client` says the same to every client.
        os.environ.setdefault("MLFLOW_TRACKING_INSECURE_TLS", "true")
    site.wait(subject, given.wait)
    lines, failed = examine(checks(subject, given.only or ()), workers=6)
    print(f"{given.stack}, {subject.url}:", *lines, "", sep="\n")
    print(f"{failed} check(s) failed." if failed else "All checks passed.")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
