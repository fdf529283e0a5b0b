"""Look-ups: what is read about the cluster and its network. They create nothing."""
