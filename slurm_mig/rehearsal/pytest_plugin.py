"""pytest fixtures for rehearsing hooks without a cluster."""
