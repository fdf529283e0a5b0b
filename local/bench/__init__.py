"""What the deployment and its tools cost in time, memory and connections: `make bench`."""
