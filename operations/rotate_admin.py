"""Gives MLflow's administrator a new password: ``make rotate-admin STACK=dev``.

MLflow stores the password itself and reads the Secret at its first start only, so a changed setting alone changes nothing. The new
password first becomes a secret of the stack and then goes to MLflow. After an interruption between the two, run the command again: the
stack's output is the old password until the next ``pulumi up``.
"""

import argparse
import base64
import json
import urllib.error
import urllib.request

from operations.mlflow_site import from_stack, new_password, run_pulumi, trusted
from settings import PROJECT

STILL_OLD = "MLflow still has the old password, and the stack's settings have the new one: run this command again before `pulumi up`."


def change_password(url: str, user: str, current: str, new: str) -> None:
    """Change a user's password through MLflow's API.

    Args:
        url: address of MLflow.
        user: user whose password changes.
        current: current password.
        new: new password.

    Raises:
        SystemExit: MLflow refuses or cannot be reached. No password is in the message.
    """
    # MLflow 3.15 needs the current password in the body, too; 3.7 ignores it.
    body = {"username": user, "password": new, "current_password": current}
    request = urllib.request.Request(  # noqa: S310  (the stack's own URL)
        f"{url}/api/2.0/mlflow/users/update-password",
        data=json.dumps(body).encode(),
        method="PATCH",
        headers={
            "Content-Type": "application/json",
            "Authorization": "Basic " + base64.b64encode(f"{user}:{current}".encode()).decode(),
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=30, context=trusted()):  # noqa: S310
            return
    except urllib.error.HTTPError as error:
        reason = (
            "the password in the stack's output is not the one that MLflow knows" if error.code == 401 else error.reason
        )
        raise SystemExit(f"MLflow answered {error.code}: {reason}. {STILL_OLD}") from None
    except OSError as error:
        raise SystemExit(f"{url} cannot be reached from here ({error}). {STILL_OLD}") from None


def main() -> None:
    """Rotate the password of a stack's administrator."""
    parser = argparse.ArgumentParser(prog="make rotate-admin", description="A new password for MLflow's administrator.")
    parser.add_argument("stack", help="name of the stack")
    parser.add_argument("--pulumi", default="pulumi", help="how to call pulumi (default: pulumi)")
    given = parser.parse_args()

    site = from_stack(given.stack, given.pulumi)
    new = new_password()
    # Through standard input: `ps` shows arguments.
    key = f"{PROJECT}:mlflow.auth.adminPassword"
    run_pulumi(given.pulumi, given.stack, "config", "set", "--secret", "--path", key, text=new)
    change_password(site.url, site.user, site.password, new)
    print(f"{site.user} has a new password, kept as a secret of the stack. Run `pulumi up` so that the Secret follows.")


if __name__ == "__main__":
    main()
