"""The supervisor of a local stack. It runs the processes that EC2, RDS and the kubelet would run.

A client (`client.py`) declares processes, and the daemon (`daemon.py`) keeps them running until they are deleted.
Declared processes are on disk, so a daemon that starts after a reboot starts all of them again.
"""
