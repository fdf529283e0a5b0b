"""The stand-in for Pulumi's `aws` provider, with the types and functions of this program, on the local AWS API."""
