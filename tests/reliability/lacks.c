/* A poor file system, for tests: preloaded into a process, it refuses one kind of call
 * to what lies below a folder. LACKS="folder call errno", which a fork may change. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int lacks(const char *name, const char *path) {
    const char *text = getenv("LACKS");
    char folder[4096], call[32];
    int code;
    if (!text || sscanf(text, "%4095s %31s %d", folder, call, &code) < 3) return 0;
    if (strcmp(name, call) || strncmp(path, folder, strlen(folder))) return 0;
    errno = code;
    return 1;
}

static int fd_lacks(const char *name, int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return lacks(name, path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int fsync(int fd) {
    struct stat about;
    int is_folder = fstat(fd, &about) == 0 && S_ISDIR(about.st_mode);
    if (fd_lacks(is_folder ? "fsync_folder" : "fsync_file", fd)) return -1;
    return REAL(fsync)(fd);
}

int flock(int fd, int how) { return fd_lacks("flock", fd) ? -1 : REAL(flock)(fd, how); }

int rename(const char *from, const char *to) {
    return lacks("rename", from) ? -1 : REAL(rename)(from, to);
}

int ftruncate64(int fd, off64_t n) {
    return fd_lacks("ftruncate", fd) ? -1 : REAL(ftruncate64)(fd, n);
}

void *mmap64(void *at, size_t n, int rights, int flags, int fd, off64_t offset) {
    if (fd >= 0 && fd_lacks("mmap", fd)) return MAP_FAILED;
    return REAL(mmap64)(at, n, rights, flags, fd, offset);
}

void *mmap(void *at, size_t n, int rights, int flags, int fd, off_t offset) {
    if (fd >= 0 && fd_lacks("mmap", fd)) return MAP_FAILED;
    return REAL(mmap)(at, n, rights, flags, fd, offset);
}

static int refuses(const char *path, int flags) {
    struct stat about;
    if ((flags & O_TMPFILE) == O_TMPFILE) return lacks("tmpfile", path);
    if (flags & O_APPEND) return lacks("append", path);
    if (stat(path, &about) == 0 && S_ISDIR(about.st_mode) && !(flags & O_DIRECTORY))
        return lacks("open_folder", path);
    return 0;
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        va_list rest; \
        va_start(rest, flags); \
        mode_t bits = va_arg(rest, mode_t); \
        va_end(rest); \
        return refuses(path, flags) ? -1 : REAL(name)(path, flags, bits); \
    }
OPEN(open)
OPEN(open64)
