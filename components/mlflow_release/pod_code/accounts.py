"""Accounts in MLflow's database of people whom something else lets in: a directory or an identity provider.

MLflow's permissions need an account. It runs in MLflow's pod, where `ldap_login.py` and `oidc_login.py` use it.
"""
# The virtualenv of this checkout has none of these packages.
# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false

import secrets
import threading
import unicodedata

from mlflow.exceptions import MlflowException
from mlflow.server import auth

_lock = threading.Lock()


def account_name(written: str) -> str | None:
    """Return the name of the account for a written name, or None for an impossible one.

    A directory ignores case and spaces in names, so all spellings of a name must lead to one account.
    """
    name = " ".join(unicodedata.normalize("NFKC", written).split()).lower()
    return name if name and name.isprintable() and len(name) <= 255 else None


def keep_account(name: str, is_admin: bool) -> None:
    """Create the account in MLflow's database, or change whether it is an admin."""
    # A page of the UI sends many requests at once, and only the first may create the account.
    with _lock:
        if not auth.store.has_user(name):
            try:
                # This password is never used: something else checks who the person is. It is random and not stored.
                auth.store.create_user(name, secrets.token_urlsafe(32), is_admin=is_admin)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
        if auth.store.get_user(name).is_admin != is_admin:
            auth.store.update_user(name, is_admin=is_admin)
