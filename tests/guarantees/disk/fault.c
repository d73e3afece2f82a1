/* A disk that fails: LD_PRELOAD this, and the n-th call of libc on a file below some folders fails.
 *
 * FAULT_UNDER   folders and files, separated by colons; what is elsewhere is not counted
 * FAULT_ERRNO   the number of ENOSPC, EIO, EROFS or EMFILE; only calls that may fail so are counted
 * FAULT_AT      n, from 1 on; 0: none fails
 * FAULT_ON      1: and all after it fail too
 * FAULT_TRACE   a file to which each counted call is appended, as `n call path`
 *
 * Calls of the simulated driver are not counted: those files are the kernel's. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

enum kind { READS, OPENS, WRITES, SYNCS, MAKES, ALTERS };

static const char *under, *trace;
static int failing;
static long at;
static bool from_then_on;
static atomic_long counted;

__attribute__((constructor)) static void read_environment(void)
{
    const char *text;

    under = getenv("FAULT_UNDER");
    trace = getenv("FAULT_TRACE");
    failing = (text = getenv("FAULT_ERRNO")) != NULL ? atoi(text) : 0;
    at = (text = getenv("FAULT_AT")) != NULL ? atol(text) : 0;
    from_then_on = (text = getenv("FAULT_ON")) != NULL && *text == '1';
}

/* Which calls fail with which number, by the manual pages. */
static bool may_fail(enum kind kind, bool writing)
{
    switch (failing) {
    case ENOSPC:
        return kind == WRITES || kind == SYNCS || kind == MAKES || (kind == OPENS && writing);
    case EROFS:
        return kind == WRITES || kind == MAKES || kind == ALTERS || (kind == OPENS && writing);
    case EMFILE:
        return kind == OPENS;
    default:
        return true;
    }
}

static bool below(const char *path)
{
    for (const char *one = under; one != NULL && *one != '\0';) {
        size_t length = strcspn(one, ":");
        if (strncmp(path, one, length) == 0 && (path[length] == '/' || path[length] == '\0' ||
                                                path[length] == '-'))
            return true;
        one += length + (one[length] == ':');
    }
    return false;
}

static void of_descriptor(int fd, char *path)
{
    char link[64];
    ssize_t length;

    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = syscall(SYS_readlinkat, AT_FDCWD, link, path, (size_t)PATH_MAX - 1);
    path[length < 0 ? 0 : length] = '\0';
}

static void of_name(int folder, const char *name, char *path)
{
    size_t length;

    if (*name == '/' || folder == AT_FDCWD) {
        snprintf(path, PATH_MAX, "%s", name);
        return;
    }
    of_descriptor(folder, path);
    length = strlen(path);
    snprintf(path + length, PATH_MAX - length, "/%s", name);
}

static bool fails(void *caller, const char *call, enum kind kind, bool writing, const char *path)
{
    char line[PATH_MAX + 64];
    Dl_info info;
    long n;
    int fd, length;

    if (!may_fail(kind, writing) || !below(path))
        return false;
    if (dladdr(caller, &info) != 0 && info.dli_fname != NULL &&
        strstr(info.dli_fname, "libnvidia-ml") != NULL)
        return false;
    n = atomic_fetch_add(&counted, 1) + 1;
    if (trace != NULL) {
        fd = (int)syscall(SYS_openat, AT_FDCWD, trace, O_WRONLY | O_APPEND | O_CREAT, 0600);
        length = snprintf(line, sizeof line, "%ld %s %s\n", n, call, path);
        if (fd >= 0) {
            if (syscall(SYS_write, fd, line, (size_t)length) != length)
                abort();
            syscall(SYS_close, fd);
        }
    }
    if (at == 0 || n < at || (n > at && !from_then_on))
        return false;
    errno = failing;
    return true;
}

#define CALLER __builtin_return_address(0)
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define EXPORT __attribute__((visibility("default")))

#define FAIL_FD(name, kind, fd)                                                                    \
    do {                                                                                           \
        char path_[PATH_MAX];                                                                      \
        of_descriptor(fd, path_);                                                                  \
        if (fails(CALLER, #name, kind, true, path_))                                               \
            return -1;                                                                             \
    } while (0)
#define FAIL_AT(name, kind, writing, folder, file)                                                 \
    do {                                                                                           \
        char path_[PATH_MAX];                                                                      \
        of_name(folder, file, path_);                                                              \
        if (fails(CALLER, #name, kind, writing, path_))                                            \
            return -1;                                                                             \
    } while (0)

#define WRITING(flags) (((flags) & O_ACCMODE) != O_RDONLY || ((flags) & O_CREAT))
#define MODE(flags, mode)                                                                          \
    do {                                                                                           \
        if ((flags) & (O_CREAT | O_TMPFILE)) {                                                     \
            va_list arguments_;                                                                    \
            va_start(arguments_, flags);                                                           \
            mode = va_arg(arguments_, mode_t);                                                     \
            va_end(arguments_);                                                                    \
        }                                                                                          \
    } while (0)

EXPORT int open(const char *file, int flags, ...)
{
    mode_t mode = 0;
    MODE(flags, mode);
    FAIL_AT(open, OPENS, WRITING(flags), AT_FDCWD, file);
    return REAL(open)(file, flags, mode);
}

EXPORT int open64(const char *file, int flags, ...)
{
    mode_t mode = 0;
    MODE(flags, mode);
    FAIL_AT(open, OPENS, WRITING(flags), AT_FDCWD, file);
    return REAL(open64)(file, flags, mode);
}

EXPORT int openat(int folder, const char *file, int flags, ...)
{
    mode_t mode = 0;
    MODE(flags, mode);
    FAIL_AT(open, OPENS, WRITING(flags), folder, file);
    return REAL(openat)(folder, file, flags, mode);
}

EXPORT int openat64(int folder, const char *file, int flags, ...)
{
    mode_t mode = 0;
    MODE(flags, mode);
    FAIL_AT(open, OPENS, WRITING(flags), folder, file);
    return REAL(openat64)(folder, file, flags, mode);
}

EXPORT ssize_t read(int fd, void *buffer, size_t size)
{
    FAIL_FD(read, READS, fd);
    return REAL(read)(fd, buffer, size);
}

EXPORT ssize_t pread(int fd, void *buffer, size_t size, off_t offset)
{
    FAIL_FD(read, READS, fd);
    return REAL(pread)(fd, buffer, size, offset);
}

EXPORT ssize_t pread64(int fd, void *buffer, size_t size, off64_t offset)
{
    FAIL_FD(read, READS, fd);
    return REAL(pread64)(fd, buffer, size, offset);
}

EXPORT ssize_t write(int fd, const void *buffer, size_t size)
{
    FAIL_FD(write, WRITES, fd);
    return REAL(write)(fd, buffer, size);
}

EXPORT ssize_t pwrite(int fd, const void *buffer, size_t size, off_t offset)
{
    FAIL_FD(write, WRITES, fd);
    return REAL(pwrite)(fd, buffer, size, offset);
}

EXPORT ssize_t pwrite64(int fd, const void *buffer, size_t size, off64_t offset)
{
    FAIL_FD(write, WRITES, fd);
    return REAL(pwrite64)(fd, buffer, size, offset);
}

EXPORT int ftruncate(int fd, off_t size)
{
    FAIL_FD(ftruncate, WRITES, fd);
    return REAL(ftruncate)(fd, size);
}

EXPORT int ftruncate64(int fd, off64_t size)
{
    FAIL_FD(ftruncate, WRITES, fd);
    return REAL(ftruncate64)(fd, size);
}

EXPORT int fsync(int fd)
{
    FAIL_FD(fsync, SYNCS, fd);
    return REAL(fsync)(fd);
}

EXPORT int fdatasync(int fd)
{
    FAIL_FD(fsync, SYNCS, fd);
    return REAL(fdatasync)(fd);
}

EXPORT int rename(const char *from, const char *to)
{
    FAIL_AT(rename, MAKES, true, AT_FDCWD, to);
    return REAL(rename)(from, to);
}

EXPORT int renameat(int from_folder, const char *from, int to_folder, const char *to)
{
    FAIL_AT(rename, MAKES, true, to_folder, to);
    return REAL(renameat)(from_folder, from, to_folder, to);
}

EXPORT int mkdir(const char *path, mode_t mode)
{
    FAIL_AT(mkdir, MAKES, true, AT_FDCWD, path);
    return REAL(mkdir)(path, mode);
}

EXPORT int mkdirat(int folder, const char *path, mode_t mode)
{
    FAIL_AT(mkdir, MAKES, true, folder, path);
    return REAL(mkdirat)(folder, path, mode);
}

EXPORT int mknod(const char *path, mode_t mode, dev_t device)
{
    FAIL_AT(mknod, MAKES, true, AT_FDCWD, path);
    return REAL(mknod)(path, mode, device);
}

EXPORT int mknodat(int folder, const char *path, mode_t mode, dev_t device)
{
    FAIL_AT(mknod, MAKES, true, folder, path);
    return REAL(mknodat)(folder, path, mode, device);
}

EXPORT int unlink(const char *path)
{
    FAIL_AT(unlink, ALTERS, true, AT_FDCWD, path);
    return REAL(unlink)(path);
}

EXPORT int unlinkat(int folder, const char *path, int flags)
{
    FAIL_AT(unlink, ALTERS, true, folder, path);
    return REAL(unlinkat)(folder, path, flags);
}

EXPORT int rmdir(const char *path)
{
    FAIL_AT(rmdir, ALTERS, true, AT_FDCWD, path);
    return REAL(rmdir)(path);
}

EXPORT int chmod(const char *path, mode_t mode)
{
    FAIL_AT(chmod, ALTERS, true, AT_FDCWD, path);
    return REAL(chmod)(path, mode);
}

EXPORT int fchmodat(int folder, const char *path, mode_t mode, int flags)
{
    FAIL_AT(chmod, ALTERS, true, folder, path);
    return REAL(fchmodat)(folder, path, mode, flags);
}

EXPORT int fchmod(int fd, mode_t mode)
{
    FAIL_FD(chmod, ALTERS, fd);
    return REAL(fchmod)(fd, mode);
}

EXPORT int chown(const char *path, uid_t user, gid_t group)
{
    FAIL_AT(chown, ALTERS, true, AT_FDCWD, path);
    return REAL(chown)(path, user, group);
}

EXPORT int fchownat(int folder, const char *path, uid_t user, gid_t group, int flags)
{
    FAIL_AT(chown, ALTERS, true, folder, path);
    return REAL(fchownat)(folder, path, user, group, flags);
}
