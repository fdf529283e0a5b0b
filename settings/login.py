"""The section `mlflow.auth`."""

from typing import Annotated, Literal

from pydantic import Field

from settings.oidc import Oidc
from settings.problem import Problem
from settings.section import Section
from settings.value_types import Certificate, DistinguishedName, LdapUri, Password, matching


class Ldap(Section):
    """The directory that checks passwords: ``docs/ldap.md``."""

    uri: LdapUri = Field(examples=["ldaps://ldap.example.com:636"])
    """URI of the directory, for example ``ldaps://ldap.example.com:636``. StartTLS encrypts a connection to ``ldap://``."""
    lookup_bind: Annotated[
        str,
        # A bare %s would let people choose among several names for themselves, each an account of its own.
        matching(
            r"(?=.*[=@\\])[^%\n]*%s[^%\n]*",
            "write the user's DN with %s for the name, or what Active Directory binds, such as %s@example.com",
        ),
    ] = Field(examples=["uid=%s,ou=people,dc=example,dc=com"])
    """DN of a user with ``%s`` for the name, for example ``uid=%s,ou=people,dc=example,dc=com``. For Active Directory:
    ``%s@example.com``."""
    group_search_base: DistinguishedName = Field(examples=["ou=groups,dc=example,dc=com"])
    """Base DN of the search for groups. With ``groupAttribute: memberOf``: base DN of the search for the user."""
    group_search_filter: Annotated[
        str, matching(r"\((?:[^%\n]|%s)*%s(?:[^%\n]|%s)*\)", "write an LDAP filter with %s for the user")
    ] = "(|(member=%s)(uniqueMember=%s))"
    """Filter of that search, with ``%s`` for the user as ``lookupBind`` writes it."""
    admin_group_dn: DistinguishedName = Field(examples=["cn=mlflow-admins,ou=groups,dc=example,dc=com"])
    """DN of the group whose members are MLflow administrators."""
    user_group_dn: DistinguishedName = Field(examples=["cn=mlflow,ou=groups,dc=example,dc=com"])
    """DN of the group whose members may log in."""
    group_attribute: str = "dn"
    """Attribute of a found entry that holds the group's DN: ``dn`` or, for example, ``memberOf``."""
    tls_verify: Literal["required", "none"] = "required"
    """Check of the directory's certificate."""
    start_tls: bool = True
    """True to encrypt ``ldap://`` by StartTLS. Without it, passwords cross the network unencrypted."""
    ca_certificate: Certificate | None = None
    """CA certificate of the directory, PEM. Default: the public ones."""


class Auth(Section):
    """The login."""

    mode: Literal["basic", "ldap", "oidc", "none"] = "basic"
    """Kind of login. ``basic``: MLflow's own users. ``ldap``: a directory checks passwords. ``oidc``: an identity provider logs people in
    (single sign-on). ``none``: every visitor may do everything."""
    admin_username: Annotated[
        str, matching(r"[A-Za-z0-9._-]{1,64}", "write 1 to 64 characters out of A-Z a-z 0-9 . _ -")
    ] = "admin"
    """Name of the first administrator. With ``mode: ldap`` and ``mode: oidc``, the only account with a password of MLflow's."""
    admin_password: Password | None = None
    """Password of the first administrator, a secret. Generated when absent. MLflow reads it at its first start only: see ``docs/rotation.md``."""
    default_permission: Literal["NO_PERMISSIONS", "READ", "EDIT", "MANAGE"] = "NO_PERMISSIONS"
    """Permission of users on experiments and models of others."""
    cache_seconds: int = Field(default=60, ge=0, le=3600)
    """Seconds for which a checked password is remembered. A check costs 213 ms of CPU; 0 checks every request. With ``mode: basic`` a new
    password and a removed user count at once all the same; with ``mode: ldap`` after that time. A change replaces the pods."""
    ldap: Ldap | None = None
    """The directory, with ``mode: ldap``."""
    oidc: Oidc | None = None
    """The identity provider, with ``mode: oidc``."""

    def problems(self) -> list[Problem]:
        """Require a block and its mode together, and no password for a login that is off."""
        for block, given, needed in (
            ("ldap", self.ldap, "uri, lookupBind, groupSearchBase, adminGroupDn and userGroupDn"),
            ("oidc", self.oidc, "issuer, clientId, clientSecret and userGroups"),
        ):
            if self.mode == block and given is None:
                return [Problem("mode", f"is {block} but `{block}` is missing; give its {needed}", based_on=[block])]
            if self.mode != block and given is not None:
                return [
                    Problem(
                        block,
                        f"is given but `mode` is {self.mode}; the kinds of login exclude each other: write mode: {block} or drop {block}",
                        based_on=["mode"],
                    )
                ]
        if self.mode == "none" and self.admin_password is not None:
            return [
                Problem(
                    "adminPassword",
                    "is given but `mode` is none, so nothing asks for it; drop it or write mode: basic",
                    based_on=["mode"],
                )
            ]
        if self.oidc and self.admin_username in self.oidc.machines:
            return [
                Problem(
                    "oidc.machines",
                    f"names the account {self.admin_username}, which is `adminUsername`; write another name",
                    based_on=["adminUsername"],
                )
            ]
        return []
