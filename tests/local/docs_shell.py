"""A shell that runs the pages' commands on a local stack, as they are written."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from local import tools
from local.cluster.objects import Objects
from local.stack import PYTHON, LocalStack
from local.supervisor.client import Supervisor
from tests import ROOT


class Shell:
    """A shell with `pulumi`, `python`, `kubectl` and PostgreSQL's clients on PATH, all for one local stack."""

    def __init__(self, stack: LocalStack, **variables: str) -> None:
        self._stack = stack
        self._variables = variables
        self._bin = stack.folder / "docs-bin"
        self._bin.mkdir(exist_ok=True)
        self._program(
            "pulumi",
            # The options answer for a person who types yes. `version` fails, so that the local stack does not use this
            # script as its engine.
            f'case "$1" in version) exit 1 ;; up|refresh|import) set -- "$@" --yes --skip-preview ;; esac\ncd {ROOT}\nexec {PYTHON} -m local pulumi "$@"',
        )
        self._program("python", f'HOME={stack.folder} exec {tools.mlflow_python("3.15.1")} "$@"')
        self._program("kubectl", f'cd {ROOT}\nexec {PYTHON} -m tests.local.docs_shell "$@"')
        for name in ("psql", "pg_dump", "pg_restore"):
            self._program(name, f'exec {tools.ensure(tools.POSTGRES_CLIENT).with_name(name)} "$@"')

    def run(
        self,
        *commands: str,
        cwd: Path = ROOT,
        ok: bool = True,
        text: str = "",
        variables: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run commands in one shell, up to the first that fails.

        Args:
            commands: commands of a page, with all placeholders filled in.
            cwd: working directory.
            ok: True (default) if all commands must succeed.
            text: standard input.
            variables: environment variables in addition to the stack's.
        """
        # If `make test` runs this, a `make` in the commands would see its variables and print lines about its
        # directory.
        inherited = {name: value for name, value in self._stack.environment().items() if not name.startswith("MAKE")}
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", "\n".join(commands)],
            cwd=cwd,
            env={
                **inherited,
                "PATH": f"{self._bin}:{os.environ['PATH']}",
                **self._variables,
                **(variables or {}),
            },
            input=text,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0 or not ok, f"{commands} failed:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done

    def _program(self, name: str, script: str) -> None:
        path = self._bin / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)


def kubectl(stack: Path, arguments: list[str]) -> str:
    """Do what the pages need of kubectl: print a key of a Secret or HAProxy's log, scale a Deployment to zero, run a command in a pod.

    For operations/unstick.py also list and delete Helm's Secrets, and for operations/restore run a command without a terminal.
    """
    match arguments:
        case ["--kubeconfig", file, "--request-timeout", _, *rest]:
            assert json.loads(Path(file).read_text())["clusters"]
            return kubectl(stack, rest)
        case ["-n", namespace, "get", "secrets", "-l", selector, *_]:
            wanted = dict(each.split("=") for each in selector.split(","))
            items = Objects(stack / "cluster" / "objects").all("Secret")
            found = [item["metadata"] for item in items if wanted.items() <= item["metadata"].get("labels", {}).items()]
            here = [each for each in found if each["namespace"] == namespace]
            return "".join(f"{each['name']} {each['labels']['version']} {each['labels']['status']}\n" for each in here)
        case ["-n", namespace, "delete", "secret", *names]:
            for name in names:
                Objects(stack / "cluster" / "objects").remove("Secret", namespace, name)
            return ""
        case ["-n", namespace, "get", "secret", name, "-o", path]:
            # The value stays encoded, because the page's command decodes it.
            secret = Objects(stack / "cluster" / "objects").get("Secret", namespace, name)
            assert secret is not None
            return secret["data"][path.removeprefix("jsonpath={.data.").removesuffix("}")]
        case ["-n", _, "rollout", "restart", "deployment/mlflow"]:
            # The restored server has ended the old connections.
            return ""
        case ["-n", "haproxy", "logs", "--selector", *_]:
            names = [one.name for one in Supervisor(stack).list() if one.name.startswith("haproxy.")]
            return "".join(Supervisor(stack).log(name).read_text() for name in names)
        case ["-n", _, "scale", deployment, "--replicas=0"]:
            prefix = f"{deployment.removeprefix('deploy/')}."
            for pod in [one.name for one in Supervisor(stack).list() if one.name.startswith(prefix)]:
                Supervisor(stack).delete(pod)
            return ""
        case ["-n", _, "exec", "-it", deployment, "--", *command] | ["-n", _, "exec", deployment, "--", *command]:
            name = deployment.removeprefix("deploy/")
            pod = next(one.name for one in Supervisor(stack).list() if one.name.startswith(f"{name}.{name}-"))
            spec = json.loads((stack / "supervisor" / "specs" / f"{pod}.json").read_text())
            return subprocess.run(command, env=spec["env"], check=True, stdout=subprocess.PIPE, text=True).stdout
        case _:
            raise SystemExit(f"this kubectl cannot {' '.join(arguments)}")


if __name__ == "__main__":
    print(kubectl(Path(os.environ["MLFLOW_EKS_STACK_DIR"]), sys.argv[1:]), end="")
