/* Faults of a disk, for tests: preloaded into a process, it counts what the process does
 * to the files below a folder, and at the Nth time ends it or lets the disk fail.
 *
 * FAULTS="folder mode N errno", or faults_arm() from within the process. Modes:
 *   count  do nothing
 *   kill   SIGKILL in place of the Nth operation
 *   tear   SIGKILL after half of the Nth operation, if it is a write; else after it
 *   full   from the Nth on, what needs room fails with errno
 *   lost   from the Nth on, everything fails with errno, reading too
 *   once   the Nth operation fails with errno
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { CHANGE, ROOM, READ };

static char folder[4096], mode = 'c';
static long nth = -1;
static int code;
static atomic_long n_operations;

void faults_arm(const char *below, const char *how, long n, int error) {
    snprintf(folder, sizeof folder, "%s", below);
    mode = how[0];
    nth = n;
    code = error;
    n_operations = 0;
}

long faults_count(void) { return n_operations; }

__attribute__((constructor)) static void start(void) {
    char below[4096], how[16];
    const char *text = getenv("FAULTS");
    long n;
    int error;
    if (text && sscanf(text, "%4095s %15s %ld %d", below, how, &n, &error) == 4)
        faults_arm(below, how, n, error);
}

/* For those who want to know how many there are: FAULTS_COUNT names a file. */
__attribute__((destructor)) static void end(void) {
    const char *name = getenv("FAULTS_COUNT");
    FILE *file = name && n_operations ? fopen(name, "w") : NULL;
    if (file) {
        fprintf(file, "%ld", (long)n_operations);
        fclose(file);
    }
}

static int is_below(const char *path) {
    return folder[0] && path && strncmp(path, folder, strlen(folder)) == 0;
}

static int is_fd_below(int fd) {
    char link[64], path[4096];
    if (!folder[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return is_below(path);
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* Count an operation; 1 where it has to fail, 2 where the process dies of it. */
static int meets_fault(enum kind kind) {
    if (kind == READ) {
        if (mode != 'l' || n_operations < nth) return 0;
        errno = code;
        return 1;
    }
    long n = ++n_operations;
    if (mode == 'k' && n == nth) die();
    if (mode == 't' && n == nth) return 2;
    if ((mode == 'l' && n >= nth) || (mode == 'f' && n >= nth && kind == ROOM) ||
        (mode == 'o' && n == nth)) {
        errno = code;
        return 1;
    }
    return 0;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAULTY(type, name, parameters, arguments, below, kind) \
    type name parameters { \
        int fault = (below) ? meets_fault(kind) : 0; \
        if (fault == 1) return -1; \
        type result = REAL(name) arguments; \
        if (fault == 2) die(); \
        return result; \
    }
#define FAULTY_WRITE(name, parameters, arguments, half) \
    ssize_t name parameters { \
        int fault = is_fd_below(fd) ? meets_fault(ROOM) : 0; \
        if (fault == 1) return -1; \
        if (fault == 2) { REAL(name) half; die(); } \
        return REAL(name) arguments; \
    }
#define FAULTY_OPEN(name, parameters, path, before) \
    int name parameters { \
        mode_t bits = 0; \
        if (flags & (O_CREAT | O_TMPFILE)) { \
            va_list rest; \
            va_start(rest, flags); \
            bits = va_arg(rest, mode_t); \
            va_end(rest); \
        } \
        int changes = flags & (O_CREAT | O_TRUNC); \
        int fault = is_below(path) ? meets_fault(changes ? ROOM : READ) : 0; \
        if (fault == 1) return -1; \
        int fd = REAL(name)(before flags, bits); \
        if (fault == 2) die(); \
        return fd; \
    }
#define COMMA ,

FAULTY_WRITE(write, (int fd, const void *b, size_t n), (fd, b, n), (fd, b, n / 2))
FAULTY_WRITE(pwrite, (int fd, const void *b, size_t n, off_t o), (fd, b, n, o), (fd, b, n / 2, o))
FAULTY_WRITE(pwrite64, (int fd, const void *b, size_t n, off64_t o), (fd, b, n, o), (fd, b, n / 2, o))
FAULTY_OPEN(open, (const char *path, int flags, ...), path, path COMMA)
FAULTY_OPEN(open64, (const char *path, int flags, ...), path, path COMMA)
FAULTY_OPEN(openat, (int at, const char *path, int flags, ...), path, at COMMA path COMMA)
FAULTY_OPEN(openat64, (int at, const char *path, int flags, ...), path, at COMMA path COMMA)
FAULTY(ssize_t, read, (int fd, void *b, size_t n), (fd, b, n), mode == 'l' && is_fd_below(fd), READ)
FAULTY(ssize_t, pread64, (int fd, void *b, size_t n, off64_t o), (fd, b, n, o), mode == 'l' && is_fd_below(fd), READ)
FAULTY(ssize_t, preadv64, (int fd, const struct iovec *v, int n, off64_t o), (fd, v, n, o), mode == 'l' && is_fd_below(fd), READ)
FAULTY(int, fsync, (int fd), (fd), is_fd_below(fd), ROOM)
FAULTY(int, ftruncate, (int fd, off_t n), (fd, n), is_fd_below(fd), CHANGE)
FAULTY(int, ftruncate64, (int fd, off64_t n), (fd, n), is_fd_below(fd), CHANGE)
FAULTY(int, rename, (const char *from, const char *to), (from, to), is_below(from), CHANGE)
FAULTY(int, unlink, (const char *path), (path), is_below(path), CHANGE)
FAULTY(int, mkdir, (const char *path, mode_t bits), (path, bits), is_below(path), ROOM)
FAULTY(int, rmdir, (const char *path), (path), is_below(path), CHANGE)
