"""Wrong settings, each with the key that the message must name and a part of its advice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.unit.harness import ANY_CLUSTER, LDAP, MINIMAL, OIDC, changed

EMPTY = "<nothing>"
"""Value that stands for a line with nothing behind its colon."""
ACM = "arn:aws:acm:eu-west-1:123456789012:certificate/11111111-2222-3333-4444-555555555555"


@dataclass(frozen=True)
class Bad:
    """One wrong configuration."""

    mistake: str
    """The mistake. It is also the name of the test."""
    config: Mapping[str, Any]
    """Settings by section."""
    key: str
    """Path of the setting in the YAML, with which the message must begin."""
    fix: str
    """Part of the message that says what to write instead."""
    secrets: Sequence[str] = ()
    """Sections that were set with --secret."""
    hidden: Sequence[str] = ()
    """Texts that must not be in the message."""
    bug: str = field(default="", kw_only=True)
    """Reason why the program does not refuse this configuration today, or not with this message."""


def _on_eks(mistake: str, changes: Mapping[str, Any], key: str, fix: str, *, bug: str = "") -> Bad:
    return Bad(mistake, _emptied(changed(MINIMAL, changes)), key, fix, bug=bug)


def _emptied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _emptied(item) for key, item in value.items()}
    return None if value == EMPTY else value


def _without_eks(mistake: str, changes: Mapping[str, Any], key: str, fix: str, *, bug: str = "") -> Bad:
    return Bad(mistake, changed(ANY_CLUSTER, changes), key, fix, ["postgres"], ["100% secret"], bug=bug)


def _password(mistake: str, path: str, password: str) -> Bad:
    section = path.split(".", maxsplit=1)[0]
    fix = "12 to 128 characters out of A-Z a-z 0-9 . _ -"
    return Bad(f"{mistake} in {path}", changed(MINIMAL, {path: password}), path, fix, [section], [password])


def _key(mistake: str, name: str, key: str, fix: str) -> Bad:
    path = f"mlflow.keys.{name}"
    return Bad(f"{mistake} in {path}", changed(MINIMAL, {path: key}), path, fix, ["mlflow"], [key])


def _ldap(mistake: str, changes: Mapping[str, Any], key: str, fix: str, *, bug: str = "") -> Bad:
    directory = changed(LDAP, changes)
    return _on_eks(mistake, {"mlflow.auth": {"mode": "ldap", "ldap": directory}}, f"mlflow.auth.{key}", fix, bug=bug)


def _oidc(mistake: str, changes: Mapping[str, Any], key: str, fix: str, more: Mapping[str, Any] | None = None) -> Bad:
    provider = changed(OIDC, changes)
    config = changed(MINIMAL, {"mlflow.auth": {"mode": "oidc", "oidc": provider}, **(more or {})})
    return Bad(mistake, config, f"mlflow.auth.{key}", fix, ["mlflow"], ["the-client-secret"])


BASICS = [
    Bad(
        "no cluster",
        {"mlflow": {"host": "a.example.com"}},
        "cluster",
        "pulumi config set --path 'mlflow-eks:cluster.name' my-cluster`",
    ),
    Bad(
        "no MLflow",
        {"cluster": {"name": "c"}},
        "mlflow",
        "pulumi config set --path 'mlflow-eks:mlflow.host' mlflow.example.com",
    ),
    _on_eks("no host", {"mlflow.host": None}, "mlflow.host", "pulumi config set --path 'mlflow-eks:mlflow.host'"),
    _on_eks("a section that is empty", {"postgres": []}, "postgres", "a map of settings"),
    _on_eks("a section that is a word", {"database": "mlflow"}, "database", "a map of settings: name, user"),
    _on_eks(
        "a list that is a word",
        {"mlflow.corsAllowedOrigins": "*"},
        "mlflow.corsAllowedOrigins",
        "write a list, for example [https://notebooks.example.com]",
    ),
    _on_eks("a flag that is a word", {"protect": "yes"}, "protect", "is 'yes'; write true or false (default true)"),
    _on_eks(
        "a nested flag that is a word",
        {"postgres.multiAz": "true"},
        "postgres.multiAz",
        "write true or false (default false)",
    ),
    _on_eks(
        "a number that is a word",
        {"mlflow.replicas": "2"},
        "mlflow.replicas",
        "is '2'; write a whole number from 1 to 100 (default 1)",
    ),
    _on_eks(
        "a number with a fraction",
        {"postgres.allocatedStorage": 20.5},
        "postgres.allocatedStorage",
        "is 20.5; write a whole number from 20 to 65536",
    ),
    _on_eks(
        "a tag of which YAML drops a zero", {"tags": {"Release": 1.10}}, "tags.Release", "is 1.1; write it in quotes"
    ),
    _on_eks(
        "a number that is empty", {"mlflow.workers": EMPTY}, "mlflow.workers", "or delete the line for the default 2"
    ),
    _on_eks(
        "a word that is empty", {"mlflow.host": EMPTY}, "mlflow.host", "is empty; write a text, for example mlflow.ex"
    ),
    _on_eks(
        "a section that is nothing", {"mlflow.pool": EMPTY}, "mlflow.pool", "a map of settings: size, overflow, or del"
    ),
    _on_eks("a tag that is empty", {"tags": {"Team": EMPTY}}, "tags.Team", "for example ml-platform"),
    _on_eks(
        "a list entry with a fraction", {"mlflow.allowedHosts": [5.5]}, "mlflow.allowedHosts[0]", "write it in quotes"
    ),
    _on_eks("a number where a choice is meant", {"ingress.scheme": 1}, "ingress.scheme", "is '1'; write internal or"),
    _on_eks(
        "a minor version as a number",
        {"postgres.engineVersion": 17.6},
        "postgres.engineVersion",
        "minor ones are automatic",
    ),
    _on_eks("a tag with AWS's own prefix", {"tags": {"aws:team": "x"}}, "tags.aws:team", "begin with aws:"),
    _on_eks("a tag's value with AWS's own prefix", {"tags": {"Team": "AWS:x"}}, "tags.Team", "begin with aws:"),
    _on_eks("a tag with what RDS refuses", {"tags": {"Purpose": "runs (shared)"}}, "tags.Purpose", "takes no '('"),
    _on_eks("a tag with a comma in its key", {"tags": {"a,b": "x"}}, "tags.a,b has the key", "takes no ','"),
    _on_eks("a tag of two lines", {"tags": {"Note": "a\nb"}}, "tags.Note", "letters, digits, spaces"),
    _on_eks("a tag that is too long", {"tags": {"Note": "x" * 257}}, "tags.Note", "write 256 at most"),
    _on_eks("a tag's key that is too long", {"tags": {"K" * 129: "x"}}, "tags.KKK", "write 128 at most"),
    _on_eks("a tag without a value", {"tags": {"Note": ""}}, "tags.Note", "write 1 to 256 characters"),
    _on_eks("a tag twice to IAM", {"tags": {"Team": "a", "team": "b"}}, "tags.team", "write one of the two"),
    _on_eks("a tag of ours in lower case", {"tags": {"project": "b"}}, "tags.project", "is the tag Project to IAM"),
    _on_eks("too many tags", {"tags": {f"K{n}": "x" for n in range(49)}}, "tags are 49", "AWS takes 48"),
]

UNKNOWN_KEYS = [
    _on_eks("an unknown section", {"postgress": {}}, "postgress", "did you mean postgres?"),
    _on_eks(
        "an unknown key of the cluster", {"cluster.region": "x"}, "cluster.region", "known here: kubeContext, name"
    ),
    _on_eks("an unknown key of postgres", {"postgres.engine": "17"}, "postgres.engine", "did you mean engineVersion?"),
    _on_eks("an unknown key of the database", {"database.usr": "x"}, "database.usr", "did you mean user?"),
    _on_eks("an unknown key of artifacts", {"artifacts.buckets": "x"}, "artifacts.buckets", "did you mean bucket?"),
    _on_eks("an unknown key of the ingress", {"ingress.class": "x"}, "ingress.class", "did you mean className?"),
    _on_eks("an unknown key of mlflow", {"mlflow.version": "x"}, "mlflow.version", "did you mean chartVersion?"),
    _on_eks("an unknown key of the login", {"mlflow.auth.mod": "x"}, "mlflow.auth.mod", "did you mean mode?"),
    _ldap("an unknown key of the directory", {"url": "x"}, "ldap.url", "did you mean uri?"),
    _on_eks(
        "an unknown key of resources",
        {"mlflow.resources.memory": "x"},
        "mlflow.resources.memory",
        "did you mean memory",
    ),
    _on_eks("an unknown key of the pool", {"mlflow.pool.max": 1}, "mlflow.pool.max", "known here: overflow, size"),
    _on_eks(
        "an unknown key of autoscaling", {"mlflow.autoscaling": {"max": 2}}, "mlflow.autoscaling.max", "maxReplicas"
    ),
    _on_eks("an unknown key of images", {"images.repository": "x"}, "images.repository", "did you mean registry?"),
    _without_eks(
        "an unknown key of the existing server",
        {"postgres.existing.hostname": "x"},
        "postgres.existing.hostname",
        "did you mean host?",
    ),
]

CLUSTER = [
    _on_eks("neither name nor context", {"cluster": {}}, "cluster", "either `name` (an EKS cluster) or `kubeContext`"),
    _on_eks("name and context", {"cluster.kubeContext": "kind"}, "cluster", "not both"),
    _on_eks(
        "a cluster name that is an ARN", {"cluster.name": "arn:aws:eks:x"}, "cluster.name", "the EKS cluster's name"
    ),
    _on_eks(
        "an empty context",
        {"cluster": {"kubeContext": ""}},
        "cluster.kubeContext",
        "is empty; write a text, for example kind-mlflow",
    ),
    Bad(
        "a context without a server",
        {"cluster": {"kubeContext": "kind"}, "mlflow": {"host": "a.example.com"}},
        "postgres.existing",
        "postgres.existing",
    ),
    _without_eks("a context with a bucket", {"artifacts.bucket": "my-bucket"}, "artifacts.bucket", "cluster.name"),
    _without_eks(
        "a context with proxy protocol",
        {"ingress.proxyProtocol": True},
        "ingress.proxyProtocol",
        "networks of the load",
    ),
    _without_eks(
        "a context with an ACM certificate", {"ingress.certificateArn": ACM}, "ingress.certificateArn", "cluster.name"
    ),
    _without_eks("a context with transfers", {"artifacts.transfers": "direct"}, "artifacts.transfers", "cluster.name"),
    _without_eks("a context with an identity", {"artifacts.identity": "irsa"}, "artifacts.identity", "cluster.name"),
    _without_eks(
        "a context with a scheme for no AWS load balancer",
        {"ingress.scheme": "internal"},
        "ingress.scheme",
        "write ingress.loadBalancerClass too",
    ),
    _without_eks("a context with a zone", {"mlflow.dnsZone": "example.com"}, "mlflow.dnsZone", "cluster.name"),
    _without_eks("a context with a path of roles", {"iam.path": "/platform/"}, "iam", "creates no role; drop it"),
    _without_eks("several pods without shared storage", {"mlflow.replicas": 2}, "mlflow.replicas", "write replicas: 1"),
    _without_eks(
        "autoscaling without shared storage", {"mlflow.autoscaling": {}}, "mlflow.autoscaling", "needs a bucket"
    ),
]

IAM = [
    _on_eks(
        "a boundary by its name", {"iam.permissionsBoundary": "boundary"}, "iam.permissionsBoundary", "write the ARN"
    ),
    _on_eks(
        "a boundary that is a role",
        {"iam.permissionsBoundary": "arn:aws:iam::123456789012:role/boundary"},
        "iam.permissionsBoundary",
        "for example arn:aws:iam::123456789012:policy/boundary",
    ),
    _on_eks("a path without a slash at its end", {"iam.path": "/platform"}, "iam.path", "ends with a slash"),
    _on_eks("a path without a slash at its beginning", {"iam.path": "platform/"}, "iam.path", "begins and ends"),
    _on_eks("a path with a space", {"iam.path": "/my platform/"}, "iam.path", "without spaces"),
    _on_eks("a path that is too long", {"iam.path": f"/{'x' * 511}/"}, "iam.path", "512 characters"),
]

POSTGRES = [
    _on_eks("a minor version", {"postgres.engineVersion": "17.6"}, "postgres.engineVersion", '"17"'),
    _on_eks("a version that is too old", {"postgres.engineVersion": "14"}, "postgres.engineVersion", '"17"'),
    _on_eks("a class without db.", {"postgres.instanceClass": "t3.micro"}, "postgres.instanceClass", "db.t3.micro"),
    _on_eks("one subnet", {"postgres.subnetIds": ["subnet-0a"]}, "postgres.subnetIds", "two at least"),
    _on_eks(
        "the same subnet twice", {"postgres.subnetIds": ["subnet-0a"] * 2}, "postgres.subnetIds", "in different zones"
    ),
    _on_eks(
        "a subnet by name", {"postgres.subnetIds": ["subnet-0a", "private-b"]}, "postgres.subnetIds[1]", "subnet-…"
    ),
    _on_eks(
        "too little storage",
        {"postgres.allocatedStorage": 10},
        "postgres.allocatedStorage",
        "a whole number from 20 to 65536",
    ),
    _on_eks(
        "storage without room to grow",
        {"postgres.allocatedStorage": 100, "postgres.maxAllocatedStorage": 109},
        "postgres.maxAllocatedStorage",
        "write 110 or more, or 0",
    ),
    _on_eks(
        "storage beyond the default's limit",
        {"postgres.allocatedStorage": 200},
        "postgres.maxAllocatedStorage",
        "write 220",
    ),
    _on_eks(
        "provisioned IOPS", {"postgres.storageType": "io2"}, "postgres.storageType", "write gp2 or gp3 (default gp3)"
    ),
    _on_eks(
        "no backups",
        {"postgres.backupRetentionDays": 0},
        "postgres.backupRetentionDays",
        "is 0; write a whole number from 1 to 35",
    ),
    _on_eks(
        "backups for ever",
        {"postgres.backupRetentionDays": 36},
        "postgres.backupRetentionDays",
        "is 36; write a whole number from 1 to 35",
    ),
    _on_eks(
        "an odd interval",
        {"postgres.monitoringInterval": 7},
        "postgres.monitoringInterval",
        "write 0, 1, 5, 10, 15, 30 or 60",
    ),
    _on_eks(
        "a master that RDS keeps for itself",
        {"postgres.masterUsername": "rdsadmin"},
        "postgres.masterUsername",
        "postgres",
    ),
    _on_eks(
        "a master with a dash", {"postgres.masterUsername": "db-admin"}, "postgres.masterUsername", "a-z, 0-9 and _"
    ),
    _on_eks(
        "a master that PostgreSQL keeps for itself",
        {"postgres.masterUsername": "pg_admin"},
        "postgres.masterUsername",
        "postgres",
    ),
    _on_eks(
        "a master that is a word of SQL", {"postgres.masterUsername": "user"}, "postgres.masterUsername", "postgres"
    ),
    _on_eks(
        "a master of twenty letters",
        {"postgres.masterUsername": "a" * 20},
        "postgres.masterUsername",
        "write 16 characters at most",
    ),
    _on_eks(
        "a window with a day for every day",
        {"postgres.backupWindow": "sun:01:00-sun:02:00"},
        "postgres.backupWindow",
        "for example 01:00-01:30",
    ),
    _on_eks(
        "a window of every week without a day",
        {"postgres.maintenanceWindow": "03:00-04:00"},
        "postgres.maintenanceWindow",
        "for example sun:03:00-sun:04:00",
    ),
    _on_eks(
        "a day as the console shows it",
        {"postgres.maintenanceWindow": "Sun:03:00-Sun:04:00"},
        "postgres.maintenanceWindow",
        "lower case",
    ),
    _on_eks(
        "a window of ten minutes",
        {"postgres.backupWindow": "23:55-00:05"},
        "postgres.backupWindow",
        "is 23:55-00:05, 10 minutes; RDS wants 30 at least",
    ),
    _on_eks(
        "a window of three days",
        {"postgres.maintenanceWindow": "fri:00:00-mon:00:00"},
        "postgres.maintenanceWindow",
        "a day at most",
    ),
    _on_eks(
        "windows that overlap over midnight",
        {"postgres.backupWindow": "23:30-00:30", "postgres.maintenanceWindow": "sun:00:00-sun:01:00"},
        "postgres.maintenanceWindow",
        "move one",
    ),
    _on_eks(
        "a time without logs",
        {"postgres.logRetentionDays": 2},
        "postgres.logRetentionDays",
        "write 1, 3, 5, 7, 14,",
    ),
    _on_eks(
        "more sources than a security group takes",
        {"postgres.allowFrom": {"cluster": True, "cidrs": [f"10.{number}.0.0/16" for number in range(60)]}},
        "postgres.allowFrom",
        "has 61 sources and AWS takes 60",
    ),
    _on_eks("a private zone without a name", {"mlflow.privateZone": True}, "mlflow.privateZone", "`dnsZone`"),
    _on_eks(
        "a bucket's key by its alias",
        {"artifacts.kmsKeyArn": "arn:aws:kms:eu-west-1:123456789012:alias/s3"},
        "artifacts.kmsKeyArn",
        "not an alias",
    ),
    _on_eks(
        "a master that starts with an underscore",
        {"postgres.masterUsername": "_admin"},
        "postgres.masterUsername",
        "starts with a letter",
    ),
    _on_eks("a topic that is no ARN", {"postgres.alarmTopicArn": "alarms"}, "postgres.alarmTopicArn", "arn:aws:sns:"),
    _on_eks("a topic of another service", {"postgres.alarmTopicArn": ACM}, "postgres.alarmTopicArn", "arn:aws:sns:"),
    _on_eks(
        "a key with a word for its id",
        {"postgres.kmsKeyArn": "arn:aws:kms:eu-west-1:123456789012:key/rds"},
        "postgres.kmsKeyArn",
        "the key's own ARN",
    ),
    _on_eks("a key by its alias", {"postgres.kmsKeyArn": "alias/db"}, "postgres.kmsKeyArn", "arn:aws:kms:"),
    _on_eks(
        "a key by its alias's ARN",
        {"postgres.kmsKeyArn": "arn:aws:kms:eu-west-1:123456789012:alias/rds"},
        "postgres.kmsKeyArn",
        "the key's own ARN, arn:aws:kms:…:key/…, not an alias",
    ),
    _on_eks(
        "a subscription instead of a topic",
        {"postgres.alarmTopicArn": "arn:aws:sns:eu-west-1:123456789012:alarms:0a-1b"},
        "postgres.alarmTopicArn",
        "an SNS topic's ARN",
    ),
    _on_eks(
        "a FIFO topic, which alarms cannot use",
        {"postgres.alarmTopicArn": "arn:aws:sns:eu-west-1:123456789012:alarms.fifo"},
        "postgres.alarmTopicArn",
        "an SNS topic's ARN",
    ),
    _on_eks(
        "a certificate authority instead of a certificate",
        {"ingress.certificateArn": "arn:aws:acm-pca:eu-west-1:123456789012:certificate-authority/0a"},
        "ingress.certificateArn",
        "an ACM certificate's ARN",
    ),
    _on_eks(
        "sources that are a word",
        {"postgres.allowFrom": "everybody"},
        "postgres.allowFrom",
        "write cluster or vpc, or a map of settings: cluster, cidrs, securityGroups",
    ),
    _on_eks(
        "sources that are a list",
        {"postgres.allowFrom": ["10.0.0.0/8"]},
        "postgres.allowFrom",
        "is a list; write cluster or vpc, or a map of settings: cluster, cidrs, securityGroups",
    ),
    _on_eks("no source at all", {"postgres.allowFrom": {}}, "postgres.allowFrom", "`cidrs` or `securityGroups`"),
    _on_eks(
        "a bad CIDR", {"postgres.allowFrom": {"cidrs": ["10.0.0/8"]}}, "postgres.allowFrom.cidrs[0]", "203.0.113.0/24"
    ),
    _on_eks(
        "host bits in a CIDR",
        {"postgres.allowFrom": {"cidrs": ["10.0.0.1/8"]}},
        "postgres.allowFrom.cidrs[0]",
        "203.0.113.0/24",
    ),
    _on_eks(
        "a group by name",
        {"postgres.allowFrom": {"securityGroups": ["nodes"]}},
        "postgres.allowFrom.securityGroups[0]",
        "sg-…",
    ),
    _on_eks(
        "a source that is everybody",
        {"postgres.allowFrom": {"cidrs": ["0.0.0.0/0"]}},
        "postgres.allowFrom.cidrs is every address",
        "203.0.113.0/24",
    ),
    _on_eks(
        "a source of IPv6",
        {"postgres.allowFrom": {"cidrs": ["2001:db8::/32"]}},
        "postgres.allowFrom.cidrs[0]",
        "203.0.113.0/24",
    ),
    _without_eks(
        "an existing server without a host", {"postgres.existing.host": None}, "postgres.existing.host", "config set"
    ),
    _without_eks("an empty host", {"postgres.existing.host": ""}, "postgres.existing.host", "without scheme or port"),
    _without_eks("a port out of range", {"postgres.existing.port": 70000}, "postgres.existing.port", "65535"),
    _without_eks(
        "an empty password",
        {"postgres.existing.adminPassword": ""},
        "postgres.existing.adminPassword",
        "pulumi config set --secret",
    ),
    _without_eks(
        "an existing server with its port in the host",
        {"postgres.existing.host": "db.example.com:5432"},
        "postgres.existing.host",
        "without scheme or port",
    ),
    _without_eks(
        "a setting of an instance beside a server that exists",
        {"postgres.multiAz": True},
        "postgres.multiAz",
        "existing",
    ),
]

DATABASE = [
    _on_eks("a database that exists", {"database.name": "postgres"}, "database.name", "for example mlflow"),
    _on_eks("a database in capitals", {"database.name": "MLflow"}, "database.name", "a-z, 0-9 and _"),
    _on_eks("a database with a dash", {"database.name": "ml-flow"}, "database.name", "a-z, 0-9 and _"),
    _on_eks("the schema public", {"database.schema": "public"}, "database.schema", "for example mlflow"),
    _on_eks("a schema of PostgreSQL's", {"database.schema": "pg_mlflow"}, "database.schema", "for example mlflow"),
    _on_eks("a role of RDS's", {"database.user": "rds_iam"}, "database.user", "for example mlflow_user"),
    _on_eks("a role of PostgreSQL's", {"database.user": "pg_monitor"}, "database.user", "for example mlflow_user"),
    _on_eks("a role without room for _2", {"database.user": "u" * 62}, "database.user", "61 characters"),
    _on_eks("a rotation backwards", {"database.rotation": -1}, "database.rotation", "write a whole number, 0 or more"),
    _on_eks(
        "a tunnel without a port", {"database.adminAddress": "localhost"}, "database.adminAddress", "localhost:15432"
    ),
    _on_eks(
        "a tunnel with a word as its port", {"database.adminAddress": "h:x"}, "database.adminAddress", "localhost:15432"
    ),
    _on_eks(
        "a tunnel with a port out of range",
        {"database.adminAddress": "h:65536"},
        "database.adminAddress",
        "localhost:15432",
    ),
    _on_eks("a tunnel to no host", {"database.adminAddress": "-:5432"}, "database.adminAddress", "localhost:15432"),
    _on_eks(
        "a tunnel with a space", {"database.adminAddress": "my host:5432"}, "database.adminAddress", "localhost:15432"
    ),
    _on_eks(
        "a tunnel with a digit that is no number",
        {"database.adminAddress": "h:²"},
        "database.adminAddress",
        "localhost:15432",
    ),
    _on_eks("a login role that is the owner role", {"database.user": "mlflow_app"}, "database.user", "mlflow_app"),
    _on_eks(
        "a login role that is the master",
        {"database.user": "dba", "postgres.masterUsername": "dba"},
        "database.user",
        "mlflow_user",
    ),
    _on_eks(
        "a second login role that is the master",
        {"database.user": "dba", "postgres.masterUsername": "dba_2"},
        "database.user",
        "mlflow_user",
    ),
    _on_eks(
        "an owner role that is the master",
        {"database.name": "runs", "postgres.masterUsername": "runs_app"},
        "database.name",
        "write another",
    ),
    _without_eks(
        "a login role that administers the server that exists",
        {"database.user": "dba", "postgres.existing.adminUsername": "dba"},
        "database.user",
        "mlflow_user",
    ),
    _on_eks(
        "a login role that is a master with a name late in the alphabet",
        {"database.user": "zoe", "postgres.masterUsername": "zoe"},
        "database.user",
        "mlflow_user",
    ),
    _on_eks("a database without room for _app", {"database.name": "d" * 60}, "database.name", "59 characters"),
]

ARTIFACTS = [
    *(
        _on_eks(f"a bucket named {name}", {"artifacts.bucket": name}, "artifacts.bucket", "my-mlflow-artifacts")
        for name in ("192.168.5.4", "xn--bucket", "amzn-s3-demo-x", "data-s3alias", "data--ol-s3", "a..b", "data.")
    ),
    *(
        _on_eks(f"the registry {name}", {"images.registry": name}, "images.registry", "without a slash at the end")
        for name in (
            *("registry.example.com/mirror/", "registry.example.com//mirror", "https://registry.example.com", "team"),
            *(
                "registry.example.com:0/a",
                "registry.example.com:99999",
                "-r.example.com",
                "r.example.com/a..b",
                "r.e.com/-a",
            ),
        )
    ),
    _on_eks("a bucket in capitals", {"artifacts.bucket": "MyBucket"}, "artifacts.bucket", "my-mlflow-artifacts"),
    _on_eks("a bucket with its scheme", {"artifacts.bucket": "s3://b"}, "artifacts.bucket", "my-mlflow-artifacts"),
    _on_eks("a bucket with two dots", {"artifacts.bucket": "a..b"}, "artifacts.bucket", "my-mlflow"),
    _on_eks(
        "signed addresses from an MLflow that offers none",
        {"artifacts.transfers": "direct", "mlflow.chartVersion": "1.8.1"},
        "artifacts.transfers",
        "write chartVersion 1.11.5, or transfers: proxied",
    ),
    _on_eks(
        "signed addresses of a bucket with a dot",
        {"artifacts": {"transfers": "direct", "bucket": "team.artifacts"}},
        "artifacts.transfers",
        "write transfers: proxied, or name another bucket",
    ),
    _on_eks("another way of files", {"artifacts.transfers": "s3"}, "artifacts.transfers", "write direct or proxied"),
    _on_eks("static keys", {"artifacts.identity": "accessKey"}, "artifacts.identity", "write podIdentity or irsa"),
]

RETENTION = [
    _on_eks(
        "a schedule of words",
        {"retention": {"deletedDays": 30, "schedule": "@daily"}},
        "retention.schedule",
        "such as 17 3 * * *",
    ),
    _on_eks(
        "a schedule of four fields",
        {"retention": {"deletedDays": 30, "schedule": "17 3 * *"}},
        "retention.schedule",
        "five fields",
    ),
    _on_eks(
        "a schedule for nothing",
        {"retention": {"schedule": "0 4 * * 0"}},
        "retention.schedule",
        "write deletedDays too",
    ),
    _on_eks("a dry run of nothing", {"retention": {"dryRun": True}}, "retention.dryRun", "write deletedDays too"),
    _on_eks("deletion at once", {"retention": {"deletedDays": 0}}, "retention.deletedDays", "1"),
    _on_eks(
        "an archive for what is gone",
        {"retention": {"archiveTracesDays": 90, "deleteTracesDays": 90}},
        "retention.archiveTracesDays",
        "write fewer days, or drop it",
    ),
    _on_eks(
        "an archive with an MLflow that has none",
        {"retention": {"archiveTracesDays": 90}, "mlflow.chartVersion": "1.8.1"},
        "retention.archiveTracesDays",
        "drop it, or set mlflow.chartVersion",
    ),
    _on_eks(
        "connections of the clean-up too",
        {
            "retention": {"deletedDays": 30},
            "mlflow": {"host": "mlflow.example.com", "workers": 2, "pool": {"size": 5, "overflow": 6}},
        },
        "mlflow.workers",
        "+ 3 (clean-up)",
    ),
    _without_eks("a clean-up without a bucket", {"retention": {"deletedDays": 30}}, "retention", "drop it"),
]

INGRESS = [
    _on_eks("two ways of TLS", {"ingress": {"clusterIssuer": "x", "certificateArn": ACM}}, "ingress", "choose one"),
    _on_eks("TLS and none", {"ingress": {"plainHttp": True, "tlsSecretName": "x"}}, "ingress", "choose one"),
    _on_eks(
        "a certificate whose id is cut off",
        {"ingress.certificateArn": ACM[:-3]},
        "ingress.certificateArn",
        "arn:aws:acm:",
    ),
    _on_eks("a certificate by id", {"ingress.certificateArn": "1-2-3"}, "ingress.certificateArn", "arn:aws:acm:"),
    _on_eks("a scheme of its own", {"ingress.scheme": "public"}, "ingress.scheme", "write internal or internet-facing"),
    _on_eks(
        "halves of everybody",
        {"ingress.allowedCidrs": ["0.0.0.0/1", "128.0.0.0/1"]},
        "ingress.allowedCidrs is every address",
        "leave it out",
    ),
    _on_eks(
        "sources that are everybody together",
        {"postgres.allowFrom": {"cidrs": ["0.0.0.0/1", "128.0.0.0/2", "192.0.0.0/2"]}},
        "postgres.allowFrom.cidrs is every address",
        "203.0.113.0/24",
    ),
    _on_eks("clients by name", {"ingress.allowedCidrs": ["office"]}, "ingress.allowedCidrs[0]", "203.0.113.0/24"),
    _on_eks(
        "clients that are everybody",
        {"ingress": {"scheme": "internet-facing", "allowedCidrs": ["0.0.0.0/0"]}},
        "ingress.allowedCidrs is every address",
        "leave it out",
    ),
    _on_eks("a version with a v", {"ingress.chartVersion": "v1.52.1"}, "ingress.chartVersion", "1.52.1"),
    _on_eks("no controller pods", {"ingress.replicas": 0}, "ingress.replicas", "a whole number from 1 to 20"),
    _on_eks("a namespace in capitals", {"ingress.namespace": "HAProxy"}, "ingress.namespace", "a Kubernetes name"),
    _on_eks("a namespace to serve in capitals", {"ingress.namespaces": ["Docs"]}, "ingress.namespaces[0]", "a Kube"),
    _on_eks("all namespaces to serve", {"ingress.namespaces": ["*"]}, "ingress.namespaces[0]", "a Kubernetes name"),
    _on_eks("all client pods", {"mlflow.allowedNamespaces": ["*"]}, "mlflow.allowedNamespaces[0]", "a Kubernetes name"),
    _on_eks("a class with two dots", {"ingress.className": "my..class"}, "ingress.className", "a Kubernetes name"),
    _on_eks(
        "a class that is too long", {"ingress.className": "a" * 220}, "ingress.className", "at most 219 characters"
    ),
    _on_eks("a Secret's name that is too long", {"ingress.tlsSecretName": "a" * 254}, "ingress.tlsSecretName", "253"),
    _on_eks(
        "a load balancer's class with two slashes",
        {"ingress.loadBalancerClass": "service.k8s.aws/nlb/x"},
        "ingress.loadBalancerClass",
        "for example service.k8s.aws/nlb",
    ),
    _on_eks("a namespace with a dot", {"ingress.namespace": "my.edge"}, "ingress.namespace", "a Kubernetes name"),
    _on_eks(
        "a controller that we make with an address", {"ingress.address": "lb.example.com"}, "ingress.address", "drop it"
    ),
    _on_eks(
        "namespaces of a controller that we do not make",
        {"ingress": {"install": False, "namespaces": ["docs"]}},
        "ingress.namespaces",
        "drop it or `install: false`",
    ),
    _on_eks(
        "a certificate for a controller that we do not make",
        {"ingress": {"install": False, "certificateArn": ACM}},
        "ingress.certificateArn",
        "drop it or `install: false`",
    ),
    _on_eks(
        "client networks of a controller that we do not make",
        {"ingress": {"install": False, "allowedCidrs": ["10.0.0.0/8"]}},
        "ingress.allowedCidrs",
        "drop it or `install: false`",
    ),
    _on_eks(
        "metrics of a controller that we do not make",
        {"ingress": {"install": False, "serviceMonitor": True}},
        "ingress.serviceMonitor",
        "drop it or `install: false`",
    ),
    _on_eks(
        "labels of a ServiceMonitor that is not made",
        {"ingress": {"serviceMonitorLabels": {"release": "prometheus"}}},
        "ingress.serviceMonitorLabels",
        "write serviceMonitor: true",
    ),
    _on_eks(
        "a label that Kubernetes refuses",
        {"ingress": {"serviceMonitor": True, "serviceMonitorLabels": {"release": "kube prometheus"}}},
        "ingress.serviceMonitorLabels",
        "has release: kube prometheus; write a Kubernetes label",
    ),
    _on_eks(
        "labels for monitoring that is off",
        {"monitoring": {"labels": {"release": "prometheus"}}},
        "monitoring.labels",
        "is for monitoring, which is off; write enabled: true",
    ),
    _on_eks(
        "a label of a rule that Kubernetes refuses",
        {"monitoring": {"enabled": True, "labels": {"release": "kube prometheus"}}},
        "monitoring.labels",
        "has release: kube prometheus; write a Kubernetes label",
    ),
    _on_eks(
        "a page of alerts with an anchor",
        {"monitoring": {"enabled": True, "runbookUrl": "https://example.com/alerts.md#down"}},
        "monitoring.runbookUrl",
        "write the address of docs/alerts.md, without an anchor",
    ),
    _on_eks(
        "a scheme for a controller that we do not make",
        {"ingress": {"install": False, "scheme": "internal"}},
        "ingress.scheme",
        "drop it or `install: false`",
    ),
    _on_eks(
        "a record for a load balancer that nobody names",
        {"ingress.install": False, "mlflow.dnsZone": "example.com"},
        "ingress.address",
        "the load balancer's name",
    ),
    _on_eks(
        "a zone's own name for a load balancer that only a CNAME leads to",
        {
            "ingress": {"install": False, "address": "proxy.example.org"},
            "mlflow.dnsZone": "example.com",
            "mlflow.host": "example.com",
        },
        "mlflow.host",
        "a host such as mlflow.example.com",
    ),
]

MLFLOW = [
    _on_eks("a host with its scheme", {"mlflow.host": "https://a.example.com"}, "mlflow.host", "mlflow.example.com"),
    _on_eks("a host with a port", {"mlflow.host": "a.example.com:443"}, "mlflow.host", "without scheme or port"),
    _on_eks("a host in capitals", {"mlflow.host": "A.example.com"}, "mlflow.host", "in lower case"),
    _on_eks("a host with a dot at its end", {"mlflow.host": "a.example.com."}, "mlflow.host", "leave out the dot"),
    _on_eks("a host with a long label", {"mlflow.host": f"{'a' * 64}.example.com"}, "mlflow.host", "has 64: write a"),
    _on_eks("a host that is too long", {"mlflow.host": "abcd." * 51 + "com"}, "mlflow.host", "has 253 at most"),
    _on_eks("a host that is an address", {"mlflow.host": "10.0.0.7"}, "mlflow.host", "an Ingress takes names only"),
    _on_eks("a host with an umlaut", {"mlflow.host": "mlflöw.example.com"}, "mlflow.host", "takes no 'ö'"),
    _on_eks("a host with a wildcard", {"mlflow.host": "*.example.com"}, "mlflow.host", "mlflow.example.com"),
    _on_eks("two hosts", {"mlflow.host": "a.example.com,b.example.com"}, "mlflow.host", "mlflow.example.com"),
    _on_eks("a host with an underscore", {"mlflow.host": "ml_flow.example.com"}, "mlflow.host", "mlflow.example.com"),
    _on_eks("a host outside its zone", {"mlflow.dnsZone": "example.org"}, "mlflow.host", "ends in .example.org"),
    _on_eks("a zone that the host only resembles", {"mlflow.dnsZone": "ple.com"}, "mlflow.host", "ends in .ple.com"),
    _on_eks("a URL for another host", {"mlflow.url": "https://b.example.com"}, "mlflow.url", "scheme and port"),
    _on_eks("a URL with a path", {"mlflow.url": "https://mlflow.example.com/x"}, "mlflow.url", "without a path"),
    _on_eks("a URL that is any", {"mlflow.url": "*"}, "mlflow.url", "scheme and host"),
    _on_eks("a URL without TLS", {"mlflow.url": "http://mlflow.example.com"}, "mlflow.url", "write https"),
    _on_eks(
        "a URL with a port out of range",
        {"mlflow.url": "https://mlflow.example.com:99999"},
        "mlflow.url",
        "scheme and host",
    ),
    _on_eks(
        "a URL with a login", {"mlflow.url": "https://me:secret@mlflow.example.com"}, "mlflow.url", "scheme and host"
    ),
    _on_eks("a URL with https's own port", {"mlflow.url": "https://mlflow.example.com:443"}, "mlflow.url", "leave out"),
    _on_eks(
        "an origin with http's own port",
        {"mlflow.corsAllowedOrigins": ["http://a.example.com:80"]},
        "mlflow.corsAllowedOrigins[0]",
        "leave out",
    ),
    _on_eks(
        "an origin as a content security policy names it",
        {"mlflow.corsAllowedOrigins": ["'self'"]},
        "mlflow.corsAllowedOrigins[0]",
        "scheme and host",
    ),
    _on_eks(
        "an origin in capitals",
        {"mlflow.corsAllowedOrigins": ["https://Notebooks.example.com"]},
        "mlflow.corsAllowedOrigins[0]",
        "lower case",
    ),
    _on_eks(
        "an origin without a scheme",
        {"mlflow.corsAllowedOrigins": ["a.b"]},
        "mlflow.corsAllowedOrigins[0]",
        "write scheme",
    ),
    _on_eks(
        "an origin with a slash",
        {"mlflow.corsAllowedOrigins": ["https://a/"]},
        "mlflow.corsAllowedOrigins[0]",
        "a path",
    ),
    _on_eks(
        "two origins in one",
        {"mlflow.corsAllowedOrigins": ["https://a.com,*"]},
        "mlflow.corsAllowedOrigins[0]",
        "write scheme",
    ),
    _on_eks("a host header with a space", {"mlflow.allowedHosts": ["a b"]}, "mlflow.allowedHosts[0]", "a Host header"),
    _on_eks("host headers in one", {"mlflow.allowedHosts": ["a,*"]}, "mlflow.allowedHosts[0]", "a Host header"),
    _on_eks(
        "a chart that is not known", {"mlflow.chartVersion": "1.9.0"}, "mlflow.chartVersion", "write 1.11.5 or 1.8.1"
    ),
    _on_eks("no pods", {"mlflow.replicas": 0}, "mlflow.replicas", "a whole number from 1 to 100"),
    _on_eks("no workers", {"mlflow.workers": 0}, "mlflow.workers", "a whole number from 1 to 32 (default 2)"),
    _on_eks("no time", {"mlflow.timeoutSeconds": 5}, "mlflow.timeoutSeconds", "a whole number from 60 to 3600"),
    _on_eks("memory in words", {"mlflow.resources.memoryLimit": "2 GB"}, "mlflow.resources.memoryLimit", '"2Gi"'),
    _on_eks(
        "less disk than is reserved",
        {"mlflow.resources.storageLimit": "99Mi"},
        "mlflow.resources.storageLimit",
        "write 100Mi or more",
    ),
    _on_eks(
        "a fraction of a thousandth of a CPU",
        {"mlflow.resources.cpuRequest": "0.0005"},
        "mlflow.resources.cpuRequest",
        '"500m"',
    ),
    _on_eks(
        "an image with a tag that is too long",
        {"mlflow.image": {"tag": "9" * 200 + ".1.1"}},
        "mlflow.image.tag",
        "3.17.2",
    ),
    _on_eks("disk in GB", {"mlflow.resources.storageLimit": "10G"}, "mlflow.resources.storageLimit", "Mi or Gi"),
    _on_eks("memory in thousandths", {"mlflow.resources.memoryLimit": "512m"}, "mlflow.resources.memoryLimit", '"2Gi"'),
    _on_eks(
        "memory for no worker",
        {"mlflow.resources": {"memoryRequest": "128Mi", "memoryLimit": "128Mi"}},
        "mlflow.resources.memoryLimit",
        "needs 612 MiB under load with `workers` 2",
    ),
    _on_eks(
        "memory for fewer workers",
        {
            "mlflow.workers": 4,
            "mlflow.pool": {"size": 2, "overflow": 1},
            "ingress.replicas": 1,
            "mlflow.resources": {"memoryRequest": "512Mi", "memoryLimit": "985Mi"},
        },
        "mlflow.resources.memoryLimit",
        "write 986Mi or more",
    ),
    _on_eks(
        "more mebibytes reserved than allowed",
        {"mlflow.resources": {"memoryRequest": "1025Mi", "memoryLimit": "1Gi"}},
        "mlflow.resources.memoryRequest",
        "memoryLimit",
    ),
    _on_eks(
        "more memory reserved than allowed",
        {"mlflow.resources.memoryRequest": "4Gi"},
        "mlflow.resources.memoryRequest",
        "memoryLimit",
    ),
    _on_eks(
        "fewer pods at most than at least",
        {"mlflow.autoscaling": {"minReplicas": 3, "maxReplicas": 2}},
        "mlflow.autoscaling.maxReplicas",
        "raise it",
    ),
    _on_eks("more pods than connections", {"mlflow.replicas": 2}, "mlflow.replicas", "a larger postgres.instanceClass"),
    _on_eks("more workers than connections", {"mlflow.workers": 3}, "mlflow.workers", "a smaller mlflow.pool"),
    _on_eks(
        "an autoscaler that outgrows the connections",
        {"mlflow.autoscaling": {}},
        "mlflow.autoscaling.maxReplicas",
        "a larger postgres.instanceClass",
    ),
    _on_eks(
        "pods and an autoscaler",
        {"mlflow.replicas": 3, "mlflow.autoscaling": {"minReplicas": 1, "maxReplicas": 1}},
        "mlflow.replicas",
        "autoscaling",
    ),
    _on_eks("a pool of one", {"mlflow.pool": {"size": 1, "overflow": 0}}, "mlflow.pool", "write size 2 or more"),
    _on_eks(
        "more controllers than places",
        {"mlflow.pool": {"size": 2, "overflow": 1}, "ingress.replicas": 3},
        "ingress.replicas",
        "write 1 or fewer, or an mlflow.pool.size of 6 or more",
    ),
    _on_eks(
        "a place that a second controller would halve in a rollout",
        {"mlflow.pool": {"size": 1, "overflow": 1}, "ingress.replicas": 1},
        "ingress.replicas",
        "write an mlflow.pool.size of 2 or more",
    ),
    _on_eks("a negative pool", {"mlflow.pool.overflow": -1}, "mlflow.pool.overflow", "a whole number from 0 to 100"),
    _on_eks("one namespace for both releases", {"mlflow.namespace": "haproxy"}, "mlflow.namespace", "another"),
    _on_eks(
        "a namespace of the cluster's own",
        {"mlflow.namespace": "kube-system"},
        "mlflow.namespace",
        "write another, for example mlflow",
    ),
    _on_eks("a registry with its scheme", {"images.registry": "https://r.example.com"}, "images.registry", "https://"),
]

LOGIN = [
    _on_eks("a login of its own", {"mlflow.auth.mode": "saml"}, "mlflow.auth.mode", "write basic, ldap, oidc or none"),
    _on_eks(
        "OpenID Connect without a provider",
        {"mlflow.auth.mode": "oidc"},
        "mlflow.auth.mode",
        "clientSecret and userGroups",
    ),
    Bad(
        "a provider with basic",
        changed(MINIMAL, {"mlflow.auth": {"oidc": OIDC}}),
        "mlflow.auth.oidc",
        "write mode: oidc or drop oidc",
        ["mlflow"],
    ),
    Bad(
        "a client's secret in plain text",
        changed(MINIMAL, {"mlflow.auth": {"mode": "oidc", "oidc": OIDC}}),
        "mlflow.auth.oidc.clientSecret",
        "pulumi config set --secret",
        [],
        ["the-client-secret"],
    ),
    _oidc("a provider without an address", {"issuer": None}, "oidc.issuer", "config set"),
    _oidc(
        "a provider over HTTP",
        {"issuer": "http://login.example.com"},
        "oidc.issuer",
        "https://login.example.com/realms/ml",
    ),
    _oidc(
        "a discovery document with a query", {"issuer": "https://a.example.com/?x"}, "oidc.issuer", "discovery document"
    ),
    _oidc("a client without an id", {"clientId": None}, "oidc.clientId", "config set"),
    _oidc("a client's id with a space", {"clientId": "my client"}, "oidc.clientId", "the id of the client"),
    _oidc("a client without a secret", {"clientSecret": None}, "oidc.clientSecret", "config set --secret"),
    _oidc(
        "a client's secret of two lines",
        {"clientSecret": "a-line\nanother"},
        "oidc.clientSecret",
        "8 to 512 characters",
    ),
    _oidc("everybody of the provider", {"userGroups": []}, "oidc.userGroups", "name the groups or the domains"),
    _oidc("a group without a name", {"userGroups": [" "]}, "oidc.userGroups[0]", "write a group"),
    _oidc("an administrators' group without a name", {"adminGroups": [""]}, "oidc.adminGroups[0]", "write a group"),
    _oidc(
        "an address for a domain",
        {"allowedDomains": ["@example.com"]},
        "oidc.allowedDomains[0]",
        "for example example.com",
    ),
    _oidc("scopes without openid", {"scopes": ["email"]}, "oidc.scopes", "add it"),
    _oidc("two scopes in one", {"scopes": ["openid email"]}, "oidc.scopes[0]", "without spaces"),
    _oidc("a parameter of the login's own", {"parameters": {"state": "x"}}, "oidc.parameters", "drop it"),
    _oidc("ID tokens for the API", {"audience": "mlflow"}, "oidc.audience", "write another one"),
    _oidc(
        "a machine without an audience",
        {"machines": {"ci": "https://a.example.com sub"}},
        "oidc.audience",
        "the audience that their tokens have",
    ),
    _oidc(
        "a machine by its subject only",
        {"audience": "api", "machines": {"ci": "repo:acme/x"}},
        "oidc.machines.ci",
        "an issuer, a space and the exact subject",
    ),
    _oidc(
        "a machine with a pattern",
        {"audience": "api", "machines": {"ci": "https://a.example.com repo:acme/*"}},
        "oidc.machines.ci",
        "the exact subject",
    ),
    _oidc(
        "a machine with two accounts",
        {"audience": "api", "machines": {"a": "https://a.example.com s", "b": "https://a.example.com s"}},
        "oidc.machines",
        "drop one of them",
    ),
    _oidc(
        "a machine that is the first administrator",
        {"audience": "api", "machines": {"admin": "https://a.example.com s"}},
        "oidc.machines",
        "write another name",
    ),
    _oidc("a session of a month", {"sessionHours": 720}, "oidc.sessionHours", "a whole number from 1 to 168"),
    _oidc("a certificate's name", {"caCertificate": "ca.pem"}, "oidc.caCertificate", "PEM"),
    _oidc("OpenID Connect on the old chart", {}, "mode", "write chartVersion 1.11.5", {"mlflow.chartVersion": "1.8.1"}),
    _oidc("OpenID Connect over plain HTTP", {}, "mode", "drop ingress.plainHttp", {"ingress.plainHttp": True}),
    _on_eks("LDAP without a directory", {"mlflow.auth.mode": "ldap"}, "mlflow.auth.mode", "groupSearchBase"),
    _on_eks("a directory with basic", {"mlflow.auth": {"ldap": LDAP}}, "mlflow.auth.ldap", "mode: ldap or drop ldap"),
    _on_eks("a directory with none", {"mlflow.auth": {"mode": "none", "ldap": LDAP}}, "mlflow.auth.ldap", "drop ldap"),
    Bad(
        "a password where nobody logs in",
        changed(MINIMAL, {"mlflow.auth": {"mode": "none", "adminPassword": "correct-horse"}}),
        "mlflow.auth.adminPassword",
        "mode: basic",
        ["mlflow"],
        ["correct-horse"],
    ),
    _on_eks(
        "an administrator with a space",
        {"mlflow.auth.adminUsername": "the boss"},
        "mlflow.auth.adminUsername",
        "1 to 64",
    ),
    _on_eks(
        "an administrator with a slash",
        {"mlflow.auth.adminUsername": "a/b"},
        "mlflow.auth.adminUsername",
        "1 to 64 characters",
    ),
    _on_eks(
        "a permission of its own",
        {"mlflow.auth.defaultPermission": "ALL"},
        "mlflow.auth.defaultPermission",
        "write NO_PERMISSIONS, READ, EDIT or MANAGE",
    ),
    _on_eks(
        "an image that moves",
        {"mlflow.image": {"tag": "latest"}},
        "mlflow.image.tag",
        "MLflow's version, such as 3.17.2",
    ),
    _on_eks("an image without a tag", {"mlflow.image": {}}, "mlflow.image.tag", "3.17.2"),
    _on_eks(
        "an older MLflow than the chart's",
        {"mlflow.image": {"tag": "3.9.0"}},
        "mlflow.image.tag",
        "older than MLflow 3.15.1 of chart 1.11.5; write 3.15.1 or newer",
    ),
    _on_eks(
        "half a digest",
        {"mlflow.image": {"tag": "3.17.2", "digest": "sha256:abc"}},
        "mlflow.image.digest",
        "64 hexadecimal digits",
    ),
    _on_eks(
        "a day of cache",
        {"mlflow.auth.cacheSeconds": 86400},
        "mlflow.auth.cacheSeconds",
        "a whole number from 0 to 3600",
    ),
    _ldap("a directory without an address", {"uri": None}, "ldap.uri", "config set"),
    _ldap("a directory without a bind", {"lookupBind": None}, "ldap.lookupBind", "config set"),
    _ldap("a directory without a group of admins", {"adminGroupDn": None}, "ldap.adminGroupDn", "config set"),
    _ldap("a directory at no host", {"uri": "ldaps://ldap..example.com"}, "ldap.uri", "ldaps://ldap.example.com:636"),
    _ldap("a group by its name", {"adminGroupDn": "mlflow-admins"}, "ldap.adminGroupDn", "a DN, for example cn="),
    _ldap("a base by its name", {"groupSearchBase": "groups"}, "ldap.groupSearchBase", "a DN, for example ou="),
    _ldap("a directory over HTTP", {"uri": "https://ldap.example.com"}, "ldap.uri", "ldaps://ldap.example.com:636"),
    _ldap("a bind without the name", {"lookupBind": "ou=people"}, "ldap.lookupBind", "%s for the name"),
    _ldap("a filter without the user", {"groupSearchFilter": "(a=b)"}, "ldap.groupSearchFilter", "%s for the user"),
    _ldap("a check of its own", {"tlsVerify": "yes"}, "ldap.tlsVerify", "write required or none"),
    _ldap(
        "a directory with a port out of range",
        {"uri": "ldaps://ldap.example.com:99999"},
        "ldap.uri",
        "ldaps://ldap.example.com:636",
    ),
]

PLAIN = [
    Bad(
        f"{path} in plain text",
        changed(ANY_CLUSTER if "existing" in path else MINIMAL, {path: "correct-horse"}),
        path,
        f"pulumi config set --secret --path 'mlflow-eks:{path}'",
        (),
        ["correct-horse"],
    )
    for path in (
        "postgres.existing.adminPassword",
        "postgres.masterPassword",
        "database.password",
        "mlflow.auth.adminPassword",
    )
]

# Each of these characters breaks in a place between the Secret and MLflow: sed, the ini file or the database's URI.
PASSWORDS = [
    *(
        _password(mistake, "mlflow.auth.adminPassword", f"correct{character}horse")
        for mistake, character in {
            "a slash": "/",
            "an ampersand": "&",
            "a backslash": "\\",
            "a percent sign": "%",
            "an at sign": "@",
            "an opening bracket": "[",
            "a closing bracket": "]",
            "a colon": ":",
            "a hash": "#",
            "a question mark": "?",
            "a quote": "'",
            "a double quote": '"',
            "a dollar sign": "$",
            "a backtick": "`",
            "a semicolon": ";",
            "a space": " ",
            "a tab": "\t",
            "a line break": "\n",
            "an umlaut": "ä",
        }.items()
    ),
    _password("a line break at the end", "mlflow.auth.adminPassword", "correct-horse\n"),
    _password("eleven characters", "mlflow.auth.adminPassword", "elevenchars"),
    _password("too many characters", "database.password", "x" * 129),
    _password("a slash", "database.password", "correct/horse"),
    _password("an at sign", "postgres.masterPassword", "correct@horse"),
    _key("a short passphrase", "passphrase", "x" * 31, "must be 32 to 256 characters of ASCII without spaces"),
    _key("a passphrase of words", "passphrase", "a passphrase of several short words", "`openssl rand -base64 32`"),
    _key("a key that is no base64 for URLs", "webhooks", f"{'x' * 42}+=", "must be 32 bytes in URL-safe base64"),
    _key("a key of 31 bytes", "webhooks", f"{'x' * 42}==", "`openssl rand -base64 32 | tr -- '+/' '-_'`"),
    Bad(
        "a password of digits that YAML reads as a number",
        changed(MINIMAL, {"database.password": 123456789012}),
        "database.password",
        "is a number; write it in quotes",
        ["database"],
        ["123456789012"],
    ),
    _on_eks(
        "a file that is not there",
        {"database.caFile": "no-such.pem"},
        "database.caFile",
        "write its path from the project's folder",
    ),
    _on_eks(
        "a file without a certificate", {"database.caFile": "LICENSE"}, "database.caFile", "with a PEM certificate"
    ),
    _on_eks(
        "a gateway for everybody",
        {"mlflow.gateway": True, "mlflow.auth.mode": "none"},
        "mlflow.gateway",
        "write mode: basic or drop gateway",
    ),
    _on_eks(
        "a gateway with an MLflow that has none",
        {"mlflow.gateway": True, "mlflow.chartVersion": "1.8.1"},
        "mlflow.gateway",
        "write chartVersion 1.11.5 or drop gateway",
    ),
]

BAD: Sequence[Bad] = [
    *BASICS,
    *UNKNOWN_KEYS,
    *CLUSTER,
    *IAM,
    *POSTGRES,
    *DATABASE,
    *ARTIFACTS,
    *RETENTION,
    *INGRESS,
    *MLFLOW,
    *LOGIN,
    *PLAIN,
    *PASSWORDS,
]
