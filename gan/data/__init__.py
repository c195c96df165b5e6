"""Where images come from: datasets, image files and folders, and the order of batches."""
