"""The parts of the deployment, a component a file or folder. No component imports another; `lookups` is shared."""
