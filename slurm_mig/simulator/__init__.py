"""A simulated NVIDIA driver: `libnvidia-ml.so.1` in C, and the files that the real one keeps.

It stands beside the product, which never imports it: programs find it as they find the real
library. `handle.Simulation` makes and steers one; `driver/` is its source.

What it does follows NVIDIA's header, the open kernel modules and published output. Where these are
silent it does what is hardest on its callers, or what is simplest:

- A handle of a destroyed instance is INVALID_ARGUMENT, also when its like was made again.
- Switching MIG off with GPU instances there is IN_USE, as the call's result and as its activation
  status; enabling it under a running program succeeds as a call, with the status IN_USE.
- With MIG off, MIG devices by index are NOT_FOUND; all that needs GPU instances is NOT_SUPPORTED.
- A GPU's engines are as many as its largest profile has. Profiles share them out: that is why +me
  excludes +me, and +me.all leaves only -me. An engine whose number nobody knows limits nothing.
- Without a placement a GPU instance goes where most (profile, placement) options stay, a compute
  instance to the lowest free slice.
- A call that is refused takes no time. One that changes a GPU waits for others that change it and
  spends its latency before its effect, so a process killed meanwhile has changed nothing.
- Device numbers are of the kernel's range for local use: no node here opens a device of the host.
"""
