/* What every exported function passes through. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "sim.h"

enum function_kind { READS, CHANGES };

static const struct {
    const char *name;
    enum function_kind kind;
} functions[] = {
#define FN(name, kind) {#name, kind},
#include "functions.def"
#undef FN
};

_Static_assert(FN_ANY < MAX_FUNCTIONS, "the state has no room for more");

static _Atomic unsigned initialised;
/* The error that the call now running on this thread shall return although it was carried out. */
static _Thread_local uint32_t error_after;

const char *call_function_name(unsigned function)
{
    return function < FN_COUNT ? functions[function].name : NULL;
}

int call_function_by_name(const char *name)
{
    for (unsigned i = 0; i < FN_COUNT; i++)
        if (strcmp(functions[i].name, name) == 0)
            return (int)i;
    return strcmp(name, "any") == 0 ? FN_ANY : -1;
}

bool call_privileged(void)
{
    return geteuid() == sim.config.privileged_uid;
}

static void spend(uint64_t microseconds)
{
    struct timespec left = {.tv_sec = (time_t)(microseconds / 1000000),
                            .tv_nsec = (long)(microseconds % 1000000) * 1000};
    while (microseconds && nanosleep(&left, &left) != 0 && errno == EINTR)
        ;
}

static nvmlReturn_t strike(uint32_t fault)
{
    if ((fault & FAULT_KILL) == FAULT_KILL)
        kill(getpid(), SIGKILL);
    return (nvmlReturn_t)(fault & FAULT_KILL);
}

/* The fault that this call meets, or 0. */
static uint32_t fault_due(struct fault *fault)
{
    uint32_t what = atomic_load(&fault->what);
    int64_t left;

    if (what == 0)
        return 0;
    left = atomic_fetch_sub(&fault->countdown, 1);
    return left == 1 || (left < 1 && (what & FAULT_FROM_THEN_ON)) ? what : 0;
}

static nvmlReturn_t begin(enum function function)
{
    struct function_shared *shared = &sim.shared->function[function];
    struct function_shared *any = &sim.shared->function[FN_ANY];
    uint32_t fault, fault_of_any;

    atomic_fetch_add(&shared->calls, 1);
    atomic_fetch_add(&any->calls, 1);
    error_after = 0;
    fault = fault_due(&shared->fault);
    fault_of_any = fault_due(&any->fault); /* counts down in any case */
    if (fault == 0)
        fault = fault_of_any;
    if ((fault & FAULT_AFTER) && functions[function].kind == CHANGES)
        error_after = fault;
    else if (fault)
        return strike(fault);
    if (functions[function].kind == READS)
        spend(atomic_load(&shared->latency_us));
    return NVML_SUCCESS;
}

nvmlReturn_t call_enter(enum function function)
{
    if (atomic_load(&initialised) == 0)
        return NVML_ERROR_UNINITIALIZED;
    return begin(function);
}

nvmlReturn_t call_leave(enum function function, nvmlReturn_t result)
{
    uint32_t fault = error_after;
    (void)function;
    error_after = 0;
    return result == NVML_SUCCESS && fault ? strike(fault) : result;
}

nvmlReturn_t call_mutate(enum function function, unsigned gpu, change_t *change, void *context)
{
    struct gpu_state trial;
    nvmlReturn_t result;
    int lock = state_lock_driver(gpu);

    if (lock < 0)
        return NVML_ERROR_OPERATING_SYSTEM;
    devtree_sync(gpu); /* repairs what a killed call left undone */
    state_read(gpu, &trial);
    result = change(gpu, &trial, context);
    if (result == NVML_SUCCESS) {
        spend(atomic_load(&sim.shared->function[function].latency_us));
        result = state_change(gpu, change, context);
        devtree_sync(gpu);
    }
    state_unlock(lock);
    return call_leave(function, result);
}

/* ---- the library's own life ---- */

EXPORT nvmlReturn_t nvmlInitWithFlags(unsigned int flags)
{
    nvmlReturn_t result = state_open();
    (void)flags;
    if (result == NVML_SUCCESS)
        result = begin(FN_nvmlInit);
    if (result == NVML_SUCCESS)
        atomic_fetch_add(&initialised, 1);
    return result;
}

EXPORT nvmlReturn_t nvmlInit_v2(void)
{
    return nvmlInitWithFlags(0);
}

EXPORT nvmlReturn_t nvmlInit(void)
{
    return nvmlInitWithFlags(0);
}

EXPORT nvmlReturn_t nvmlShutdown(void)
{
    ENTER(nvmlShutdown);
    atomic_fetch_sub(&initialised, 1);
    return NVML_SUCCESS;
}

EXPORT const char *nvmlErrorString(nvmlReturn_t result)
{
    static const char *const texts[] = {
        "Success", "Uninitialized", "Invalid Argument", "Not Supported",
        "Insufficient Permissions", "Already Initialized", "Not Found", "Insufficient Size",
        "Insufficient External Power", "Driver Not Loaded", "Timeout", "Interrupt Request Issue",
        "NVML Shared Library Not Found", "Function Not Found", "Corrupted infoROM", "GPU is lost",
        "GPU requires reset", "The operating system has blocked the request",
        "Driver/library version mismatch", "In use by another client", "Insufficient Memory",
        "No data", "The requested vgpu operation is not available on target device, because ECC "
        "is enabled", "Insufficient Resources", "Requested frequency is not supported",
        "Argument version mismatch", "Deprecated", "Not ready", "No GPUs were found",
        "Invalid state", "Reset type not supported"};
    return (unsigned)result < sizeof texts / sizeof *texts ? texts[result] : "Unknown Error";
}
