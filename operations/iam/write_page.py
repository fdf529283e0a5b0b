"""Writes ``docs/iam.md`` from the table of calls: ``python -m operations.iam.write_page``.

A test fails when the page is out of step with the table.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from operations.iam import policies
from operations.iam.policies import CALLS, Place, Policy
from operations.stack_file import ROOT

PAGE = ROOT / "docs" / "iam.md"

_KEY = "arn:aws:kms:eu-west-1:123456789012:key/11111111-2222-3333-4444-555555555555"
EXAMPLE = Place(
    account="123456789012",
    region="eu-west-1",
    cluster="my-cluster",
    host="mlflow.example.com",
    stack="dev",
    state_bucket="my-pulumi-state",
    state_key=_KEY,
    owner="OWNER",
    repository="mlflow-eks",
)
"""Names on the page."""

INTRODUCTION = """# IAM: who may deploy, and who may look

The policies of a stack's roles, written by `python -m operations.iam.write_page` from the table in `operations/iam/calls.yaml`. One command
fills in the names of your stack:

```console
$ make iam-policies STACK=dev ACCOUNT=123456789012 OWNER=acme REPOSITORY=mlflow-eks STATE_BUCKET=my-pulumi-state STATE_KEY=arn:aws:kms:…
```

The command reads region, cluster, host, `iam.path`, `iam.permissionsBoundary`, `postgres.kmsKeyArn` and `artifacts.bucket` from the stack's
file, asks nobody, and writes into `artifacts/iam-dev`:

| file | for |
|---|---|
| `preview-1` | the role of the environments `dev-preview` and `dev-plan`, and of people who look: `pulumi preview`, `preview --refresh`, `make doctor` |
| `deploy-1` and following | the role of the environment `dev`, in addition to `preview-1`: `pulumi up`, `refresh` and `destroy` |
| `trust-preview`, `trust-deploy` | who may take the two roles |

No line has been tried on AWS. [The table](#the-table) says of each row where its actions were read. Tests compare the policies with the resource types and
look-ups of the program, with the calls that the local stack's account receives, and with AWS's list of actions, resources and conditions.

`make bootstrap` makes the roles with these policies, and the bucket and the key of the state: [deployments.md](deployments.md#set-up). By hand, an
administrator makes each role once, and a policy of each file. The last two commands are for one file of several:

```console
$ aws iam create-role --role-name mlflow-eks-dev --max-session-duration 10800 \\
    --assume-role-policy-document file://artifacts/iam-dev/trust-deploy.json
$ aws iam create-policy --policy-name mlflow-eks-dev-deploy-1 --policy-document file://artifacts/iam-dev/deploy-1.json
$ aws iam attach-role-policy --role-name mlflow-eks-dev --policy-arn arn:aws:iam::123456789012:policy/mlflow-eks-dev-deploy-1
```

## What the policies do not hold back

- **Without a permissions boundary the deploying role can become anything.** The role writes the policy of `artifacts-role-*` and who may take that role.
  With `iam.permissionsBoundary`, each role needs that boundary when it is created and when it gets rights, and no one removes it. The
  boundary has to allow what the roles do: [the pods' rights](#the-pods), and the actions of AWS's policy `AmazonRDSEnhancedMonitoringRole`.
- **Names tell the resources of this program from others, and not one stack from another.** The policies for `dev` also fit the bucket and most of the
  database's parts of `prod`. The tags `Project` and `Stack` keep them from security groups of others and from deleting another stack's
  instance. For a real wall, use an account for each stack. A different `iam.path` for each stack keeps their roles apart.
- **Whoever previews sees the stack's secrets.** A preview decrypts the state, for which it needs `kms:Decrypt` with the state's key, and reads
  the cluster's Secrets. Nothing else in the policy shows a value: no artifact, no other key, no login to the database. Give each stack its own key.
  With one key for all, the role of `dev` decrypts the secrets in `Pulumi.prod.yaml`.
- **The statement `Data` deletes the bucket with everything in it.** A stack with `protect: true` does not need that statement, except where `artifacts` is replaced.
- **The policies fit one host and one cluster.** Run the command again after a change of `mlflow.host`, `cluster.name`, `artifacts.bucket`,
  `postgres.kmsKeyArn` or the section `iam`. An `up` that changes the host deletes the old record, which the new policy does not allow. Attach both until then.
- A second service-linked role, `elasticloadbalancing.amazonaws.com`, belongs to the AWS Load Balancer Controller. Neither policy has it.

## Sessions

A role's session lasts an hour unless the role allows more and the login asks for more. A major upgrade, Multi-AZ or a change of the instance class can
take longer than that. `--max-session-duration 10800` allows three hours. `up.yml` asks for as long and ends after 170 minutes: [deployments.md](deployments.md#times).
"""

GITHUB = """## GitHub

GitHub's tokens need an identity provider in the account, once:

```console
$ aws iam create-open-id-connect-provider --url https://token.actions.githubusercontent.com --client-id-list sts.amazonaws.com
```

The environments `dev-preview` and `dev-plan` share the reading role, and `dev` has a role of its own. The trust policy compares audience and subject with
`StringEquals`. A `StringLike` with `*` lets in branches, pull requests or repositories of others.

A repository that was created, renamed or moved since 15 July 2026, or that opted in, has the numbers of owner and repository in its subject. Another
repository of the same name then is another subject. Print the numbers, and whether the subject was customized:

```console
$ gh api repos/OWNER/mlflow-eks --jq '.owner.id, .id'
$ gh api repos/OWNER/mlflow-eks/actions/oidc/customization/sub
```

Give the numbers to the command as `IDS="OWNER_ID REPOSITORY_ID"`. Without them the trust policy has the older form. With the wrong form
the login fails: `Not authorized to perform sts:AssumeRoleWithWebIdentity`.

| form | subject of the environment `dev` |
|---|---|
"""

CLUSTER = """## The cluster

IAM opens the account. The cluster has its own rights, through access entries:

```console
$ aws eks create-access-entry --cluster-name my-cluster --principal-arn arn:aws:iam::123456789012:role/mlflow-eks-dev
$ aws eks associate-access-policy --cluster-name my-cluster --principal-arn arn:aws:iam::123456789012:role/mlflow-eks-dev \\
    --policy-arn arn:aws:eks::aws:cluster-access-policy/AmazonEKSClusterAdminPolicy --access-scope type=cluster
```

The deploying role needs `AmazonEKSClusterAdminPolicy`, because HAProxy's chart makes a ClusterRole. The previewing role needs
`AmazonEKSAdminViewPolicy`. `AmazonEKSViewPolicy` reads no Secrets, and Helm keeps its releases in Secrets.

A preview sends the objects that the program itself creates to the cluster as dry runs (server-side apply), for which Kubernetes asks for `create` and `patch`. The plugin
does without a forbidden `patch`. A forbidden `create`, of an object that is new in the pull request, was reported to fail the preview
(pulumi-kubernetes, issue 2521). Kubernetes has no right for dry runs only: with this ClusterRole the previewing role may change these objects.
So bind it only where previews fail without it, to the group of the role's access entry (`--kubernetes-groups mlflow-eks-preview`):

"""

AFTER_THE_CLUSTER_ROLE = """
A ClusterRoleBinding gives the first rule, and a RoleBinding in each of the two namespaces gives the others. Instead of all this,
`PULUMI_K8S_ENABLE_SERVER_SIDE_APPLY=false` in the environment of `preview-stack.yml` does without dry runs. The preview then shows one change more, of
the provider `cluster`.

Not tried on a cluster: a preview as a reader.
"""


def page() -> str:
    """Write the page."""
    with_numbers = replace(EXAMPLE, ids=("OWNER_ID", "REPOSITORY_ID"))
    parts = [
        INTRODUCTION,
        GITHUB + f"| names | `{EXAMPLE.subject('dev')}` |\n| names and numbers | `{with_numbers.subject('dev')}` |\n",
        "The role of the environment `dev`:\n",
        _block(policies.trust(with_numbers, "dev")),
        CLUSTER + _cluster_role() + AFTER_THE_CLUSTER_ROLE,
        "## The policy of previews\n",
        *map(_block, policies.preview(EXAMPLE)),
        "## The policies of `up`\n",
        "In addition to the policy of previews. With `postgres.kmsKeyArn` there is a statement more, and with `iam.permissionsBoundary` a condition.\n",
        *map(_block, policies.deploy(EXAMPLE)),
        "## The pods\n",
        "The pods' role, `artifacts-role-*`, has the rights of one bucket and no others. The component writes this policy; nobody else has to.\n",
        _table(["on", "actions"], [[f"the {scope}", _actions(names)] for scope, names in CALLS["pods"].items()]),
        "## The table\n",
        "Actions of `up` and `destroy` are in addition to those of previews and refreshes. `provider` is a file in `internal/service` of "
        "hashicorp/terraform-provider-aws, which the `aws` plugin wraps, in one of the versions 4 to 6. `CloudFormation` is the schema of that type. "
        "`reference` is the Service Authorization Reference alone, so the provider may call more.\n",
        _table(
            ["type or look-up", "`up` and `destroy`", "previews and refreshes", "read in"],
            [
                [f"`{name}`", _of_scopes(row.get("deploy", {})), _of_scopes(row["read"]), row["source"]]
                for name, row in policies.rows()
            ],
        ),
    ]
    return "\n".join(parts)


def _block(policy: Policy) -> str:
    return f"```json\n{_json(policy)}\n```\n"


def _json(policy: Policy) -> str:
    """Return JSON with a line for each statement's part."""
    statements = ",\n".join(
        "    {\n"
        + ",\n".join(f"      {json.dumps(key)}: {json.dumps(value)}" for key, value in statement.items())
        + "\n    }"
        for statement in policy["Statement"]
    )
    return f'{{\n  "Version": {json.dumps(policy["Version"])},\n  "Statement": [\n{statements}\n  ]\n}}'


def _cluster_role() -> str:
    kinds: Mapping[str, Mapping[str, Sequence[str]]] = CALLS["kubernetes"]
    rules = ",\n".join(
        f"    {json.dumps({'apiGroups': [group], 'resources': names, 'verbs': ['create', 'patch']})}"
        for groups in kinds.values()
        for group, names in groups.items()
    )
    head = '  "apiVersion": "rbac.authorization.k8s.io/v1",\n  "kind": "ClusterRole",\n  "metadata": {"name": "mlflow-eks-dry-runs"},'
    return f'```json\n{{\n{head}\n  "rules": [\n{rules}\n  ]\n}}\n```\n'


def _of_scopes(scopes: Mapping[str, Sequence[str]]) -> str:
    return _actions(sorted({name for names in scopes.values() for name in names})) or "nothing"


def _actions(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def write() -> None:
    """Write the page's file."""
    PAGE.write_text(page())


if __name__ == "__main__":
    write()
