"""Plans a fleet on paper: parameters, connections, memory, files and time-outs.

Plain Python over plain data. Nothing here imports Ansible or reaches a host.
"""
