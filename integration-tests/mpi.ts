/** MPI for tests: whether it is here, and how it is to behave. */
import { spawnSync } from 'node:child_process';

function whyNoMpi(): string | null {
  for (const tool of ['mpicc', 'mpirun'])
    if (spawnSync(tool, ['--version']).status !== 0) return `${tool} is not installed`;
  const version = spawnSync('mpirun', ['--version'], { encoding: 'utf8' }).stdout;
  return version.includes('Open MPI') ? null : 'this mpirun is not that of Open MPI';
}

/** Why tests with Open MPI cannot run here, or null. */
export const noMpi: string | null = whyNoMpi();
if (noMpi !== null) console.log(`tests with MPI are skipped: ${noMpi}`);

/**
 * Open MPI turns root away unless told. Messages go over TCP, as between machines; and inside this one, since it would
 * otherwise use every interface that it finds, also those of other tests, which go away while it does.
 */
export const mpiEnvironment: NodeJS.ProcessEnv = {
  ...process.env,
  OMPI_ALLOW_RUN_AS_ROOT: '1',
  OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: '1',
  OMPI_MCA_btl: 'tcp,self',
  OMPI_MCA_btl_tcp_if_include: 'lo',
};
