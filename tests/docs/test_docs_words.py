"""Every command, setting, name and link in the pages exists. tests/local/test_docs_commands.py runs the commands."""

import importlib.util
import json
import re
from typing import Any

import botocore.session
import pytest
import yaml
from botocore import xform_name

from settings.all_settings import Settings
from settings.reader import parse
from tests import ROOT
from tests.docs_commands import NOT_RUN, PAGES, PROGRAMS, RUN, all_commands, block, blocks, prose, reason, words
from tests.unit.harness import Deployment, changed, deploy, stack_config

by_page = pytest.mark.parametrize("page", PAGES)

OF_OTHERS = {"values.yaml", "values.schema.json"}
"""Files of the charts."""
EXAMPLES = {"mlflow.probeFailures", "postgres.dashboard"}
"""Settings that CONTRIBUTING.md adds as examples."""
NAMESPACES_OF_OTHERS = {"kube-system", "databases", "mlflow2"}
OPTIONS_OF_THE_CLI = {("eks", "update-kubeconfig"): {"name", "region"}, ("eks", "get-token"): {"cluster-name"}}
"""Commands that the AWS CLI adds to the API, to their options."""
FILLED_IN = "a-secret-of-thirty-two-characters-or-more"


@pytest.fixture(scope="module")
def dev() -> Deployment:
    return deploy(stack_config("dev"), stack="dev")


@by_page
def test_every_command_is_run_by_a_test_or_stands_in_the_table_with_a_reason(page: str) -> None:
    run = [block(*one) for one in RUN if one[0] == page]
    for one in blocks(page):
        left = [command for command in one.commands() if not reason(page, command)]
        assert [command for command in left if one not in run or not command.startswith(PROGRAMS)] == []


def test_the_table_holds_nothing_that_no_page_says() -> None:
    for page, start in NOT_RUN:
        assert any(command.startswith(start) for one in blocks(page) for command in one.commands()), (page, start)


def test_the_tests_run_the_blocks_that_the_table_promises() -> None:
    files = (
        "test_alerts.py",
        "test_day_two.py",
        "test_docs_commands.py",
        "test_keys.py",
        "test_lost_state.py",
        "test_people.py",
        "test_upgrade.py",
        "test_upgrade_by_image.py",
    )
    tests = "".join((ROOT / "tests/local" / name).read_text() for name in files)
    assert {one for one in RUN if f'("{one[0]}", "{one[1]}")' not in tests} == set()


@by_page
def test_every_make_target_in_the_docs_exists(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for command in all_commands(page):
        if command.startswith("make "):
            first = words(command)[1]
            assert "=" in first or first in targets, command


@by_page
def test_the_settings_that_a_block_sets_are_accepted_together(page: str) -> None:
    for one in blocks(page):
        settings = [setting for command in one.commands() for setting in _config_set(command)]
        if settings:
            _accepted(changed(stack_config("dev"), dict(settings)))


@by_page
def test_every_setting_that_a_sentence_sets_exists(page: str) -> None:
    for command in re.findall(r"`(pulumi config [^`]+)`", prose(page)):
        for key in re.findall(r"mlflow-eks:([\w.]+)", command):
            assert _field(key) is not None, command


@by_page
def test_every_setting_that_a_sentence_names_exists(page: str) -> None:
    sections = "|".join(field.alias or name for name, field in Settings.model_fields.items())
    for key in re.findall(rf"`((?:{sections})\.[a-zA-Z.]+)(?::[^`]*)?`", prose(page)):
        if not key.endswith(".py") and key not in EXAMPLES:
            assert _field(key) is not None, key


@by_page
def test_the_settings_that_a_page_shows_are_accepted(page: str) -> None:
    shown: dict[str, Any] = {}
    for one in blocks(page):
        if one.language != "yaml":
            continue
        document = yaml.safe_load(one.text.replace("secure: …", FILLED_IN).replace("…", "x"))
        config = document.get("config", document)
        if any(key.startswith("mlflow-eks:") for key in config):
            shown = {key.removeprefix("mlflow-eks:"): value for key, value in config.items()}
        else:
            # A block that begins inside a section replaces the same keys of the block before.
            _section_with(shown, set(config)).update(config)
        base = {} if "cluster" in shown else stack_config("dev")
        _accepted({**base, **shown})


@by_page
def test_every_output_in_the_docs_exists(page: str, dev: Deployment) -> None:
    text = (ROOT / page).read_text()
    names = re.findall(r"pulumi stack output (\w+)", text) + re.findall(r"[Oo]utput\s+`(\w+)`", text)
    assert set(names) <= set(dev.outputs)


@by_page
def test_every_python_module_in_the_docs_exists(page: str) -> None:
    text = (ROOT / page).read_text()
    for module in re.findall(r"python3? -m ([\w.]+)", text):
        assert importlib.util.find_spec(module), module


@by_page
def test_every_link_leads_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text()):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, target


@by_page
def test_every_page_is_reached_from_the_readme_or_from_the_page_that_lists_its_folder(page: str) -> None:
    folder = page.removeprefix("docs/").rpartition("/")[0] if page.startswith("docs/") else ""
    where = ROOT / ("docs/architecture.md" if folder else "README.md")
    assert page == "README.md" or f"({page.removeprefix('docs/') if folder else page})" in where.read_text()


@by_page
def test_every_file_in_the_docs_exists(page: str) -> None:
    folders = ("", "local", "local/plugins", "components", ".github/workflows")
    here = {path.name for folder in folders for path in (ROOT / folder).glob("*")}
    for name in re.findall(r"`([\w./-]+\.(?:py|md|ya?ml|json|txt|in|toml|baseline))`", prose(page)):
        assert name in here | OF_OTHERS or (ROOT / name).exists(), name
    for command in all_commands(page):
        for name in re.findall(r"(?:-r|--baseline|audit) (\S+)", command):
            assert (ROOT / name).exists(), command


def test_every_name_in_a_recipe_is_in_a_file_that_its_step_names() -> None:
    recipes = re.split(r"^## ", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)
    steps = [
        step for recipe in recipes if recipe.startswith("Add ") for step in re.split(r"^\d+\. ", recipe, flags=re.M)[1:]
    ]
    assert len(steps) > 20
    for step in steps:
        quoted = re.findall(r"`([^`]+)`", step)
        texts = [(ROOT / name).read_text() for name in quoted if name.endswith(".py")]
        names = [name for name in quoted if re.fullmatch(r"\w+(\(\))?", name)]
        assert [name for name in names if texts and not any(name.rstrip("()") in text for text in texts)] == [], step


@by_page
def test_kubectl_and_helm_name_what_the_program_makes(page: str, dev: Deployment) -> None:
    def names_of(kind: str) -> set[str]:
        return {one.inputs["metadata"]["name"] for one in dev.resources if one.type.endswith(f":{kind}")}

    releases = {one.inputs["name"] for one in dev.resources if one.type.endswith(":Release")}
    for command in all_commands(page):
        if not command.startswith(("kubectl ", "helm ")):
            continue
        for namespace in re.findall(r" -n (\S+)", command):
            assert namespace in names_of("Namespace") | NAMESPACES_OF_OTHERS, command
        for secret, key in re.findall(r"get secret (\S+) -o jsonpath='\{\.data\.(\w+)\}'", command):
            (data,) = [
                one.inputs["stringData"]
                for one in dev.resources
                if one.type.endswith(":Secret") and one.inputs["metadata"]["name"] == secret
            ]
            assert key in json.dumps(data), command
        for deployment in re.findall(r"-n mlflow .*deploy(?:ment)?/(\S+)", command):
            assert deployment in releases, command
        if command.startswith("helm -n "):
            assert words(command)[4] in releases, command


@by_page
def test_aws_commands_are_ones_that_the_api_describes(page: str) -> None:
    session: Any = botocore.session.get_session()
    for command in all_commands(page):
        # Each `$(…)` is a separate command.
        for text in [part.split(")")[0] for part in command.replace("\\\n", " ").split("$(")]:
            if not text.startswith("aws ") or "…" in text.split()[2]:
                continue
            _, service, operation, *arguments = text.split()
            named = set(re.findall(r" --([a-z0-9-]+)", text))
            if (service, operation) in OPTIONS_OF_THE_CLI:
                assert named <= OPTIONS_OF_THE_CLI[service, operation], command
                continue
            if operation == "wait":
                waiters = session.get_waiter_model(service).waiter_names
                assert arguments[0] in {xform_name(one, "-") for one in waiters}, command
                continue
            model = session.get_service_model({"s3api": "s3"}.get(service, service))
            names = {xform_name(one, "-"): one for one in model.operation_names}
            assert operation in names, command
            members = model.operation_model(names[operation]).input_shape.members
            switches = {f"no-{xform_name(name, '-')}" for name, one in members.items() if one.type_name == "boolean"}
            options = {xform_name(one, "-") for one in members} | switches | {"query", "output", "region"}
            assert named <= options, command


def test_the_versions_of_the_workflow_linters_are_those_of_make_check() -> None:
    pin = re.compile(r"zizmor@[\d.]+|actionlint@v[\d.]+")
    assert set(pin.findall((ROOT / "CONTRIBUTING.md").read_text())) == set(pin.findall((ROOT / "Makefile").read_text()))


def _config_set(command: str) -> list[tuple[str, Any]]:
    """Return the setting that a command changes. A value of None removes the setting."""
    if command.startswith("pulumi config rm"):
        return [(words(command)[-1].removeprefix("mlflow-eks:"), None)]
    if not command.startswith("pulumi config set"):
        return []
    arguments = words(command)[3:]
    key, *value = [word for word in arguments if not word.startswith("--")]
    if not key.startswith("mlflow-eks:"):
        return []
    text = FILLED_IN if "--secret" in arguments else value[0].replace("…", "x")
    if text.endswith(".pem"):
        # A file of the reader's, which the settings look for.
        text = "tests/unit/authority.pem"
    field = _field(key.removeprefix("mlflow-eks:"))
    assert field is not None, command
    # `pulumi config set --path` writes numbers and booleans as such.
    return [(key.removeprefix("mlflow-eks:"), json.loads(text) if re.fullmatch(r"\d+|true|false", text) else text)]


def _accepted(sections: dict[str, Any]) -> None:
    settings, problems = parse(sections, set(sections))
    assert settings is not None, problems
    assert problems == []


def _field(key: str) -> Any:
    """Return the definition of a setting in the editor's schema, which is written from the model."""
    schema = json.loads((ROOT / "docs/settings.schema.json").read_text())
    node: Any = schema["properties"]["config"]["properties"]
    first, *rest = key.split(".")
    node = node.get(f"mlflow-eks:{first}")
    for name in rest:
        node = next(
            (one["properties"][name] for one in _variants(schema, node) if name in one.get("properties", {})), None
        )
        if node is None:
            return None
    return node


def _variants(schema: Any, node: Any) -> list[Any]:
    variants = [one for kind in ("anyOf", "oneOf", "allOf") for one in node.get(kind, [])] or [node]
    return [schema["$defs"][one["$ref"].rsplit("/", 1)[-1]] if "$ref" in one else one for one in variants]


def _section_with(section: dict[str, Any], keys: set[str]) -> dict[str, Any]:
    if keys & section.keys():
        return section
    for value in section.values():
        if isinstance(value, dict) and (section_with := _section_with(value, keys)):
            return section_with
    return {}
