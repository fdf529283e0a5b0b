"""IAM policies of those who deploy and preview a stack, made from a table of calls."""
