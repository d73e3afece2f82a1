/* GPU instances: profiles, placements, create, destroy, enumerate. */
#include <stdio.h>
#include <string.h>

#include "sim.h"

static void profile_name(const struct gi_profile *profile, char *name)
{
    snprintf(name, NVML_DEVICE_NAME_V2_BUFFER_SIZE, "MIG %s", profile->name);
}

static void fill_v1(const struct gi_profile *profile, nvmlGpuInstanceProfileInfo_t *info)
{
    *info = (nvmlGpuInstanceProfileInfo_t){
        .id = profile->id,
        .isP2pSupported = profile->p2p,
        .sliceCount = profile->slices,
        .instanceCount = profile->max_count,
        .multiprocessorCount = profile->sm,
        .copyEngineCount = profile->ce,
        .decoderCount = profile->dec,
        .encoderCount = profile->enc,
        .jpegCount = profile->jpeg,
        .ofaCount = profile->ofa,
        .memorySizeMB = profile->memory_mb,
    };
}

static nvmlReturn_t fill_versioned(const struct gi_profile *profile, void *info)
{
    unsigned version = *(unsigned *)info;

    if (version == STRUCT_VERSION(nvmlGpuInstanceProfileInfo_v2_t, 2u)) {
        nvmlGpuInstanceProfileInfo_v2_t *v2 = info;
        nvmlGpuInstanceProfileInfo_t v1;
        fill_v1(profile, &v1);
        memcpy(&v2->id, &v1, offsetof(nvmlGpuInstanceProfileInfo_t, memorySizeMB));
        v2->memorySizeMB = v1.memorySizeMB;
        profile_name(profile, v2->name);
        return NVML_SUCCESS;
    }
    if (version == STRUCT_VERSION(nvmlGpuInstanceProfileInfo_v3_t, 3u)) {
        nvmlGpuInstanceProfileInfo_v3_t *v3 = info;
        *v3 = (nvmlGpuInstanceProfileInfo_v3_t){
            .version = version,
            .id = profile->id,
            .sliceCount = profile->slices,
            .instanceCount = profile->max_count,
            .multiprocessorCount = profile->sm,
            .copyEngineCount = profile->ce,
            .decoderCount = profile->dec,
            .encoderCount = profile->enc,
            .jpegCount = profile->jpeg,
            .ofaCount = profile->ofa,
            .memorySizeMB = profile->memory_mb,
            .capabilities = (profile->p2p ? NVML_GPU_INSTANCE_PROFILE_CAPS_P2P : 0u) |
                            (profile->gfx ? NVML_GPU_INSTANCE_PROFILE_CAPS_GFX : 0u),
        };
        profile_name(profile, v3->name);
        return NVML_SUCCESS;
    }
    return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
}

/* Profile information needs neither privilege nor MIG mode (drivers since 550). */
static nvmlReturn_t profile_at(nvmlDevice_t device, unsigned index,
                               const struct gi_profile **profile)
{
    struct place place;

    if (!place_of_gpu(device, &place) || index >= NVML_GPU_INSTANCE_PROFILE_COUNT)
        return NVML_ERROR_INVALID_ARGUMENT;
    *profile = gi_profile_by_index(place.gpu, index);
    return *profile ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
}

EXPORT nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfo(nvmlDevice_t device, unsigned int index,
                                                        nvmlGpuInstanceProfileInfo_t *info)
{
    const struct gi_profile *profile;
    nvmlReturn_t result;

    ENTER(nvmlDeviceGetGpuInstanceProfileInfo);
    if (info == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    result = profile_at(device, index, &profile);
    if (result == NVML_SUCCESS)
        fill_v1(profile, info);
    return result;
}

EXPORT nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfoV(nvmlDevice_t device, unsigned int index,
                                                         void *info)
{
    const struct gi_profile *profile;
    nvmlReturn_t result;

    ENTER(nvmlDeviceGetGpuInstanceProfileInfo);
    if (info == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    result = profile_at(device, index, &profile);
    return result == NVML_SUCCESS ? fill_versioned(profile, info) : result;
}

EXPORT nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfoByIdV(nvmlDevice_t device, unsigned int id,
                                                             void *info)
{
    const struct gi_profile *profile;
    struct place place;

    ENTER(nvmlDeviceGetGpuInstanceProfileInfoById);
    if (info == NULL || !place_of_gpu(device, &place))
        return NVML_ERROR_INVALID_ARGUMENT;
    profile = gi_profile_by_id(place.gpu, id);
    return profile ? fill_versioned(profile, info) : NVML_ERROR_INVALID_ARGUMENT;
}

/* The GPU and profile of a call that takes a profile id. `mig`: does it need MIG mode? */
static nvmlReturn_t place_and_profile(nvmlDevice_t device, unsigned id, bool mig,
                                      struct place *place, const struct gi_profile **profile)
{
    if (!place_of_gpu(device, place))
        return NVML_ERROR_INVALID_ARGUMENT;
    if (place->gpu->profiles == 0 || (mig && !place->state.mig_current))
        return NVML_ERROR_NOT_SUPPORTED;
    *profile = gi_profile_by_id(place->gpu, id);
    return *profile ? NVML_SUCCESS : NVML_ERROR_INVALID_ARGUMENT;
}

EXPORT nvmlReturn_t nvmlDeviceGetGpuInstancePossiblePlacements_v2(nvmlDevice_t device,
                                                                  unsigned int id,
                                                                  nvmlPlacement_t *placements,
                                                                  unsigned int *count)
{
    const struct gi_profile *profile;
    struct place place;
    nvmlReturn_t result;

    ENTER_PRIVILEGED(nvmlDeviceGetGpuInstancePossiblePlacements);
    if (count == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    result = place_and_profile(device, id, false, &place, &profile);
    if (result != NVML_SUCCESS)
        return result;
    for (unsigned i = 0; placements && i < profile->placements; i++)
        placements[i] = (nvmlPlacement_t){profile->start[i], profile->size};
    *count = profile->placements;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetGpuInstancePossiblePlacements(nvmlDevice_t device,
                                                               unsigned int id,
                                                               nvmlPlacement_t *placements,
                                                               unsigned int *count)
{
    if (placements == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    return nvmlDeviceGetGpuInstancePossiblePlacements_v2(device, id, placements, count);
}

EXPORT nvmlReturn_t nvmlDeviceGetGpuInstanceRemainingCapacity(nvmlDevice_t device, unsigned int id,
                                                              unsigned int *count)
{
    const struct gi_profile *profile;
    struct place place;
    nvmlReturn_t result;

    ENTER_PRIVILEGED(nvmlDeviceGetGpuInstanceRemainingCapacity);
    if (count == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    result = place_and_profile(device, id, true, &place, &profile);
    if (result == NVML_SUCCESS)
        *count = gi_remaining(place.gpu, &place.state, profile);
    return result;
}

/* ---- create and destroy ---- */

struct creation {
    unsigned profile_id;
    const nvmlPlacement_t *wanted; /* NULL: the driver chooses */
    unsigned gi_id;
    uint32_t serial;
};

static nvmlReturn_t create(unsigned gpu_index, struct gpu_state *state, void *context)
{
    struct creation *creation = context;
    const struct gpu_config *gpu = &sim.config.gpu[gpu_index];
    const struct gi_profile *profile;
    int placement = -1;

    if (gpu->profiles == 0 || !state->mig_current)
        return NVML_ERROR_NOT_SUPPORTED;
    profile = gi_profile_by_id(gpu, creation->profile_id);
    if (profile == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (creation->wanted == NULL) {
        placement = gi_default_placement(gpu, state, profile);
    } else {
        for (unsigned p = 0; p < profile->placements; p++)
            if (profile->start[p] == creation->wanted->start &&
                profile->size == creation->wanted->size)
                placement = (int)p;
        if (placement < 0)
            return NVML_ERROR_INVALID_ARGUMENT;
    }
    if (placement < 0 || !gi_fits(gpu, state, profile, (unsigned)placement))
        return NVML_ERROR_INSUFFICIENT_RESOURCES;
    if (gpu_has_client(state, CLIENT_WHOLE_GPU, -1))
        return NVML_ERROR_IN_USE; /* partitioning cannot begin under a running program */
    gi_add(gpu, state, profile, (unsigned)placement);
    state->gi_made++;
    creation->gi_id = profile->gi_id[placement];
    creation->serial = state->gi[creation->gi_id].serial;
    return NVML_SUCCESS;
}

static nvmlReturn_t create_instance(enum function function, nvmlDevice_t device, unsigned id,
                                    const nvmlPlacement_t *wanted, nvmlGpuInstance_t *instance)
{
    struct creation creation = {.profile_id = id, .wanted = wanted};
    struct handle handle;
    nvmlReturn_t result;

    if (instance == NULL || !handle_unpack(device, HANDLE_GPU, &handle))
        return NVML_ERROR_INVALID_ARGUMENT;
    result = call_mutate(function, handle.gpu, create, &creation);
    if (result == NVML_SUCCESS)
        *instance = handle_pack(HANDLE_GI, handle.gpu, creation.gi_id, 0, creation.serial);
    return result;
}

EXPORT nvmlReturn_t nvmlDeviceCreateGpuInstance(nvmlDevice_t device, unsigned int id,
                                                nvmlGpuInstance_t *instance)
{
    ENTER_PRIVILEGED(nvmlDeviceCreateGpuInstance);
    return create_instance(FN_nvmlDeviceCreateGpuInstance, device, id, NULL, instance);
}

EXPORT nvmlReturn_t nvmlDeviceCreateGpuInstanceWithPlacement(nvmlDevice_t device, unsigned int id,
                                                             const nvmlPlacement_t *placement,
                                                             nvmlGpuInstance_t *instance)
{
    ENTER_PRIVILEGED(nvmlDeviceCreateGpuInstanceWithPlacement);
    if (placement == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    return create_instance(FN_nvmlDeviceCreateGpuInstanceWithPlacement, device, id, placement,
                           instance);
}

static nvmlReturn_t destroy(unsigned gpu, struct gpu_state *state, void *context)
{
    const struct handle *handle = context;
    struct gi_state *gi = &state->gi[handle->gi];

    (void)gpu;
    if (gi->serial == 0 || gi->serial != handle->serial)
        return NVML_ERROR_INVALID_ARGUMENT;
    for (unsigned c = 0; c < MAX_CI; c++)
        if (gi->ci[c].serial != 0)
            return NVML_ERROR_IN_USE;
    if (gpu_has_client(state, (int)handle->gi, -1))
        return NVML_ERROR_IN_USE;
    memset(gi, 0, sizeof *gi);
    state->gi_destroyed++;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlGpuInstanceDestroy(nvmlGpuInstance_t instance)
{
    struct handle handle;

    ENTER_PRIVILEGED(nvmlGpuInstanceDestroy);
    if (!handle_unpack(instance, HANDLE_GI, &handle))
        return NVML_ERROR_INVALID_ARGUMENT;
    return call_mutate(FN_nvmlGpuInstanceDestroy, handle.gpu, destroy, &handle);
}

/* ---- enumerate ---- */

EXPORT nvmlReturn_t nvmlDeviceGetGpuInstances(nvmlDevice_t device, unsigned int id,
                                              nvmlGpuInstance_t *instances, unsigned int *count)
{
    const struct gi_profile *profile;
    struct place place;
    nvmlReturn_t result;

    ENTER_PRIVILEGED(nvmlDeviceGetGpuInstances);
    if (instances == NULL || count == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    result = place_and_profile(device, id, true, &place, &profile);
    if (result != NVML_SUCCESS)
        return result;
    *count = 0;
    for (unsigned g = 0; g < MAX_GI; g++) {
        const struct gi_state *gi = &place.state.gi[g];
        if (gi->serial != 0 && &place.gpu->profile[gi->profile] == profile)
            instances[(*count)++] =
                handle_pack(HANDLE_GI, place.handle.gpu, g, 0, gi->serial);
    }
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetGpuInstanceById(nvmlDevice_t device, unsigned int id,
                                                 nvmlGpuInstance_t *instance)
{
    struct place place;

    ENTER_PRIVILEGED(nvmlDeviceGetGpuInstanceById);
    if (instance == NULL || !place_of_gpu(device, &place))
        return NVML_ERROR_INVALID_ARGUMENT;
    if (place.gpu->profiles == 0 || !place.state.mig_current)
        return NVML_ERROR_NOT_SUPPORTED;
    if (id >= MAX_GI || place.state.gi[id].serial == 0)
        return NVML_ERROR_NOT_FOUND;
    *instance = handle_pack(HANDLE_GI, place.handle.gpu, id, 0, place.state.gi[id].serial);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlGpuInstanceGetInfo(nvmlGpuInstance_t instance, nvmlGpuInstanceInfo_t *info)
{
    struct place place;

    ENTER(nvmlGpuInstanceGetInfo);
    if (info == NULL || !place_of_gi(instance, &place))
        return NVML_ERROR_INVALID_ARGUMENT;
    *info = (nvmlGpuInstanceInfo_t){
        .device = handle_pack(HANDLE_GPU, place.handle.gpu, 0, 0, 0),
        .id = place.handle.gi,
        .profileId = place.gi_profile->id,
        .placement = {place.gi->start, place.gi->size},
    };
    return NVML_SUCCESS;
}
