/* Handles are numbers, never addresses: what a caller made up or kept too long is refused, not
 * followed. Bits 63..56 mark, 55..52 kind, 47..40 GPU, 39..36 GI, 35..32 CI, 31..0 serial of the
 * instance, so an instance made again under the same ids does not answer to an old handle. */
#include <string.h>

#include "sim.h"

#define HANDLE_MARK 0x6dull

void *handle_pack(enum handle_kind kind, unsigned gpu, unsigned gi, unsigned ci, uint32_t serial)
{
    uint64_t bits = HANDLE_MARK << 56 | (uint64_t)kind << 52 | (uint64_t)gpu << 40 |
                    (uint64_t)gi << 36 | (uint64_t)ci << 32 | serial;
    return (void *)(uintptr_t)bits;
}

static bool unpack_any(const void *pointer, struct handle *handle)
{
    uint64_t bits = (uint64_t)(uintptr_t)pointer;

    handle->kind = (enum handle_kind)(bits >> 52 & 0xf);
    handle->gpu = bits >> 40 & 0xff;
    handle->gi = bits >> 36 & 0xf;
    handle->ci = bits >> 32 & 0xf;
    handle->serial = (uint32_t)bits;
    return bits >> 56 == HANDLE_MARK && handle->gpu < sim.config.gpus && handle->gi < MAX_GI &&
           handle->ci < MAX_CI;
}

bool handle_unpack(const void *pointer, enum handle_kind kind, struct handle *handle)
{
    return unpack_any(pointer, handle) && handle->kind == kind;
}

static void place_at(struct place *place)
{
    place->gpu = &sim.config.gpu[place->handle.gpu];
    state_read(place->handle.gpu, &place->state);
    place->gi = NULL;
    place->ci = NULL;
    place->gi_profile = NULL;
    place->ci_profile = NULL;
}

static bool place_gi(struct place *place)
{
    place->gi = &place->state.gi[place->handle.gi];
    place->gi_profile = &place->gpu->profile[place->gi->profile];
    return place->gi->serial != 0;
}

static bool place_ci(struct place *place)
{
    if (!place_gi(place))
        return false;
    place->ci = &place->gi->ci[place->handle.ci];
    place->ci_profile = &place->gi_profile->ci[place->ci->profile];
    return place->ci->serial != 0;
}

bool place_of_gpu(nvmlDevice_t device, struct place *place)
{
    if (!handle_unpack(device, HANDLE_GPU, &place->handle))
        return false;
    place_at(place);
    return true;
}

bool place_of_device(nvmlDevice_t device, struct place *place)
{
    if (!unpack_any(device, &place->handle))
        return false;
    if (place->handle.kind == HANDLE_GPU)
        return place_of_gpu(device, place);
    if (place->handle.kind != HANDLE_MIG)
        return false;
    place_at(place);
    return place_ci(place) && place->ci->serial == place->handle.serial;
}

bool place_of_gi(nvmlGpuInstance_t instance, struct place *place)
{
    if (!handle_unpack(instance, HANDLE_GI, &place->handle))
        return false;
    place_at(place);
    return place_gi(place) && place->gi->serial == place->handle.serial;
}

bool place_of_ci(nvmlComputeInstance_t instance, struct place *place)
{
    if (!handle_unpack(instance, HANDLE_CI, &place->handle))
        return false;
    place_at(place);
    return place_ci(place) && place->ci->serial == place->handle.serial;
}

bool place_of_ids(unsigned gpu, unsigned gi, unsigned ci, struct place *place)
{
    if (gpu >= sim.config.gpus || gi >= MAX_GI || ci >= MAX_CI)
        return false;
    memset(&place->handle, 0, sizeof place->handle);
    place->handle.kind = HANDLE_MIG;
    place->handle.gpu = gpu;
    place->handle.gi = gi;
    place->handle.ci = ci;
    place_at(place);
    if (!place_ci(place))
        return false;
    place->handle.serial = place->ci->serial;
    return true;
}
