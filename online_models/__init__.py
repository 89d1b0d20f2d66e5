"""The shared kernel: words, mathematics, ports, and the stores behind the ports. It imports no process."""
