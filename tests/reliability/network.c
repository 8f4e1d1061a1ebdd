/* Preloaded into a process and its children, this writes a line to the file that
 * NETWORK_LOG names for each call by which a program reaches, or looks up, another
 * machine. Sockets within this machine (AF_UNIX) do not count. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void record(const char *call, const char *about) {
    const char *name = getenv("NETWORK_LOG");
    char line[300];
    if (!name) return;
    int n = snprintf(line, sizeof line, "%s %.200s\n", call, about ? about : "");
    int fd = open(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0) abort();
    if (write(fd, line, n) != n) abort();
    close(fd);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int socket(int domain, int type, int protocol) {
    char about[20];
    snprintf(about, sizeof about, "%d", domain);
    if (domain != AF_UNIX) record("socket", about);
    return REAL(socket)(domain, type, protocol);
}

int connect(int fd, const struct sockaddr *to, socklen_t length) {
    char about[INET_ADDRSTRLEN] = "";
    if (to && to->sa_family == AF_INET)
        inet_ntop(AF_INET, &((const struct sockaddr_in *)to)->sin_addr, about,
                  sizeof about);
    if (to && to->sa_family != AF_UNIX) record("connect", about);
    return REAL(connect)(fd, to, length);
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **found) {
    record("getaddrinfo", node);
    return REAL(getaddrinfo)(node, service, hints, found);
}

int getnameinfo(const struct sockaddr *a, socklen_t n, char *host, socklen_t h,
                char *service, socklen_t s, int flags) {
    record("getnameinfo", "");
    return REAL(getnameinfo)(a, n, host, h, service, s, flags);
}

struct hostent *gethostbyname(const char *name) {
    record("gethostbyname", name);
    return REAL(gethostbyname)(name);
}

struct hostent *gethostbyname2(const char *name, int family) {
    record("gethostbyname2", name);
    return REAL(gethostbyname2)(name, family);
}

int gethostbyname_r(const char *name, struct hostent *found, char *buffer, size_t n,
                    struct hostent **result, int *error) {
    record("gethostbyname_r", name);
    return REAL(gethostbyname_r)(name, found, buffer, n, result, error);
}

int res_query(const char *name, int class, int type, unsigned char *answer, int n) {
    static int (*real)(const char *, int, int, unsigned char *, int);
    record("res_query", name);
    if (!real) real = dlsym(RTLD_NEXT, "res_query");
    return real ? real(name, class, type, answer, n) : -1;
}
