"""What the hooks and the packer cost: `make bench`, or `python -m bench`."""
