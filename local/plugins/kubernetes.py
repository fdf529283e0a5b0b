# ruff: noqa: D102, S105 - `Resource` describes the methods; a token is a type's name
"""The stand-in for Pulumi's `kubernetes` provider. It acts on the stand-in cluster (`local/cluster`)."""

import base64
from importlib.metadata import version
from typing import ClassVar, cast

from local import paths
from local.cluster import ClusterError
from local.cluster.objects import Object, identity
from local.cluster.releases import CHARTS, Cluster, Release
from local.plugins.provider_base import (
    UNKNOWN,
    InvalidInput,
    Plain,
    Properties,
    Provider,
    Resource,
    State,
    status,
)
from local.supervisor.spec import SupervisorError
from local.tools import ToolError


class KubernetesObject(Resource):
    """An object that the cluster stores and does nothing with."""

    supported = frozenset({"apiVersion", "kind", "metadata", "spec"})
    computed = frozenset({"status"})
    kind: ClassVar[str]
    """Kind of the object."""
    upsert = False
    """True if an object that exists is taken over instead of refused (`upsertExistingObjects` of the provider)."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def check(self, inputs: Properties) -> Properties:
        if "name" not in inputs.get("metadata", {}):
            raise InvalidInput("metadata", f"the local stack generates no names; set `name` for this {self.kind}")
        return inputs

    def create(self, inputs: Properties) -> tuple[str, Properties]:
        store = self.cluster.objects.put if self.upsert else self.cluster.objects.create
        stored = store(self.to_object(inputs))
        self.changed()
        return _id(stored), stored

    def read(self, resource_id: str, inputs: Properties, outputs: Properties) -> State | None:
        stored = self.cluster.objects.get(self.kind, *_parts(resource_id))
        return State(resource_id, inputs or _without_own_fields(stored), stored) if stored else None

    def replaced_by(self, old: Properties, new: Properties) -> frozenset[str]:
        # Kubernetes renames and moves no object.
        before, after = ([inputs["metadata"].get(part) for part in ("name", "namespace")] for inputs in (old, new))
        return self.replace if before == after else self.replace | {"metadata"}

    def update(self, resource_id: str, old: Properties, inputs: Properties) -> Properties:
        stored = self.cluster.objects.put(self.to_object(inputs))
        self.changed()
        return stored

    def delete(self, resource_id: str, properties: Properties) -> None:
        self.cluster.objects.remove(self.kind, *_parts(resource_id))
        self.changed()

    def to_object(self, inputs: Properties) -> Object:
        """Return the Kubernetes object for these inputs."""
        return {**inputs, "kind": self.kind}

    def changed(self) -> None:
        """Update the parts of the cluster that depend on objects of this kind."""


class Namespace(KubernetesObject):
    """A namespace."""

    token = "kubernetes:core/v1:Namespace"
    kind = "Namespace"


class Secret(KubernetesObject):
    """A Secret."""

    token = "kubernetes:core/v1:Secret"
    kind = "Secret"
    supported = frozenset({"apiVersion", "data", "kind", "metadata", "stringData", "type"})
    secret = frozenset({"data", "stringData"})

    def to_object(self, inputs: Properties) -> Object:
        plain: dict[str, str] = inputs.get("stringData", {})
        encoded = {key: base64.b64encode(value.encode()).decode() for key, value in plain.items()}
        kept = {name: value for name, value in super().to_object(inputs).items() if name != "stringData"}
        return {"type": "Opaque", **kept, "data": {**inputs.get("data", {}), **encoded}}

    def changed(self) -> None:
        # The Secret can contain a certificate that HAProxy serves.
        self.cluster.ingress.follow()


class ReplacedSecret(Secret):
    """A Secret under a provider without `enableSecretMutable`: new data replace the object."""

    replace = frozenset({"data", "stringData", "type"})
    delete_before_replace = True


class ConfigMap(KubernetesObject):
    """A ConfigMap."""

    token = "kubernetes:core/v1:ConfigMap"
    kind = "ConfigMap"
    supported = frozenset({"apiVersion", "data", "kind", "metadata"})


class Service(KubernetesObject):
    """A Service. It has the pods of a release's Service with the same selector."""

    token = "kubernetes:core/v1:Service"
    kind = "Service"

    def changed(self) -> None:
        self.cluster.ingress.follow()


class Ingress(KubernetesObject):
    """An Ingress for the one ingress controller."""

    token = "kubernetes:networking.k8s.io/v1:Ingress"
    kind = "Ingress"

    def check(self, inputs: Properties) -> Properties:
        annotations = _without_unknown(super().check(inputs)["metadata"].get("annotations", {}))
        try:
            self.cluster.check_annotations(annotations)
        except ClusterError as error:
            raise InvalidInput("metadata.annotations", str(error)) from error
        return inputs

    def changed(self) -> None:
        self.cluster.ingress.follow()


class NetworkPolicy(KubernetesObject):
    """A NetworkPolicy. The local stack stores it and does not enforce it."""

    token = "kubernetes:networking.k8s.io/v1:NetworkPolicy"
    kind = "NetworkPolicy"


class PodDisruptionBudget(KubernetesObject):
    """A PodDisruptionBudget. It has no effect, because the local stack never evicts pods."""

    token = "kubernetes:policy/v1:PodDisruptionBudget"
    kind = "PodDisruptionBudget"


class CronJob(KubernetesObject):
    """A CronJob. The local stack stores it and never starts it."""

    token = "kubernetes:batch/v1:CronJob"
    kind = "CronJob"


class Deployment(KubernetesObject):
    """A Deployment of a chart. The program reads it and has none of its own."""

    token = "kubernetes:apps/v1:Deployment"
    kind = "Deployment"


class ServiceMonitor(KubernetesObject):
    """A ServiceMonitor of the Prometheus operator. The local stack has no operator and stores it."""

    token = "kubernetes:monitoring.coreos.com/v1:ServiceMonitor"
    kind = "ServiceMonitor"


class PrometheusRule(KubernetesObject):
    """A PrometheusRule of the Prometheus operator. The local stack has no operator and stores it."""

    token = "kubernetes:monitoring.coreos.com/v1:PrometheusRule"
    kind = "PrometheusRule"


class HelmRelease(Resource):
    """A Helm release of one of the two charts of `local/charts`."""

    token = "kubernetes:helm.sh/v3:Release"
    outlives_engine = True
    computed = frozenset({"status"})
    replace = frozenset({"name", "namespace"})
    supported = frozenset(
        {
            "atomic",
            "chart",
            "cleanupOnFail",
            "compat",
            "name",
            "namespace",
            "repositoryOpts",
            "timeout",
            "values",
            "version",
        }
    )

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def check(self, inputs: Properties) -> Properties:
        for needed in ("name", "version"):
            if needed not in inputs:
                raise InvalidInput(needed, f"the local stack needs `{needed}`; set it")
        if not inputs.get("atomic"):
            raise InvalidInput("atomic", "the local stack has atomic releases only; set `atomic` to true")
        chart, repository = inputs["chart"], inputs.get("repositoryOpts", {}).get("repo")
        if CHARTS.get(chart) != repository:
            raise InvalidInput(
                "chart",
                f"the local stack does not know the chart {chart} from {repository}; it has {' and '.join(CHARTS)} "
                "from the repositories in local/cluster/releases.py",
            )
        try:
            self.cluster.check(chart, inputs["version"], _without_unknown(inputs.get("values", {})))
        except ClusterError as error:
            raise InvalidInput("values", str(error)) from error
        return inputs

    def create(self, inputs: Properties) -> tuple[str, Properties]:
        release = self.to_release(inputs)
        record = self.cluster.install(release)
        return f"{release.namespace}/{release.name}", {"status": record["status"]}

    def read(self, resource_id: str, inputs: Properties, outputs: Properties) -> State | None:
        record = self.cluster.release(*_parts(resource_id))
        if record is None:
            return None
        namespace, name = _parts(resource_id)
        of_the_record = {key: record[key] for key in ("chart", "version", "values")}
        repository = {"repositoryOpts": {"repo": CHARTS[record["chart"]]}}
        imported = {"name": name, "namespace": namespace, "atomic": True, **of_the_record, **repository}
        return State(resource_id, inputs or imported, {"status": record["status"]})

    def update(self, resource_id: str, old: Properties, inputs: Properties) -> Properties:
        return {"status": self.cluster.upgrade(self.to_release(inputs))["status"]}

    def delete(self, resource_id: str, properties: Properties) -> None:
        self.cluster.uninstall(*_parts(resource_id))

    def to_release(self, inputs: Properties) -> Release:
        """Return the release for these inputs."""
        return Release(
            name=inputs["name"],
            namespace=inputs.get("namespace", "default"),
            chart=inputs["chart"],
            version=inputs["version"],
            values=inputs.get("values", {}),
            timeout=inputs.get("timeout", 300),
            say=status.get(),
        )


class Kubernetes(Provider):
    """The package `kubernetes`. The kubeconfig in its configuration is ignored, because there is only one cluster."""

    package = "kubernetes"
    version = version("pulumi-kubernetes")
    errors = (ClusterError, SupervisorError, ToolError)

    def __init__(self) -> None:
        self.cluster = Cluster(paths.stack_dir())
        kept = (
            *(Namespace, ConfigMap, Service, Ingress, NetworkPolicy, PodDisruptionBudget, CronJob, Deployment),
            *(HelmRelease, ServiceMonitor, PrometheusRule),
        )
        super().__init__([*(resource(self.cluster) for resource in kept), ReplacedSecret(self.cluster)])

    def configure(self, config: Properties) -> None:
        if str(config.get("enableSecretMutable", "")).lower() == "true":
            self.resources[Secret.token] = Secret(self.cluster)
        for resource in self.resources.values():
            if isinstance(resource, KubernetesObject):
                resource.upsert = str(config.get("upsertExistingObjects", "")).lower() == "true"


def _without_own_fields(stored: Object) -> Properties:
    """Return the inputs that would create this object."""
    metadata = {key: value for key, value in stored["metadata"].items() if key not in {"creationTimestamp", "uid"}}
    return {**{key: value for key, value in stored.items() if key != "status"}, "metadata": metadata}


def _id(item: Object) -> str:
    _, namespace, name = identity(item)
    return f"{namespace}/{name}" if namespace else name


def _parts(resource_id: str) -> tuple[str, str]:
    namespace, _, name = resource_id.rpartition("/")
    return namespace, name


def _without_unknown(value: Plain) -> Plain:
    if isinstance(value, dict):
        items = cast(dict[str, Plain], value).items()
        return {key: _without_unknown(item) for key, item in items if item is not UNKNOWN}
    if isinstance(value, list):
        return [_without_unknown(item) for item in cast(list[Plain], value) if item is not UNKNOWN]
    return value
