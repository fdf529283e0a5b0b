"""A harness that runs the whole program without an engine and records every registration as the engine would see it."""

import asyncio
import contextvars
import copy
import json
import logging
import runpy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pulumi
import yaml
from google.protobuf import json_format
from pulumi.runtime import mocks as pulumi_mocks
from pulumi.runtime import rpc
from pulumi.runtime.settings import SETTINGS
from pulumi.runtime.stack import run_pulumi_func

from tests import ROOT

SECRET_SIGNATURE = rpc._special_sig_key
SECRET = rpc._special_secret_sig
UNKNOWN = rpc.UNKNOWN

CLUSTER_SECURITY_GROUP = "sg-0c1057e2"
PRIVATE_A, PRIVATE_B, PUBLIC, ELSEWHERE = "subnet-0aa", "subnet-0bb", "subnet-0cc", "subnet-0dd"
PRIVATE_C = "subnet-0ee"
"""A subnet of the cluster's VPC that is not one of the cluster's subnets."""

MINIMAL: Mapping[str, Any] = {"cluster": {"name": "my-cluster"}, "mlflow": {"host": "mlflow.example.com"}}
"""The two settings that a stack needs."""
ANY_CLUSTER: Mapping[str, Any] = {
    "cluster": {"kubeContext": "kind"},
    "mlflow": {"host": "mlflow.example.com"},
    "postgres": {"existing": {"host": "db.example.com", "adminPassword": "it's 100% secret"}},
}
"""A cluster that is not EKS, and an existing PostgreSQL server. Deploy it with ``secrets=["postgres"]``."""
LDAP: Mapping[str, Any] = {
    "uri": "ldaps://ldap.example.com/dc=example,dc=com",
    "lookupBind": "uid=%s,ou=people,dc=example,dc=com",
    "groupSearchBase": "ou=groups,dc=example,dc=com",
    "adminGroupDn": "cn=mlflow-admins,ou=groups,dc=example,dc=com",
    "userGroupDn": "cn=mlflow,ou=groups,dc=example,dc=com",
}
"""Settings of a directory that have no default."""
OIDC: Mapping[str, Any] = {
    "issuer": "https://login.example.com/realms/ml",
    "clientId": "mlflow",
    "clientSecret": "the-client-secret",
    "userGroups": ["/mlflow-users"],
}
"""Settings of an identity provider that have no default. Deploy them with ``secrets=["mlflow"]``."""


INSTANCE_THERE: Mapping[str, Any] = {
    "allocatedStorage": 20,
    "dbInstanceClass": "db.t3.micro",
    "engineVersion": "17.6",
    "kmsKeyId": "arn:aws:kms:eu-west-1:123456789012:key/00000000-0000-0000-0000-000000000000",
    "masterUsername": "postgres",
    "multiAz": False,
    "preferredMaintenanceWindow": "sun:03:00-sun:04:00",
    "storageType": "gp3",
}
"""An instance as the default settings make it."""


class InvokeError(grpc.RpcError):
    """The engine's answer when a provider's function fails. The SDK handles any other exception differently."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNKNOWN

    def details(self) -> str:
        return str(self.args[0])


@dataclass
class Account:
    """The AWS account in which the program looks things up. A test changes the field that it is about."""

    cluster_subnets: list[str] = field(default_factory=lambda: [PRIVATE_A, PRIVATE_B, PUBLIC])
    zones: dict[str, str] = field(
        default_factory=lambda: {
            PRIVATE_A: "eu-west-1a",
            PRIVATE_B: "eu-west-1b",
            PUBLIC: "eu-west-1a",
            PRIVATE_C: "eu-west-1c",
            ELSEWHERE: "eu-west-1c",
        }
    )
    cidrs: list[str] = field(default_factory=lambda: ["10.0.0.0/16"])
    """Networks of the cluster's VPC. The first is the primary one."""
    former_cidrs: list[str] = field(default_factory=list[str])
    """Networks that were removed from the VPC. AWS still lists them for a while."""
    vpcs: dict[str, str] = field(default_factory=lambda: {ELSEWHERE: "vpc-0f0e"})
    """Subnets outside the cluster's VPC, to their VPC."""
    route_tables: Sequence[str] = ("rtb-main", "rtb-private", "rtb-public")
    """Route tables that the caller can see."""
    main_table_is_public: bool = False
    own_tables: dict[str, str] = field(
        default_factory=lambda: {
            **dict.fromkeys((PRIVATE_A, PRIVATE_B, PRIVATE_C), "rtb-private"),
            PUBLIC: "rtb-public",
        }
    )
    versions: set[str] = field(default_factory=lambda: {"15", "16", "17", "18"})
    partition: str = "aws"
    ip_family: str = "ipv4"
    auto_mode: bool = False
    local_zones: Sequence[str] = ()
    """Zones of the subnets that are no zones of the region itself."""
    classes_not_offered: Sequence[str] = ()
    node_groups: Mapping[str, Sequence[str]] = field(
        default_factory=lambda: {"i-0a": [CLUSTER_SECURITY_GROUP], "i-0b": [CLUSTER_SECURITY_GROUP]}
    )
    """Running nodes of the cluster, to their security groups."""
    instances: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    """RDS instances with the stack's tags by identifier, to what differs from `INSTANCE_THERE`."""
    missing_buckets: Sequence[str] = ()
    bucket_region: str = "eu-west-1"
    """Region of the buckets that exist."""
    failing: Mapping[str, str] = field(default_factory=dict)
    """End of a function's name, after a colon, to the error that the function answers."""

    def answer(self, token: str, args: Mapping[str, Any]) -> dict[str, Any]:
        for function, error in self.failing.items():
            if token.endswith(f":{function}"):
                raise InvokeError(error)
        table = {
            "aws:eks/getCluster:getCluster": self._cluster,
            "aws:ec2/getVpc:getVpc": self._vpc,
            "aws:ec2/getSubnet:getSubnet": self._subnet,
            "aws:ec2/getSubnets:getSubnets": lambda _: {
                "ids": [subnet for subnet in self.zones if subnet not in self.vpcs]
            },
            "aws:ec2/getRouteTables:getRouteTables": lambda _: {"ids": self.route_tables},
            "aws:ec2/getRouteTable:getRouteTable": self._route_table,
            "aws:rds/getEngineVersion:getEngineVersion": self._engine_version,
            "aws:index/getAvailabilityZones:getAvailabilityZones": lambda _: {
                "names": sorted({*self.zones.values()} - {*self.local_zones})
            },
            "aws:ec2/getInstances:getInstances": self._nodes,
            "aws:rds/getInstances:getInstances": lambda _: {"instanceIdentifiers": [*self.instances]},
            "aws:rds/getInstance:getInstance": lambda args: (
                {**INSTANCE_THERE, "dbInstanceIdentifier": args["dbInstanceIdentifier"]}
                | {**self.instances[args["dbInstanceIdentifier"]]}
            ),
            "aws:rds/getOrderableDbInstance:getOrderableDbInstance": self._class,
            "aws:s3/getBucket:getBucket": self._bucket,
            "aws:route53/getZone:getZone": lambda args: {
                "zoneId": "Z0002" if args.get("privateZone") else "Z0001",
                "name": args["name"],
            },
            "aws:lb/getHostedZoneId:getHostedZoneId": lambda _: {"id": "Z2IFOLAFXWLO4F"},
        }
        return table[token](args)

    def _cluster(self, args: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "name": args["name"],
            "arn": f"arn:{self.partition}:eks:eu-west-1:123456789012:cluster/{args['name']}",
            "endpoint": "https://0123.gr7.eu-west-1.eks.amazonaws.com",
            "certificateAuthorities": [{"data": "Y2E="}],
            "kubernetesNetworkConfigs": [{"ipFamily": self.ip_family, "serviceIpv4Cidr": "172.20.0.0/16"}],
            "computeConfigs": [{"enabled": self.auto_mode}],
            "identities": [{"oidcs": [{"issuer": "https://oidc.eks.eu-west-1.amazonaws.com/id/0123"}]}],
            "vpcConfig": {
                "vpcId": "vpc-0c1",
                "subnetIds": self.cluster_subnets,
                "clusterSecurityGroupId": CLUSTER_SECURITY_GROUP,
            },
        }

    def _vpc(self, _: Mapping[str, Any]) -> dict[str, Any]:
        states = {"associated": self.cidrs, "disassociated": self.former_cidrs}
        associations = [
            {"associationId": "a", "cidrBlock": cidr, "state": state}
            for state, cidrs in states.items()
            for cidr in cidrs
        ]
        return {"id": "vpc-0c1", "cidrBlock": self.cidrs[0], "cidrBlockAssociations": associations}

    def _subnet(self, args: Mapping[str, Any]) -> dict[str, Any]:
        subnet = args["id"]
        return {"id": subnet, "vpcId": self.vpcs.get(subnet, "vpc-0c1"), "availabilityZone": self.zones[subnet]}

    def _route_table(self, args: Mapping[str, Any]) -> dict[str, Any]:
        table = args["routeTableId"]
        public = table == "rtb-public" or (table == "rtb-main" and self.main_table_is_public)
        routes = [
            {"cidrBlock": "10.0.0.0/16", "gatewayId": "local"},
            # The default route of a private subnet goes to a NAT gateway, and the provider then leaves `gatewayId`
            # empty.
            {"cidrBlock": "0.0.0.0/0", "gatewayId": "igw-01"}
            if public
            else {"cidrBlock": "0.0.0.0/0", "gatewayId": "", "natGatewayId": "nat-01"},
        ]
        associations = [{"main": False, "subnetId": subnet} for subnet, own in self.own_tables.items() if own == table]
        if table == "rtb-main":
            associations.append({"main": True, "subnetId": ""})
        return {"routeTableId": table, "routes": routes, "associations": associations}

    def _engine_version(self, args: Mapping[str, Any]) -> dict[str, Any]:
        if args["version"] not in self.versions:
            raise InvokeError("no matching RDS Engine Version found")
        return {"version": f"{args['version']}.6", "parameterGroupFamily": f"postgres{args['version']}"}

    def _class(self, args: Mapping[str, Any]) -> dict[str, Any]:
        if args["instanceClass"] in self.classes_not_offered:
            raise InvokeError("no RDS DB Instance Classes found matching criteria")
        return {"instanceClass": args["instanceClass"]}

    def _nodes(self, args: Mapping[str, Any]) -> dict[str, Any]:
        wanted = {each["name"]: each["values"] for each in args["filters"]}.get("instance.group-id")
        return {"ids": [node for node, groups in self.node_groups.items() if wanted is None or {*wanted} & {*groups}]}

    def _bucket(self, args: Mapping[str, Any]) -> dict[str, Any]:
        if args["bucket"] in self.missing_buckets:
            raise InvokeError("couldn't find resource")
        return {"bucket": args["bucket"], "bucketRegion": self.bucket_region}


@dataclass(frozen=True)
class Resource:
    """A registration of a resource."""

    type: str
    name: str
    """Logical name."""
    inputs: dict[str, Any]
    """Inputs as they go to the engine. Secrets are wrapped (`is_secret`, `plain`), and unknown values are `UNKNOWN`."""
    parent: str
    """Logical name of the component, empty for a resource without one."""
    protect: bool
    depends_on: Sequence[str]
    """Logical names of the resources that it waits for, through its options or its inputs."""
    ignore_changes: Sequence[str]
    provider: str
    custom: bool
    read: bool = False
    timeouts: Mapping[str, str] = field(default_factory=dict)
    replace_on_changes: Sequence[str] = ()
    delete_before_replace: bool = False
    retain_on_delete: bool = False
    deleted_with: str = ""
    """Logical name of the resource whose deletion deletes this one, empty for none."""

    def __getitem__(self, key: str) -> Any:
        return plain(self.inputs[key])


@dataclass(repr=False)
class Deployment:
    """The result of a run of the program."""

    resources: list[Resource]
    """Registered resources."""
    calls: list[str]
    """Functions that were called."""
    outputs: dict[str, Any]
    """Exports of the stack."""
    component_outputs: dict[str, dict[str, Any]]
    """Logical name of a component to its registered outputs."""
    log: list[str]
    """Messages of all levels."""
    warnings: list[str]
    """Messages of the level warning."""

    def of_type(self, kind: str) -> list[Resource]:
        return [resource for resource in self.resources if resource.type == kind]

    def named(self, name: str) -> Resource:
        matching = [resource for resource in self.resources if resource.name == name]
        assert len(matching) == 1, (
            f"{len(matching)} resources are called {name}; there are {sorted(r.name for r in self.resources)}"
        )
        return matching[0]

    @property
    def values(self) -> dict[str, Any]:
        """Values of the MLflow chart."""
        return self.named("mlflow-release")["values"]

    @property
    def environment(self) -> dict[str, Any]:
        """Environment variables of the MLflow server."""
        return self.values["extraEnvVars"]

    @property
    def controller(self) -> dict[str, Any]:
        """Values of the ingress chart, which are all below the key `controller`."""
        return self.named("ingress-release")["values"]["controller"]


@dataclass(frozen=True)
class Refusal:
    """The result of a run of the program that ended with an error."""

    error: BaseException
    deployment: Deployment
    """Registrations before the error."""

    @property
    def message(self) -> str:
        return str(self.error)

    @property
    def problems(self) -> list[str]:
        """Items of the list in the message."""
        return [line.removeprefix("  - ") for line in self.message.splitlines() if line.startswith("  - ")]


def is_secret(value: Any) -> bool:
    return isinstance(value, Mapping) and value.get(SECRET_SIGNATURE) == SECRET


def plain(value: Any) -> Any:
    if is_secret(value):
        return plain(value["value"])
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def unwrapped(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Return every string outside a secret, with its path. State, diffs and logs would show these strings."""
    if is_secret(value):
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from unwrapped(item, f"{path}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from unwrapped(item, f"{path}[{index}]")
    elif isinstance(value, str):
        yield path.lstrip("."), value


class _Provider(pulumi_mocks.Mocks):
    def __init__(self, account: Account, preview: bool) -> None:
        self.account, self.preview = account, preview
        self.calls: list[str] = []

    def call(self, args: pulumi_mocks.MockCallArgs) -> Any:
        self.calls.append(args.token)
        return self.account.answer(args.token, args.args)

    def new_resource(self, args: pulumi_mocks.MockResourceArgs) -> tuple[str | None, dict[str, Any]]:
        state = copy.deepcopy(args.inputs)
        if self.preview:
            return None, state
        # The provider generates a name where the program sets none.
        state.setdefault("name", args.name)
        kind = args.typ.rsplit(":", 1)[-1]
        # As with the real provider, new keepers give a new password.
        keepers = "".join(f"-{value}" for value in (args.inputs.get("keepers") or {}).values())
        state |= {
            "Instance": {
                "address": "db.local",
                "identifier": args.name,
                "arn": f"arn:aws:rds:::{args.name}",
                "resourceId": "db-0123",
            },
            "RandomPassword": {"result": f"generated-{args.name}{keepers}"},
            # A slash and a plus are what base64 has and the alphabet for URLs has not.
            "RandomBytes": {"base64": f"generated/{args.name}+"},
            "RandomId": {"hex": "0a0b0c0d"},
            "Bucket": {"bucket": f"{args.name}-1234567", "arn": f"arn:aws:s3:::{args.name}-1234567"},
            "Role": {"arn": f"arn:aws:iam::123456789012:role/{args.name}"},
            "PodIdentityAssociation": {"associationId": "a-1"},
            "Record": {"fqdn": args.inputs.get("name")},
            "Release": {"status": {"namespace": args.inputs.get("namespace"), "name": args.inputs.get("name")}},
            "Service": {"status": {"loadBalancer": {"ingress": [{"hostname": "lb-0123.elb.eu-west-1.amazonaws.com"}]}}},
        }.get(kind, {})
        if kind == "Bucket":
            return f"{args.name}-1234567", state
        return f"{args.name}-id", state


class _Recorder(pulumi_mocks.MockMonitor):
    def __init__(self, provider: _Provider) -> None:
        super().__init__(provider)
        self.recorded: list[Resource] = []
        self.component_outputs: dict[str, dict[str, Any]] = {}

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802  (the engine's name)
        if request.type != "pulumi:pulumi:Stack":
            self._record(request, _as_sent(request.object))
        return super().RegisterResource(request)

    def RegisterResourceOutputs(self, request: Any) -> Any:  # noqa: N802
        self.component_outputs[_name(request.urn)] = _as_sent(request.outputs)
        return super().RegisterResourceOutputs(request)

    def ReadResource(self, request: Any) -> Any:  # noqa: N802
        self._record(request, {"id": request.id}, read=True)
        return super().ReadResource(request)

    def _record(self, request: Any, inputs: dict[str, Any], read: bool = False) -> None:
        timeouts = getattr(request, "customTimeouts", None)
        self.recorded.append(
            Resource(
                type=request.type,
                name=request.name,
                inputs=inputs,
                parent="" if "::pulumi:pulumi:Stack::" in request.parent else _name(request.parent),
                protect=getattr(request, "protect", False),
                # The SDK sends a set, whose order changes between runs.
                depends_on=sorted(_name(urn) for urn in request.dependencies),
                ignore_changes=list(getattr(request, "ignoreChanges", [])),
                provider=_name(request.provider.rsplit("::", 1)[0]),
                custom=getattr(request, "custom", True),
                read=read,
                timeouts={what: getattr(timeouts, what) for what in ("create", "update", "delete")} if timeouts else {},
                replace_on_changes=list(getattr(request, "replaceOnChanges", [])),
                delete_before_replace=getattr(request, "deleteBeforeReplace", False),
                retain_on_delete=getattr(request, "retainOnDelete", False),
                deleted_with=_name(getattr(request, "deletedWith", "")),
            )
        )


def _name(urn: str) -> str:
    return urn.rsplit("::", 1)[-1]


def _as_sent(struct: Any) -> dict[str, Any]:
    """Return a message's content.

    The SDK's own function would mark the whole property around a nested secret as secret.
    """
    return _integers(json_format.MessageToDict(struct))


def _integers(value: Any) -> Any:
    # The engine's protocol has floating-point numbers only.
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _integers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_integers(item) for item in value]
    return value


class _Log(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append((record.levelno, record.getMessage()))


def stack_config(stack: str, folder: Path = ROOT) -> dict[str, Any]:
    """Return the settings of a committed stack file, without the project's prefix."""
    config = yaml.safe_load((folder / f"Pulumi.{stack}.yaml").read_text())["config"]
    return {key.removeprefix("mlflow-eks:"): value for key, value in config.items() if key.startswith("mlflow-eks:")}


def changed(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the settings with changes.

    A path is written as in messages (``mlflow.auth.mode``); None removes it.
    """
    result: Any = copy.deepcopy(dict(config))
    for path, value in changes.items():
        *sections, last = path.split(".")
        section = result
        for key in sections:
            section = section.setdefault(key, {})
        if value is None:
            section.pop(last, None)
        else:
            section[last] = copy.deepcopy(value)
    return result


def whole_program() -> None:
    runpy.run_path(str(ROOT / "__main__.py"), run_name="__main__")


def deploy(
    config: Mapping[str, Any],
    *,
    secrets: Sequence[str] = (),
    account: Account | None = None,
    preview: bool = False,
    stack: str = "test",
    as_written: Mapping[str, str] | None = None,
    program: Callable[[], object] = whole_program,
) -> Deployment:
    """Run the program.

    Args:
        config: section to structured value.
        secrets: sections that were set with --secret.
        account: the AWS account.
        preview: True for the first preview of a new stack, in which the outputs of resources are unknown.
        stack: name of the stack.
        as_written: sections that are set as a plain string.
        program: function to run, default the whole program.
    """
    deployment, error = _run(program, config, secrets, account or Account(), preview, stack, as_written or {})
    if error is not None:
        raise error
    return deployment


def refused(
    config: Mapping[str, Any],
    *,
    secrets: Sequence[str] = (),
    account: Account | None = None,
    preview: bool = False,
    stack: str = "test",
    as_written: Mapping[str, str] | None = None,
    program: Callable[[], object] = whole_program,
) -> Refusal:
    """Run the program, which must end with an error. The arguments are those of `deploy`."""
    deployment, error = _run(program, config, secrets, account or Account(), preview, stack, as_written or {})
    assert error is not None, "the program accepted this"
    return Refusal(error, deployment)


def _run(
    program: Callable[[], object],
    config: Mapping[str, Any],
    secrets: Sequence[str],
    account: Account,
    preview: bool,
    stack: str,
    as_written: Mapping[str, str],
) -> tuple[Deployment, BaseException | None]:
    provider = _Provider(account, preview)
    monitor = _Recorder(provider)
    messages = _Log()
    logger = logging.Logger("program")
    logger.addHandler(messages)
    outputs: dict[str, Any] = {}

    def run() -> None:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        # The mock engine runs in one thread, so the order of registrations does not depend on the machine's load.
        engine = ThreadPoolExecutor(1, initializer=lambda: asyncio.set_event_loop(asyncio.new_event_loop()))
        loop.set_default_executor(engine)
        # A refused setting raises an exception. asyncio would log it again for each other task that waits.
        loop.set_exception_handler(lambda _loop, _context: None)
        # A refused run leaves outputs that are never resolved.
        SETTINGS.outputs.clear()  # pyright: ignore[reportAttributeAccessIssue]
        try:
            pulumi.runtime.set_mocks(
                provider, project="mlflow-eks", stack=stack, preview=preview, logger=logger, monitor=monitor
            )
            pulumi.runtime.set_all_config(
                {f"mlflow-eks:{key}": json.dumps(value) for key, value in config.items()}
                | {f"mlflow-eks:{key}": value for key, value in as_written.items()},
                [f"mlflow-eks:{key}" for key in secrets],
            )

            async def in_stack() -> None:
                program()
                root = pulumi.runtime.get_root_resource()
                assert root is not None
                outputs.update(root.outputs)  # pyright: ignore[reportAttributeAccessIssue]
                for name, value in list(outputs.items()):
                    output = pulumi.Output.from_input(value)
                    known = await output.is_known()
                    outputs[name] = (await output.future()) if known else None
                    if await output.is_secret():
                        outputs[name] = {SECRET_SIGNATURE: SECRET, "value": outputs[name]}

            loop.run_until_complete(run_pulumi_func(in_stack))
        finally:
            # Tasks of a refused run still wait.
            waiting = asyncio.all_tasks(loop)
            for task in waiting:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*waiting, return_exceptions=True))
            engine.submit(lambda: asyncio.get_event_loop().close()).result()
            engine.shutdown()
            loop.close()

    error: BaseException | None = None
    sys.path.insert(0, str(ROOT))
    try:
        contextvars.Context().run(run)
    except Exception as caught:
        error = caught
    finally:
        sys.path.remove(str(ROOT))
    deployment = Deployment(
        resources=monitor.recorded,
        calls=provider.calls,
        outputs=outputs,
        component_outputs=monitor.component_outputs,
        log=[line for _, line in messages.records],
        warnings=[line for level, line in messages.records if level == logging.WARNING],
    )
    return deployment, error
