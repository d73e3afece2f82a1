/* How the simulation is made, steered and looked at: symbols of our own beside NVML's. The Python
 * handle calls them, so that there is one reader and one writer of the state. None of them counts
 * as a call, meets a fault or spends latency. */
#include <stdio.h>
#include <string.h>

#include "sim.h"

/* Make DIR/state and DIR/root from DIR/gpus. */
EXPORT nvmlReturn_t slurmMigSimFormat(void)
{
    nvmlReturn_t result = state_format();

    if (result == NVML_SUCCESS)
        devtree_format();
    return result;
}

EXPORT const char *slurmMigSimFunctionName(unsigned int function)
{
    return call_function_name(function);
}

EXPORT long long slurmMigSimCalls(const char *function)
{
    int index = call_function_by_name(function);

    if (index < 0 || state_open() != NVML_SUCCESS)
        return -1;
    return (long long)atomic_load(&sim.shared->function[index].calls);
}

/* The `nth` call of `function`, or of "any", from now on fails, or, with `from_then_on`, it and all after it. `error` 0xffff
 * kills the calling process instead. `after`: a mutating call is carried out all the same. */
EXPORT nvmlReturn_t slurmMigSimFail(const char *function, unsigned int nth, int from_then_on,
                                    int after, unsigned int error)
{
    struct fault *fault;
    int index = call_function_by_name(function);
    nvmlReturn_t result = state_open();

    if (result != NVML_SUCCESS)
        return result;
    if (index < 0 || nth == 0 || error == 0 || error > FAULT_KILL)
        return NVML_ERROR_INVALID_ARGUMENT;
    fault = &sim.shared->function[index].fault;
    atomic_store(&fault->what, 0);
    atomic_store(&fault->countdown, nth);
    atomic_store(&fault->what, FAULT_ARMED | (from_then_on ? FAULT_FROM_THEN_ON : 0u) |
                                   (after ? FAULT_AFTER : 0u) | error);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t slurmMigSimLatency(const char *function, unsigned long long microseconds)
{
    int index = call_function_by_name(function);
    nvmlReturn_t result = state_open();

    if (result != NVML_SUCCESS)
        return result;
    if (index < 0)
        return NVML_ERROR_INVALID_ARGUMENT;
    atomic_store(&sim.shared->function[index].latency_us, microseconds);
    return NVML_SUCCESS;
}

EXPORT long long slurmMigSimGetLatency(const char *function)
{
    int index = call_function_by_name(function);

    if (index < 0 || state_open() != NVML_SUCCESS)
        return -1;
    return (long long)atomic_load(&sim.shared->function[index].latency_us);
}

/* The armed fault of a function as slurmMigSimFail's bits, 0 when none. */
EXPORT unsigned int slurmMigSimGetFault(const char *function)
{
    int index = call_function_by_name(function);
    struct fault *fault;
    uint32_t what;

    if (index < 0 || state_open() != NVML_SUCCESS)
        return 0;
    fault = &sim.shared->function[index].fault;
    what = atomic_load(&fault->what);
    return (what & FAULT_FROM_THEN_ON) || atomic_load(&fault->countdown) > 0 ? what : 0;
}

EXPORT nvmlReturn_t slurmMigSimClear(void)
{
    nvmlReturn_t result = state_open();

    for (unsigned i = 0; result == NVML_SUCCESS && i <= FN_ANY; i++) {
        atomic_store(&sim.shared->function[i].fault.what, 0);
        atomic_store(&sim.shared->function[i].latency_us, 0);
    }
    return result;
}

/* One atomic step: every GPU whose epoch is older has been rebooted. */
EXPORT nvmlReturn_t slurmMigSimReboot(void)
{
    nvmlReturn_t result = state_open();

    if (result == NVML_SUCCESS) {
        atomic_fetch_add(&sim.shared->boots, 1);
        atomic_fetch_add(&sim.shared->epoch, 1);
        devtree_boot();
    }
    return result;
}

/* `rmmod nvidia; modprobe nvidia`: as a reboot, but the kernel and /dev stay. */
EXPORT nvmlReturn_t slurmMigSimReload(void)
{
    nvmlReturn_t result = state_open();

    if (result == NVML_SUCCESS) {
        atomic_fetch_add(&sim.shared->epoch, 1);
        devtree_load();
    }
    return result;
}

static nvmlReturn_t reset(unsigned gpu, struct gpu_state *state, void *context)
{
    (void)context;
    if (gpu_has_client(state, -1, -1))
        return NVML_ERROR_IN_USE;
    /* A reset, unlike a reboot, leaves Hopper's mode as it is. */
    uint8_t pending = state->mig_pending;
    state_reset_gpu(gpu, state);
    state->mig_current = state->mig_pending = pending;
    return NVML_SUCCESS;
}

/* What `nvidia-smi --gpu-reset` does to one GPU. */
EXPORT nvmlReturn_t slurmMigSimResetGpu(unsigned int gpu)
{
    nvmlReturn_t result = state_open();
    int lock;

    if (result != NVML_SUCCESS)
        return result;
    if (gpu >= sim.config.gpus)
        return NVML_ERROR_INVALID_ARGUMENT;
    lock = state_lock_driver(gpu);
    if (lock < 0)
        return NVML_ERROR_OPERATING_SYSTEM;
    result = state_change(gpu, reset, NULL);
    devtree_sync(gpu);
    state_unlock(lock);
    return result;
}

/* 1 while a mutating call of some process runs on the GPU, its latency included. */
EXPORT int slurmMigSimBusy(unsigned int gpu)
{
    if (state_open() != NVML_SUCCESS || gpu >= sim.config.gpus)
        return -1;
    return state_driver_busy(gpu);
}

/* Everything a person or a test wants to see, as lines of words:
 *   gpu INDEX UUID MIG_CURRENT MIG_PENDING GI_MADE GI_DESTROYED GI_LOST CI_MADE CI_DESTROYED CI_LOST
 *   gi GPU ID PROFILE_ID START SIZE
 *   ci GPU GI ID PROFILE_ID START SIZE UUID
 *   client GPU GI CI PID BYTES          (GI and CI 255: the whole GPU)
 * Returns the length that the whole text has; it is cut at `size`. */
EXPORT long long slurmMigSimShow(char *text, unsigned long size)
{
    size_t used = 0;

#define LINE(...)                                                                                  \
    do {                                                                                           \
        int length_ = snprintf(used < size ? text + used : NULL, used < size ? size - used : 0,    \
                               __VA_ARGS__);                                                       \
        used += (size_t)length_;                                                                   \
    } while (0)

    if (state_open() != NVML_SUCCESS)
        return -1;
    for (unsigned gpu = 0; gpu < sim.config.gpus; gpu++) {
        char uuid[NVML_DEVICE_UUID_BUFFER_SIZE];
        struct place place;
        struct gpu_state s;

        state_read(gpu, &s);
        uuid_of_gpu(gpu, uuid);
        LINE("gpu %u %s %u %u %llu %llu %llu %llu %llu %llu\n", gpu, uuid, s.mig_current,
             s.mig_pending, (unsigned long long)s.gi_made, (unsigned long long)s.gi_destroyed,
             (unsigned long long)s.gi_lost, (unsigned long long)s.ci_made,
             (unsigned long long)s.ci_destroyed, (unsigned long long)s.ci_lost);
        for (unsigned g = 0; g < MAX_GI; g++) {
            const struct gi_state *gi = &s.gi[g];
            const struct gi_profile *profile = &sim.config.gpu[gpu].profile[gi->profile];
            if (gi->serial == 0)
                continue;
            LINE("gi %u %u %u %u %u\n", gpu, g, profile->id, gi->start, gi->size);
            for (unsigned c = 0; c < MAX_CI; c++) {
                if (gi->ci[c].serial == 0 || !place_of_ids(gpu, g, c, &place))
                    continue;
                uuid_of_mig(&place, uuid);
                LINE("ci %u %u %u %u %u %u %s\n", gpu, g, c, place.ci_profile->id,
                     place.ci->start, place.ci->size, uuid);
            }
        }
        for (unsigned i = 0; i < MAX_CLIENTS; i++)
            if (s.client[i].pid)
                LINE("client %u %u %u %u %llu\n", gpu, s.client[i].gi, s.client[i].ci,
                     s.client[i].pid, (unsigned long long)s.client[i].bytes);
    }
    return (long long)used;
#undef LINE
}
