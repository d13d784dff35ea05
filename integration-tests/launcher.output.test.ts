import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { loadAddon } from '../src/native/index.ts';
import { fixture, launcher, runLauncher } from './launcher.run.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'launcher-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

const sortedLines = (text: string) => text.split('\n').sort();

it('rank 0 speaks; the standard errors of the others come by line, with their rank', async () => {
  const { status, stdout, stderr } = await runLauncher(['--num_procs', '3', fixture('speak.mjs')]);
  expect({ status, stdout }).toEqual({ status: 0, stdout: 'stdout of 0\n' });
  const own = 'first line of 0\nredrawn\rlast state of 0\npartial line of 0';
  expect(stderr).toContain(own);
  const others = [1, 2].flatMap((rank) =>
    ['first line', 'last state', 'partial line'].map((text) => `[rank ${rank}] ${text} of ${rank}`),
  );
  const rest = sortedLines(stderr.replace(own, '')).filter((line) => line !== '');
  const notes = rest.filter((line) => line.startsWith('deepspeed: warning'));
  expect(rest.filter((line) => !notes.includes(line))).toEqual(others.sort());
});

it('warns of more ranks than cores, unless told to be quiet', async () => {
  const ranks = Math.floor(loadAddon().systemLimits().cores) + 1;
  // One core for all of them is refused after the warning, so that no rank needs to start.
  const words = ['--num_procs', `${ranks}`, '--bind_cores_to_rank', '--bind_core_list', '0'];
  const warned = await runLauncher([...words, fixture('speak.mjs')]);
  const quiet = await runLauncher([...words, '--quiet', fixture('speak.mjs')]);
  expect([warned.status, quiet.status]).toEqual([2, 2]);
  expect(warned.stderr).toContain(`warning: ${ranks} ranks share ${ranks - 1} core`);
  expect(quiet.stderr).not.toContain('warning');
});

it('a number of ranks that cannot be meant is refused before any is started', async () => {
  const words = ['--num_procs', '1000000', fixture('speak.mjs')];
  for (const more of [[], ['--oversubscribe'], ['--force_multi']]) {
    const { status, stdout, stderr } = await runLauncher([...more, ...words]);
    expect({ status, stdout }).toEqual({ status: 1, stdout: '' });
    expect(stderr).toMatch(
      /^deepspeed: 1000000 ranks need .* enough for \d+\n.*OUT_OF_MEMORY\)\n$/s,
    );
  }
});

it('--enable_each_rank_log keeps both streams of every rank, and rank 0 still speaks', async () => {
  const logs = join(folder, 'a', 'b');
  const words = ['--num_procs', '2', '--enable_each_rank_log', logs, fixture('speak.mjs')];
  const { status, stdout } = await runLauncher(words);
  expect({ status, stdout }).toEqual({ status: 0, stdout: 'stdout of 0\n' });
  expect(readdirSync(logs)).toHaveLength(4);
  for (const rank of [0, 1]) {
    const read = (stream: string) => readFileSync(join(logs, `rank_${rank}.${stream}`), 'utf8');
    expect(read('stdout')).toBe(`stdout of ${rank}\n`);
    expect(read('stderr')).toBe(
      `first line of ${rank}\nredrawn\rlast state of ${rank}\npartial line of ${rank}`,
    );
  }
});

it('the log of a rank ends with the error that ended it', async () => {
  const words = ['--num_procs', '2', '--enable_each_rank_log', folder, fixture('end.mjs')];
  const { status } = await runLauncher([...words, 'all', 'throw']);
  expect(status).toBe(1);
  for (const rank of [0, 1]) {
    const log = readFileSync(join(folder, `rank_${rank}.stderr`), 'utf8');
    expect(log).toMatch(/^Error: the cause of it all\n +at /);
  }
});

it('loses nothing of much output, and gives each line whole', async () => {
  const script = join(folder, 'much.mjs');
  writeFileSync(
    script,
    `for (let i = 0; i < 20000; i++) process.stderr.write(process.env.RANK + ' line ' + i + ' äöü\\n');`,
  );
  const { status, stderr } = await runLauncher(['--num_procs', '2', script]);
  expect(status).toBe(0);
  const lines = stderr.split('\n');
  for (const [rank, prefix] of [
    [0, ''],
    [1, '[rank 1] '],
  ] as const) {
    const start = `${prefix}${rank} line `;
    const own = lines.filter((line) => line.startsWith(start));
    expect(own).toEqual(Array.from({ length: 20000 }, (_, i) => `${start}${i} äöü`));
  }
});

// util-linux: runs a command on a terminal of its own.
const hasScript = spawnSync('script', ['--version']).status === 0;

it.skipIf(!hasScript)(
  'gives rank 0 the terminal, and colour only where NO_COLOR is not set',
  () => {
    const program = join(folder, 'terminal.mjs');
    writeFileSync(
      program,
      `const { stdin, stdout, stderr } = process;
     console.error([stdin, stdout, stderr].map((stream) => Boolean(stream.isTTY)).join());`,
    );
    const command = `${process.execPath} ${launcher} --num_procs 2 ${program}`;
    const onTerminal = (NO_COLOR: string) =>
      spawnSync('script', ['-qec', command, '/dev/null'], {
        encoding: 'utf8',
        env: { ...process.env, NO_COLOR, FORCE_COLOR: '' },
      }).stdout.replaceAll('\r', '');
    expect(onTerminal('1')).toContain('[rank 1] false,false,false\n');
    const coloured = onTerminal('');
    expect(coloured).toContain('true,true,true\n');
    expect(coloured).toContain('\u001b[36m[rank 1]\u001b[39m false,false,false\n');
  },
);
