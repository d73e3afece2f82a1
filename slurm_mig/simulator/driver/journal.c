/* DIR/journal, if somebody made that file: a line for each instance made or gone, in order.
 *
 *   NS PID made|gone GPU GI SERIAL PROFILE_ID START SIZE -
 *   NS PID made|gone GPU GI SERIAL ci CI CI_SERIAL UUID
 *
 * NS is CLOCK_MONOTONIC, PID who did it, SERIAL a number that no other instance of this GPU had.
 * Written under the GPU's commit lock, so the lines of one GPU are in the order of its states. What
 * a reboot took away is told by the first change after it. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "sim.h"

static void tell(int fd, const char *what, unsigned gpu, unsigned g, const struct gi_state *gi,
                 int c, const char *uuid)
{
    struct timespec now;
    char line[256];
    int length;

    clock_gettime(CLOCK_MONOTONIC, &now);
    length = snprintf(line, sizeof line, "%lld%09ld %d %s %u %u %u ", (long long)now.tv_sec,
                      now.tv_nsec, (int)getpid(), what, gpu, g, gi->serial);
    if (c < 0)
        length += snprintf(line + length, sizeof line - (size_t)length, "%u %u %u -\n",
                           sim.config.gpu[gpu].profile[gi->profile].id, gi->start, gi->size);
    else
        length += snprintf(line + length, sizeof line - (size_t)length, "ci %d %u %s\n", c,
                           gi->ci[c].serial, uuid);
    if (write(fd, line, (size_t)length) != length)
        return; /* a full disk loses lines of a log, no instance */
}

void journal(unsigned gpu, const struct gpu_state *before, const struct gpu_state *after)
{
    char path[PATH_MAX], uuid[NVML_DEVICE_UUID_BUFFER_SIZE];
    struct place place;
    int fd;

    if ((size_t)snprintf(path, sizeof path, "%s/journal", sim.directory) >= sizeof path)
        return;
    fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return;
    for (unsigned g = 0; g < MAX_GI; g++) {
        const struct gi_state *old = &before->gi[g], *new = &after->gi[g];
        for (int c = 0; c < MAX_CI; c++)
            if (old->ci[c].serial != 0 && old->ci[c].serial != new->ci[c].serial)
                tell(fd, "gone", gpu, g, old, c, "-");
        if (old->serial != 0 && old->serial != new->serial)
            tell(fd, "gone", gpu, g, old, -1, "-");
        if (new->serial != 0 && old->serial != new->serial)
            tell(fd, "made", gpu, g, new, -1, "-");
        for (unsigned c = 0; c < MAX_CI; c++)
            if (new->ci[c].serial != 0 && old->ci[c].serial != new->ci[c].serial &&
                place_of_ids(gpu, g, c, &place)) {
                uuid_of_mig(&place, uuid);
                tell(fd, "made", gpu, g, new, (int)c, uuid);
            }
    }
    close(fd);
}
