"""What touches this machine: files, sockets, processes, environment. Nothing pure imports it."""
