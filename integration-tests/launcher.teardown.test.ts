import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { fixture, type Launch, lastWords, launcher, startLauncher, until } from './launcher.run.ts';

// What a run could leave in memory besides processes: nothing of ours may appear there.
const sharedMemoryFiles = () => readdirSync('/dev/shm').filter((name) => /deepspeed/i.test(name));
let before: string[];
let launch: Launch | undefined;
beforeEach(() => {
  before = sharedMemoryFiles();
});
afterEach(async () => {
  await until(() => (launch?.processes() ?? []).length === 0);
  expect(sharedMemoryFiles()).toEqual(before);
});

const start = (...words: string[]) => {
  launch = startLauncher(words);
  return launch;
};

describe('a rank that fails', () => {
  it('gives the launcher its exit code, and its last words come last', async () => {
    const { status, stderr } = await start('--num_procs', '3', fixture('end.mjs'), '1', 'exit')
      .finished;
    expect(status).toBe(7);
    expect(stderr).toMatch(
      /deepspeed: rank 1 \(pid \d+\) failed with exit code 7; the other ranks were stopped\n\[rank 1\] the words before exit 7\n$/,
    );
  });

  it.each([0, 1])('shows its uncaught error last (rank %i)', async (rank) => {
    const words = ['--num_procs', '2', fixture('end.mjs'), String(rank), 'throw'];
    const { status, stderr } = await start(...words).finished;
    expect(status).toBe(1);
    const last = stderr.slice(stderr.lastIndexOf('deepspeed:')).trimEnd().split('\n');
    expect(last[0]).toContain(`rank ${rank} `);
    expect(last[1]).toBe(`[rank ${rank}] Error: the cause of it all`);
    for (const line of last.slice(2)) expect(line).toMatch(/^\[rank \d\] {5}at /);
  });

  it('is told once, with the others, where all failed in the same way', async () => {
    const { status, stderr } = await start('--num_procs', '2', fixture('end.mjs'), 'all', 'throw')
      .finished;
    expect(status).toBe(1);
    expect(stderr).toMatch(/^deepspeed: ranks 0-1 failed with exit code 1\n\[ranks 0-1\] Error: /);
    expect(stderr.split('the cause of it all')).toHaveLength(2);
  });

  it('alone tells its error once', async () => {
    const { status, stderr } = await start('--num_procs', '1', fixture('end.mjs'), '0', 'throw')
      .finished;
    expect(status).toBe(1);
    expect(stderr).toMatch(/^Error: the cause of it all\n +at /);
    expect(stderr.split('the cause of it all')).toHaveLength(2);
  });

  it('that does not parse is told with file and line', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'launcher-'));
    try {
      const script = join(folder, 'broken.mjs');
      writeFileSync(script, 'const a = 1;\nthis is no JavaScript\n');
      const { status, stderr } = await start('--num_procs', '2', script).finished;
      expect(status).toBe(1);
      expect(lastWords(stderr)).toMatch(/^\[ranks 0-1\] file:.*broken\.mjs:2$/m);
      expect(lastWords(stderr)).toMatch(/^\[ranks 0-1\] SyntaxError: /m);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it('may mind its own errors', async () => {
    const { status, stderr } = await start('--num_procs', '1', fixture('end.mjs'), '0', 'mind')
      .finished;
    expect(status).toBe(5);
    expect(stderr).toContain('minded: the cause of it all');
  });

  it('lets all who listen to its end hear of it', async () => {
    const { status, stderr } = await start('--num_procs', '1', fixture('end.mjs'), '0', 'listen')
      .finished;
    expect(status).toBe(1);
    expect(stderr).toMatch(/^heard the error\nheard the end: 1\nError: the cause of it all\n/);
  });

  it('is named with the signal that killed it', async () => {
    const { status, stderr } = await start('--num_procs', '2', fixture('end.mjs'), '1', 'kill')
      .finished;
    expect(status).toBe(128 + 9);
    expect(stderr).toMatch(
      /rank 1 \(pid \d+\) was killed by SIGKILL; the other ranks were stopped/,
    );
    expect(stderr).toContain('out-of-memory killer');
  });

  it.each([
    ['throw', 1, /failed with exit code 1/, 'Error: the cause of it all'],
    ['kill', 137, /was killed by SIGKILL/, 'out-of-memory killer'],
  ])('ends those that wait for it in a collective (%s)', async (how, status, said, last) => {
    const words = ['--num_procs', '3', fixture('collective.ts'), '1', how];
    const finished = await start(...words).finished;
    expect(finished.status).toBe(status);
    const report = finished.stderr.slice(finished.stderr.lastIndexOf('deepspeed: rank 1'));
    expect(report).toMatch(said);
    expect(report).toContain(last);
  });
});

it('a rank that ends well while others still wait for it is named by their error', async () => {
  const words = ['--num_procs', '2', fixture('collective.ts'), '1', 'leave'];
  const { status, stderr } = await start(...words).finished;
  expect(status).toBe(1);
  expect(stderr.slice(stderr.lastIndexOf('deepspeed:'))).toMatch(/rank 1/);
});

it('ranks that meet and end well are a success', async () => {
  const words = ['--num_procs', '3', '--quiet', fixture('collective.ts'), '1', 'meet'];
  expect(await start(...words).finished).toMatchObject({ status: 0, stderr: '' });
});

it('a rank that stands still is named and everything ends', async () => {
  const words = ['--num_procs', '2', '--hang_timeout', '5', '--grace_period', '1'];
  const { status, stderr } = await start(...words, fixture('end.mjs'), '1', 'stop').finished;
  expect(status).toBe(1);
  expect(stderr).toMatch(/rank 1 hung: no sign of life for \d+ s/);
});

describe('a signal to the launcher', () => {
  it.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const)('%s lets ranks end by themselves', async (signal, status) => {
    const { child, finished, hasSaid } = start(
      ...['--num_procs', '2', fixture('wait.mjs'), 'graceful'],
    );
    await hasSaid('ready 0', 'ready 1');
    child.kill(signal);
    const result = await finished;
    expect(result.status).toBe(status);
    for (const rank of [0, 1]) expect(result.stderr).toContain(`saved by ${rank} on ${signal}`);
    expect(result.stderr.trimEnd()).toMatch(new RegExp(`deepspeed: stopped by ${signal}$`));
  });

  it('kills ranks that do not, after the grace period', async () => {
    const words = ['--num_procs', '2', '--grace_period', '1', fixture('wait.mjs'), 'stubborn'];
    const { child, finished, hasSaid } = start(...words);
    await hasSaid('ready 0', 'ready 1');
    child.kill('SIGINT');
    expect(await finished).toMatchObject({ status: 130 });
  });

  it('kills them at once when it comes twice', async () => {
    // The grace period is longer than the test may take.
    const words = ['--num_procs', '2', '--grace_period', '3600', fixture('wait.mjs'), 'stubborn'];
    const { child, finished, hasSaid } = start(...words);
    await hasSaid('ready 0', 'ready 1');
    child.kill('SIGINT');
    await hasSaid('ignored by 0', 'ignored by 1');
    child.kill('SIGINT');
    expect(await finished).toMatchObject({ status: 130 });
  });
});

// util-linux: runs a command on a terminal of its own.
const hasScript = spawnSync('script', ['--version']).status === 0;

it.skipIf(!hasScript)('Ctrl-C on a terminal reaches every rank once', async () => {
  const command = `${process.execPath} ${launcher} --num_procs 2 ${fixture('wait.mjs')} graceful`;
  const terminal = spawn('script', ['-qec', command, '/dev/null']);
  let shown = '';
  terminal.stdout.on('data', (text) => {
    shown += text;
  });
  await until(() => shown.includes('ready 0') && shown.includes('ready 1'));
  terminal.stdin.write('\u0003');
  const [status] = await once(terminal, 'close');
  expect(status).toBe(130);
  for (const rank of [0, 1]) expect(shown.split(`saved by ${rank} on SIGINT`)).toHaveLength(2);
});

it('the death of the launcher ends every rank', async () => {
  const { child, hasSaid, processes } = start('--num_procs', '2', fixture('wait.mjs'), 'stubborn');
  await hasSaid('ready 0', 'ready 1');
  expect(processes()).toHaveLength(3);
  child.kill('SIGKILL');
  await until(() => processes().length === 0);
});
