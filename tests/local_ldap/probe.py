"""Call the login function without a server, in MLflow's virtualenv: many configurations in a few seconds.

Standard input is a list of `[environment, [[user, password], ...]]`. The output has a list for each item, with the
result of each login: the name of the account, or the HTTP status of the refusal.
"""

import importlib
import json
import os
import sys
import time
from typing import Any

from flask import Flask, Response


def main() -> None:
    configurations = json.load(sys.stdin)
    os.environ.update(configurations[0][0])
    # Both modules read the environment when they are imported.
    auth = importlib.import_module("mlflow.server.auth")
    ldap_login = importlib.import_module("ldap_login")
    auth.store.init_db(auth.auth_config.database_uri)
    app = Flask(__name__)
    print(json.dumps([_logins(app, ldap_login, environment, logins) for environment, logins in configurations]))


def _logins(app: Flask, ldap_login: Any, environment: dict[str, str], logins: list[list[str]]) -> list[str | int]:
    os.environ.update(environment)
    importlib.reload(ldap_login)
    answers: list[str | int] = []
    for user, password in logins:
        if user == "sleep":
            time.sleep(float(password))
            continue
        with app.test_request_context("/", auth=(user, password)):
            answer = ldap_login.authenticate()
            answers.append(answer.status_code if isinstance(answer, Response) else answer.username)
    return answers


if __name__ == "__main__":
    main()
