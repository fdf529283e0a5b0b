"""The local stack: stand-ins for AWS, EKS and the provider plugins, and the commands that run them."""
