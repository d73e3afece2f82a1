/* Stands for a hook's Python: asks the zygote (zygote.py) for a fork of one that is warm.
 *
 * The fork gets this process's descriptors 0 to 2, arguments, environment, folder and umask, and
 * joins its process group, so that it dies of what slurmd sends to the hook. This process lives as
 * long as it does, and ends as it ended. */
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static char text[1 << 20];
static size_t length;

static void add(const char *word)
{
    size_t size = strlen(word) + 1;
    if (length + size > sizeof text)
        _exit(120);
    memcpy(text + length, word, size);
    length += size;
}

static void add_number(unsigned long number)
{
    char word[32];
    snprintf(word, sizeof word, "%lu", number);
    add(word);
}

int main(int argc, char **argv)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = SOCKET};
    int descriptors[3] = {0, 1, 2};
    char control[CMSG_SPACE(sizeof descriptors)] = {0};
    char folder[PATH_MAX];
    uint32_t size;
    int32_t status;
    struct iovec part = {&size, sizeof size};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    mode_t mask = umask(0);
    int zygote = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    umask(mask);
    add_number(mask);
    add(getcwd(folder, sizeof folder) ? folder : "/");
    add_number((unsigned long)argc - 1);
    for (int i = 1; i < argc; i++)
        add(argv[i]);
    for (char **variable = environ; *variable; variable++)
        add(*variable);

    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof descriptors);
    memcpy(CMSG_DATA(header), descriptors, sizeof descriptors);
    size = (uint32_t)length;
    if (zygote < 0 || connect(zygote, (struct sockaddr *)&address, sizeof address) != 0 ||
        sendmsg(zygote, &message, 0) != sizeof size ||
        send(zygote, text, length, 0) != (ssize_t)length ||
        recv(zygote, &status, sizeof status, MSG_WAITALL) != sizeof status)
        _exit(121);
    if (WIFSIGNALED(status)) {
        raise(WTERMSIG(status));
        pause();
    }
    _exit(WEXITSTATUS(status));
}
