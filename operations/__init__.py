"""Commands for the people who run stacks; none of them is part of a deployment."""
