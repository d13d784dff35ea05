/* A module of mpi_table.h for mpi_transport_test.cc: one rank of two, whose peer never comes. What
 * goes wrong is the test's to say, through the variables. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "mpi/mpi_table.h"

#define VISIBLE __attribute__((visibility("default")))

enum { kWorks, kFailsToSend, kFailsToTest, kNeverStarts };
VISIBLE int fake_mpi_state = kWorks;
/* Looks until what is received has come; negative: it never does. */
VISIBLE int fake_mpi_looks = -1;

typedef struct Request {
  enum { kSend, kReceive, kNotice } kind;
  int cancelled;
} Request;

static int request(int kind, void** result) {
  Request* made = malloc(sizeof *made);
  made->kind = kind;
  made->cancelled = 0;
  *result = made;
  return 0;
}

static int start(DsjsMpiPlace* place) {
  const struct timespec pause = {0, 1000000};
  while (*(volatile int*)&fake_mpi_state == kNeverStarts) nanosleep(&pause, NULL);
  const DsjsMpiPlace made = {0, 2, 0, 32767, 1};
  *place = made;
  return 0;
}

static int gather(const void* own, void* all, int bytes, void** result) {
  (void)own, (void)all, (void)bytes, (void)result;
  return 1;
}

static int send(const void* data, size_t bytes, int peer, int tag, void** result) {
  (void)data, (void)bytes, (void)peer, (void)tag;
  return fake_mpi_state == kFailsToSend ? 1 : request(kSend, result);
}

static int receive(void* data, size_t bytes, int peer, int tag, void** result) {
  (void)data, (void)bytes, (void)peer, (void)tag;
  return request(kReceive, result);
}

static int receive_any(void* data, size_t bytes, void** result) {
  (void)data, (void)bytes;
  return request(kNotice, result);
}

static int test(void** const* requests, int count, size_t* bytes, int* ended) {
  if (fake_mpi_state == kFailsToTest) return 1;
  if (fake_mpi_looks > 0) --fake_mpi_looks;
  *ended = 0;
  for (int index = 0; index < count; ++index) {
    const Request* look = *requests[index];
    const int done = look->kind == kSend || (look->kind == kReceive && fake_mpi_looks == 0) ||
                     (look->kind == kNotice && look->cancelled);
    if (!done) continue;
    bytes[index] = 1;
    free(*requests[index]);
    *requests[index] = NULL;
    ++*ended;
  }
  return 0;
}

static int cancel(void* opaque) {
  ((Request*)opaque)->cancelled = 1;
  return 0;
}

static int finish(void) { return 0; }
static void explain(int error, char* text, size_t room) {
  (void)error;
  strncpy(text, "as the test says", room);
}
static void library(char* text, size_t room) { strncpy(text, "no MPI", room); }

VISIBLE const DsjsMpiTable* dsjs_mpi_table(void) {
  static const DsjsMpiTable table = {DSJS_BUILD_ID, start,  gather, send,    receive, receive_any,
                                     test,          cancel, finish, explain, library};
  return &table;
}
