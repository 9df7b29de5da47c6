// Counts the file operations of a process below one directory, and at a chosen one kills the process or lets it fail.
//
// Loaded with LD_PRELOAD, so that what C++ and Rust write counts as what Python writes does. Nothing is counted until
// `faults_arm`. An operation is a call that can change a directory or a file below the prefix: open for writing,
// write, truncate, sync, rename, unlink, mkdir, rmdir, link. After a fork the child has the state of its parent.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT, KILL_BEFORE, KILL_AFTER, TEAR, FAIL_FROM, FAIL_ONCE };
enum { GROWS = 1, REMOVES = 2 };  // Removals work on a full disk.

static char prefix[PATH_MAX];
static size_t prefix_length;
static volatile long counter, target;
static int mode, failure, log_file = -1;
static volatile int armed;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) ((__typeof__(&name))real(#name, &real_##name))
#define KEEP(name) static void *real_##name
static void *real(const char *name, void **place) {
  if (!*place) *place = dlsym(RTLD_NEXT, name);
  return *place;
}

// Arms the library. `at` counts from 1; `log` is a file descriptor for one line per operation, or -1.
void faults_arm(const char *directory, int what, long at, int error, int log) {
  pthread_mutex_lock(&lock);
  strncpy(prefix, directory, sizeof prefix - 1);
  prefix_length = strlen(prefix);
  mode = what, target = at, failure = error, log_file = log, counter = 0;
  armed = 1;
  pthread_mutex_unlock(&lock);
}

void faults_disarm(void) { armed = 0; }

long faults_count(void) { return counter; }

static int is_below(const char *path) {
  return !strncmp(path, prefix, prefix_length) && (path[prefix_length] == '/' || !path[prefix_length]);
}

// The absolute path that `name` means beside the open directory `at`; false if it is not below the prefix.
static int resolve(int at, const char *name, char *path) {
  if (!name) return 0;
  if (name[0] == '/') {
    snprintf(path, PATH_MAX, "%s", name);
  } else {
    char link[64];
    char base[PATH_MAX];
    if (at == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
    else snprintf(link, sizeof link, "/proc/self/fd/%d", at);
    ssize_t n = readlink(link, base, sizeof base - 1);
    if (n < 0) return 0;
    base[n] = 0;
    if ((size_t)snprintf(path, PATH_MAX, "%s/%s", base, name) >= PATH_MAX) return 0;
  }
  return is_below(path);
}

static int of_file(int handle, char *path) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
  ssize_t n = readlink(link, path, PATH_MAX - 1);
  if (n < 0) return 0;
  path[n] = 0;
  return is_below(path);
}

enum { GO = 0, REFUSE = 1, DIE_AFTER = 2, DIE_WITHIN = 3 };

static void die(void) {
  syscall(SYS_kill, getpid(), SIGKILL);
  for (;;) pause();
}

// What becomes of one operation on `path`: it may not return.
static int judge(const char *what, const char *path, int kind) {
  int verdict = GO;
  pthread_mutex_lock(&lock);
  if (armed) {
    long number = ++counter;
    if (log_file >= 0) {
      char line[PATH_MAX + 64];
      int n = snprintf(line, sizeof line, "%ld %s %s\n", number, what, path[prefix_length] ? path + prefix_length + 1 : ".");
      syscall(SYS_write, log_file, line, (size_t)n);
    }
    if (mode == FAIL_FROM && number >= target) verdict = REFUSE;
    if (number == target) {
      if (mode == KILL_BEFORE) die();
      if (mode == KILL_AFTER) verdict = DIE_AFTER;
      if (mode == TEAR) verdict = DIE_WITHIN;
      if (mode == FAIL_ONCE) verdict = REFUSE;
    }
    if (verdict == REFUSE && failure == ENOSPC && !(kind & GROWS)) verdict = GO;
  }
  // An operation that is the process's last holds the lock: no other thread does one more.
  if (verdict != DIE_AFTER && verdict != DIE_WITHIN) pthread_mutex_unlock(&lock);
  return verdict;
}

#define OPERATION(is_ours, what, path, kind, call)    \
  do {                                                \
    int verdict = armed && (is_ours) ? judge(what, path, kind) : GO; \
    if (verdict == REFUSE) {                          \
      errno = failure;                                \
      return -1;                                      \
    }                                                 \
    __typeof__(call) result = call;                   \
    if (verdict == DIE_AFTER || verdict == DIE_WITHIN) die(); \
    return result;                                    \
  } while (0)

#define WRITES(flags) (((flags) & O_ACCMODE) != O_RDONLY)
#define NEEDS_MODE(flags) (((flags) & O_CREAT) || ((flags) & O_TMPFILE) == O_TMPFILE)

#define OPEN(name)                                                              \
  KEEP(name);                                                                   \
  int name(const char *file, int flags, ...) {                                  \
    char path[PATH_MAX];                                                        \
    mode_t bits = 0;                                                            \
    if (NEEDS_MODE(flags)) {                                                    \
      va_list rest;                                                             \
      va_start(rest, flags);                                                    \
      bits = va_arg(rest, mode_t);                                              \
      va_end(rest);                                                             \
    }                                                                           \
    OPERATION(WRITES(flags) && resolve(AT_FDCWD, file, path), "open", path,     \
              flags & O_CREAT ? GROWS : 0, REAL(name)(file, flags, bits));      \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                            \
  KEEP(name);                                                                   \
  int name(int at, const char *file, int flags, ...) {                          \
    char path[PATH_MAX];                                                        \
    mode_t bits = 0;                                                            \
    if (NEEDS_MODE(flags)) {                                                    \
      va_list rest;                                                             \
      va_start(rest, flags);                                                    \
      bits = va_arg(rest, mode_t);                                              \
      va_end(rest);                                                             \
    }                                                                           \
    OPERATION(WRITES(flags) && resolve(at, file, path), "open", path,           \
              flags & O_CREAT ? GROWS : 0, REAL(name)(at, file, flags, bits));  \
  }
OPENAT(openat)
OPENAT(openat64)

KEEP(creat);
int creat(const char *file, mode_t bits) {
  char path[PATH_MAX];
  OPERATION(resolve(AT_FDCWD, file, path), "open", path, GROWS, REAL(creat)(file, bits));
}

#define FOPEN(name)                                                             \
  KEEP(name);                                                                   \
  FILE *name(const char *file, const char *how) {                               \
    char path[PATH_MAX];                                                        \
    if (armed && strpbrk(how, "wa+") && resolve(AT_FDCWD, file, path)) {        \
      int verdict = judge("open", path, GROWS);                                 \
      if (verdict == REFUSE) {                                                  \
        errno = failure;                                                        \
        return NULL;                                                            \
      }                                                                         \
      FILE *result = REAL(name)(file, how);                                     \
      if (verdict != GO) die();                                                 \
      return result;                                                            \
    }                                                                           \
    return REAL(name)(file, how);                                               \
  }
FOPEN(fopen)
FOPEN(fopen64)

// Writes: the one that is torn leaves half of its bytes.
KEEP(write);
ssize_t write(int handle, const void *bytes, size_t n) {
  char path[PATH_MAX];
  int verdict = armed && of_file(handle, path) ? judge("write", path, GROWS) : GO;
  if (verdict == REFUSE) {
    errno = failure;
    return -1;
  }
  if (verdict == DIE_WITHIN) {
    syscall(SYS_write, handle, bytes, n / 2);
    die();
  }
  ssize_t result = REAL(write)(handle, bytes, n);
  if (verdict == DIE_AFTER) die();
  return result;
}

#define PWRITE(name)                                                            \
  KEEP(name);                                                                   \
  ssize_t name(int handle, const void *bytes, size_t n, off_t offset) {         \
    char path[PATH_MAX];                                                        \
    int verdict = armed && of_file(handle, path) ? judge("write", path, GROWS) : GO; \
    if (verdict == REFUSE) {                                                    \
      errno = failure;                                                          \
      return -1;                                                                \
    }                                                                           \
    ssize_t result = REAL(name)(handle, bytes, verdict == DIE_WITHIN ? n / 2 : n, offset); \
    if (verdict != GO) die();                                                   \
    return result;                                                              \
  }
PWRITE(pwrite)
PWRITE(pwrite64)

KEEP(writev);
ssize_t writev(int handle, const struct iovec *parts, int n) {
  char path[PATH_MAX];
  int verdict = armed && of_file(handle, path) ? judge("write", path, GROWS) : GO;
  if (verdict == REFUSE) {
    errno = failure;
    return -1;
  }
  ssize_t result = REAL(writev)(handle, parts, verdict == DIE_WITHIN ? (n + 1) / 2 : n);
  if (verdict != GO) die();
  return result;
}

#define ON_FILE(name, what, kind, parameters, arguments)                        \
  KEEP(name);                                                                   \
  int name parameters {                                                         \
    char path[PATH_MAX];                                                        \
    OPERATION(of_file(handle, path), what, path, kind, REAL(name) arguments);   \
  }
ON_FILE(ftruncate, "truncate", GROWS, (int handle, off_t length), (handle, length))
ON_FILE(ftruncate64, "truncate", GROWS, (int handle, off64_t length), (handle, length))
ON_FILE(fsync, "sync", GROWS, (int handle), (handle))
ON_FILE(fdatasync, "sync", GROWS, (int handle), (handle))

#define ON_PATH(name, what, at, kind, parameters, arguments)                    \
  KEEP(name);                                                                   \
  int name parameters {                                                         \
    char path[PATH_MAX];                                                        \
    OPERATION(resolve(at, file, path), what, path, kind, REAL(name) arguments); \
  }
ON_PATH(truncate, "truncate", AT_FDCWD, GROWS, (const char *file, off_t length), (file, length))
ON_PATH(unlink, "unlink", AT_FDCWD, REMOVES, (const char *file), (file))
ON_PATH(unlinkat, flags & AT_REMOVEDIR ? "rmdir" : "unlink", at, REMOVES, (int at, const char *file, int flags),
        (at, file, flags))
ON_PATH(remove, "unlink", AT_FDCWD, REMOVES, (const char *file), (file))
ON_PATH(rmdir, "rmdir", AT_FDCWD, REMOVES, (const char *file), (file))
ON_PATH(mkdir, "mkdir", AT_FDCWD, GROWS, (const char *file, mode_t bits), (file, bits))
ON_PATH(mkdirat, "mkdir", at, GROWS, (int at, const char *file, mode_t bits), (at, file, bits))

// Renames and links: of the target.
KEEP(rename);
int rename(const char *from, const char *to) {
  char path[PATH_MAX];
  OPERATION(resolve(AT_FDCWD, to, path) || resolve(AT_FDCWD, from, path), "rename", path, REMOVES, REAL(rename)(from, to));
}
KEEP(renameat);
int renameat(int at, const char *from, int beside, const char *to) {
  char path[PATH_MAX];
  OPERATION(resolve(beside, to, path), "rename", path, REMOVES, REAL(renameat)(at, from, beside, to));
}
KEEP(renameat2);
int renameat2(int at, const char *from, int beside, const char *to, unsigned flags) {
  char path[PATH_MAX];
  OPERATION(resolve(beside, to, path), "rename", path, REMOVES, REAL(renameat2)(at, from, beside, to, flags));
}
KEEP(link);
int link(const char *from, const char *to) {
  char path[PATH_MAX];
  OPERATION(resolve(AT_FDCWD, to, path), "link", path, GROWS, REAL(link)(from, to));
}
KEEP(symlink);
int symlink(const char *from, const char *to) {
  char path[PATH_MAX];
  OPERATION(resolve(AT_FDCWD, to, path), "link", path, GROWS, REAL(symlink)(from, to));
}
