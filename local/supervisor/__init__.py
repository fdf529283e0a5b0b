"""The supervisor: one per local stack, which runs what EC2, RDS and the kubelet would run.

A client (`client.py`) declares processes, the daemon (`daemon.py`) keeps them running until they are deleted. Declared processes are
on disk, so a daemon that starts after a reboot starts all of them again.
"""
