/* Runs one hook as slurmd does and says what it cost: launch HOOK
 *
 * A C program, as slurmd is: started from Python, a hook would begin with the interpreter's page
 * tables to copy and its memory counted as the hook's own peak (Linux keeps the larger of the
 * memory before and after exec). What slurmd does to a hook is told in
 * slurm_mig/rehearsal/hookrun.py; the environment is this program's own, handed on as it is.
 *
 * Waits until its stdin ends, so that many can start at once. Prints one line: wait status, peak of
 * the largest process in KiB, processor time of all of them in us, start and end in ns of
 * CLOCK_MONOTONIC; then what the hook printed.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static long long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv)
{
	static char said[65536];
	char rest[4096];
	struct rusage usage;
	size_t length = 0;
	ssize_t got;
	int pipes[2], status, null;

	if (argc != 2) {
		fprintf(stderr, "usage: launch HOOK\n");
		return 2;
	}
	while (read(0, rest, sizeof rest) > 0)
		;
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null < 0 || pipe2(pipes, O_CLOEXEC) != 0 || chdir("/") != 0) {
		perror("launch");
		return 1;
	}
	umask(022);

	long long start = now();
	pid_t child = fork();
	if (child < 0) {
		perror("launch: fork");
		return 1;
	}
	if (child == 0) {
		setpgid(0, 0);
		dup2(null, 0);
		dup2(pipes[1], 1);
		dup2(pipes[1], 2);
		execve(argv[1], (char *[]){argv[1], NULL}, environ);
		_exit(127);
	}
	close(pipes[1]);
	while ((got = read(pipes[0], said + length, sizeof said - length)) > 0)
		length += (size_t)got;
	if (wait4(child, &status, 0, &usage) != child) {
		perror("launch: wait4");
		return 1;
	}
	long long end = now();
	long long cpu = (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000LL +
			usage.ru_utime.tv_usec + usage.ru_stime.tv_usec;
	printf("%d %ld %lld %lld %lld\n", status, usage.ru_maxrss, cpu, start, end);
	fflush(stdout);
	if (write(1, said, length) < 0)
		return 1;
	return 0;
}
