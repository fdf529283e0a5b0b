"""The Pulumi CLI as the local stack runs it, and what builds it (`go/`)."""
