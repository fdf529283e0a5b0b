# Commands for the local stack, for contributors, and for a stack on AWS (STACK=dev).
# They need Python 3.11 or newer, and the local stack Linux on x86-64. The rest is installed.

PYTHON ?= python3
STACK ?= dev
# Number of test files that run at the same time when all tests run. They start in the order of their names, which has long ones early.
JOBS ?= $(if $(TESTS),1,3)
VENV := .venv
LOCAL := $(VENV)/bin/python -m local
# Files of which the hashes and the recorded state only look like secrets.
NO_SECRETS := ^(\.secrets\.baseline|.*requirements.*\.txt|tests/local/recorded/.*)$$

# For STACK=local, print a sentence and end: these commands are for a stack on AWS.
on_aws = $(if $(filter local,$(STACK)),echo "$(1)"; exit 0;)

# The local stack has a self-signed certificate and a Pulumi CLI of its own.
INSECURE = $(if $(filter local,$(STACK)),MLFLOW_TRACKING_INSECURE_TLS=true)
PULUMI = $(if $(filter local,$(STACK)),--pulumi "$(LOCAL) pulumi")
# It has an account of its own, for which the machine needs no AWS CLI.
AWS = $(if $(filter local,$(STACK)),--aws "$(LOCAL) aws")
PEOPLE = $(INSECURE) $(VENV)/bin/python -m operations.people $(PULUMI) --stack $(STACK)
BACKUP = $(if $(call given,TIME),--time "$(TIME)") $(if $(call given,SNAPSHOT),--snapshot "$(SNAPSHOT)")
# Value of a variable that stands in the command. The environment may have one of the same name: NAME on WSL is the machine's.
given = $(if $(filter command,$(origin $(1))),$($(1)))
# Stop unless a variable stands in the command.
need = $(if $(call given,$(1)),,echo "error: $(1) is missing; write: make $@ STACK=$(STACK) $(1)=…" >&2; exit 1;)
receivers = --experiment "$(EXPERIMENT)" $(if $(call given,USERS),--user $(USERS)) $(if $(call given,TEAM),--team "$(TEAM)") \
	$(if $(call given,MODELS),--model $(MODELS))

.DEFAULT_GOAL := help
.PHONY: help up down preview status logs test slow-test clients workflows unit cluster-test keycloak-test bench check secrets-baseline audit lock settings-reference chart-facts doctor verify cost rotate-admin iam-policies bootstrap \
	drill restore deploy watch unstick user new-password remove-user team leave-team grant revoke

help: ## Show this.
	@sed -nE 's/^([a-z-]+):.*## /  \1\t/p; s/^##@ (.*)/\n\1/p' $(MAKEFILE_LIST) | expand -t 22

##@ The local stack, on this machine: no cloud, no account
up: $(VENV)/.complete ## Bring up the whole deployment: Pulumi, database, ingress, MLflow, AWS API. A minute with `pulumi` on the PATH, else five at first.
	@$(LOCAL) up

down: $(VENV)/.complete ## Destroy the local stack (FORCE=1: delete it without pulumi).
	@$(LOCAL) down $(if $(FORCE),--force)

preview: STACK = local
preview: $(VENV)/.complete ## Show what `make up` would change (STACK=dev: what `pulumi up` would), as the comment of a review does.
	@mkdir -p artifacts
	@$(if $(filter local,$(STACK)),,command -v pulumi >/dev/null || { echo "error: pulumi is not on the PATH; a stack other than local needs it" >&2; exit 1; };) \
	$(if $(filter local,$(STACK)),$(LOCAL) preview --json,pulumi preview --json --stack $(STACK)) > artifacts/preview-$(STACK).json; code=$$?; \
	$(VENV)/bin/python -m operations.review.comment --stack $(STACK) --status $$code artifacts/preview-$(STACK).json > artifacts/preview-$(STACK).md || exit 1; \
	cat artifacts/preview-$(STACK).md; exit $$code

status: $(VENV)/.complete ## Show the site and the processes of the local stack.
	@$(LOCAL) status

logs: $(VENV)/.complete ## Follow the logs of the local stack (NAME=mlflow: only those whose names begin so).
	@$(LOCAL) logs $(NAME)

##@ For contributors
test: $(VENV)/.complete ## Run the tests, those on the real engine too (TESTS="tests/unit -k word": some of them; JOBS=1: one after the other).
	@$(VENV)/bin/python -m pytest $(if $(filter-out 1,$(JOBS)),-n $(JOBS) --dist loadfile --no-loadscope-reorder) $(TESTS)

slow-test: $(VENV)/.complete ## Run the tests that take a stack through upgrades, rotations, load and faults: an hour on two cores.
	@$(VENV)/bin/python -m pytest -n 2 --dist loadfile -m slow $(if $(TESTS),$(TESTS),tests/local)

clients: $(VENV)/.complete ## Run old MLflow clients on the local stack, and compare with the table in docs/upgrade.md (UPDATE_CLIENTS=1: write it).
	@$(VENV)/bin/python -m pytest -m clients tests/local/test_clients.py

unit: $(VENV)/.complete ## Run the fast tests: under a minute on two cores.
	@$(VENV)/bin/python -m pytest -n auto --dist worksteal tests/unit tests/contract tests/operations tests/docs

workflows: $(VENV)/.complete ## Run the workflows of .github step for step on a local stack of its own: pull request, merge, deployment, drift.
	@$(VENV)/bin/python -m pytest -m workflows tests/workflows

cluster-test: $(VENV)/.complete ## Run the program on a real cluster with your Pulumi CLI and plugins (CONTEXT=kind-mlflow; docs/cluster-tests.md).
	@CLUSTER_TEST_CONTEXT="$(CONTEXT)" CLUSTER_TEST_REQUIRED="$(CLUSTER_TEST_REQUIRED)" $(VENV)/bin/python -m pytest -m cluster $(if $(TESTS),$(TESTS),tests/cluster)

keycloak-test: $(VENV)/.complete ## Run the single sign-on with a real Keycloak, which needs Java 17, Maven and Chromium (a quarter of an hour).
	@$(VENV)/bin/python -m pytest -m keycloak $(if $(TESTS),$(TESTS),tests/keycloak)

bench: $(VENV)/.complete ## Measure everything, two hours (PARTS="program serving": some of it); artifacts/bench.md.
	@$(VENV)/bin/python -m local.bench $(PARTS)

check: $(VENV)/.complete ## Check lint, formatting, types, workflows, and secrets in the source.
	@echo "ruff:" && $(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .
	@echo "pyright:" && $(VENV)/bin/pyright
	@echo "zizmor:" && uv=$$($(PYTHON) -m local.tools uv) && \
	"$$uv" tool run --quiet zizmor@1.32.0 --offline --quiet --no-progress --strict-collection --persona=auditor .
	@if command -v go >/dev/null; then echo "actionlint:" && go run github.com/rhysd/actionlint/cmd/actionlint@v1.7.12 -shellcheck= -pyflakes=; \
	else echo "actionlint: skipped, because go is not on the PATH"; fi
	@echo "detect-secrets:" && $(VENV)/bin/detect-secrets-hook --no-verify --baseline .secrets.baseline $$(git ls-files)

secrets-baseline: $(VENV)/.complete ## Accept everything that now looks like a secret; read the diff of .secrets.baseline.
	@$(VENV)/bin/detect-secrets scan --slim --no-verify --exclude-files '$(NO_SECRETS)' --exclude-lines 'uses: \S+@[0-9a-f]{40} # v' \
		$$(git ls-files --cached --others --exclude-standard --deduplicate | xargs ls -d 2>/dev/null) > .secrets.baseline.new
	@mv .secrets.baseline.new .secrets.baseline

audit: $(VENV)/.complete ## Look for known vulnerabilities in what is pinned (needs the advisory service).
	@$(VENV)/bin/pip-audit --strict --disable-pip --require-hashes -r requirements-dev.txt -r local/requirements-mlflow-3.15.1.txt

lock: $(VENV)/.complete ## Pin the newest packages that the requirements allow, with their hashes.
	@uv=$$($(PYTHON) -m local.tools uv) && \
	"$$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --upgrade requirements.in -o requirements.txt && \
	"$$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --upgrade -c requirements.txt requirements-dev.in -o requirements-dev.txt

settings-reference: $(VENV)/.complete ## Write docs/settings.md and the editor's schema from settings/.
	@$(VENV)/bin/python -m settings.write_reference

chart-facts: $(VENV)/.complete ## Record what the real charts make of the program's values (needs helm; CHARTS=folder: charts that are unpacked there).
	@CHARTS="$(CHARTS)" $(VENV)/bin/python -m tests.contract.record_charts

##@ For a stack on AWS (STACK=dev)
doctor: $(VENV)/.complete ## List what is missing before a first `pulumi up` of STACK, and what it will do.
	@$(call on_aws,The local stack needs no AWS account: make up brings it up.) $(VENV)/bin/python -m operations.doctor $(STACK)

iam-policies: $(VENV)/.complete ## Write the IAM policies of the roles that deploy and preview STACK (docs/iam.md has the other variables).
	@$(call on_aws,The local stack has no IAM: its account allows everything.) $(call need,ACCOUNT) $(call need,OWNER) $(call need,REPOSITORY) $(call need,STATE_BUCKET) $(call need,STATE_KEY) \
	$(VENV)/bin/python -m operations.iam.policies $(STACK) --account "$(ACCOUNT)" --owner "$(OWNER)" --repository "$(REPOSITORY)" \
	--state-bucket "$(STATE_BUCKET)" --state-key "$(STATE_KEY)" $(if $(call given,IDS),--ids $(IDS))

bootstrap: $(VENV)/.complete ## Make what the workflows of STACK need: state bucket, key, roles, environments (docs/deployments.md has the other variables).
	@$(call on_aws,The local stack needs no AWS account: make up brings it up.) $(call need,OWNER) $(call need,REPOSITORY) \
	$(VENV)/bin/python -m operations.bootstrap $(STACK) --owner "$(OWNER)" --repository "$(REPOSITORY)" $(if $(call given,IDS),--ids $(IDS)) \
	$(if $(call given,REVIEWERS),--reviewers $(REVIEWERS)) $(if $(call given,STATE_BUCKET),--state-bucket "$(STATE_BUCKET)") \
	$(if $(call given,ROLE_PATH),--role-path "$(ROLE_PATH)") $(if $(call given,ROLE_BOUNDARY),--role-boundary "$(ROLE_BOUNDARY)")

cost: $(VENV)/.complete ## Estimate the monthly cost of STACK: at first, at most, and in other regions.
	@$(call on_aws,The local stack costs nothing: it runs on this machine.) $(VENV)/bin/python -m operations.cost $(STACK)

verify: $(VENV)/.complete ## Try STACK from outside: name, login, a run with a file, other users, database, alarms (STACK=local too; WAIT=600: wait so long for the site).
	@$(INSECURE) $(VENV)/bin/python -m operations.verify $(PULUMI) $(AWS) $(if $(call given,WAIT),--wait $(WAIT)) $(STACK)

rotate-admin: $(VENV)/.complete ## Give the administrator of STACK a new password (STACK=local too).
	@$(INSECURE) $(VENV)/bin/python -m operations.rotate_admin $(PULUMI) $(STACK)

drill: $(VENV)/.complete ## Try a restore of the database of STACK beside the one in use, and compare (TIME=2026-11-30T02:00:00Z or SNAPSHOT=name).
	@$(VENV)/bin/python -m operations.restore.drill $(PULUMI) $(AWS) $(BACKUP) $(STACK)

restore: $(VENV)/.complete ## Bring the database of STACK back as it was (TIME=2026-11-30T02:00:00Z or SNAPSHOT=name; EXPERIMENT=name: only this one, which was purged; OLDER=1: it is of an older MLflow).
	@$(VENV)/bin/python -m operations.restore.$(if $(call given,EXPERIMENT),experiment --experiment "$(EXPERIMENT)",use $(if $(call given,OLDER),--older)) $(PULUMI) $(AWS) $(BACKUP) $(STACK)

deploy: $(VENV)/.complete ## Run `pulumi up` of STACK, and say meanwhile why pods do not become ready.
	@$(call on_aws,The local stack says it by itself: make up.) $(VENV)/bin/python -m operations.release_watch --stack $(STACK) -- pulumi up --stack $(STACK)

watch: $(VENV)/.complete ## Say why pods of STACK do not become ready, beside a `pulumi up` that runs elsewhere.
	@$(call on_aws,The local stack says it by itself: make up.) $(VENV)/bin/python -m operations.release_watch --stack $(STACK)

unstick: $(VENV)/.complete ## Free STACK after a killed `pulumi up` or `destroy`, and name the next command.
	@$(call on_aws,The local stack mends itself: make up.) $(VENV)/bin/python -m operations.unstick $(STACK)

##@ For the people who use a site (STACK=dev, or STACK=local)
user: $(VENV)/.complete ## Make an account and print its login (NAME=alice).
	@$(call need,NAME) $(PEOPLE) user "$(NAME)"

new-password: $(VENV)/.complete ## Give an account a new password and print its login (NAME=alice).
	@$(call need,NAME) $(PEOPLE) new-password "$(NAME)"

remove-user: $(VENV)/.complete ## Remove an account with its permissions (NAME=alice).
	@$(call need,NAME) $(PEOPLE) remove-user "$(NAME)"

team: $(VENV)/.complete ## Put users into a team, and make the team if there is none (TEAM=churn USERS="alice bob").
	@$(call need,TEAM) $(call need,USERS) $(PEOPLE) team "$(TEAM)" $(USERS)

leave-team: $(VENV)/.complete ## Take users out of a team (TEAM=churn USERS=bob).
	@$(call need,TEAM) $(call need,USERS) $(PEOPLE) leave-team "$(TEAM)" $(USERS)

grant: $(VENV)/.complete ## Give a team or users an experiment and its models (TEAM=churn or USERS=alice, EXPERIMENT=churn MODELS=churn PERMISSION=EDIT).
	@$(call need,EXPERIMENT) $(PEOPLE) grant $(receivers) $(if $(call given,PERMISSION),--permission "$(PERMISSION)")

revoke: $(VENV)/.complete ## Take that away again (TEAM=churn or USERS=alice, EXPERIMENT=churn MODELS=churn).
	@$(call need,EXPERIMENT) $(PEOPLE) revoke $(receivers)

# The file is written last, so an installation that was interrupted is completed.
$(VENV)/.complete: requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "error: $(PYTHON) cannot be started or is older than 3.11: set PYTHON to a newer one, for example make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@uv=$$($(PYTHON) -m local.tools uv) && \
	echo "Installing the Python packages into $(VENV)" && \
	"$$uv" venv --quiet --allow-existing --python $(PYTHON) $(VENV) && \
	"$$uv" pip sync --quiet --python $(VENV)/bin/python --require-hashes $< && \
	touch $@
