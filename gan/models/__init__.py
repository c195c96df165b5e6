"""The networks: a file per family of architectures, conditioning, initialisation, batch statistics, CPUs."""
