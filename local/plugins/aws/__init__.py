"""The stand-in for Pulumi's `aws` provider: the resource types and functions of this program, as calls to the local account."""
