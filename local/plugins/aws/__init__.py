"""The stand-in for Pulumi's `aws` provider: this program's resource types and functions, as calls to the local AWS API."""
