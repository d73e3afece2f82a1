"""A simulated NVIDIA driver: `libnvidia-ml.so.1` in C, and the files that the real one keeps.

It stands beside the product, which never imports it: programs find it as they find the real
library. `handle.Simulation` makes and steers one.
"""
