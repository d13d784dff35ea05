// MPI_Allreduce of fp32 sums, on the ranks that mpirun started. Arguments: sizes in bytes; rank 0
// prints the seconds of one call for each, after two that are not measured.
#include <mpi.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  for (int index = 1; index < argc; ++index) {
    const long bytes = std::atol(argv[index]);
    std::vector<float> data(static_cast<size_t>(bytes) / 4, 0);
    const int calls = static_cast<int>(std::clamp(64L * 1024 * 1024 / bytes, 2L, 2000L));
    double start = 0;
    for (int call = -2; call < calls; ++call) {
      if (call == 0) {
        MPI_Barrier(MPI_COMM_WORLD);
        start = MPI_Wtime();
      }
      MPI_Allreduce(MPI_IN_PLACE, data.data(), static_cast<int>(data.size()), MPI_FLOAT, MPI_SUM,
                    MPI_COMM_WORLD);
    }
    if (rank == 0) std::printf("%.9f\n", (MPI_Wtime() - start) / calls);
  }
  MPI_Finalize();
}
