/* The files that the driver and its tools keep, under DIR/root.
 *
 * Everything here follows from the state, so it is repaired rather than protected: each mutating
 * call first makes the files of its GPU what the state says, whatever a killed call left. That an
 * instance cannot be made anew before its predecessor's files are gone follows from this too. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "sim.h"

/* From the range for local and experimental use, which the kernel never hands out: a node made
 * here can never be the door to a device of this machine. */
#define MAJOR_CAPS 120u
#define MAJOR_GPU 121u
#define MAJOR_UVM 122u
#define MINOR_CTL 255u

#define CAP_CONFIG 1u
#define CAP_MONITOR 2u
#define CAPS_PER_GPU 135u
#define CAPS_PER_GI 9u
#define MODE_SHARED 0444u
#define MODE_CONFIG 0400u
#define LISTED_GPUS 32u /* mig-minors lists this many, whatever is installed */

static unsigned cap_of_gi(unsigned gpu, unsigned gi)
{
    return CAP_MONITOR + 1 + sim.config.gpu[gpu].minor * CAPS_PER_GPU + gi * CAPS_PER_GI;
}

static unsigned cap_of_ci(unsigned gpu, unsigned gi, unsigned ci)
{
    return cap_of_gi(gpu, gi) + 1 + ci;
}

__attribute__((format(printf, 2, 3))) static void path_of(char *path, const char *format, ...)
{
    va_list arguments;
    int length = snprintf(path, PATH_MAX, "%s/root/", sim.directory);

    va_start(arguments, format);
    vsnprintf(path + length, (size_t)(PATH_MAX - length), format, arguments);
    va_end(arguments);
}

static void make_directories(const char *path)
{
    char part[PATH_MAX];

    snprintf(part, sizeof part, "%s", path);
    for (char *slash = part + strlen(sim.directory) + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = '\0';
        if (mkdir(part, 0755) == 0 && chmod(part, 0755) != 0)
            return;
        *slash = '/';
    }
}

/* Whole, or not at all. */
static void write_file(const char *path, unsigned mode, const char *text)
{
    char temporary[PATH_MAX + 16];
    int fd;

    snprintf(temporary, sizeof temporary, "%s.%d", path, (int)getpid());
    fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 && errno == ENOENT) {
        make_directories(path);
        fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    }
    if (fd < 0)
        return;
    if (write(fd, text, strlen(text)) == (ssize_t)strlen(text) && fchmod(fd, mode) == 0)
        close(fd), rename(temporary, path);
    else
        close(fd), unlink(temporary);
}

static void write_access(const char *path, unsigned minor, unsigned mode)
{
    char text[128];

    snprintf(text, sizeof text, "DeviceFileMinor: %u\nDeviceFileMode: %u\nDeviceFileModify: 1\n",
             minor, mode);
    write_file(path, 0644, text);
}

/* Does the access file let the driver's tools set owner and mode of an existing node? One that is
 * just being written says nothing yet, and is not taken for a yes. */
static bool may_modify(const char *path)
{
    char text[256], *found;
    FILE *file = fopen(path, "re");

    if (file == NULL)
        return false;
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    found = strstr(text, "DeviceFileModify:");
    return found != NULL && strtoul(found + strlen("DeviceFileModify:"), NULL, 10) != 0;
}

/* As nvidia-modprobe does. Without the right to make nodes (not root) there are none. */
static void make_node(const char *path, unsigned major_, unsigned minor_, unsigned mode,
                      bool modify)
{
    struct stat status;
    bool exists = lstat(path, &status) == 0;

    if (exists && (!S_ISCHR(status.st_mode) || status.st_rdev != makedev(major_, minor_))) {
        unlink(path);
        exists = false;
    }
    if (exists && !modify)
        return;
    if (exists && status.st_uid == 0 && status.st_gid == 0 && (status.st_mode & 07777) == mode)
        return;
    if (!exists)
        make_directories(path);
    if (!exists && mknod(path, S_IFCHR | (mode_t)mode, makedev(major_, minor_)) != 0)
        return;
    if (chown(path, 0, 0) != 0 || chmod(path, (mode_t)mode) != 0)
        return;
}

static void cap_path(char *path, unsigned cap)
{
    path_of(path, "dev/nvidia-caps/nvidia-cap%u", cap);
}

static void sync_access(const char *access_path, bool exists, unsigned cap)
{
    char node[PATH_MAX];

    if (!exists) {
        /* The node lingers, as on a real machine. */
        unlink(access_path);
        return;
    }
    if (access(access_path, F_OK) != 0)
        write_access(access_path, cap, MODE_SHARED);
    cap_path(node, cap);
    make_node(node, MAJOR_CAPS, cap, MODE_SHARED, may_modify(access_path));
}

/* With what a killed call may have left in it. */
static void remove_directory(const char *path)
{
    char file[PATH_MAX + 256];
    struct dirent *entry;
    DIR *directory;

    if (rmdir(path) == 0 || errno != ENOTEMPTY || (directory = opendir(path)) == NULL)
        return;
    while ((entry = readdir(directory)) != NULL) {
        snprintf(file, sizeof file, "%s/%s", path, entry->d_name);
        unlink(file);
    }
    closedir(directory);
    rmdir(path);
}

static bool is_directory(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

static void sync_ci(unsigned gpu, unsigned gi, unsigned ci, bool exists)
{
    char directory[PATH_MAX], file[PATH_MAX];

    path_of(directory, "proc/driver/nvidia/capabilities/gpu%u/mig/gi%u/ci%u",
            sim.config.gpu[gpu].minor, gi, ci);
    if (!exists && !is_directory(directory))
        return;
    path_of(file, "proc/driver/nvidia/capabilities/gpu%u/mig/gi%u/ci%u/access",
            sim.config.gpu[gpu].minor, gi, ci);
    sync_access(file, exists, cap_of_ci(gpu, gi, ci));
    if (!exists)
        remove_directory(directory);
}

void devtree_sync(unsigned gpu)
{
    struct gpu_state state;

    if (geteuid() != sim.config.privileged_uid)
        return;
    state_read(gpu, &state);
    for (unsigned g = 0; g < MAX_GI; g++) {
        const struct gi_state *gi = &state.gi[g];
        char directory[PATH_MAX], file[PATH_MAX];

        path_of(directory, "proc/driver/nvidia/capabilities/gpu%u/mig/gi%u",
                sim.config.gpu[gpu].minor, g);
        if (gi->serial == 0 && !is_directory(directory))
            continue;
        for (unsigned c = 0; c < MAX_CI; c++)
            sync_ci(gpu, g, c, gi->ci[c].serial != 0);
        path_of(file, "proc/driver/nvidia/capabilities/gpu%u/mig/gi%u/access",
                sim.config.gpu[gpu].minor, g);
        sync_access(file, gi->serial != 0, cap_of_gi(gpu, g));
        if (gi->serial == 0)
            remove_directory(directory);
    }
}

/* Capability files are the only barrier between users of one GPU. A node that is missing bars
 * nobody here, since a simulation without root has none. */
static bool may_open(unsigned cap)
{
    char path[PATH_MAX];

    cap_path(path, cap);
    return access(path, F_OK) != 0 || faccessat(AT_FDCWD, path, R_OK, AT_EACCESS) == 0;
}

bool devtree_may_use(unsigned gpu, unsigned gi, unsigned ci)
{
    return may_open(cap_of_gi(gpu, gi)) && may_open(cap_of_ci(gpu, gi, ci));
}

/* The module is loaded: no instance is there, and sysfs has a folder for it that it never had
 * before: the new one is made before the old one goes, so that its inode is another. */
void devtree_load(void)
{
    char path[PATH_MAX], draft[PATH_MAX];

    path_of(draft, "sys/module/.nvidia.%d/", (int)getpid());
    make_directories(draft);
    path_of(path, "sys/module/nvidia");
    if (rename(draft, path) != 0)
        rmdir(draft);
    for (unsigned gpu = 0; gpu < sim.config.gpus; gpu++) {
        int lock = state_lock_driver(gpu);
        devtree_sync(gpu);
        state_unlock(lock);
    }
}

void devtree_boot(void)
{
    char path[PATH_MAX], text[NVML_DEVICE_UUID_BUFFER_SIZE];

    uuid_of_boot(text);
    strcat(text, "\n");
    path_of(path, "proc/sys/kernel/random/boot_id");
    write_file(path, 0444, text);
    for (unsigned cap = CAP_MONITOR + 1; cap < CAP_MONITOR + 1 + MAX_GPUS * CAPS_PER_GPU; cap++) {
        cap_path(path, cap); /* /dev begins empty */
        unlink(path);
    }
    devtree_load();
}

static void write_mig_minors(void)
{
    char path[PATH_MAX], *text;
    size_t size;
    FILE *memory = open_memstream(&text, &size);

    if (memory == NULL)
        return;
    fprintf(memory, "config %u\nmonitor %u\n", CAP_CONFIG, CAP_MONITOR);
    for (unsigned gpu = 0; gpu < LISTED_GPUS; gpu++)
        for (unsigned gi = 0; gi < MAX_GI; gi++) {
            unsigned cap = CAP_MONITOR + 1 + gpu * CAPS_PER_GPU + gi * CAPS_PER_GI;
            fprintf(memory, "gpu%u/gi%u/access %u\n", gpu, gi, cap);
            for (unsigned ci = 0; ci < MAX_CI; ci++)
                fprintf(memory, "gpu%u/gi%u/ci%u/access %u\n", gpu, gi, ci, cap + 1 + ci);
        }
    if (fclose(memory) == 0) {
        path_of(path, "proc/driver/nvidia-caps/mig-minors");
        write_file(path, 0444, text);
    }
    free(text);
}

void devtree_format(void)
{
    char path[PATH_MAX], text[512];

    snprintf(text, sizeof text,
             "Character devices:\n%3u nvidia\n%3u nvidiactl\n%3u nvidia-uvm\n%3u nvidia-caps\n\n"
             "Block devices:\n",
             MAJOR_GPU, MAJOR_GPU, MAJOR_UVM, MAJOR_CAPS);
    path_of(path, "proc/devices");
    write_file(path, 0444, text);
    snprintf(text, sizeof text,
             "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  %.80s  (simulated)\n",
             sim.config.driver_version);
    path_of(path, "proc/driver/nvidia/version");
    write_file(path, 0444, text);
    write_mig_minors();

    path_of(path, "proc/driver/nvidia/capabilities/mig/config");
    write_access(path, CAP_CONFIG, MODE_CONFIG);
    path_of(path, "proc/driver/nvidia/capabilities/mig/monitor");
    write_access(path, CAP_MONITOR, MODE_SHARED);
    cap_path(path, CAP_CONFIG);
    make_directories(path);
    make_node(path, MAJOR_CAPS, CAP_CONFIG, MODE_CONFIG, true);
    cap_path(path, CAP_MONITOR);
    make_node(path, MAJOR_CAPS, CAP_MONITOR, MODE_SHARED, true);
    path_of(path, "dev/nvidiactl");
    make_node(path, MAJOR_GPU, MINOR_CTL, 0666, true);
    path_of(path, "dev/nvidia-uvm");
    make_node(path, MAJOR_UVM, 0, 0666, true);
    path_of(path, "dev/nvidia-uvm-tools");
    make_node(path, MAJOR_UVM, 1, 0666, true);
    for (unsigned gpu = 0; gpu < sim.config.gpus; gpu++) {
        path_of(path, "proc/driver/nvidia/capabilities/gpu%u/mig/", sim.config.gpu[gpu].minor);
        make_directories(path);
        path_of(path, "dev/nvidia%u", sim.config.gpu[gpu].minor);
        make_node(path, MAJOR_GPU, sim.config.gpu[gpu].minor, 0666, true);
    }
    devtree_boot();
}
