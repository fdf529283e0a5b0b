"""The workflows, run step for step: `make test TESTS=tests/workflows`, and with the local stack `make workflows`."""
