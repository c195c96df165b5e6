"""What can be measured beside the core: the plain tutorial loop."""
