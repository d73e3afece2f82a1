/* UUIDs as the driver makes them: version 5, from a SHA-1 over what identifies the thing. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "sim.h"

static uint32_t rotate(uint32_t value, unsigned by)
{
    return value << by | value >> (32 - by);
}

static void sha1_block(uint32_t hash[5], const uint8_t *block)
{
    uint32_t w[80], a = hash[0], b = hash[1], c = hash[2], d = hash[3], e = hash[4];

    for (unsigned i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 |
               (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
    for (unsigned i = 16; i < 80; i++)
        w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    for (unsigned i = 0; i < 80; i++) {
        uint32_t f, k, next;
        if (i < 20) {
            f = (b & c) | (~b & d);
            k = 0x5a827999;
        } else if (i < 40) {
            f = b ^ c ^ d;
            k = 0x6ed9eba1;
        } else if (i < 60) {
            f = (b & c) | (b & d) | (c & d);
            k = 0x8f1bbcdc;
        } else {
            f = b ^ c ^ d;
            k = 0xca62c1d6;
        }
        next = rotate(a, 5) + f + e + k + w[i];
        e = d;
        d = c;
        c = rotate(b, 30);
        b = a;
        a = next;
    }
    hash[0] += a;
    hash[1] += b;
    hash[2] += c;
    hash[3] += d;
    hash[4] += e;
}

/* At most 119 bytes: two blocks with padding and length. */
static void uuid5(const uint8_t *data, size_t length, uint8_t uuid[16])
{
    uint32_t hash[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    uint8_t padded[128] = {0};
    size_t blocks = length + 9 > 64 ? 2 : 1;

    memcpy(padded, data, length);
    padded[length] = 0x80;
    padded[64 * blocks - 2] = (uint8_t)(length * 8 >> 8);
    padded[64 * blocks - 1] = (uint8_t)(length * 8);
    for (size_t i = 0; i < blocks; i++)
        sha1_block(hash, padded + 64 * i);
    for (unsigned i = 0; i < 16; i++)
        uuid[i] = (uint8_t)(hash[i / 4] >> (24 - 8 * (i % 4)));
    uuid[6] = (uint8_t)((uuid[6] & 0x0f) | 0x50);
    uuid[8] = (uint8_t)((uuid[8] & 0x3f) | 0x80);
}

static void print_uuid(const char *prefix, const uint8_t u[16], char *text)
{
    snprintf(text, NVML_DEVICE_UUID_BUFFER_SIZE,
             "%s%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", prefix, u[0],
             u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13],
             u[14], u[15]);
}

void uuid_of_gpu(unsigned gpu, char *text)
{
    print_uuid("GPU-", sim.config.gpu[gpu].uuid, text);
}

/* GPU, GPU instance id and compute engine; not the profile, so an instance made again in the same
 * place has the same UUID. Documentation of other drivers says that it changes: `fresh_uuids`. */
void uuid_of_mig(const struct place *place, char *text)
{
    uint8_t data[64] = "SMC", uuid[16];
    uint32_t made[2] = {place->ci->serial, place->state.epoch};
    size_t length = 4;

    memcpy(data + length, place->gpu->uuid, 16);
    length += 16;
    data[length++] = (uint8_t)place->handle.gi;
    data[length++] = place->ci->start;
    if (sim.config.fresh_uuids) {
        memcpy(data + length, made, sizeof made);
        length += sizeof made;
    }
    uuid5(data, length, uuid);
    print_uuid("MIG-", uuid, text);
}

void uuid_of_boot(char *text)
{
    uint8_t data[32] = "boot", uuid[16];
    uint32_t boots = atomic_load(&sim.shared->boots);

    memcpy(data + 4, sim.config.seed, 16);
    memcpy(data + 20, &boots, sizeof boots);
    uuid5(data, 24, uuid);
    print_uuid("", uuid, text);
}

static bool find_gpu(const char *text, size_t length, struct place *place)
{
    char uuid[NVML_DEVICE_UUID_BUFFER_SIZE];

    for (unsigned gpu = 0; gpu < sim.config.gpus; gpu++) {
        uuid_of_gpu(gpu, uuid);
        if (strlen(uuid) == length && strncasecmp(uuid, text, length) == 0)
            return place_of_gpu(handle_pack(HANDLE_GPU, gpu, 0, 0, 0), place);
    }
    return false;
}

static bool find_mig(const char *text, struct place *place)
{
    char uuid[NVML_DEVICE_UUID_BUFFER_SIZE];

    for (unsigned gpu = 0; gpu < sim.config.gpus; gpu++) {
        struct gpu_state state;
        state_read(gpu, &state);
        for (unsigned i = 0; i < MAX_GI * MAX_CI; i++) {
            if (state.gi[i / MAX_CI].ci[i % MAX_CI].serial == 0 ||
                !place_of_ids(gpu, i / MAX_CI, i % MAX_CI, place))
                continue;
            uuid_of_mig(place, uuid);
            if (strcasecmp(uuid, text) == 0)
                return true;
        }
    }
    return false;
}

/* MIG-GPU-<uuid>/<gi>/<ci>, the form before R470, which later drivers still accept. */
static nvmlReturn_t find_legacy(const char *text, struct place *place)
{
    const char *ids = strchr(text, '/');
    unsigned gi, ci;
    char more;

    if (ids == NULL || sscanf(ids, "/%2u/%2u%c", &gi, &ci, &more) != 2)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (!find_gpu(text, (size_t)(ids - text), place) ||
        !place_of_ids(place->handle.gpu, gi, ci, place))
        return NVML_ERROR_NOT_FOUND;
    return NVML_SUCCESS;
}

nvmlReturn_t uuid_find(const char *text, struct place *place)
{
    if (strncmp(text, "MIG-GPU-", 8) == 0)
        return find_legacy(text + 4, place);
    if (strncmp(text, "MIG-", 4) == 0)
        return find_mig(text, place) ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND;
    if (strncmp(text, "GPU-", 4) == 0)
        return find_gpu(text, strlen(text), place) ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND;
    return NVML_ERROR_INVALID_ARGUMENT;
}
