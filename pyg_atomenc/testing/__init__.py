"""What checks the package on a user's own layers and devices."""
