/* MIG mode, and MIG devices: the handles by which programs see one compute instance. */
#include "sim.h"

EXPORT nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *current,
                                         unsigned int *pending)
{
    struct place place;

    ENTER(nvmlDeviceGetMigMode);
    if (current == NULL || pending == NULL || !place_of_gpu(device, &place))
        return NVML_ERROR_INVALID_ARGUMENT;
    if (place.gpu->profiles == 0)
        return NVML_ERROR_NOT_SUPPORTED;
    *current = place.state.mig_current;
    *pending = place.state.mig_pending;
    return NVML_SUCCESS;
}

struct mode_change {
    unsigned mode;
    nvmlReturn_t activation;
};

static nvmlReturn_t set_mode(unsigned gpu, struct gpu_state *state, void *context)
{
    struct mode_change *change = context;

    change->activation = NVML_SUCCESS;
    if (change->mode == 0)
        for (unsigned g = 0; g < MAX_GI; g++)
            if (state->gi[g].serial != 0) {
                change->activation = NVML_ERROR_IN_USE;
                return NVML_ERROR_IN_USE;
            }
    state->mig_pending = (uint8_t)change->mode;
    if (state->mig_current == state->mig_pending)
        return NVML_SUCCESS;
    if (gpu_has_client(state, -1, -1))
        change->activation = NVML_ERROR_IN_USE;
    else if (sim.config.gpu[gpu].arch == ARCH_AMPERE && sim.config.self_reset)
        state_reset_gpu(gpu, state);
    else if (sim.config.gpu[gpu].arch == ARCH_AMPERE)
        change->activation = NVML_ERROR_RESET_REQUIRED;
    else
        state->mig_current = state->mig_pending;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceSetMigMode(nvmlDevice_t device, unsigned int mode,
                                         nvmlReturn_t *activation)
{
    struct mode_change change = {.mode = mode, .activation = NVML_SUCCESS};
    struct place place;
    nvmlReturn_t result;

    ENTER_PRIVILEGED(nvmlDeviceSetMigMode);
    if (activation == NULL || mode > 1 || !place_of_gpu(device, &place))
        return NVML_ERROR_INVALID_ARGUMENT;
    if (place.gpu->profiles == 0)
        return NVML_ERROR_NOT_SUPPORTED;
    result = call_mutate(FN_nvmlDeviceSetMigMode, place.handle.gpu, set_mode, &change);
    *activation = change.activation;
    return result;
}

EXPORT nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, unsigned int *is_mig)
{
    struct handle handle;

    ENTER(nvmlDeviceIsMigDeviceHandle);
    if (is_mig == NULL || (!handle_unpack(device, HANDLE_GPU, &handle) &&
                           !handle_unpack(device, HANDLE_MIG, &handle)))
        return NVML_ERROR_INVALID_ARGUMENT;
    *is_mig = handle_unpack(device, HANDLE_MIG, &handle);
    return NVML_SUCCESS;
}

/* A MIG device that is still there; INVALID_ARGUMENT for stale handles and for whole GPUs. */
static nvmlReturn_t mig_device(nvmlDevice_t device, struct place *place)
{
    if (!place_of_device(device, place) || place->ci == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t device, unsigned int *id)
{
    struct place place;

    ENTER(nvmlDeviceGetGpuInstanceId);
    if (id == NULL || mig_device(device, &place) != NVML_SUCCESS)
        return NVML_ERROR_INVALID_ARGUMENT;
    *id = place.handle.gi;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetComputeInstanceId(nvmlDevice_t device, unsigned int *id)
{
    struct place place;

    ENTER(nvmlDeviceGetComputeInstanceId);
    if (id == NULL || mig_device(device, &place) != NVML_SUCCESS)
        return NVML_ERROR_INVALID_ARGUMENT;
    *id = place.handle.ci;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t mig,
                                                                 nvmlDevice_t *device)
{
    struct place place;

    ENTER(nvmlDeviceGetDeviceHandleFromMigDeviceHandle);
    if (device == NULL || mig_device(mig, &place) != NVML_SUCCESS)
        return NVML_ERROR_INVALID_ARGUMENT;
    *device = handle_pack(HANDLE_GPU, place.handle.gpu, 0, 0, 0);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned int *count)
{
    struct place place;

    ENTER(nvmlDeviceGetMaxMigDeviceCount);
    if (count == NULL || !place_of_gpu(device, &place))
        return NVML_ERROR_INVALID_ARGUMENT;
    *count = place.state.mig_current ? place.gpu->max_mig : 0;
    return NVML_SUCCESS;
}

/* MIG devices are numbered densely, by GPU instance id and compute instance id, and anew after
 * every change. */
EXPORT nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned int index,
                                                        nvmlDevice_t *mig)
{
    struct place place;

    ENTER(nvmlDeviceGetMigDeviceHandleByIndex);
    if (mig == NULL || !place_of_gpu(device, &place))
        return NVML_ERROR_INVALID_ARGUMENT;
    if (place.gpu->profiles == 0)
        return NVML_ERROR_NOT_SUPPORTED;
    for (unsigned g = 0; g < MAX_GI; g++)
        for (unsigned c = 0; c < MAX_CI; c++) {
            const struct ci_state *ci = &place.state.gi[g].ci[c];
            if (ci->serial == 0 || index-- != 0)
                continue;
            *mig = handle_pack(HANDLE_MIG, place.handle.gpu, g, c, ci->serial);
            return NVML_SUCCESS;
        }
    return NVML_ERROR_NOT_FOUND;
}

EXPORT nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t device,
                                               nvmlDeviceAttributes_t *attributes)
{
    struct place place;

    ENTER(nvmlDeviceGetAttributes);
    if (attributes == NULL || !place_of_device(device, &place))
        return NVML_ERROR_INVALID_ARGUMENT;
    if (place.ci == NULL)
        return NVML_ERROR_NOT_SUPPORTED;
    *attributes = (nvmlDeviceAttributes_t){
        .multiprocessorCount = place.ci_profile->sm,
        .sharedCopyEngineCount = place.gi_profile->ce,
        .sharedDecoderCount = place.gi_profile->dec,
        .sharedEncoderCount = place.gi_profile->enc,
        .sharedJpegCount = place.gi_profile->jpeg,
        .sharedOfaCount = place.gi_profile->ofa,
        .gpuInstanceSliceCount = place.gi_profile->slices,
        .computeInstanceSliceCount = place.ci_profile->slices,
        .memorySizeMB = place.gi_profile->memory_mb,
    };
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetAttributes(nvmlDevice_t device,
                                            nvmlDeviceAttributes_t *attributes)
{
    return nvmlDeviceGetAttributes_v2(device, attributes);
}
