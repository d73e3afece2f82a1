/* The state that all processes share: DIR/state, mapped.
 *
 * A GPU's state lies there twice. A writer, alone under the GPU's commit lock, fills the copy that
 * does not count and then makes it count by one atomic store; killed before that it changed
 * nothing, killed after it everything. Readers take no lock: they copy and look again.
 * Locks are open-file-description locks on bytes of the same file (fcntl(2)), taken on a descriptor
 * of their own, so they exclude threads too and the kernel frees them when the holder dies. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sim.h"

#define STATE_MAGIC 0x31656d75676d6d73ull
#define LOCK_COMMIT(gpu) (2 * (off_t)(gpu))
#define LOCK_DRIVER(gpu) (2 * (off_t)(gpu) + 1)

struct simulation sim;

static pthread_mutex_t opening = PTHREAD_MUTEX_INITIALIZER;

/* DIR is where DIR/lib/libnvidia-ml.so.1 was loaded from: the environment of a Slurm hook is
 * empty, so it cannot say. Found at load, since a relative path would not survive a chdir. */
__attribute__((constructor)) static void find_directory(void)
{
    Dl_info info;
    char path[sizeof sim.directory];
    char real[PATH_MAX];
    char *slash;

    if (dladdr((void *)&sim, &info) == 0 || info.dli_fname == NULL)
        return;
    snprintf(path, sizeof path, "%s", info.dli_fname);
    slash = strrchr(path, '/');
    if (slash == NULL)
        return;
    *slash = '\0';
    if (realpath(path, real) == NULL)
        return;
    slash = strrchr(real, '/');
    if (slash == NULL)
        return;
    *slash = '\0';
    snprintf(sim.directory, sizeof sim.directory, "%s", real);
}

static void path_in(const char *name, char *path, size_t size)
{
    if ((size_t)snprintf(path, size, "%s/%s", sim.directory, name) >= size)
        *path = '\0';
}

static nvmlReturn_t map_state(void)
{
    char path[PATH_MAX];
    struct stat status;
    struct shared *shared;
    int fd;

    path_in("gpus", path, sizeof path);
    if (sim.directory[0] == '\0' || !config_read(path, &sim.config))
        return NVML_ERROR_DRIVER_NOT_LOADED;
    path_in("state", path, sizeof path);
    fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return NVML_ERROR_DRIVER_NOT_LOADED;
    if (fstat(fd, &status) != 0 || status.st_size != (off_t)sizeof(struct shared)) {
        close(fd);
        return NVML_ERROR_LIB_RM_VERSION_MISMATCH;
    }
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (shared == MAP_FAILED)
        return NVML_ERROR_OPERATING_SYSTEM;
    if (shared->magic != STATE_MAGIC || shared->size != sizeof *shared) {
        munmap(shared, sizeof *shared);
        return NVML_ERROR_LIB_RM_VERSION_MISMATCH;
    }
    sim.shared = shared;
    return NVML_SUCCESS;
}

nvmlReturn_t state_open(void)
{
    nvmlReturn_t result = NVML_SUCCESS;
    pthread_mutex_lock(&opening);
    if (sim.shared == NULL)
        result = map_state();
    pthread_mutex_unlock(&opening);
    return result;
}

nvmlReturn_t state_format(void)
{
    char path[PATH_MAX], temporary[PATH_MAX];
    struct shared *shared;
    int fd;
    bool written;

    path_in("gpus", path, sizeof path);
    if (!config_read(path, &sim.config))
        return NVML_ERROR_INVALID_ARGUMENT;
    shared = calloc(1, sizeof *shared);
    if (shared == NULL)
        return NVML_ERROR_OPERATING_SYSTEM;
    shared->magic = STATE_MAGIC;
    shared->size = sizeof *shared;
    for (unsigned gpu = 0; gpu < sim.config.gpus; gpu++) {
        uint8_t on = sim.config.gpu[gpu].mig_at_start != 0;
        shared->gpu[gpu].slot[0].mig_current = on;
        shared->gpu[gpu].slot[0].mig_pending = on;
    }
    path_in("state", path, sizeof path);
    path_in("state.new", temporary, sizeof temporary);
    fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    /* Every user's program counts calls and registers as a client, as with /dev/nvidiactl. */
    written = fd >= 0 && fchmod(fd, 0666) == 0 &&
              write(fd, shared, sizeof *shared) == (ssize_t)sizeof *shared;
    if (fd >= 0)
        close(fd);
    free(shared);
    if (!written || rename(temporary, path) != 0)
        return NVML_ERROR_OPERATING_SYSTEM;
    return state_open();
}

static int lock_byte(off_t byte)
{
    char path[PATH_MAX];
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    int fd, result;

    path_in("state", path, sizeof path);
    fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return -1;
    do
        result = fcntl(fd, F_OFD_SETLKW, &lock);
    while (result != 0 && errno == EINTR);
    if (result != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

int state_lock_driver(unsigned gpu)
{
    return lock_byte(LOCK_DRIVER(gpu));
}

/* Is a call of some process in the driver's hands, for as long as its latency lasts? */
bool state_driver_busy(unsigned gpu)
{
    char path[PATH_MAX];
    struct flock lock = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = LOCK_DRIVER(gpu), .l_len = 1};
    int fd;
    bool busy;

    path_in("state", path, sizeof path);
    fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return false;
    busy = fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
    close(fd);
    return busy;
}

void state_unlock(int lock)
{
    /* Unlocked by name first: a child forked meanwhile shares the descriptor and would keep it. */
    struct flock all = {.l_type = F_UNLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 0};
    fcntl(lock, F_OFD_SETLK, &all);
    close(lock);
}

bool client_alive(const struct client *client)
{
    char path[64], text[1024], *after;
    unsigned long long started = 0;
    char status = 'Z';
    FILE *file;
    size_t length;

    if (client->pid == 0)
        return false;
    snprintf(path, sizeof path, "/proc/%u/stat", client->pid);
    file = fopen(path, "re");
    if (file == NULL) /* hidden by hidepid, or gone */
        return kill((pid_t)client->pid, 0) != 0 && errno == EPERM;
    length = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[length] = '\0';
    after = strrchr(text, ')'); /* the name before it may hold anything */
    if (after == NULL ||
        sscanf(after + 1,
               " %c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu",
               &status, &started) != 2)
        return false;
    return status != 'Z' && status != 'X' && (client->started == 0 || started == client->started);
}

bool gpu_has_client(const struct gpu_state *state, int gi, int ci)
{
    for (unsigned i = 0; i < MAX_CLIENTS; i++) {
        const struct client *client = &state->client[i];
        if (client->pid && (gi < 0 || client->gi == gi) && (ci < 0 || client->ci == ci))
            return true;
    }
    return false;
}

/* What a reset or a reboot does: no instance survives either, and no client. */
void state_reset_gpu(unsigned gpu, struct gpu_state *state)
{
    for (unsigned g = 0; g < MAX_GI; g++) {
        state->gi_lost += state->gi[g].serial != 0;
        for (unsigned c = 0; c < MAX_CI; c++)
            state->ci_lost += state->gi[g].ci[c].serial != 0;
    }
    memset(state->gi, 0, sizeof state->gi);
    memset(state->client, 0, sizeof state->client);
    /* Ampere keeps the mode in its InfoROM; Hopper and later forget it. */
    if (sim.config.gpu[gpu].arch != ARCH_AMPERE)
        state->mig_pending = 0;
    state->mig_current = state->mig_pending;
}

void state_read(unsigned gpu, struct gpu_state *state)
{
    struct gpu_shared *shared = &sim.shared->gpu[gpu];
    uint32_t generation, epoch = atomic_load(&sim.shared->epoch);

    do {
        generation = atomic_load_explicit(&shared->generation, memory_order_acquire);
        memcpy(state, &shared->slot[generation & 1], sizeof *state);
        atomic_thread_fence(memory_order_acquire);
    } while (atomic_load_explicit(&shared->generation, memory_order_relaxed) != generation);
    if (state->epoch != epoch) {
        state_reset_gpu(gpu, state);
        state->epoch = epoch;
    }
    for (unsigned i = 0; i < MAX_CLIENTS; i++)
        if (state->client[i].pid && !client_alive(&state->client[i]))
            memset(&state->client[i], 0, sizeof state->client[i]);
}

nvmlReturn_t state_change(unsigned gpu, change_t *change, void *context)
{
    struct gpu_shared *shared = &sim.shared->gpu[gpu];
    struct gpu_state state;
    nvmlReturn_t result;
    int lock = lock_byte(LOCK_COMMIT(gpu));

    if (lock < 0)
        return NVML_ERROR_OPERATING_SYSTEM;
    state_read(gpu, &state);
    result = change(gpu, &state, context);
    if (result == NVML_SUCCESS) {
        uint32_t generation = atomic_load_explicit(&shared->generation, memory_order_relaxed);
        memcpy(&shared->slot[(generation + 1) & 1], &state, sizeof state);
        atomic_store_explicit(&shared->generation, generation + 1, memory_order_release);
        journal(gpu, &shared->slot[generation & 1], &state);
    }
    state_unlock(lock);
    return result;
}
