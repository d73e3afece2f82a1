/* Inside the simulated driver: what it is made of, and what its files offer each other.
 *
 * config.c   reads DIR/gpus, written once when the simulation is made
 * state.c    DIR/state, mapped by every process: per GPU two copies and one number that says which
 *            of them counts, so a process killed at any instruction leaves a whole state
 * calls.c    what every call passes through: initialised? counted; fault; latency; serialised
 * geometry.c which instances fit where
 * devtree.c  DIR/root: the fake /proc/driver/nvidia and /dev/nvidia-caps
 * uuid.c     GPU and MIG UUIDs
 * journal.c  DIR/journal: what was made and went, for whoever wants to know
 * the rest   the exported functions by subject
 */
#ifndef SIM_H
#define SIM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nvml_types.h"

#define EXPORT __attribute__((visibility("default")))

#define MAX_GPUS 16
#define MAX_GI_PROFILES 20
#define MAX_CI_PROFILES 10
#define MAX_PLACEMENTS 16
#define MAX_GI 15 /* ids 0..14: full 1, half 2, quarter 4, eighth 8 */
#define MAX_CI 8
#define MAX_CLIENTS 64
#define MAX_FUNCTIONS 128

/* ---- config.c: fixed when the simulation is made ---- */

struct ci_profile {
    unsigned index, id, slices, max_count, sm, size;
    unsigned placements, start[MAX_PLACEMENTS];
};

struct gi_profile {
    unsigned index, id, slices, p2p, gfx, memory_mb, max_count, sm, ce, dec, enc, jpeg, ofa, size;
    unsigned placements, start[MAX_PLACEMENTS], gi_id[MAX_PLACEMENTS];
    unsigned ci_profiles;
    struct ci_profile ci[MAX_CI_PROFILES];
    char name[64];
};

enum arch { ARCH_TURING = 6, ARCH_AMPERE = 7, ARCH_HOPPER = 9, ARCH_BLACKWELL = 10 };

struct gpu_config {
    uint8_t uuid[16];
    unsigned minor, bus, pci_device_id, arch, cc_major, cc_minor, compute_slices, max_mig;
    unsigned memory_mb, mig_at_start;
    char serial[32];
    char name[NVML_DEVICE_NAME_V2_BUFFER_SIZE];
    unsigned profiles;
    struct gi_profile profile[MAX_GI_PROFILES];
};

struct config {
    char driver_version[80];
    unsigned cuda_version; /* 1000 * major + 10 * minor */
    unsigned privileged_uid;
    bool fresh_uuids;
    bool self_reset; /* Ampere: the driver itself resets an idle GPU to change its MIG mode */
    uint8_t seed[16];
    unsigned gpus;
    struct gpu_config gpu[MAX_GPUS];
};

/* Returns false, with errno, when the file is absent or not of this format. */
bool config_read(const char *path, struct config *config);

/* ---- state.c ---- */

struct ci_state {
    uint32_t serial; /* 0: no such compute instance */
    uint8_t profile, start, size, unused;
};

struct gi_state {
    uint32_t serial; /* 0: no such GPU instance */
    uint8_t profile, start, size, unused;
    struct ci_state ci[MAX_CI];
};

#define CLIENT_WHOLE_GPU 0xff

struct client {
    uint64_t started; /* clock ticks since boot, /proc/PID/stat field 22: a pid alone may be reused */
    uint64_t bytes;
    uint32_t pid; /* 0: free */
    uint8_t gi, ci, graphics, unused;
};

struct gpu_state {
    uint32_t epoch;
    uint32_t serials; /* last serial given, never reused */
    uint8_t mig_current, mig_pending, unused[6];
    uint64_t gi_made, gi_destroyed, gi_lost, ci_made, ci_destroyed, ci_lost;
    struct gi_state gi[MAX_GI];
    struct client client[MAX_CLIENTS];
};

struct fault {
    _Atomic int64_t countdown;
    _Atomic uint32_t what; /* FAULT_* | error; 0: none */
};

#define FAULT_ARMED 0x80000000u
#define FAULT_FROM_THEN_ON 0x40000000u
#define FAULT_AFTER 0x20000000u
#define FAULT_KILL 0x0000ffffu /* instead of an error: the process dies by SIGKILL */

struct function_shared {
    _Atomic uint64_t calls;
    _Atomic uint64_t latency_us;
    struct fault fault;
};

struct gpu_shared {
    _Atomic uint32_t generation; /* slot[generation & 1] counts */
    uint32_t unused;
    struct gpu_state slot[2];
};

struct shared {
    uint64_t magic;
    uint32_t size;
    _Atomic uint32_t epoch; /* loads of the driver so far; a GPU with less has lost all since */
    _Atomic uint32_t boots;
    uint32_t unused;
    struct function_shared function[MAX_FUNCTIONS];
    struct gpu_shared gpu[MAX_GPUS];
};

struct simulation {
    char directory[4096];
    struct config config;
    struct shared *shared;
};

extern struct simulation sim;

/* Maps the state, once per process. DRIVER_NOT_LOADED when there is none. */
nvmlReturn_t state_open(void);
nvmlReturn_t state_format(void);
void state_read(unsigned gpu, struct gpu_state *state);

/* Change a GPU's state: lock, read, `change` it, and make the new state count if that succeeded. */
typedef nvmlReturn_t change_t(unsigned gpu, struct gpu_state *state, void *context);
nvmlReturn_t state_change(unsigned gpu, change_t *change, void *context);

/* The driver lock of one GPU; returns a file descriptor, or -1. */
int state_lock_driver(unsigned gpu);
bool state_driver_busy(unsigned gpu);
void state_unlock(int lock);

void state_reset_gpu(unsigned gpu, struct gpu_state *state);
bool client_alive(const struct client *client);
bool gpu_has_client(const struct gpu_state *state, int gi, int ci); /* -1: any */

/* ---- journal.c ---- */

/* Tell what changed from one state to the next, where somebody keeps a journal. */
void journal(unsigned gpu, const struct gpu_state *before, const struct gpu_state *after);

/* ---- calls.c ---- */

enum function {
#define FN(name, kind) FN_##name,
#include "functions.def"
#undef FN
    FN_COUNT,
    FN_ANY = FN_COUNT /* counts, and makes fail, the calls of all of them together */
};

nvmlReturn_t call_enter(enum function function);
nvmlReturn_t call_leave(enum function function, nvmlReturn_t result);
/* Run a mutating call as the driver does: alone on its GPU, tried first, then slowly, then done. */
nvmlReturn_t call_mutate(enum function function, unsigned gpu, change_t *change, void *context);
bool call_privileged(void);
int call_function_by_name(const char *name);
const char *call_function_name(unsigned function);

#define ENTER(name)                                                                                \
    do {                                                                                           \
        nvmlReturn_t entered_ = call_enter(FN_##name);                                             \
        if (entered_ != NVML_SUCCESS)                                                              \
            return entered_;                                                                       \
    } while (0)

/* Only the privileged user may call this function. */
#define ENTER_PRIVILEGED(name)                                                                     \
    do {                                                                                           \
        ENTER(name);                                                                               \
        if (!call_privileged())                                                                    \
            return NVML_ERROR_NO_PERMISSION;                                                       \
    } while (0)

/* ---- handles (handles.c) ---- */

enum handle_kind { HANDLE_GPU = 1, HANDLE_MIG = 2, HANDLE_GI = 3, HANDLE_CI = 4 };

struct handle {
    enum handle_kind kind;
    unsigned gpu, gi, ci;
    uint32_t serial;
};

void *handle_pack(enum handle_kind kind, unsigned gpu, unsigned gi, unsigned ci, uint32_t serial);
/* False when it is no handle of ours, or of another kind than `kind`. */
bool handle_unpack(const void *pointer, enum handle_kind kind, struct handle *handle);

/* A handle together with the state it refers to; false when the instance is gone. */
struct place {
    struct handle handle;
    const struct gpu_config *gpu;
    struct gpu_state state;
    struct gi_state *gi; /* NULL for a whole GPU */
    const struct gi_profile *gi_profile;
    struct ci_state *ci; /* NULL unless a compute instance or MIG device */
    const struct ci_profile *ci_profile;
};

bool place_of_gpu(nvmlDevice_t device, struct place *place);    /* whole GPUs only */
bool place_of_device(nvmlDevice_t device, struct place *place); /* GPU or MIG device */
bool place_of_gi(nvmlGpuInstance_t instance, struct place *place);
bool place_of_ci(nvmlComputeInstance_t instance, struct place *place);
bool place_of_ids(unsigned gpu, unsigned gi, unsigned ci, struct place *place);

/* ---- geometry.c ---- */

const struct gi_profile *gi_profile_by_id(const struct gpu_config *gpu, unsigned id);
const struct gi_profile *gi_profile_by_index(const struct gpu_config *gpu, unsigned index);
const struct ci_profile *ci_profile_by_id(const struct gi_profile *profile, unsigned id);
const struct ci_profile *ci_profile_by_index(const struct gi_profile *profile, unsigned index);
bool gi_fits(const struct gpu_config *gpu, const struct gpu_state *state,
             const struct gi_profile *profile, unsigned placement);
/* The placement that the driver takes when none is given, or -1. */
int gi_default_placement(const struct gpu_config *gpu, const struct gpu_state *state,
                         const struct gi_profile *profile);
unsigned gi_remaining(const struct gpu_config *gpu, const struct gpu_state *state,
                      const struct gi_profile *profile);
void gi_add(const struct gpu_config *gpu, struct gpu_state *state,
            const struct gi_profile *profile, unsigned placement);
bool ci_fits(const struct gi_profile *in, const struct gi_state *gi,
             const struct ci_profile *profile, unsigned placement);
int ci_default_placement(const struct gi_profile *in, const struct gi_state *gi,
                         const struct ci_profile *profile);
unsigned ci_remaining(const struct gi_profile *in, const struct gi_state *gi,
                      const struct ci_profile *profile);
/* The id that the new compute instance got. */
unsigned ci_add(const struct gi_profile *in, struct gi_state *gi,
                const struct ci_profile *profile, unsigned placement, uint32_t serial);

/* ---- uuid.c: text needs NVML_DEVICE_UUID_BUFFER_SIZE bytes ---- */

void uuid_of_gpu(unsigned gpu, char *text);
void uuid_of_mig(const struct place *place, char *text);
void uuid_of_boot(char *text);
/* Finds GPU-…, MIG-… and MIG-GPU-…/gi/ci. NOT_FOUND, or INVALID_ARGUMENT when it is no UUID. */
nvmlReturn_t uuid_find(const char *text, struct place *place);

/* ---- devtree.c ---- */

void devtree_format(void);
void devtree_boot(void);
void devtree_load(void);
/* Make the files of one GPU what its state says. Call it under the GPU's driver lock. */
void devtree_sync(unsigned gpu);
/* May this process open the capability files of the instance, as a CUDA program must? */
bool devtree_may_use(unsigned gpu, unsigned gi, unsigned ci);

#endif
