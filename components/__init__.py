"""The parts of the deployment, a component a file; none imports another."""
