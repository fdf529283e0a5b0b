"""Gives MLflow's administrator a new password: ``make rotate-admin STACK=dev``.

MLflow stores the password itself and reads the Secret at its first start only, so a changed setting alone changes nothing. The new
password first becomes a secret of the stack and then goes to MLflow. After an interruption between the two, run the command again: the
stack's output is the old password until the next ``pulumi up``.
"""

import argparse
import base64
import json
import os
import secrets
import shlex
import ssl
import string
import subprocess
import urllib.error
import urllib.request

from settings import PROJECT

LENGTH = 32
"""Characters of the new password."""
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
        with urllib.request.urlopen(request, timeout=30, context=_tls()):  # noqa: S310
            return
    except urllib.error.HTTPError as error:
        reason = (
            "the password in the stack's output is not the one that MLflow knows" if error.code == 401 else error.reason
        )
        raise SystemExit(f"MLflow answered {error.code}: {reason}. {STILL_OLD}") from None
    except OSError as error:
        raise SystemExit(f"{url} cannot be reached from here ({error}). {STILL_OLD}") from None


def _tls() -> ssl.SSLContext:
    """Trust as MLflow's own client does, by the same variables."""
    context = ssl.create_default_context(cafile=os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH"))
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() == "true":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def main() -> None:
    """Rotate the password of a stack's administrator."""
    parser = argparse.ArgumentParser(prog="make rotate-admin", description="A new password for MLflow's administrator.")
    parser.add_argument("stack", help="name of the stack")
    parser.add_argument("--pulumi", default="pulumi", help="how to call pulumi (default: pulumi)")
    given = parser.parse_args()

    def pulumi(*arguments: str, text: str | None = None) -> str:
        command = [*shlex.split(given.pulumi), *arguments, "--stack", given.stack]
        try:
            done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise SystemExit(
                f"{command[0]} is not on the PATH: install the Pulumi CLI, or name it with --pulumi"
            ) from None
        if done.returncode:
            raise SystemExit(f"`{' '.join(command)}` failed:\n{done.stderr.strip()}")
        return done.stdout

    outputs = json.loads(pulumi("stack", "output", "--json", "--show-secrets"))
    if "adminPassword" not in outputs:
        raise SystemExit(
            f"The stack {given.stack} has no administrator (mlflow.auth.mode is none), or was never brought up."
        )
    new = "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(LENGTH))
    # Through standard input: `ps` shows arguments.
    pulumi("config", "set", "--secret", "--path", f"{PROJECT}:mlflow.auth.adminPassword", text=new)
    change_password(outputs["url"], outputs["adminUser"], outputs["adminPassword"], new)
    print(
        f"{outputs['adminUser']} has a new password, kept as a secret of the stack. Run `pulumi up` so that the Secret follows."
    )


if __name__ == "__main__":
    main()
