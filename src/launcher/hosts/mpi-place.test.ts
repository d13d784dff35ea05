import { describe, expect, it } from 'vitest';
import { mpiPlace } from './mpi-place.ts';

describe('mpiPlace', () => {
  it.each([
    [
      'mpirun',
      {
        OMPI_COMM_WORLD_RANK: '3',
        OMPI_COMM_WORLD_SIZE: '4',
        OMPI_COMM_WORLD_LOCAL_RANK: '1',
        OMPI_COMM_WORLD_LOCAL_SIZE: '2',
        SLURM_PROCID: '0', // of the allocation that mpirun runs in
        SLURM_NTASKS: '1',
      },
      { rank: 3, worldSize: 4, localRank: 1, localSize: 2 },
    ],
    [
      'mpiexec',
      { PMI_RANK: '1', PMI_SIZE: '2', MPI_LOCALRANKID: '0', MPI_LOCALNRANKS: '1' },
      { rank: 1, worldSize: 2, localRank: 0, localSize: 1 },
    ],
    [
      'srun',
      {
        SLURM_STEP_ID: '0',
        SLURM_PROCID: '4',
        SLURM_STEP_NUM_TASKS: '5',
        SLURM_LOCALID: '0',
        SLURM_NODEID: '2',
        SLURM_STEP_TASKS_PER_NODE: '2(x2),1',
        PMI_RANK: '4',
        PMI_SIZE: '5',
      },
      { rank: 4, worldSize: 5, localRank: 0, localSize: 1 },
    ],
    ['nobody', {}, null],
    ['a batch script of Slurm', { SLURM_JOB_ID: '7', SLURM_PROCID: '0', SLURM_NTASKS: '4' }, null],
  ])('%s', (_, environment, place) => {
    expect(mpiPlace(environment)).toEqual(place);
  });
});
