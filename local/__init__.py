"""The local stack: what stands in for AWS, EKS and the provider plugins, and the commands that run it."""
