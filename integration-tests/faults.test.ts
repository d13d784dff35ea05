import { readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { lastWords, type Launch, startLauncher, until } from './launcher.run.ts';
import { temporaryFolder } from './training.ranks.ts';

const script = fileURLToPath(new URL('fixtures/training/faulty.ts', import.meta.url));

// Nothing of a run may stay: no process, no shared memory, no temporary file (tsx keeps a cache there).
const temporary = temporaryFolder();
const leftovers = () =>
  ['/dev/shm', temporary].flatMap((folder) =>
    readdirSync(folder).filter((name) => /deepspeed/i.test(name)),
  );
let before: string[];
let launch: Launch;
beforeEach(() => {
  before = leftovers();
});
afterEach(async () => {
  await until(() => launch.processes().length === 0);
  expect(leftovers()).toEqual(before);
});

function start(fault: string, rank: number, flags: string[] = []): Launch {
  launch = startLauncher(
    ['--num_procs', '2', ...flags, script, fault, String(rank), temporaryFolder()],
    { env: { TMPDIR: temporary } },
  );
  return launch;
}

describe('in the middle of training', () => {
  it.each([0, 1])('kill -9 of rank %i ends everything and names it', async (rank) => {
    const { finished } = start('kill', rank);
    const { status, stderr } = await finished;
    expect(status).toBe(128 + 9);
    expect(lastWords(stderr)).toMatch(
      new RegExp(`rank ${rank} \\(pid \\d+\\) was killed by SIGKILL`),
    );
  });

  it('kill -9 from outside, with the ranks inside a step, ends everything at once', async () => {
    // Time limits are longer than the test may take: none of them ends it.
    const flags = ['--grace_period', '3600', '--hang_timeout', '3600'];
    const { finished, hasSaid, processes, child } = start('none', 0, flags);
    await hasSaid('training 0', 'training 1');
    const [victim] = processes().filter((pid) => pid !== child.pid);
    process.kill(victim!, 'SIGKILL');
    const { status, stderr } = await finished;
    expect(status).toBe(128 + 9);
    expect(lastWords(stderr)).toContain(`(pid ${victim}) was killed by SIGKILL`);
  });

  it('a rank that throws is named, with its own error last', async () => {
    const { status, stderr } = await start('throw', 1).finished;
    expect(status).toBe(1);
    expect(lastWords(stderr)).toMatch(/rank 1 .*failed/);
    expect(lastWords(stderr)).toContain('Error: the cause of it all');
  });

  it('a rank that ends early, as if all were well, is named by those it leaves', async () => {
    const { status, stderr } = await start('leave', 1).finished;
    expect(status).not.toBe(0);
    expect(lastWords(stderr)).toMatch(/rank 1/);
  });

  it('ranks in different collectives are an error that names both, operations and sizes', async () => {
    const { status, stderr } = await start('differ', 1).finished;
    expect(status).not.toBe(0);
    expect(stderr).toMatch(
      /ranks called different things: rank 0 \w+ \(call \d+, \d+ x \w+\), rank 1 \w+ \(call \d+, \d+ x \w+\)/,
    );
  });

  it('a rank that comes to no collective is named after the hang timeout', async () => {
    const { status, stderr } = await start('absent', 1, ['--hang_timeout', '6']).finished;
    expect(status).not.toBe(0);
    expect(stderr).toMatch(/rank 1 (has not come to|hung)/);
  });

  it('Ctrl-C ends it', async () => {
    const { child, finished, hasSaid } = start('none', 0);
    await hasSaid('training 0', 'training 1');
    child.kill('SIGINT');
    expect((await finished).status).toBe(130);
  });

  it('the death of the launcher ends every rank', async () => {
    const { child, hasSaid } = start('none', 0);
    await hasSaid('training 0', 'training 1');
    child.kill('SIGKILL');
  });
});
