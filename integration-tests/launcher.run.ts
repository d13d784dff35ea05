/** Runs the launcher as it is built, which starts in a quarter of the time, and watches what it leaves behind. */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { built } from './built.ts';

const root = fileURLToPath(new URL('..', import.meta.url));

/** The launcher's script. */
export const launcher = join(built(), 'cli', 'deepspeed.js');

export interface Finished {
  status: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

export interface Launch {
  child: ChildProcess;
  finished: Promise<Finished>;
  /** Resolves when the launcher's standard error holds all the texts. */
  hasSaid(...texts: string[]): Promise<void>;
  /** Processes of this launch that still run, launcher and ranks. */
  processes(): number[];
}

export function fixture(name: string): string {
  return join(root, 'integration-tests', 'fixtures', 'launcher', name);
}

/** Starts the launcher in a session of its own, so that no terminal signals the ranks behind its back. */
export function startLauncher(
  words: readonly string[],
  { cwd = root, env = {} }: { cwd?: string; env?: NodeJS.ProcessEnv } = {},
): Launch {
  // The last argument of every script names the launch, which makes its processes findable.
  const tag = randomUUID();
  const child = spawn(process.execPath, [launcher, ...words, tag], {
    cwd,
    env: { ...process.env, NO_COLOR: '1', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  });
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text) => {
    stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text) => {
    stderr += text;
  });
  const finished = new Promise<Finished>((resolve) => {
    child.on('close', (status, signal) => resolve({ status, signal, stdout, stderr }));
  });
  return {
    child,
    finished,
    processes: () => processesNaming(tag),
    async hasSaid(...texts) {
      while (!texts.every((text) => stderr.includes(text))) {
        if (child.exitCode !== null || child.signalCode !== null)
          throw new Error(`the launcher ended without saying ${texts.join(', ')}:\n${stderr}`);
        await sleep(20);
      }
    },
  };
}

export function runLauncher(
  words: readonly string[],
  options?: { cwd?: string; env?: NodeJS.ProcessEnv },
): Promise<Finished> {
  return startLauncher(words, options).finished;
}

/** What the launcher says last: from the last line that begins with its name. */
export function lastWords(stderr: string): string {
  return stderr.slice(`\n${stderr}`.lastIndexOf('\ndeepspeed: '));
}

/** Resolves when the condition holds; the test's own time limit is the only one. */
export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await sleep(20);
}

function processesNaming(tag: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        return readFileSync(join('/proc', pid, 'cmdline'), 'utf8').includes(tag);
      } catch {
        return false; // gone meanwhile
      }
    })
    .map(Number);
}
