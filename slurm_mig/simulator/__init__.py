"""The simulated driver: a real libnvidia-ml.so.1 in C over made-up GPUs, and its handle."""
