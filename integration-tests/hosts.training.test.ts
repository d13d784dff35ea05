/** Real training over several machines, which are network namespaces: faults in its middle, and what follows. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Played } from './fixtures/training/play.ts';
import type { Scenario } from './fixtures/training/scenario.ts';
import { type Launch, startLauncher } from './launcher.run.ts';
import { noMpi } from './mpi.ts';
import { Machines, noNamespaces } from './namespaces.ts';
import { mustRun } from './run-command.ts';
import { alone, difference, resultsIn, tfjsFixture } from './tfjs.run.ts';
import { raggedSamples, temporaryFolder, tinyGpt2 } from './training.ranks.ts';

const script = fileURLToPath(new URL('fixtures/training/resume.mjs', import.meta.url));
const root = fileURLToPath(new URL('..', import.meta.url));
const player = fileURLToPath(new URL('fixtures/training/play.ts', import.meta.url));
const steps = 12;

describe.skipIf(noMpi !== null || noNamespaces !== null)(
  'training over several machines',
  { timeout: 120_000 },
  () => {
    let machines: Machines;
    beforeEach(() => {
      machines = new Machines(3);
    });
    afterEach(() => machines?.dispose());

    function launch(hostfile: string, ...words: string[]): Launch {
      const flags = ['--hostfile', hostfile, '--link_timeout', '8'];
      return startLauncher([...flags, ...words], { env: machines.environment });
    }

    /** Trains to the end; `fault` strikes after step 5, when rank 0 waits for the others in the next. */
    async function train(host: string, hostfile: string, flags: string[], fault?: () => void) {
      const folder = temporaryFolder();
      const words = [host, folder, String(steps), ...(fault ? ['5'] : [])];
      const run = launch(hostfile, ...flags, script, ...words);
      if (fault) {
        await run.hasSaid('attempt 0: step 5 on 1');
        fault();
      }
      const { status, stderr } = await run.finished;
      return {
        stderr,
        status,
        result: () => JSON.parse(readFileSync(join(folder, 'result.json'), 'utf8')) as number[],
      };
    }

    it('a process killed: the same ranks go on from the last checkpoint, to the same bits', async () => {
      const hosts = machines.hostfile(1, 2);
      const never = await train('loop', hosts, []);
      const once = await train('loop', hosts, ['--max_restarts', '1'], () => {
        const [victim] = machines.ranks(1);
        process.kill(victim!, 'SIGKILL');
      });
      expect(once.stderr).toMatch(/rank [12] on \S+ \(process \d+\) has died/);
      expect(once.stderr).toContain('restart 1 of 1\n');
      // From the last checkpoint, that of step 4, and not from the beginning.
      expect(once.stderr).toContain('attempt 1: step 5 on 0');
      expect(once.stderr).not.toContain('attempt 1: step 1 on 0');
      expect(once.status).toBe(0);
      expect(once.result()).toEqual(never.result());
    });

    /** What the script comes to in one process, without a launcher. Fewer ranks add in another order. */
    async function expectAsAlone(host: string, result: number[]): Promise<void> {
      const folder = temporaryFolder();
      await mustRun(process.execPath, [script, host, folder, String(steps)], { cwd: root });
      const one = JSON.parse(readFileSync(join(folder, 'result.json'), 'utf8')) as number[];
      expect(difference(one, result)).toBeLessThan(1e-4);
    }

    it('a machine killed: the others are not blamed, and go on', async () => {
      const hosts = machines.hostfile(1, 1, 1);
      const once = await train('trainer', hosts, ['--max_restarts', '1'], () => machines.kill(2));
      const [, , lost] = machines.addresses;
      expect(once.stderr).toContain(`host ${lost} (rank 2) has died`);
      expect(once.stderr).toContain(`restart 1 of 1 without ${lost}\n`);
      expect(once.stderr).not.toContain('attempt 1: step 1 on 0');
      expect(once.status).toBe(0);
      await expectAsAlone('trainer', once.result());
    });

    it('a cable pulled: all end naming the machine, and the other goes on', async () => {
      const hosts = machines.hostfile(1, 1);
      const once = await train('loop', hosts, ['--max_restarts', '1'], () => machines.cut(1));
      const [, lost] = machines.addresses;
      expect(once.stderr).toContain(`host ${lost} (rank 1) is cut off: nothing was heard for 8 s`);
      expect(once.stderr).toContain(`restart 1 of 1 without ${lost}\n`);
      expect(once.status).toBe(0);
      await expectAsAlone('loop', once.result());
    });

    it('stage 3, a second copy by machine, checkpoints beside steps: the bits of stage 0', async () => {
      const hosts = machines.hostfile(2, 2);
      const play = async (zero: object, asyncSave: boolean): Promise<Played[]> => {
        const outputDir = temporaryFolder();
        const scenario: Scenario = {
          model: tinyGpt2,
          samples: raggedSamples(19),
          args: {
            outputDir,
            maxSteps: 3,
            saveStrategy: 'steps',
            saveSteps: 1,
            asyncSave,
            deepspeed: {
              train_micro_batch_size_per_gpu: 3,
              optimizer: { type: 'AdamW', params: { lr: 2e-3 } },
              zero_optimization: { reduce_bucket_size: 3000, ...zero },
            },
          },
        };
        const file = join(outputDir, 'scenario.json');
        writeFileSync(file, JSON.stringify(scenario));
        const result = join(outputDir, 'result');
        const { status, stderr } = await launch(hosts, player, file, result).finished;
        expect(status, stderr).toBe(0);
        expect(readFileSync(join(outputDir, 'latest'), 'utf8')).toBe('global_step3\n');
        return [0, 1, 2, 3].map((rank) =>
          JSON.parse(readFileSync(`${result}.${rank}.json`, 'utf8')),
        );
      };
      const [plain] = await play({ stage: 0 }, false);
      const limits = { stage3_param_persistence_threshold: 100, stage3_max_reuse_distance: 1 };
      const sharded = await play({ stage: 3, zero_hpz_partition_size: 2, ...limits }, true);
      for (const played of sharded) expect(played).toEqual(plain);
    });

    it('TensorFlow.js, unchanged, over two machines', async () => {
      // mpirun breaks lines of more than 4 KiB.
      const names = 'adam';
      const hosts = machines.hostfile(1, 1);
      const run = launch(hosts, '-q', tfjsFixture('scenarios.cjs'), names);
      const { stdout, stderr } = await run.finished;
      const one = await alone('scenarios.cjs', names);
      expect(difference(one, resultsIn(stdout + stderr))).toBeLessThan(3e-5);
    });
  },
);
