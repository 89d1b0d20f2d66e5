"""The adapters behind the ports: the only kernel modules that do I/O."""
