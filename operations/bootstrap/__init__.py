"""Makes what the workflows of a stack need, in AWS and on GitHub: ``make bootstrap STACK=dev …`` (docs/deployments.md)."""
