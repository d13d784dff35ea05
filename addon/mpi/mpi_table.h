/* What the module deepspeed_mpi.so gives to the engine: MPI, as little of it as is needed. The
 * module is built against the headers of one MPI and loaded when it is asked for; the engine itself
 * knows no MPI. C, so that the two need not share a C++ library. Calls come from one thread at a
 * time. */
#ifndef DSJS_MPI_TABLE_H
#define DSJS_MPI_TABLE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct DsjsMpiPlace {
  int rank, size;
  int host_leader; /* the lowest rank that shares memory with this one */
  int last_tag;
  int any_thread; /* any thread may call, one at a time */
} DsjsMpiPlace;

typedef struct DsjsMpiTable {
  const char* build_id; /* of the engine that it was built with */
  /* Of the functions below: 0, or an MPI error, which `explain` puts in words. */
  int (*start)(DsjsMpiPlace* place);
  /* Every rank's `bytes` at every rank, in rank order. */
  int (*gather)(const void* own, void* all, int bytes, void** request);
  int (*send)(const void* data, size_t bytes, int peer, int tag, void** request);
  int (*receive)(void* data, size_t bytes, int peer, int tag, void** request);
  /* From any rank, on tag 0. */
  int (*receive_any)(void* data, size_t bytes, void** request);
  /* One look at all of them. Those that have ended are gone, and null afterwards; of a receive,
   * bytes[i] came. *ended counts them. */
  int (*test)(void** const* requests, int count, size_t* bytes, int* ended);
  /* Asks a receive that has not begun to end. */
  int (*cancel)(void* request);
  int (*finish)(void);
  void (*explain)(int error, char* text, size_t room);
  void (*library)(char* text, size_t room);
} DsjsMpiTable;

/* The module's one symbol. */
#define DSJS_MPI_SYMBOL "dsjs_mpi_table"
typedef const DsjsMpiTable* (*DsjsMpiEntry)(void);

#ifdef __cplusplus
}
#endif
#endif
