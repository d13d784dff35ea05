// MPI_Allreduce in place, under `mpirun -np 2`: answers `shared BYTES` with the seconds of one, the
// mean of as many as the ranks do, after two that are not measured. A rank that waits for a request
// sleeps on a semaphore: in MPI_Bcast it would spin, and take a core from the others that are
// measured.
#include <mpi.h>
#include <semaphore.h>

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <new>
#include <sstream>
#include <string>
#include <vector>

struct Post {
  sem_t ready;
  size_t bytes;  // 0: the end
};

double all_reduce(size_t bytes) {
  std::vector<float> data(bytes / sizeof(float));
  const size_t calls = std::clamp<size_t>((size_t{128} << 20) / bytes, 2, 2000);
  double start = 0;
  for (size_t call = 0; call < calls + 2; ++call) {
    if (call == 2) start = MPI_Wtime();
    MPI_Allreduce(MPI_IN_PLACE, data.data(), static_cast<int>(data.size()), MPI_FLOAT, MPI_SUM,
                  MPI_COMM_WORLD);
  }
  return (MPI_Wtime() - start) / static_cast<double>(calls);
}

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  void* base = nullptr;
  MPI_Win window;
  MPI_Win_allocate_shared(rank == 0 ? sizeof(Post) : 0, 1, MPI_INFO_NULL, MPI_COMM_WORLD, &base,
                          &window);
  MPI_Aint size = 0;
  int unit = 0;
  MPI_Win_shared_query(window, 0, &size, &unit, &base);
  Post* post = static_cast<Post*>(base);
  if (rank == 0) sem_init(&post->ready, 1, 0);
  MPI_Barrier(MPI_COMM_WORLD);
  if (rank == 0) {
    std::cout << "ready" << std::endl;
    for (std::string line; std::getline(std::cin, line);) {
      std::string place;
      std::istringstream(line) >> place >> post->bytes;
      sem_post(&post->ready);
      std::cout << all_reduce(post->bytes) << std::endl;
    }
    post->bytes = 0;
    sem_post(&post->ready);
  } else {
    for (;;) {
      sem_wait(&post->ready);
      if (post->bytes == 0) break;
      all_reduce(post->bytes);
    }
  }
  MPI_Win_free(&window);
  MPI_Finalize();
}
