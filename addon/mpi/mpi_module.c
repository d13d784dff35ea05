/* deepspeed_mpi.so: mpi_table.h over the MPI that it was built with. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/mpi_table.h"

/* MPI counts in ints: longer messages are sent as so many bytes at a time. */
static const size_t kPiece = (size_t)1 << 30;

typedef struct Request {
  MPI_Request* pieces;
  int count, next;
  size_t bytes;
  int receives;
} Request;

static MPI_Comm world = MPI_COMM_NULL;

/*
 * Open MPI moves long messages over TCP in pieces that the receiver asks for one by one. Where both
 * send at once, as in an all-reduce, what it asks waits behind the data that goes the same way, and
 * a link carries one direction at a time: half the rate, measured at 100 Mbit/s. Without "put" (2)
 * the sender sends on its own; 1 is "send", 8 "send in place". A user's own setting stays.
 */
static void send_long_messages_unasked(void) { setenv("OMPI_MCA_btl_tcp_flags", "9", 0); }

static int start(DsjsMpiPlace* place) {
  int initialized = 0, provided = 0, error;
  if ((error = MPI_Initialized(&initialized))) return error;
  if (!initialized) send_long_messages_unasked();
  if (!initialized && (error = MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &provided)))
    return error;
  if (initialized && (error = MPI_Query_thread(&provided))) return error;
  place->any_thread = provided >= MPI_THREAD_SERIALIZED;
  if ((error = MPI_Comm_dup(MPI_COMM_WORLD, &world))) return error;
  MPI_Comm_set_errhandler(world, MPI_ERRORS_RETURN);
  MPI_Comm_rank(world, &place->rank);
  MPI_Comm_size(world, &place->size);
  MPI_Comm host;
  if ((error = MPI_Comm_split_type(world, MPI_COMM_TYPE_SHARED, place->rank, MPI_INFO_NULL, &host)))
    return error;
  place->host_leader = place->rank;
  if ((error = MPI_Bcast(&place->host_leader, 1, MPI_INT, 0, host))) return error;
  MPI_Comm_free(&host);
  int* most = NULL;
  int found = 0;
  MPI_Comm_get_attr(world, MPI_TAG_UB, &most, &found);
  place->last_tag = found ? *most : 32767;
  return 0;
}

static Request* new_request(size_t bytes, int receives) {
  Request* request = malloc(sizeof *request);
  const size_t count = bytes == 0 ? 1 : (bytes + kPiece - 1) / kPiece;
  request->pieces = malloc(count * sizeof *request->pieces);
  request->count = (int)count;
  request->next = 0;
  request->bytes = 0;
  request->receives = receives;
  return request;
}

static void free_request(Request* request) {
  free(request->pieces);
  free(request);
}

static size_t piece_bytes(size_t bytes, int index) {
  const size_t rest = bytes - (size_t)index * kPiece;
  return rest < kPiece ? rest : kPiece;
}

static int send_pieces(const void* data, size_t bytes, int peer, int tag, void** result) {
  Request* request = new_request(bytes, 0);
  for (int index = 0; index < request->count; ++index) {
    const int error =
        MPI_Isend((const char*)data + (size_t)index * kPiece, (int)piece_bytes(bytes, index),
                  MPI_BYTE, peer, tag, world, &request->pieces[index]);
    if (error) return error;
  }
  *result = request;
  return 0;
}

static int receive_pieces(void* data, size_t bytes, int peer, int tag, void** result) {
  Request* request = new_request(bytes, 1);
  for (int index = 0; index < request->count; ++index) {
    const int error =
        MPI_Irecv((char*)data + (size_t)index * kPiece, (int)piece_bytes(bytes, index), MPI_BYTE,
                  peer, tag, world, &request->pieces[index]);
    if (error) return error;
  }
  *result = request;
  return 0;
}

static int gather(const void* own, void* all, int bytes, void** result) {
  Request* request = new_request(0, 0);
  *result = request;
  return MPI_Iallgather(own, bytes, MPI_BYTE, all, bytes, MPI_BYTE, world, &request->pieces[0]);
}

static int receive_any(void* data, size_t bytes, void** result) {
  return receive_pieces(data, bytes, MPI_ANY_SOURCE, 0, result);
}

/* What MPI_Testsome works on: the next piece of each request. */
static struct {
  MPI_Request* pieces;
  MPI_Status* statuses;
  int* indices;
  int room;
} looked_at;

static void make_room(int count) {
  if (count <= looked_at.room) return;
  const size_t room = (size_t)count;
  looked_at.pieces = realloc(looked_at.pieces, room * sizeof *looked_at.pieces);
  looked_at.statuses = realloc(looked_at.statuses, room * sizeof *looked_at.statuses);
  looked_at.indices = realloc(looked_at.indices, room * sizeof *looked_at.indices);
  looked_at.room = count;
}

static int test(void** const* requests, int count, size_t* bytes, int* ended) {
  make_room(count);
  *ended = 0;
  for (int index = 0; index < count; ++index) {
    const Request* request = *requests[index];
    looked_at.pieces[index] = request->pieces[request->next];
  }
  int pieces = 0;
  const int error =
      MPI_Testsome(count, looked_at.pieces, &pieces, looked_at.indices, looked_at.statuses);
  for (int entry = 0; error == MPI_ERR_IN_STATUS && entry < pieces; ++entry)
    if (looked_at.statuses[entry].MPI_ERROR) return looked_at.statuses[entry].MPI_ERROR;
  if (error) return error;
  for (int entry = 0; entry < pieces; ++entry) {
    const int index = looked_at.indices[entry];
    Request* request = *requests[index];
    if (request->receives) {
      int received = 0;
      MPI_Get_count(&looked_at.statuses[entry], MPI_BYTE, &received);
      request->bytes += received > 0 ? (size_t)received : 0;
    }
    if (++request->next < request->count) continue;
    bytes[index] = request->bytes;
    free_request(request);
    *requests[index] = NULL;
    ++*ended;
  }
  return 0;
}

static int cancel(void* opaque) {
  Request* request = opaque;
  for (int index = request->next; index < request->count; ++index) {
    const int error = MPI_Cancel(&request->pieces[index]);
    if (error) return error;
  }
  return 0;
}

static int finish(void) {
  int finalized = 0;
  MPI_Finalized(&finalized);
  return finalized ? 0 : MPI_Finalize();
}

static void explain(int error, char* text, size_t room) {
  char words[MPI_MAX_ERROR_STRING];
  int length = 0;
  if (MPI_Error_string(error, words, &length)) snprintf(words, sizeof words, "error %d", error);
  snprintf(text, room, "%s", words);
}

static void library(char* text, size_t room) {
  char words[MPI_MAX_LIBRARY_VERSION_STRING];
  int length = 0;
  MPI_Get_library_version(words, &length);
  /* Its first line, up to what the packager adds. */
  words[strcspn(words, ",\n")] = '\0';
  snprintf(text, room, "%s", words);
}

__attribute__((visibility("default"))) const DsjsMpiTable* dsjs_mpi_table(void) {
  static const DsjsMpiTable table = {DSJS_BUILD_ID,  start,       gather, send_pieces,
                                     receive_pieces, receive_any, test,   cancel,
                                     finish,         explain,     library};
  return &table;
}
