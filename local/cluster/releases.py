"""The stand-in for Helm, for two charts. An operation on a release is atomic: it is rolled back where a part fails.

An operation that is killed is not rolled back. It leaves the revision that it wrote first, and Helm refuses to go on from that.
"""

import hashlib
import json
import secrets
import time
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from local import paths
from local.charts import ValuesError, haproxy, mlflow
from local.cluster import ClusterError
from local.cluster.ingress_controller import IngressController
from local.cluster.mlflow_pods import Pods, remaining
from local.cluster.objects import Object, Objects, identity, make, make_secret
from local.cluster.revisions import PENDING, UNINSTALLING, Revisions
from local.supervisor.client import Supervisor
from local.tools import Say

CHARTS = {
    "mlflow": "https://community-charts.github.io/helm-charts",
    "kubernetes-ingress": "https://haproxytech.github.io/helm-charts",
}
"""Chart to the URL of its repository."""


@dataclass(frozen=True)
class Release:
    """A release to install or upgrade."""

    name: str
    """Name of the release."""
    namespace: str
    """Namespace of the release."""
    chart: str
    """Name of the chart, a key of `CHARTS`."""
    version: str
    """Version of the chart."""
    values: Mapping[str, Any]
    """Values for the chart."""
    timeout: float
    """Seconds that the operation may take."""
    say: Say = lambda _: None
    """Function that gets what the operation waits for."""


class Cluster:
    """The cluster of a stack, with Helm's operations."""

    def __init__(self, stack_dir: Path) -> None:
        folder = stack_dir / "cluster"
        paths.make_private(folder)
        supervisor = Supervisor(stack_dir)
        self.objects = Objects(folder / "objects")
        self.revisions = Revisions(self.objects)
        self.pods = Pods(folder / "pods", self.objects, supervisor)
        self.ingress = IngressController(folder / "ingress", self.objects, supervisor)

    def check(self, chart: str, version: str, values: Mapping[str, Any]) -> None:
        """Refuse a chart version or values that the cluster cannot run. A preview calls this with incomplete values.

        Raises:
            ClusterError: the version or some values are refused. The message names each of them.
        """
        with _values_errors_as_cluster_errors():
            if chart == "mlflow":
                mlflow.check(version, values)
                haproxy.check_annotations(values.get("ingress", {}).get("annotations", {}))
            else:
                haproxy.check(version, values)

    def check_annotations(self, annotations: Mapping[str, str]) -> None:
        """Refuse annotations of an Ingress that the cluster does not know.

        Raises:
            ClusterError: the message names the annotations.
        """
        with _values_errors_as_cluster_errors():
            haproxy.check_annotations(annotations)

    def release(self, namespace: str, name: str) -> Object | None:
        """Return the record of a release's newest revision, None if Helm knows no such release."""
        return self.revisions.last(namespace, name)

    def install(self, release: Release) -> Object:
        """Install a new release and return its record. Take over objects and pods that are there already.

        Raises:
            ClusterError: the name is in use, the namespace does not exist, the values are refused, or a pod is not ready.
            SupervisorError: a process of the release failed.
            ToolError: a program that the release needs could not be installed.
        """
        self.objects.require_namespace(release.namespace)
        if self.release(release.namespace, release.name):
            raise ClusterError("cannot re-use a name that is still in use")
        return self._apply(release, None)

    def upgrade(self, release: Release) -> Object:
        """Upgrade an existing release and return its record.

        Raises:
            ClusterError: there is no such release, an operation on it is not complete, the values are refused, or a pod is not ready.
            SupervisorError: a process of the release failed.
            ToolError: a program that the release needs could not be installed.
        """
        old = self.release(release.namespace, release.name)
        if old is not None and old["status"]["status"] in PENDING:
            raise ClusterError("another operation (install/upgrade/rollback) is in progress")
        if old is None or old["status"]["status"] == UNINSTALLING:
            raise ClusterError(f'"{release.name}" has no deployed releases')
        if old["chart"] != release.chart:
            raise ClusterError(f"the local stack cannot upgrade {release.name} from {old['chart']} to {release.chart}")
        return self._apply(release, old)

    def uninstall(self, namespace: str, name: str) -> None:
        """Remove a release with its objects and processes.

        Raises:
            ClusterError: Helm knows no such release, or HAProxy does not accept or load its configuration without it.
            SupervisorError: the supervisor does not run.
        """
        revisions = self.revisions.of(namespace, name)
        if not revisions:
            raise ClusterError(f"uninstall: Release not loaded: {name}: release: not found")
        with self.revisions.at_work(namespace, name):
            self._remove(self.revisions.write(revisions[-1], UNINSTALLING))
            # Helm's memory goes last: as long as it is there, an uninstall that failed half-way can be repeated.
            for each in revisions:
                self.revisions.forget(each)

    def _remove(self, record: Object) -> None:
        """Remove the objects and processes of a revision."""
        namespace = record["metadata"]["namespace"]
        if record["chart"] == "kubernetes-ingress":
            self.ingress.uninstall(namespace, record["fullname"], record["objects"])
            return
        for kind, item in record["objects"]:
            self.objects.remove(kind, namespace, item)
        self.ingress.follow()
        self._keep_only([], namespace, record["fullname"])

    def _apply(self, release: Release, old: Object | None) -> Object:
        apply = {"mlflow": self._apply_mlflow, "kubernetes-ingress": self._apply_ingress}[release.chart]
        with _values_errors_as_cluster_errors(), self.revisions.at_work(release.namespace, release.name):
            return apply(release, old, time.monotonic() + release.timeout)

    def _record(
        self,
        release: Release,
        old: Object | None,
        rendered: mlflow.Rendered | haproxy.Rendered,
        items: Sequence[Object],
    ) -> Object:
        app_version = rendered.app_version if isinstance(rendered, mlflow.Rendered) else haproxy.APP_VERSION
        status = {
            "name": release.name,
            "namespace": release.namespace,
            "chart": release.chart,
            "version": release.version,
            "appVersion": app_version,
            "revision": old["status"]["revision"] + 1 if old else 1,
        }
        objects = [[item["kind"], item["metadata"]["name"]] for item in items]
        record = make("helm.sh/v3", "Release", release.namespace, release.name)
        asked = {"chart": release.chart, "version": release.version, "values": release.values}
        return {**record, **asked, "fullname": rendered.fullname, "status": status, "objects": objects}

    @contextmanager
    def _changed(self, record: Object, old: Object | None, items: Sequence[Object]) -> Generator[None]:
        """Write a revision and its objects. If the block fails, restore the revision before, or remove a new release.

        If the block succeeds, remove the objects that only the revision before had.
        """
        self.revisions.write(record, "pending-upgrade" if old else "pending-install")
        before = [(identity(item), self.objects.get(*identity(item))) for item in items]
        try:
            for item in items:
                self.objects.put(item)
            yield
        except BaseException:
            if old is None:
                self._remove(record)
                self.revisions.forget(record)
                raise
            for place, item in before:
                self.objects.put(item) if item else self.objects.remove(*place)
            self.ingress.follow()
            self.revisions.write(record, "failed")
            self.revisions.write(old, "superseded")
            self.revisions.write(_next(old, record), "deployed")
            raise
        for kind, name in old["objects"] if old else ():
            if [kind, name] not in record["objects"]:
                self.objects.remove(kind, record["metadata"]["namespace"], name)

    def _complete(self, record: Object, old: Object | None) -> Object:
        if old is not None:
            self.revisions.write(old, "superseded")
        return self.revisions.write(record, "deployed")

    # The mlflow chart

    def _apply_mlflow(self, release: Release, old: Object | None, deadline: float) -> Object:
        namespace = release.namespace
        rendered = mlflow.render(release.version, release.name, namespace, release.values)
        items = self._mlflow_objects(namespace, rendered)
        record = self._record(release, old, rendered, items)
        record["objects"].append(["Endpoints", rendered.fullname])
        serving = self._serving(namespace, rendered.fullname)
        if self.objects.get("Deployment", namespace, rendered.fullname) is None:
            # Pods end with their Deployment, and here an uninstall that was killed has left them.
            self._keep_only([], namespace, rendered.fullname)
        pods = _pod_names(rendered)
        new = [pod for pod in pods if not self.pods.runs(namespace, pod)]
        for item in items:
            if item["kind"] == "Ingress":
                self.ingress.issue_certificates(namespace, item)
        try:
            with self._changed(record, old, items):
                self.ingress.follow()
                self._start(new, rendered, release, deadline)
                for pod in pods:
                    self.pods.wait(namespace, pod, deadline)
        except BaseException:
            # The pods of a new release are removed by now.
            self._keep_only(serving, namespace, rendered.fullname)
            raise
        servers = {pod: self.pods.address(namespace, pod) for pod in pods}
        self.ingress.move_requests(namespace, rendered.fullname, servers)
        endpoints = make("v1", "Endpoints", namespace, rendered.fullname, servers=servers)
        self.objects.put(endpoints)
        self.ingress.follow()
        self._keep_only(pods, namespace, rendered.fullname)
        return self._complete(record, old)

    def _serving(self, namespace: str, fullname: str) -> list[str]:
        """Return the pods that get requests."""
        endpoints = self.objects.get("Endpoints", namespace, fullname)
        return list(endpoints["servers"]) if endpoints else []

    def _keep_only(self, pods: Sequence[str], namespace: str, fullname: str) -> None:
        for pod in self.pods.of(namespace, fullname):
            if pod not in pods:
                self.pods.delete(namespace, pod)

    def _mlflow_objects(self, namespace: str, rendered: mlflow.Rendered) -> list[Object]:
        flask = self.objects.get("Secret", namespace, rendered.flask_secret)
        key = {"MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32)}
        items = [
            make_secret(namespace, rendered.environment_secret, {}),
            flask or make_secret(namespace, rendered.flask_secret, key),
            make("v1", "ServiceAccount", namespace, rendered.pod.service_account),
            make("v1", "Service", namespace, rendered.fullname, spec=rendered.service),
            make("apps/v1", "Deployment", namespace, rendered.fullname, spec={"replicas": rendered.replicas}),
        ]
        items += [make("v1", "ConfigMap", namespace, name, data=data) for name, data in rendered.config_maps.items()]
        if rendered.ingress:
            item = make("networking.k8s.io/v1", "Ingress", namespace, rendered.fullname, spec=rendered.ingress["spec"])
            item["metadata"]["annotations"] = rendered.ingress["annotations"]
            items.append(item)
        return items

    def _start(self, pods: Sequence[str], rendered: mlflow.Rendered, release: Release, deadline: float) -> None:
        def start(pod: str) -> None:
            self.pods.start(release.namespace, pod, rendered, deadline, release.say)

        # Start the first pod alone: it creates or migrates the tables, and two migrations at once disturb each other.
        for pod in pods[:1]:
            start(pod)
        with ThreadPoolExecutor() as pool:
            others = [pool.submit(start, pod) for pod in pods[1:]]
        for other in others:
            other.result()

    # The ingress chart

    def _apply_ingress(self, release: Release, old: Object | None, deadline: float) -> Object:
        namespace = release.namespace
        rendered = haproxy.render(release.version, release.name, namespace, release.values)
        specification = rendered.ingress_class["spec"]
        items = [make("networking.k8s.io/v1", "IngressClass", "", rendered.class_name, spec=specification)]
        for name, service in rendered.services.items():
            item = make("v1", "Service", namespace, name, spec=service["spec"])
            item["metadata"]["annotations"] = service["annotations"]
            if service["spec"]["type"] == "LoadBalancer":
                item["status"] = {"loadBalancer": {"ingress": [{"ip": "127.0.0.1"}]}}
            items.append(item)
        self.ingress.make_certificate(namespace, rendered.default_certificate, [f"{rendered.fullname}.{namespace}"])
        deployment = make("apps/v1", "Deployment", namespace, rendered.fullname, spec={"replicas": rendered.replicas})
        # The controller is configured again whenever an object changes, also while Helm works on the release.
        deployment["renderedFrom"] = {"version": release.version, "release": release.name, "values": release.values}
        items.append(deployment)
        record = self._record(release, old, rendered, items)
        record["objects"].append(["Secret", rendered.default_certificate])
        with self._changed(record, old, items):
            self.ingress.run(namespace, rendered, remaining(deadline))
        return self._complete(record, old)


def _next(old: Object, failed: Object) -> Object:
    """Return the revision to which Helm rolls back: the content of the old one, with a new number."""
    return {**old, "status": {**old["status"], "revision": failed["status"]["revision"] + 1}}


def _pod_names(rendered: mlflow.Rendered) -> list[str]:
    """Return the names of the pods. As in a Deployment, they contain a hash of the pod template."""
    template = json.dumps(asdict(rendered.pod), sort_keys=True)
    digest = hashlib.sha256(template.encode()).hexdigest()[:10]
    replicas = rendered.hpa["minReplicas"] if rendered.hpa else rendered.replicas or 1
    return [f"{rendered.fullname}-{digest}-{number}" for number in range(1, replicas + 1)]


@contextmanager
def _values_errors_as_cluster_errors() -> Generator[None]:
    try:
        yield
    except ValuesError as error:
        raise ClusterError(str(error)) from error
