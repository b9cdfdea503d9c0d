"""Where bytes come from and go: sockets, files, processes, HTTP."""
