"""The benchmark of the deployment and its tools (`make bench`): time, memory and database connections."""
