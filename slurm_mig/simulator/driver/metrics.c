/* What an idle, healthy GPU measures. Programs that watch GPUs ask for it; nothing depends on it.
 * Whole GPUs only: on a MIG device most of this is NOT_SUPPORTED, as on a real driver. */
#define _GNU_SOURCE
#include <string.h>
#include <unistd.h>

#include "sim.h"

#define BITS_PER_WORD (8 * sizeof(unsigned long))

struct numbers {
    unsigned idle_watts, limit_watts, graphics_mhz, memory_mhz;
};

static struct numbers numbers_of(const struct gpu_config *gpu)
{
    switch (gpu->arch) {
    case ARCH_TURING:
        return (struct numbers){10, 70, 1590, 5001};
    case ARCH_AMPERE:
        return (struct numbers){50, 400, 1410, 1215};
    case ARCH_HOPPER:
        return (struct numbers){70, 700, 1980, 2619};
    default:
        return (struct numbers){90, 1000, 1965, 3996};
    }
}

static nvmlReturn_t whole_gpu(nvmlDevice_t device, const void *result, struct place *place)
{
    if (result == NULL || !place_of_device(device, place))
        return NVML_ERROR_INVALID_ARGUMENT;
    return place->ci ? NVML_ERROR_NOT_SUPPORTED : NVML_SUCCESS;
}

/* A function of the form (device, unsigned *result). */
#define NUMBER(symbol, value)                                                                      \
    EXPORT nvmlReturn_t symbol(nvmlDevice_t device, unsigned int *result)                          \
    {                                                                                              \
        struct place place;                                                                        \
        nvmlReturn_t found;                                                                        \
        ENTER(symbol);                                                                             \
        found = whole_gpu(device, result, &place);                                                 \
        if (found == NVML_SUCCESS)                                                                 \
            *result = (value);                                                                     \
        return found;                                                                              \
    }

NUMBER(nvmlDeviceGetPersistenceMode, 1)
NUMBER(nvmlDeviceGetComputeMode, 0)
NUMBER(nvmlDeviceGetDisplayActive, 0)
NUMBER(nvmlDeviceGetDisplayMode, 0)
NUMBER(nvmlDeviceGetPerformanceState, 0)
NUMBER(nvmlDeviceGetPowerUsage, numbers_of(place.gpu).idle_watts * 1000)
NUMBER(nvmlDeviceGetPowerManagementLimit, numbers_of(place.gpu).limit_watts * 1000)

EXPORT nvmlReturn_t nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t device,
                                                                 unsigned int *least,
                                                                 unsigned int *most)
{
    struct place place;
    nvmlReturn_t result;

    ENTER(nvmlDeviceGetPowerManagementLimitConstraints);
    if (most == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    result = whole_gpu(device, least, &place);
    if (result == NVML_SUCCESS) {
        *least = numbers_of(place.gpu).limit_watts * 250;
        *most = numbers_of(place.gpu).limit_watts * 1000;
    }
    return result;
}

EXPORT nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, unsigned int sensor,
                                             unsigned int *celsius)
{
    struct place place;
    nvmlReturn_t result;

    ENTER(nvmlDeviceGetTemperature);
    result = whole_gpu(device, celsius, &place);
    if (result == NVML_SUCCESS && sensor != 0)
        result = NVML_ERROR_INVALID_ARGUMENT;
    if (result == NVML_SUCCESS)
        *celsius = 30;
    return result;
}

EXPORT nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t device,
                                              nvmlTemperature_v1_t *temperature)
{
    unsigned celsius;
    nvmlReturn_t result;

    if (temperature == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (temperature->version != STRUCT_VERSION(nvmlTemperature_v1_t, 1u))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    result = nvmlDeviceGetTemperature(device, temperature->sensor, &celsius);
    if (result == NVML_SUCCESS)
        temperature->celsius = (int)celsius;
    return result;
}

/* Not available while the GPU is partitioned. */
EXPORT nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device,
                                                  nvmlUtilization_t *utilization)
{
    struct place place;
    nvmlReturn_t result;

    ENTER(nvmlDeviceGetUtilizationRates);
    result = whole_gpu(device, utilization, &place);
    if (result == NVML_SUCCESS && place.state.mig_current)
        result = NVML_ERROR_NOT_SUPPORTED;
    if (result == NVML_SUCCESS)
        *utilization = (nvmlUtilization_t){0, 0};
    return result;
}

static nvmlReturn_t clock_of(nvmlDevice_t device, unsigned domain, unsigned *mhz)
{
    struct place place;
    nvmlReturn_t result = whole_gpu(device, mhz, &place);

    if (result == NVML_SUCCESS && domain > 3)
        result = NVML_ERROR_INVALID_ARGUMENT;
    if (result == NVML_SUCCESS) /* 0 graphics, 1 SM, 2 memory, 3 video */
        *mhz = domain == 2 ? numbers_of(place.gpu).memory_mhz : numbers_of(place.gpu).graphics_mhz;
    return result;
}

EXPORT nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, unsigned int domain,
                                           unsigned int *mhz)
{
    ENTER(nvmlDeviceGetClockInfo);
    return clock_of(device, domain, mhz);
}

EXPORT nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, unsigned int domain,
                                              unsigned int *mhz)
{
    ENTER(nvmlDeviceGetMaxClockInfo);
    return clock_of(device, domain, mhz);
}

static nvmlReturn_t put_one(unsigned value, unsigned *count, unsigned *values)
{
    unsigned room = *count;

    *count = 1;
    if (values == NULL || room < 1)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    values[0] = value;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetSupportedMemoryClocks(nvmlDevice_t device, unsigned int *count,
                                                       unsigned int *mhz)
{
    struct place place;
    nvmlReturn_t result;

    ENTER(nvmlDeviceGetSupportedMemoryClocks);
    result = whole_gpu(device, count, &place);
    return result == NVML_SUCCESS ? put_one(numbers_of(place.gpu).memory_mhz, count, mhz) : result;
}

EXPORT nvmlReturn_t nvmlDeviceGetSupportedGraphicsClocks(nvmlDevice_t device,
                                                         unsigned int memory_mhz,
                                                         unsigned int *count, unsigned int *mhz)
{
    struct place place;
    nvmlReturn_t result;

    ENTER(nvmlDeviceGetSupportedGraphicsClocks);
    result = whole_gpu(device, count, &place);
    if (result != NVML_SUCCESS)
        return result;
    if (memory_mhz != numbers_of(place.gpu).memory_mhz)
        return NVML_ERROR_NOT_FOUND;
    return put_one(numbers_of(place.gpu).graphics_mhz, count, mhz);
}

/* All CPUs: the simulated GPUs hang on no NUMA node. */
EXPORT nvmlReturn_t nvmlDeviceGetCpuAffinity(nvmlDevice_t device, unsigned int words,
                                             unsigned long *cpus)
{
    struct place place;

    ENTER(nvmlDeviceGetCpuAffinity);
    if (cpus == NULL || words == 0 || !place_of_device(device, &place))
        return NVML_ERROR_INVALID_ARGUMENT;
    memset(cpus, 0, words * sizeof *cpus);
    for (long cpu = 0; cpu < sysconf(_SC_NPROCESSORS_CONF); cpu++)
        if ((unsigned long)cpu / BITS_PER_WORD < words)
            cpus[(unsigned long)cpu / BITS_PER_WORD] |= 1ul << (unsigned long)cpu % BITS_PER_WORD;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t device, unsigned int link,
                                             unsigned int *active)
{
    struct place place;

    (void)link;
    ENTER(nvmlDeviceGetNvLinkState);
    if (active == NULL || !place_of_device(device, &place))
        return NVML_ERROR_INVALID_ARGUMENT;
    return NVML_ERROR_NOT_SUPPORTED; /* NVLink is off under MIG */
}
