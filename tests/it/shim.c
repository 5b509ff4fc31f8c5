/* Loaded before the C library: lets the disk fail to sync, and moves the time of day. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Whether this call fails: the FAIL_SYNC_FROM-th and the FAIL_SYNC_TIMES ones from it on. */
static int fails(void) {
  static atomic_int calls;
  const char *from = getenv("FAIL_SYNC_FROM"), *times = getenv("FAIL_SYNC_TIMES");
  if (!from || !times) return 0;
  int behind = ++calls - atoi(from);
  return behind >= 0 && behind < atoi(times);
}

static int sync_or_fail(long call, int file) {
  if (!fails()) return syscall(call, file);
  char link[64], name[512] = "";
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  if (readlink(link, name, sizeof name - 1) < 0) name[0] = 0;
  dprintf(2, "a sync of %s failed\n", name);
  errno = EIO;
  return -1;
}

int fsync(int file) { return sync_or_fail(SYS_fsync, file); }
int fdatasync(int file) { return sync_or_fail(SYS_fdatasync, file); }

/* The time of day is off by the seconds in the file CLOCK_OFFSET_FILE. */
int clock_gettime(clockid_t clock, struct timespec *now) {
  int result = syscall(SYS_clock_gettime, clock, now);
  const char *name = getenv("CLOCK_OFFSET_FILE");
  if (result == 0 && clock == CLOCK_REALTIME && name) {
    FILE *file = fopen(name, "r");
    long offset = 0;
    if (file && fscanf(file, "%ld", &offset) == 1) now->tv_sec += offset;
    if (file) fclose(file);
  }
  return result;
}
