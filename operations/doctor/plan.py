"""Sentences on what `up` will do, from the settings and the stack's file alone."""

from collections import Counter
from typing import Any

import yaml

from operations.checks import MissingError, SkippedError
from operations.doctor.subject import Subject
from operations.planned import WORDS, aws_resources
from operations.stack_file import ROOT


def sentences(subject: Subject) -> list[str]:
    """Return what `up` will create, who makes the load balancer, what is public, and whether the stack was initialized."""
    settings = subject.settings
    found = [f"create {_listed(subject)};"]
    if settings.on_eks and not settings.postgres.existing:
        kept = (
            "protected: deletion is refused" if settings.protect else "not protected: `pulumi destroy` deletes its data"
        )
        found.append(
            f"make the database private, {settings.postgres.instance_class}, PostgreSQL {settings.postgres.engine_version}, {kept};"
        )
    found.append(_load_balancer(subject))
    found.append(_initialized(subject.stack))
    return found


def _listed(subject: Subject) -> str:
    settings = subject.settings
    counted = Counter[str]()
    for kind, number in aws_resources(settings).items():
        counted[WORDS[kind]] += number
    listed = ", ".join(f"{number} {words if number == 1 else _plural(words)}" for words, number in counted.items())
    in_cluster = "MLflow and HAProxy" if settings.ingress.install else "MLflow"
    beside = f"in the cluster {in_cluster}, and on the database server two logins with a database"
    return f"{sum(counted.values())} resources on AWS ({listed}), {beside}" if counted else beside


def _load_balancer(subject: Subject) -> str:
    settings = subject.settings
    if not settings.ingress.install:
        return f"use the controller of the Ingress class {settings.ingress.class_name}, and make no load balancer;"
    if not settings.on_eks:
        return "leave the load balancer to the cluster;"
    try:
        maker = f"the controller of {subject.load_balancer_class}"
    except (MissingError, SkippedError):
        maker = "the cluster's controller"
    if settings.ingress.scheme == "internal":
        return f"let {maker} make an internal load balancer: nothing is public, and {settings.url} opens inside the VPC only;"
    networks = ", ".join(settings.ingress.allowed_cidrs) or "the whole internet"
    return f"let {maker} make a public load balancer: {settings.url} is open for {networks};"


def _initialized(stack: str) -> str:
    file: dict[str, Any] = yaml.safe_load((ROOT / f"Pulumi.{stack}.yaml").read_text())
    # `stack init` writes these. Whether an `up` has run is in the state only.
    if {"encryptionsalt", "encryptedkey", "secretsprovider"} & file.keys():
        return "go on with the stack that `pulumi stack init` has made."
    return f"need `pulumi stack init {stack}` first: its file has no key for secrets yet."


def _plural(words: str) -> str:
    noun, of, rest = words.partition(" of ")
    return (noun.removesuffix("y") + "ies" if noun.endswith("y") else noun + "s") + of + rest
