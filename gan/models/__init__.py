"""The networks: architectures for any shape of image, initialisation, batch statistics, oneDNN."""
