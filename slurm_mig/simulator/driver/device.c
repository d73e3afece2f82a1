/* The system and its devices: versions, handles, names, memory. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "sim.h"

#define MIB (1024ull * 1024ull)
/* What a GPU in use by nobody shows as used. */
#define IDLE_MB 4u

static nvmlReturn_t put(char *into, unsigned size, const char *text)
{
    if (into == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (strlen(text) >= size)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    memcpy(into, text, strlen(text) + 1);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length)
{
    ENTER(nvmlSystemGetDriverVersion);
    return put(version, length, sim.config.driver_version);
}

EXPORT nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned int length)
{
    char text[96];

    ENTER(nvmlSystemGetNVMLVersion);
    /* CUDA's major version, then the driver's. */
    snprintf(text, sizeof text, "%u.%s", sim.config.cuda_version / 1000, sim.config.driver_version);
    return put(version, length, text);
}

EXPORT nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    ENTER(nvmlSystemGetCudaDriverVersion);
    if (version == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *version = (int)sim.config.cuda_version;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version)
{
    return nvmlSystemGetCudaDriverVersion_v2(version);
}

EXPORT nvmlReturn_t nvmlSystemGetProcessName(unsigned int pid, char *name, unsigned int length)
{
    char path[64], text[1024] = "";
    FILE *file;

    ENTER(nvmlSystemGetProcessName);
    if (name == NULL || length == 0)
        return NVML_ERROR_INVALID_ARGUMENT;
    snprintf(path, sizeof path, "/proc/%u/cmdline", pid);
    file = fopen(path, "re");
    if (file == NULL)
        return NVML_ERROR_NOT_FOUND;
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    snprintf(name, length, "%s", text);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count)
{
    ENTER(nvmlDeviceGetCount);
    if (count == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *count = sim.config.gpus;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetCount(unsigned int *count)
{
    return nvmlDeviceGetCount_v2(count);
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device)
{
    ENTER(nvmlDeviceGetHandleByIndex);
    if (device == NULL || index >= sim.config.gpus)
        return NVML_ERROR_INVALID_ARGUMENT;
    *device = handle_pack(HANDLE_GPU, index, 0, 0, 0);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex(unsigned int index, nvmlDevice_t *device)
{
    return nvmlDeviceGetHandleByIndex_v2(index, device);
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
    struct place place;
    nvmlReturn_t result;

    ENTER(nvmlDeviceGetHandleByUUID);
    if (uuid == NULL || device == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    result = uuid_find(uuid, &place);
    if (result == NVML_SUCCESS)
        *device = handle_pack(place.handle.kind, place.handle.gpu, place.handle.gi,
                              place.handle.ci, place.handle.serial);
    return result;
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleBySerial(const char *serial, nvmlDevice_t *device)
{
    ENTER(nvmlDeviceGetHandleBySerial);
    if (serial == NULL || device == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    for (unsigned gpu = 0; gpu < sim.config.gpus; gpu++)
        if (strcmp(sim.config.gpu[gpu].serial, serial) == 0) {
            *device = handle_pack(HANDLE_GPU, gpu, 0, 0, 0);
            return NVML_SUCCESS;
        }
    return NVML_ERROR_NOT_FOUND;
}

/* domain:bus:device.function; the domain has four or eight digits, or is left out. */
EXPORT nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, nvmlDevice_t *device)
{
    unsigned domain, bus, slot, function = 0;

    ENTER(nvmlDeviceGetHandleByPciBusId);
    if (bus_id == NULL || device == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (sscanf(bus_id, "%x:%x:%x.%x", &domain, &bus, &slot, &function) < 3) {
        domain = 0;
        if (sscanf(bus_id, "%x:%x.%x", &bus, &slot, &function) < 2)
            return NVML_ERROR_INVALID_ARGUMENT;
    }
    for (unsigned gpu = 0; gpu < sim.config.gpus; gpu++)
        if (domain == 0 && sim.config.gpu[gpu].bus == bus && slot == 0 && function == 0) {
            *device = handle_pack(HANDLE_GPU, gpu, 0, 0, 0);
            return NVML_SUCCESS;
        }
    return NVML_ERROR_NOT_FOUND;
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByPciBusId(const char *bus_id, nvmlDevice_t *device)
{
    return nvmlDeviceGetHandleByPciBusId_v2(bus_id, device);
}

EXPORT nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length)
{
    char text[256];
    struct place place;

    ENTER(nvmlDeviceGetName);
    if (!place_of_device(device, &place))
        return NVML_ERROR_INVALID_ARGUMENT;
    if (place.ci == NULL)
        snprintf(text, sizeof text, "%s", place.gpu->name);
    else if (place.ci_profile->slices == place.gi_profile->slices)
        snprintf(text, sizeof text, "%s MIG %s", place.gpu->name, place.gi_profile->name);
    else
        snprintf(text, sizeof text, "%s MIG %uc.%s", place.gpu->name, place.ci_profile->slices,
                 place.gi_profile->name);
    return put(name, length, text);
}

EXPORT nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length)
{
    char text[NVML_DEVICE_UUID_BUFFER_SIZE];
    struct place place;

    ENTER(nvmlDeviceGetUUID);
    if (!place_of_device(device, &place))
        return NVML_ERROR_INVALID_ARGUMENT;
    if (place.ci == NULL)
        uuid_of_gpu(place.handle.gpu, text);
    else
        uuid_of_mig(&place, text);
    return put(uuid, length, text);
}

EXPORT nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int *index)
{
    struct place place;

    ENTER(nvmlDeviceGetIndex);
    if (index == NULL || !place_of_device(device, &place))
        return NVML_ERROR_INVALID_ARGUMENT;
    *index = place.handle.gpu;
    if (place.ci != NULL) {
        *index = 0; /* how many MIG devices come before it */
        for (unsigned i = 0; i < place.handle.gi * MAX_CI + place.handle.ci; i++)
            *index += place.state.gi[i / MAX_CI].ci[i % MAX_CI].serial != 0;
    }
    return NVML_SUCCESS;
}

/* Most queries make no sense on a MIG device; the driver answers NOT_SUPPORTED. */
static nvmlReturn_t whole_gpu(nvmlDevice_t device, const void *result, struct place *place)
{
    if (result == NULL || !place_of_device(device, place))
        return NVML_ERROR_INVALID_ARGUMENT;
    return place->ci ? NVML_ERROR_NOT_SUPPORTED : NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned int *minor)
{
    struct place place;
    nvmlReturn_t result;

    ENTER(nvmlDeviceGetMinorNumber);
    result = whole_gpu(device, minor, &place);
    if (result == NVML_SUCCESS)
        *minor = place.gpu->minor;
    return result;
}

EXPORT nvmlReturn_t nvmlDeviceGetSerial(nvmlDevice_t device, char *serial, unsigned int length)
{
    struct place place;

    ENTER(nvmlDeviceGetSerial);
    if (!place_of_device(device, &place))
        return NVML_ERROR_INVALID_ARGUMENT;
    return put(serial, length, place.gpu->serial);
}

EXPORT nvmlReturn_t nvmlDeviceGetBrand(nvmlDevice_t device, unsigned int *brand)
{
    struct place place;

    ENTER(nvmlDeviceGetBrand);
    if (brand == NULL || !place_of_device(device, &place))
        return NVML_ERROR_INVALID_ARGUMENT;
    *brand = strstr(place.gpu->name, "RTX") ? 12 : place.gpu->arch == ARCH_TURING ? 2 : 14;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetArchitecture(nvmlDevice_t device, unsigned int *architecture)
{
    struct place place;

    ENTER(nvmlDeviceGetArchitecture);
    if (architecture == NULL || !place_of_device(device, &place))
        return NVML_ERROR_INVALID_ARGUMENT;
    *architecture = place.gpu->arch;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor)
{
    struct place place;

    ENTER(nvmlDeviceGetCudaComputeCapability);
    if (major == NULL || minor == NULL || !place_of_device(device, &place))
        return NVML_ERROR_INVALID_ARGUMENT;
    *major = (int)place.gpu->cc_major;
    *minor = (int)place.gpu->cc_minor;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
    struct place place;

    ENTER(nvmlDeviceGetPciInfo);
    if (pci == NULL || !place_of_device(device, &place))
        return NVML_ERROR_INVALID_ARGUMENT;
    *pci = (nvmlPciInfo_t){.bus = place.gpu->bus, .pciDeviceId = place.gpu->pci_device_id};
    snprintf(pci->busId, sizeof pci->busId, "%08X:%02X:%02X.0", 0u, place.gpu->bus, 0u);
    snprintf(pci->busIdLegacy, sizeof pci->busIdLegacy, "%04X:%02X:%02X.0", 0u,
             place.gpu->bus & 0xff, 0u);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetPciInfo_v2(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
    return nvmlDeviceGetPciInfo_v3(device, pci);
}

static void memory_of(const struct place *place, nvmlMemory_v2_t *memory)
{
    unsigned mb = place->ci ? place->gi_profile->memory_mb : place->gpu->memory_mb;

    memory->total = mb * MIB;
    memory->used = (mb > IDLE_MB ? IDLE_MB : 0) * MIB;
    memory->reserved = 0;
    for (unsigned i = 0; i < MAX_CLIENTS; i++) {
        const struct client *client = &place->state.client[i];
        if (client->pid && (place->ci == NULL || client->gi == place->handle.gi))
            memory->used += client->bytes;
    }
    if (memory->used > memory->total)
        memory->used = memory->total;
    memory->free = memory->total - memory->used;
}

EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
    struct place place;

    ENTER(nvmlDeviceGetMemoryInfo);
    if (memory == NULL || !place_of_device(device, &place))
        return NVML_ERROR_INVALID_ARGUMENT;
    if (memory->version != STRUCT_VERSION(nvmlMemory_v2_t, 2u))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    memory_of(&place, memory);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{
    nvmlMemory_v2_t v2;
    struct place place;

    ENTER(nvmlDeviceGetMemoryInfo);
    if (memory == NULL || !place_of_device(device, &place))
        return NVML_ERROR_INVALID_ARGUMENT;
    memory_of(&place, &v2);
    *memory = (nvmlMemory_t){.total = v2.total, .free = v2.free, .used = v2.used};
    return NVML_SUCCESS;
}

/* The window through which the CPU sees the memory: a power of two that holds it all, and of a MIG
 * device its share. */
EXPORT nvmlReturn_t nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t device, nvmlBAR1Memory_t *memory)
{
    unsigned long long window = 256 * MIB;
    struct place place;

    ENTER(nvmlDeviceGetBAR1MemoryInfo);
    if (memory == NULL || !place_of_device(device, &place))
        return NVML_ERROR_INVALID_ARGUMENT;
    while (window < place.gpu->memory_mb * MIB)
        window *= 2;
    if (place.ci != NULL)
        window = window / place.gpu->memory_mb * place.gi_profile->memory_mb;
    *memory = (nvmlBAR1Memory_t){.bar1Total = window, .bar1Used = MIB};
    memory->bar1Free = memory->bar1Total - memory->bar1Used;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count,
                                             nvmlFieldValue_t *values)
{
    struct place place;

    ENTER(nvmlDeviceGetFieldValues);
    if (values == NULL || count < 0 || !place_of_device(device, &place))
        return NVML_ERROR_INVALID_ARGUMENT;
    for (int i = 0; i < count; i++) {
        nvmlFieldValue_t *field = &values[i];
        field->timestamp = 0;
        field->latencyUsec = 0;
        field->valueType = 1;
        field->nvmlReturn = NVML_SUCCESS;
        field->value.ullVal = 0;
        if (field->fieldId == NVML_FI_DEV_IS_RESETLESS_MIG_SUPPORTED)
            field->value.uiVal = place.gpu->profiles != 0 && place.gpu->arch >= ARCH_HOPPER;
        else if (field->fieldId == NVML_FI_DEV_MIG_PROFILES_WITHOUT_MIG_MODE)
            field->value.uiVal = place.gpu->profiles != 0;
        else
            field->nvmlReturn = NVML_ERROR_NOT_SUPPORTED;
    }
    return NVML_SUCCESS;
}
