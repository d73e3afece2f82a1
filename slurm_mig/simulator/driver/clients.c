/* Programs that use a GPU or an instance: they register here, and keep it in use until they end. */
#include <stdio.h>
#include <string.h>

#include "sim.h"

static nvmlReturn_t list(nvmlDevice_t device, unsigned *count, nvmlProcessInfo_t *infos,
                         bool graphics)
{
    struct place place;
    unsigned room, found = 0;

    if (count == NULL || !place_of_device(device, &place))
        return NVML_ERROR_INVALID_ARGUMENT;
    room = infos ? *count : 0;
    for (unsigned i = 0; i < MAX_CLIENTS; i++) {
        const struct client *client = &place.state.client[i];
        bool whole = client->gi == CLIENT_WHOLE_GPU;
        if (client->pid == 0 || (client->graphics != 0) != graphics ||
            (place.ci && (client->gi != place.handle.gi || client->ci != place.handle.ci)))
            continue;
        if (found < room)
            infos[found] = (nvmlProcessInfo_t){
                .pid = client->pid,
                .usedGpuMemory = client->bytes,
                .gpuInstanceId = whole ? NVML_NOT_APPLICABLE : client->gi,
                .computeInstanceId = whole ? NVML_NOT_APPLICABLE : client->ci,
            };
        found++;
    }
    *count = found;
    return found > room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device,
                                                            unsigned int *count,
                                                            nvmlProcessInfo_t *infos)
{
    ENTER(nvmlDeviceGetComputeRunningProcesses);
    return list(device, count, infos, false);
}

EXPORT nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v2(nvmlDevice_t device,
                                                            unsigned int *count,
                                                            nvmlProcessInfo_t *infos)
{
    return nvmlDeviceGetComputeRunningProcesses_v3(device, count, infos);
}

EXPORT nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t device,
                                                             unsigned int *count,
                                                             nvmlProcessInfo_t *infos)
{
    ENTER(nvmlDeviceGetGraphicsRunningProcesses);
    return list(device, count, infos, true);
}

EXPORT nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v2(nvmlDevice_t device,
                                                             unsigned int *count,
                                                             nvmlProcessInfo_t *infos)
{
    return nvmlDeviceGetGraphicsRunningProcesses_v3(device, count, infos);
}

/* ---- attach and detach ---- */

static uint64_t start_of(uint32_t pid)
{
    char path[64], text[1024], *after;
    unsigned long long started = 0;
    FILE *file;

    snprintf(path, sizeof path, "/proc/%u/stat", pid);
    file = fopen(path, "re");
    if (file == NULL)
        return 0;
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    after = strrchr(text, ')');
    if (after == NULL || sscanf(after + 1,
                                " %*c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s "
                                "%*s %*s %*s %llu",
                                &started) != 1)
        return 0;
    return started;
}

struct attachment {
    struct client client;
    uint32_t serial; /* of the compute instance */
};

static nvmlReturn_t attach(unsigned gpu, struct gpu_state *state, void *context)
{
    const struct attachment *attachment = context;
    const struct client *client = &attachment->client;

    (void)gpu;
    if (client->gi != CLIENT_WHOLE_GPU &&
        state->gi[client->gi].ci[client->ci].serial != attachment->serial)
        return NVML_ERROR_NOT_FOUND;
    /* A program cannot use the whole of a GPU that is partitioned. */
    if (client->gi == CLIENT_WHOLE_GPU && state->mig_current)
        return NVML_ERROR_NOT_SUPPORTED;
    for (unsigned i = 0; i < MAX_CLIENTS; i++)
        if (state->client[i].pid == 0) {
            state->client[i] = *client;
            return NVML_SUCCESS;
        }
    return NVML_ERROR_INSUFFICIENT_RESOURCES;
}

/* Register `pid` as a program that uses the GPU or MIG device `uuid`, as CUDA would: not without
 * the right to open the capability files of the instance. */
EXPORT nvmlReturn_t slurmMigSimAttach(const char *uuid, unsigned int pid, unsigned long long bytes,
                                      int graphics)
{
    struct attachment attachment = {
        .client = {.pid = pid, .bytes = bytes, .graphics = graphics != 0}};
    struct place place;
    nvmlReturn_t result = state_open();

    if (result != NVML_SUCCESS)
        return result;
    result = uuid_find(uuid, &place);
    if (result != NVML_SUCCESS)
        return result;
    attachment.client.started = start_of(pid);
    if (attachment.client.started == 0)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (place.ci == NULL) {
        attachment.client.gi = attachment.client.ci = CLIENT_WHOLE_GPU;
    } else {
        if (!devtree_may_use(place.handle.gpu, place.handle.gi, place.handle.ci))
            return NVML_ERROR_NO_PERMISSION;
        attachment.client.gi = (uint8_t)place.handle.gi;
        attachment.client.ci = (uint8_t)place.handle.ci;
        attachment.serial = place.handle.serial;
    }
    return state_change(place.handle.gpu, attach, &attachment);
}

static nvmlReturn_t detach(unsigned gpu, struct gpu_state *state, void *context)
{
    const uint32_t *pid = context;

    (void)gpu;
    for (unsigned i = 0; i < MAX_CLIENTS; i++)
        if (state->client[i].pid == *pid)
            memset(&state->client[i], 0, sizeof state->client[i]);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t slurmMigSimDetach(unsigned int pid)
{
    nvmlReturn_t result = state_open();

    for (unsigned gpu = 0; result == NVML_SUCCESS && gpu < sim.config.gpus; gpu++)
        result = state_change(gpu, detach, &pid);
    return result;
}
