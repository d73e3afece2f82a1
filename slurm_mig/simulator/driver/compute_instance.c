/* Compute instances, inside a GPU instance. */
#include <stdio.h>
#include <string.h>

#include "sim.h"

static void profile_name(const struct gi_profile *in, const struct ci_profile *profile, char *name)
{
    if (profile->slices == in->slices)
        snprintf(name, NVML_DEVICE_NAME_V2_BUFFER_SIZE, "MIG %s", in->name);
    else
        snprintf(name, NVML_DEVICE_NAME_V2_BUFFER_SIZE, "MIG %uc.%s", profile->slices, in->name);
}

static void fill_v1(const struct gi_profile *in, const struct ci_profile *profile,
                    nvmlComputeInstanceProfileInfo_t *info)
{
    *info = (nvmlComputeInstanceProfileInfo_t){
        .id = profile->id,
        .sliceCount = profile->slices,
        .instanceCount = profile->max_count,
        .multiprocessorCount = profile->sm,
        .sharedCopyEngineCount = in->ce,
        .sharedDecoderCount = in->dec,
        .sharedEncoderCount = in->enc,
        .sharedJpegCount = in->jpeg,
        .sharedOfaCount = in->ofa,
    };
}

static nvmlReturn_t profile_at(nvmlGpuInstance_t instance, unsigned index, unsigned engines,
                               struct place *place, const struct ci_profile **profile)
{
    if (index >= NVML_COMPUTE_INSTANCE_PROFILE_COUNT || engines != 0 ||
        !place_of_gi(instance, place))
        return NVML_ERROR_INVALID_ARGUMENT;
    *profile = ci_profile_by_index(place->gi_profile, index);
    return *profile ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
}

EXPORT nvmlReturn_t nvmlGpuInstanceGetComputeInstanceProfileInfo(
    nvmlGpuInstance_t instance, unsigned int index, unsigned int engines,
    nvmlComputeInstanceProfileInfo_t *info)
{
    const struct ci_profile *profile;
    struct place place;
    nvmlReturn_t result;

    ENTER(nvmlGpuInstanceGetComputeInstanceProfileInfo);
    if (info == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    result = profile_at(instance, index, engines, &place, &profile);
    if (result == NVML_SUCCESS)
        fill_v1(place.gi_profile, profile, info);
    return result;
}

EXPORT nvmlReturn_t nvmlGpuInstanceGetComputeInstanceProfileInfoV(nvmlGpuInstance_t instance,
                                                                  unsigned int index,
                                                                  unsigned int engines, void *info)
{
    const struct ci_profile *profile;
    nvmlComputeInstanceProfileInfo_v3_t *v3 = info;
    nvmlComputeInstanceProfileInfo_t v1;
    struct place place;
    nvmlReturn_t result;
    unsigned version;

    ENTER(nvmlGpuInstanceGetComputeInstanceProfileInfo);
    if (info == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    result = profile_at(instance, index, engines, &place, &profile);
    if (result != NVML_SUCCESS)
        return result;
    version = *(unsigned *)info;
    if (version != STRUCT_VERSION(nvmlComputeInstanceProfileInfo_v2_t, 2u) &&
        version != STRUCT_VERSION(nvmlComputeInstanceProfileInfo_v3_t, 3u))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    /* v3 is v2 with one more word. */
    fill_v1(place.gi_profile, profile, &v1);
    memcpy(&v3->id, &v1, sizeof v1);
    profile_name(place.gi_profile, profile, v3->name);
    if (version >> 24 == 3)
        v3->capabilities = place.gi_profile->gfx ? NVML_COMPUTE_INSTANCE_PROFILE_CAPS_GFX : 0;
    return NVML_SUCCESS;
}

static nvmlReturn_t profile_by_id(nvmlGpuInstance_t instance, unsigned id, struct place *place,
                                  const struct ci_profile **profile)
{
    if (!place_of_gi(instance, place))
        return NVML_ERROR_INVALID_ARGUMENT;
    *profile = ci_profile_by_id(place->gi_profile, id);
    return *profile ? NVML_SUCCESS : NVML_ERROR_INVALID_ARGUMENT;
}

EXPORT nvmlReturn_t nvmlGpuInstanceGetComputeInstanceRemainingCapacity(nvmlGpuInstance_t instance,
                                                                       unsigned int id,
                                                                       unsigned int *count)
{
    const struct ci_profile *profile;
    struct place place;
    nvmlReturn_t result;

    ENTER_PRIVILEGED(nvmlGpuInstanceGetComputeInstanceRemainingCapacity);
    if (count == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    result = profile_by_id(instance, id, &place, &profile);
    if (result == NVML_SUCCESS)
        *count = ci_remaining(place.gi_profile, place.gi, profile);
    return result;
}

EXPORT nvmlReturn_t nvmlGpuInstanceGetComputeInstancePossiblePlacements(
    nvmlGpuInstance_t instance, unsigned int id, nvmlPlacement_t *placements, unsigned int *count)
{
    const struct ci_profile *profile;
    struct place place;
    nvmlReturn_t result;

    ENTER_PRIVILEGED(nvmlGpuInstanceGetComputeInstancePossiblePlacements);
    if (count == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    result = profile_by_id(instance, id, &place, &profile);
    if (result != NVML_SUCCESS)
        return result;
    for (unsigned i = 0; placements && i < profile->placements; i++)
        placements[i] = (nvmlPlacement_t){profile->start[i], profile->size};
    *count = profile->placements;
    return NVML_SUCCESS;
}

/* ---- create and destroy ---- */

struct creation {
    struct handle gi;
    unsigned profile_id;
    const nvmlPlacement_t *wanted; /* NULL: the driver chooses */
    unsigned ci_id;
    uint32_t serial;
};

static nvmlReturn_t create(unsigned gpu_index, struct gpu_state *state, void *context)
{
    struct creation *creation = context;
    const struct gpu_config *gpu = &sim.config.gpu[gpu_index];
    struct gi_state *gi = &state->gi[creation->gi.gi];
    const struct gi_profile *in = &gpu->profile[gi->profile];
    const struct ci_profile *profile;
    int placement = -1;

    if (gi->serial == 0 || gi->serial != creation->gi.serial)
        return NVML_ERROR_INVALID_ARGUMENT;
    profile = ci_profile_by_id(in, creation->profile_id);
    if (profile == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (creation->wanted == NULL) {
        placement = ci_default_placement(in, gi, profile);
    } else {
        for (unsigned p = 0; p < profile->placements; p++)
            if (profile->start[p] == creation->wanted->start &&
                profile->size == creation->wanted->size)
                placement = (int)p;
        if (placement < 0)
            return NVML_ERROR_INVALID_ARGUMENT;
    }
    if (placement < 0 || !ci_fits(in, gi, profile, (unsigned)placement))
        return NVML_ERROR_INSUFFICIENT_RESOURCES;
    creation->serial = ++state->serials;
    creation->ci_id = ci_add(in, gi, profile, (unsigned)placement, creation->serial);
    state->ci_made++;
    return NVML_SUCCESS;
}

static nvmlReturn_t create_instance(enum function function, nvmlGpuInstance_t gpu_instance,
                                    unsigned id, const nvmlPlacement_t *wanted,
                                    nvmlComputeInstance_t *instance)
{
    struct creation creation = {.profile_id = id, .wanted = wanted};
    nvmlReturn_t result;

    if (instance == NULL || !handle_unpack(gpu_instance, HANDLE_GI, &creation.gi))
        return NVML_ERROR_INVALID_ARGUMENT;
    result = call_mutate(function, creation.gi.gpu, create, &creation);
    if (result == NVML_SUCCESS)
        *instance = handle_pack(HANDLE_CI, creation.gi.gpu, creation.gi.gi, creation.ci_id,
                                creation.serial);
    return result;
}

EXPORT nvmlReturn_t nvmlGpuInstanceCreateComputeInstance(nvmlGpuInstance_t gpu_instance,
                                                         unsigned int id,
                                                         nvmlComputeInstance_t *instance)
{
    ENTER_PRIVILEGED(nvmlGpuInstanceCreateComputeInstance);
    return create_instance(FN_nvmlGpuInstanceCreateComputeInstance, gpu_instance, id, NULL,
                           instance);
}

EXPORT nvmlReturn_t nvmlGpuInstanceCreateComputeInstanceWithPlacement(
    nvmlGpuInstance_t gpu_instance, unsigned int id, const nvmlPlacement_t *placement,
    nvmlComputeInstance_t *instance)
{
    ENTER_PRIVILEGED(nvmlGpuInstanceCreateComputeInstanceWithPlacement);
    if (placement == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    return create_instance(FN_nvmlGpuInstanceCreateComputeInstanceWithPlacement, gpu_instance, id,
                           placement, instance);
}

static nvmlReturn_t destroy(unsigned gpu, struct gpu_state *state, void *context)
{
    const struct handle *handle = context;
    struct ci_state *ci = &state->gi[handle->gi].ci[handle->ci];

    (void)gpu;
    if (ci->serial == 0 || ci->serial != handle->serial)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (gpu_has_client(state, (int)handle->gi, (int)handle->ci))
        return NVML_ERROR_IN_USE;
    memset(ci, 0, sizeof *ci);
    state->ci_destroyed++;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlComputeInstanceDestroy(nvmlComputeInstance_t instance)
{
    struct handle handle;

    ENTER_PRIVILEGED(nvmlComputeInstanceDestroy);
    if (!handle_unpack(instance, HANDLE_CI, &handle))
        return NVML_ERROR_INVALID_ARGUMENT;
    return call_mutate(FN_nvmlComputeInstanceDestroy, handle.gpu, destroy, &handle);
}

/* ---- enumerate ---- */

EXPORT nvmlReturn_t nvmlGpuInstanceGetComputeInstances(nvmlGpuInstance_t gpu_instance,
                                                       unsigned int id,
                                                       nvmlComputeInstance_t *instances,
                                                       unsigned int *count)
{
    const struct ci_profile *profile;
    struct place place;
    nvmlReturn_t result;

    ENTER_PRIVILEGED(nvmlGpuInstanceGetComputeInstances);
    if (instances == NULL || count == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    result = profile_by_id(gpu_instance, id, &place, &profile);
    if (result != NVML_SUCCESS)
        return result;
    *count = 0;
    for (unsigned c = 0; c < MAX_CI; c++) {
        const struct ci_state *ci = &place.gi->ci[c];
        if (ci->serial != 0 && &place.gi_profile->ci[ci->profile] == profile)
            instances[(*count)++] =
                handle_pack(HANDLE_CI, place.handle.gpu, place.handle.gi, c, ci->serial);
    }
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlGpuInstanceGetComputeInstanceById(nvmlGpuInstance_t gpu_instance,
                                                          unsigned int id,
                                                          nvmlComputeInstance_t *instance)
{
    struct place place;

    ENTER_PRIVILEGED(nvmlGpuInstanceGetComputeInstanceById);
    if (instance == NULL || !place_of_gi(gpu_instance, &place))
        return NVML_ERROR_INVALID_ARGUMENT;
    if (id >= MAX_CI || place.gi->ci[id].serial == 0)
        return NVML_ERROR_NOT_FOUND;
    *instance = handle_pack(HANDLE_CI, place.handle.gpu, place.handle.gi, id,
                            place.gi->ci[id].serial);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlComputeInstanceGetInfo_v2(nvmlComputeInstance_t instance,
                                                  nvmlComputeInstanceInfo_t *info)
{
    struct place place;

    ENTER(nvmlComputeInstanceGetInfo);
    if (info == NULL || !place_of_ci(instance, &place))
        return NVML_ERROR_INVALID_ARGUMENT;
    *info = (nvmlComputeInstanceInfo_t){
        .device = handle_pack(HANDLE_MIG, place.handle.gpu, place.handle.gi, place.handle.ci,
                              place.ci->serial),
        .gpuInstance = handle_pack(HANDLE_GI, place.handle.gpu, place.handle.gi, 0,
                                   place.gi->serial),
        .id = place.handle.ci,
        .profileId = place.ci_profile->id,
        .placement = {place.ci->start, place.ci->size},
    };
    return NVML_SUCCESS;
}
