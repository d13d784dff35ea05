/** Who this process is among the ranks that mpirun, mpiexec or srun started, from what these leave in the environment. */

export interface MpiPlace {
  rank: number;
  worldSize: number;
  /** Among the ranks of its machine. */
  localRank: number;
  localSize: number;
}

type Environment = Readonly<Record<string, string | undefined>>;

/** Null for a process that none of them started. */
export function mpiPlace(environment: Environment): MpiPlace | null {
  return openMpi(environment) ?? slurm(environment) ?? hydra(environment);
}

function openMpi(environment: Environment): MpiPlace | null {
  const { OMPI_COMM_WORLD_RANK: rank, OMPI_COMM_WORLD_SIZE: size } = environment;
  const { OMPI_COMM_WORLD_LOCAL_RANK: localRank, OMPI_COMM_WORLD_LOCAL_SIZE: localSize } =
    environment;
  return place(rank, size, localRank, localSize);
}

/** MPICH's and its descendants' process manager. */
function hydra(environment: Environment): MpiPlace | null {
  const { PMI_RANK, PMI_SIZE, MPI_LOCALRANKID, MPI_LOCALNRANKS } = environment;
  return place(PMI_RANK, PMI_SIZE, MPI_LOCALRANKID, MPI_LOCALNRANKS);
}

/** Tasks of srun; a batch script itself is none, although it sees SLURM_NTASKS. */
function slurm(environment: Environment): MpiPlace | null {
  const { SLURM_STEP_ID: step, SLURM_NODEID: node } = environment;
  const { SLURM_PROCID: rank, SLURM_STEP_NUM_TASKS: size, SLURM_LOCALID: localRank } = environment;
  if (step === undefined || node === undefined) return null;
  const perNode = expandCounts(environment.SLURM_STEP_TASKS_PER_NODE ?? '');
  const localSize = perNode[Number(node)];
  return place(rank, size, localRank, localSize === undefined ? undefined : String(localSize));
}

/** Slurm writes `2(x3),1` for 2,2,2,1. */
function expandCounts(text: string): number[] {
  return text.split(',').flatMap((part) => {
    const [, count, times] = /^(\d+)(?:\(x(\d+)\))?$/.exec(part) ?? [];
    return Array.from({ length: Number(times ?? 1) }, () => Number(count));
  });
}

function place(...words: (string | undefined)[]): MpiPlace | null {
  const [rank, worldSize, localRank, localSize] = words.map((word) =>
    word !== undefined && /^\d+$/.test(word) ? Number(word) : null,
  );
  if (rank == null || worldSize == null) return null;
  return { rank, worldSize, localRank: localRank ?? rank, localSize: localSize ?? worldSize };
}
