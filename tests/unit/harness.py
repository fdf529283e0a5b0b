"""Runs the whole program without an engine and records every registration, as the engine would see it."""

import asyncio
import contextvars
import copy
import json
import logging
import runpy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pulumi
from pulumi.runtime import mocks as pulumi_mocks
from pulumi.runtime import rpc

ROOT = Path(__file__).parents[2]
SECRET_SIGNATURE = rpc._special_sig_key
SECRET = rpc._special_secret_sig

CLUSTER_SECURITY_GROUP = "sg-0c1u57e2"
PRIVATE_A, PRIVATE_B, PUBLIC, ELSEWHERE = "subnet-0aa", "subnet-0bb", "subnet-0cc", "subnet-0dd"


@dataclass
class Account:
    """The AWS account that the program finds; a test changes what it is about."""

    cluster_subnets: list[str] = field(default_factory=lambda: [PRIVATE_A, PRIVATE_B, PUBLIC])
    zones: dict[str, str] = field(
        default_factory=lambda: {PRIVATE_A: "eu-west-1a", PRIVATE_B: "eu-west-1b", PUBLIC: "eu-west-1a", ELSEWHERE: "eu-west-1c"}
    )
    vpcs: dict[str, str] = field(default_factory=lambda: {ELSEWHERE: "vpc-0f0e"})
    """VPC of a subnet that is not in the cluster's."""
    main_table_is_public: bool = False
    own_tables: dict[str, str] = field(default_factory=lambda: {PRIVATE_A: "rtb-private", PRIVATE_B: "rtb-private", PUBLIC: "rtb-public"})
    versions: set[str] = field(default_factory=lambda: {"15", "16", "17", "18"})

    def answer(self, token: str, args: Mapping[str, Any]) -> dict[str, Any]:
        table = {
            "aws:eks/getCluster:getCluster": self._cluster,
            "aws:ec2/getVpc:getVpc": lambda _: {"id": "vpc-0c1", "cidrBlock": "10.0.0.0/16"},
            "aws:ec2/getSubnet:getSubnet": self._subnet,
            "aws:ec2/getRouteTables:getRouteTables": lambda _: {"ids": ["rtb-main", "rtb-private", "rtb-public"]},
            "aws:ec2/getRouteTable:getRouteTable": self._route_table,
            "aws:rds/getEngineVersion:getEngineVersion": self._engine_version,
            "aws:route53/getZone:getZone": lambda args: {"zoneId": "Z0001", "name": args["name"]},
            "aws:lb/getHostedZoneId:getHostedZoneId": lambda _: {"id": "Z2IFOLAFXWLO4F"},
        }
        return table[token](args)

    def _cluster(self, args: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "name": args["name"],
            "arn": f"arn:aws:eks:eu-west-1:123456789012:cluster/{args['name']}",
            "endpoint": "https://0123.gr7.eu-west-1.eks.amazonaws.com",
            "certificateAuthorities": [{"data": "Y2E="}],
            "identities": [{"oidcs": [{"issuer": "https://oidc.eks.eu-west-1.amazonaws.com/id/0123"}]}],
            "vpcConfig": {"vpcId": "vpc-0c1", "subnetIds": self.cluster_subnets, "clusterSecurityGroupId": CLUSTER_SECURITY_GROUP},
        }

    def _subnet(self, args: Mapping[str, Any]) -> dict[str, Any]:
        subnet = args["id"]
        return {"id": subnet, "vpcId": self.vpcs.get(subnet, "vpc-0c1"), "availabilityZone": self.zones[subnet]}

    def _route_table(self, args: Mapping[str, Any]) -> dict[str, Any]:
        table = args["routeTableId"]
        public = table == "rtb-public" or (table == "rtb-main" and self.main_table_is_public)
        routes = [{"cidrBlock": "10.0.0.0/16", "gatewayId": "local"}, {"cidrBlock": "0.0.0.0/0", "gatewayId": "igw-01" if public else ""}]
        associations = [{"main": False, "subnetId": subnet} for subnet, own in self.own_tables.items() if own == table]
        if table == "rtb-main":
            associations.append({"main": True, "subnetId": ""})
        return {"routeTableId": table, "routes": routes, "associations": associations}

    def _engine_version(self, args: Mapping[str, Any]) -> dict[str, Any]:
        if args["version"] not in self.versions:
            raise LookupError("no matching RDS Engine Version found")
        return {"version": f"{args['version']}.6", "parameterGroupFamily": f"postgres{args['version']}"}


@dataclass(frozen=True)
class Resource:
    """A registration."""

    type: str
    name: str
    inputs: dict[str, Any]
    """With secrets wrapped, see `plain` and `is_secret`."""
    parent: str
    protect: bool
    depends_on: Sequence[str]
    ignore_changes: Sequence[str]
    provider: str
    custom: bool
    read: bool = False

    def __getitem__(self, key: str) -> Any:
        return plain(self.inputs[key])


@dataclass
class Deployment:
    """What a run of the program registered, asked, exported and said."""

    resources: list[Resource]
    calls: list[str]
    outputs: dict[str, Any]
    warnings: list[str]

    def of_type(self, kind: str) -> list[Resource]:
        return [resource for resource in self.resources if resource.type == kind]

    def named(self, name: str) -> Resource:
        found = [resource for resource in self.resources if resource.name == name]
        assert len(found) == 1, f"{len(found)} resources are called {name}; there are {sorted(r.name for r in self.resources)}"
        return found[0]


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
        # A name that the provider would make up.
        state.setdefault("name", args.name)
        kind = args.typ.rsplit(":", 1)[-1]
        state |= {
            "Instance": {"address": "db.local", "identifier": args.name, "arn": f"arn:aws:rds:::{args.name}"},
            "RandomPassword": {"result": f"generated-{args.name}"},
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

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802  (the engine's name)
        if request.type != "pulumi:pulumi:Stack":
            self._record(request, json.loads(json.dumps(rpc.deserialize_properties(request.object), default=str)))
        return super().RegisterResource(request)

    def ReadResource(self, request: Any) -> Any:  # noqa: N802
        self._record(request, {}, read=True)
        return super().ReadResource(request)

    def _record(self, request: Any, inputs: dict[str, Any], read: bool = False) -> None:
        self.recorded.append(
            Resource(
                type=request.type,
                name=request.name,
                inputs=inputs,
                parent=request.parent.rsplit("::", 1)[-1],
                protect=getattr(request, "protect", False),
                depends_on=[urn.rsplit("::", 1)[-1] for urn in request.dependencies],
                ignore_changes=list(getattr(request, "ignoreChanges", [])),
                provider=request.provider,
                custom=getattr(request, "custom", True),
                read=read,
            )
        )


class _Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def stack_config(stack: str) -> dict[str, Any]:
    """The settings of a committed stack file, without the project's prefix."""
    import yaml

    config = yaml.safe_load((ROOT / f"Pulumi.{stack}.yaml").read_text())["config"]
    return {key.removeprefix("mlflow-eks:"): value for key, value in config.items() if key.startswith("mlflow-eks:")}


def deploy(
    config: Mapping[str, Any], *, secrets: Sequence[str] = (), account: Account | None = None, preview: bool = False, stack: str = "test"
) -> Deployment:
    """Run the program.

    Args:
        config: section to structured value.
        secrets: sections that were set with --secret.
        account: the AWS account that it finds.
        preview: as the first preview of a new stack: what resources would return is unknown.
        stack: name of the stack.
    """
    provider = _Provider(account or Account(), preview)
    monitor = _Recorder(provider)
    warnings = _Warnings()
    logger = logging.Logger("program")
    logger.addHandler(warnings)
    outputs: dict[str, Any] = {}

    def run() -> None:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        # What a wrong setting is about reaches the person as the exception; asyncio's log of other awaiters would only repeat it.
        loop.set_exception_handler(lambda _loop, _context: None)
        try:
            pulumi.runtime.set_mocks(provider, project="mlflow-eks", stack=stack, preview=preview, logger=logger, monitor=monitor)
            pulumi.runtime.set_all_config(
                {f"mlflow-eks:{key}": json.dumps(value) for key, value in config.items()}, [f"mlflow-eks:{key}" for key in secrets]
            )

            async def program() -> None:
                runpy.run_path(str(ROOT / "__main__.py"), run_name="__main__")
                root = pulumi.runtime.get_root_resource()
                assert root is not None
                outputs.update(root.outputs)  # pyright: ignore[reportAttributeAccessIssue]
                for name, value in list(outputs.items()):
                    output = pulumi.Output.from_input(value)
                    known = await output.is_known()
                    outputs[name] = (await output.future()) if known else None
                    if await output.is_secret():
                        outputs[name] = {SECRET_SIGNATURE: SECRET, "value": outputs[name]}

            loop.run_until_complete(pulumi_mocks.run_pulumi_func(program))
        finally:
            loop.close()

    sys.path.insert(0, str(ROOT))
    try:
        contextvars.Context().run(run)
    finally:
        sys.path.remove(str(ROOT))
    return Deployment(monitor.recorded, provider.calls, outputs, warnings.lines)
