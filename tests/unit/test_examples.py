"""Each stack file in `examples/` is accepted, previews as the first `up` of a new stack, and does what its first lines say."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from settings import write_reference
from settings.reader import parse
from tests import ROOT
from tests.unit.harness import Deployment, changed, deploy, stack_config

EXAMPLES = sorted((ROOT / "examples").glob("Pulumi.*.yaml"))
NAMES = [path.name.split(".")[1] for path in EXAMPLES]
FILLED_IN = "a-secret-of-sixteen-or-more"

by_name = pytest.mark.parametrize("name", NAMES)


def file(name: str) -> Path:
    return ROOT / "examples" / f"Pulumi.{name}.yaml"


def secrets(name: str) -> list[str]:
    """Return the settings that the file's comments tell the user to set as secrets."""
    return re.findall(r"^# +pulumi config set --secret --path 'mlflow-eks:([\w.]+)'$", file(name).read_text(), re.M)


def config(name: str) -> dict[str, Any]:
    """Return the example's settings with its secrets filled in."""
    return changed(stack_config(name, ROOT / "examples"), dict.fromkeys(secrets(name), FILLED_IN))


def previewed(name: str) -> Deployment:
    return deploy(config(name), secrets=[key.split(".")[0] for key in secrets(name)], preview=True, stack=name)


def images(value: Any) -> list[str]:
    """Return every image's registry or repository in a release's values."""
    if isinstance(value, Mapping):
        own = [text for key, text in value.items() if key in {"repository", "registry"} and isinstance(text, str)]
        return own + [image for item in value.values() for image in images(item)]
    return []


def test_there_are_the_examples_that_the_page_lists() -> None:
    listed = re.findall(r"^\| \[Pulumi\.([\w-]+)\.yaml\]", (ROOT / "examples/README.md").read_text(), re.M)
    assert sorted(listed) == NAMES
    assert len(NAMES) >= 4


@by_name
def test_an_example_is_accepted_without_a_problem(name: str) -> None:
    given = config(name)
    settings, problems = parse(given, {key.split(".")[0] for key in secrets(name)})
    assert problems == []
    assert settings is not None
    # Only what has a price that the file itself names.
    assert [text.split(":")[0] for text in settings.warnings()] == (["artifacts"] if name == "existing-server" else [])


@by_name
def test_an_example_fits_the_schema_once_its_secrets_are_set(name: str) -> None:
    content = yaml.safe_load(file(name).read_text())
    for key in secrets(name):
        section, _, rest = key.partition(".")
        content["config"] = {
            **content["config"],
            f"mlflow-eks:{section}": changed(content["config"][f"mlflow-eks:{section}"], {rest: {"secure": "v1:…"}}),
        }
    jsonschema.validate(content, write_reference.schema())


@by_name
def test_an_example_previews_as_a_new_stack(name: str) -> None:
    deployment = previewed(name)
    assert deployment.named("mlflow-release")["values"]["ingress"]["enabled"] is True
    assert deployment.outputs["url"] == "https://mlflow.example.com"


def test_with_a_private_registry_no_image_comes_from_elsewhere() -> None:
    deployment = previewed("private-registry")
    for release in ("mlflow-release", "ingress-release"):
        values = deployment.named(release)["values"]
        found = images(values)
        assert found
        assert [image for image in found if not image.startswith("registry.example.com/mirror/")] == []
        assert "regcred" in str(values)


def test_with_ldap_the_pods_ask_the_directory() -> None:
    deployment = previewed("ldap")
    assert "ldap_login" in deployment.values["auth"]["authorizationFunction"]
    assert "ldaps://ldap.example.com" in str(deployment.environment)


def test_with_an_existing_server_nothing_calls_aws() -> None:
    deployment = previewed("existing-server")
    assert deployment.calls == []
    assert [resource.name for resource in deployment.resources if "aws" in resource.type] == []
    assert deployment.named("database-server")["host"] == "postgres.example.com"


def test_on_auto_mode_the_clusters_own_controller_makes_the_load_balancer() -> None:
    service = previewed("auto-mode").controller["service"]
    assert service["loadBalancerClass"] == "eks.amazonaws.com/nlb"
