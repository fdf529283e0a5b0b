"""Says why a release does not become ready, while Helm still waits for it: ``make watch STACK=dev``, or ``make deploy STACK=dev``.

Helm waits until its timeout, deletes the pods, and says "context deadline exceeded". The reason is in the status of a pod, in a warning
event or only in a container's log, and all of that is gone then. Nothing is changed, and passwords in a log are masked.
"""

import argparse
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from operations.stack_cluster import Kubectl, KubectlError, read_state

Object = Mapping[str, Any]
"""A Kubernetes object, as the API gives it."""

INTERVAL = 10
"""Seconds between two looks."""
PATIENCE = 30
"""Seconds that a container, a pod or an address may take before it is worth a line. A first migration takes about as long."""
LOG_LINES = 15
"""Lines of a log that are shown, its last ones."""
FAULTS = {
    "CreateContainerConfigError",
    "CreateContainerError",
    "CrashLoopBackOff",
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImageInspectError",
    "ImagePullBackOff",
    "InvalidImageName",
    "RegistryUnavailable",
    "RunContainerError",
}
"""Reasons of a container that waits for something that does not come by itself."""
WITHOUT_LOG = FAULTS - {"CrashLoopBackOff", "RunContainerError"}
"""Reasons of a container that never ran."""
USUAL = {"BackOff", "Unhealthy"}
"""Reasons of events that every rollout has, or that the status of a container tells better."""
_SECRETS = (
    (re.compile(r"(://[^:/\s@]*):[^@\s]+@"), r"\1:***@"),
    (re.compile(r"\b(basic|bearer)\s+[\w+/=.~-]{8,}", re.IGNORECASE), r"\1 ***"),
    (
        re.compile(
            r"""([\w-]*(?:password|passwd|passphrase|secret|token|api[_-]?key|access[_-]?key)[\w-]*["']?\s*[=:]\s*)(?:"[^"]*"|'[^']*'|[^\s,;&]+)""",
            re.IGNORECASE,
        ),
        r"\1***",
    ),
    (re.compile(r"([?&]X-Amz-[\w-]+=)[^&\s]+"), r"\1***"),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), "***"),
    # Passwords that the program generates. Digests have no upper case.
    (re.compile(r"\b(?=\w*[A-Z])(?=\w*[a-z])(?=\w*\d)[A-Za-z0-9]{32,}\b"), "***"),
)
"""Patterns of secrets in a text, with what takes their place."""


@dataclass(frozen=True)
class Finding:
    """A reason for which a release does not become ready."""

    about: str
    """Object, and container if there is one."""
    reason: str
    """Reason, in Kubernetes's words if it has any."""
    message: str = ""
    """Sentence about it, for the person."""
    log_of: tuple[str, str] | None = None
    """Pod and container whose log says more."""
    ended: bool = False
    """True if the log is that of the container's run before this one."""

    @property
    def key(self) -> tuple[str, str]:
        """Part that makes two findings the same. A message can count or name times."""
        return self.about, self.reason


def masked(text: str) -> str:
    """Return a text without what looks like a secret."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def findings(objects: Sequence[Object], since: datetime, now: datetime) -> Iterator[Finding]:
    """Look for reasons in the objects of a namespace: pods, Services, Deployments and events.

    Args:
        objects: the objects.
        since: time from which events count.
        now: current time.
    """
    for each in objects:
        look = {"Pod": _of_pod, "Service": _of_service, "Deployment": _of_deployment}.get(each["kind"])
        if look is not None:
            yield from look(each, now)
        elif each["kind"] == "Event" and each.get("type") == "Warning" and each.get("reason") not in USUAL:
            seen = each.get("lastTimestamp") or each.get("eventTime") or each["metadata"]["creationTimestamp"]
            if _time(seen) >= since:
                about = each["involvedObject"]
                yield Finding(
                    f"{about['kind'].lower()} {about['name']}", each.get("reason", "Warning"), each.get("message", "")
                )


def _of_pod(pod: Object, now: datetime) -> Iterator[Finding]:
    name, status = pod["metadata"]["name"], pod.get("status", {})
    if status.get("phase") == "Succeeded" or "deletionTimestamp" in pod["metadata"]:
        return
    conditions = {each["type"]: each for each in status.get("conditions", [])}
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        yield Finding(f"pod {name}", scheduled.get("reason", "Unschedulable"), scheduled.get("message", ""))
    containers = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    faulty = [finding for each in containers for finding in _of_container(name, each)]
    yield from faulty
    if faulty or conditions.get("Ready", {}).get("status") == "True":
        return
    # A container that waits for its database has no event and no fault. Only its log says so.
    for each in containers:
        started = each.get("state", {}).get("running", {}).get("startedAt")
        if started and not each.get("ready") and (now - _time(started)).total_seconds() > PATIENCE:
            about, seconds = f"pod {name}, container {each['name']}", int((now - _time(started)).total_seconds())
            yield Finding(about, "NotReady", f"runs for {seconds} s and is not ready", (name, each["name"]))


def _of_container(pod: str, container: Object) -> Iterator[Finding]:
    about = f"pod {pod}, container {container['name']}"
    state: Object = container.get("state", {})
    last: Object = container.get("lastState", {})
    waiting: Object = state.get("waiting", {})
    ended: Object = state.get("terminated") or last.get("terminated") or {}
    log = (pod, container["name"])
    if waiting.get("reason") in FAULTS and (waiting["reason"] in WITHOUT_LOG or not ended):
        yield Finding(about, waiting["reason"], waiting.get("message", ""))
    elif ended.get("exitCode"):
        restarts = f", started again {container['restartCount']} times" if container.get("restartCount") else ""
        message = f"ended with status {ended['exitCode']}{restarts}"
        yield Finding(about, ended.get("reason", "Error"), message, log, ended="terminated" not in state)


def _of_service(service: Object, now: datetime) -> Iterator[Finding]:
    if service["spec"].get("type") != "LoadBalancer" or service.get("status", {}).get("loadBalancer", {}).get(
        "ingress"
    ):
        return
    age = (now - _time(service["metadata"]["creationTimestamp"])).total_seconds()
    if age > PATIENCE:
        kind = service["spec"].get("loadBalancerClass", "the cluster's default")
        # A network load balancer takes two to four minutes.
        yield Finding(
            f"service {service['metadata']['name']}",
            "NoAddress",
            f"its load balancer (class: {kind}) has no address yet; minutes are usual, and without any event no controller serves that class",
        )


def _of_deployment(deployment: Object, now: datetime) -> Iterator[Finding]:
    for each in deployment.get("status", {}).get("conditions", []):
        # Quotas and policies refuse pods, which then do not exist.
        if each["type"] == "ReplicaFailure" and each["status"] == "True":
            yield Finding(
                f"deployment {deployment['metadata']['name']}", each.get("reason", ""), each.get("message", "")
            )


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


@dataclass
class Watch:
    """A look at the namespaces of a stack, from time to time, that says each reason once."""

    stack: str
    """Name of the stack."""
    pulumi: str
    """Command of the Pulumi CLI."""
    say: Callable[[str], None] = print
    """Function that gets each text."""
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    """Time from which events count."""
    said: dict[tuple[str, str, str], str] = field(default_factory=dict[tuple[str, str, str], str])
    """Texts so far, by namespace and finding."""

    def until(self, stop: threading.Event) -> None:
        """Look until the event is set. A cluster that does not answer is said once, and is no error."""
        complaints: set[str] = set()
        while not stop.is_set():
            try:
                state = read_state(self.stack, self.pulumi)
                if state.provider is not None:
                    with state.kubectl() as kubectl:
                        for namespace in state.namespaces:
                            self.look(kubectl, namespace)
            except (KubectlError, SystemExit) as error:
                if str(error) not in complaints:
                    complaints.add(str(error))
                    self.say(masked(f"watch: {error}"))
            stop.wait(INTERVAL)

    def look(self, kubectl: Kubectl, namespace: str) -> None:
        """Say what is new in a namespace.

        Raises:
            KubectlError: the cluster does not answer.
        """
        kinds = "pods,services,deployments,events"
        objects: list[Object] = json.loads(kubectl("-n", namespace, "get", kinds, "-o", "json"))["items"]
        for finding in findings(objects, self.since, datetime.now(UTC)):
            key = (namespace, *finding.key)
            if key not in self.said:
                self.said[key] = self._text(kubectl, namespace, finding)
                self.say(self.said[key])

    def _text(self, kubectl: Kubectl, namespace: str, finding: Finding) -> str:
        lines = [f"{namespace}: {finding.about}: {finding.reason}: {finding.message}".rstrip(": ")]
        if finding.log_of is not None:
            lines += [f"    | {line}" for line in self._log(kubectl, namespace, *finding.log_of, finding.ended)]
        return masked("\n".join(lines))

    def _log(self, kubectl: Kubectl, namespace: str, pod: str, container: str, ended: bool) -> list[str]:
        command = ["-n", namespace, "logs", pod, "-c", container, f"--tail={LOG_LINES}"]
        try:
            return kubectl(*command, *(["--previous"] if ended else [])).splitlines()
        except KubectlError as error:
            return [f"(no log: {error})"]


def main() -> None:
    """Watch until Ctrl-C, or run a command and watch until it ends. Then exit with its status."""
    parser = argparse.ArgumentParser(prog="make watch", description="Why a release does not become ready.")
    parser.add_argument("--stack", required=True, help="name of the stack")
    parser.add_argument("--pulumi", default="pulumi", help="how to call pulumi (default: pulumi)")
    parser.add_argument("command", nargs="*", help="command to run meanwhile, after --")
    given = parser.parse_args()

    watch = Watch(given.stack, given.pulumi, lambda text: print(f"\n{text}\n", file=sys.stderr, flush=True))
    stop = threading.Event()
    if not given.command:
        print(f"Watching the pods of {given.stack} until Ctrl-C.", file=sys.stderr, flush=True)
        try:
            watch.until(stop)
        except KeyboardInterrupt:
            return
    watching = threading.Thread(target=watch.until, args=(stop,), daemon=True)
    watching.start()
    code = _run(given.command)
    stop.set()
    if code and watch.said:
        # The progress display of a terminal may have hidden them.
        print("\nSeen while the command ran:", *watch.said.values(), sep="\n\n", file=sys.stderr, flush=True)
    sys.exit(code)


def _run(command: Sequence[str]) -> int:
    process = subprocess.Popen(command)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            # The terminal has sent Ctrl-C to Pulumi too, which rolls back and ends.
            time.sleep(0.1)


if __name__ == "__main__":
    main()
