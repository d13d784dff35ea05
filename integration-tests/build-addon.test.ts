/** What someone reads whose machine lacks a tool that the native engine is built with. */
import { mkdtemp, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { existsSync } from 'node:fs';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { runCommand } from './run-command.ts';

const root = fileURLToPath(new URL('..', import.meta.url));
const prebuilds = join(root, 'prebuilds', `${process.platform}-${process.arch}`);
const script = join(root, 'scripts', 'build-addon.mjs');
const onLinux = process.platform === 'linux';

/** A folder that is the whole PATH: it holds links to the tools that the machine is to have. */
let path: string;

beforeEach(async () => {
  path = await mkdtemp(join(tmpdir(), 'deepspeed-js-tools-'));
});

afterEach(() => rm(path, { recursive: true, force: true }));

async function provide(...tools: string[]): Promise<void> {
  for (const tool of tools) {
    const found = (process.env.PATH ?? '')
      .split(delimiter)
      .map((folder) => join(folder, tool))
      .find((file) => existsSync(file));
    if (!found) throw new Error(`this test needs ${tool}`);
    await symlink(found, join(path, tool));
  }
}

function build() {
  return runCommand(process.execPath, [script, '--force'], {
    cwd: root,
    env: { PATH: path, CXX: '' },
  });
}

it.runIf(onLinux).each([
  { tools: [], lacks: 'cmake', command: 'apt-get install cmake' },
  { tools: ['cmake'], lacks: 'c++', command: 'apt-get install g++ make' },
  { tools: ['cmake', 'c++'], lacks: 'make', command: 'apt-get install make' },
])('without $lacks: one error that names the command', async ({ tools, lacks, command }) => {
  await provide(...tools);
  const before = await readdir(prebuilds);
  const { status, output } = await build();
  expect(status).toBe(1);
  expect(output.split('\n')[0]).toBe(`deepspeed-js: building the native engine needs ${lacks}.`);
  expect(output).toContain(`fix: ${command}`);
  expect(output.trimEnd().split('\n')).toHaveLength(2);
  expect(await readdir(prebuilds)).toEqual(before);
});

it.runIf(onLinux)('a build that the system kills is not blamed on the compiler', async () => {
  await provide('c++', 'make');
  const cmake = '#!/bin/sh\n[ "$1" = --version ] || kill -9 $$\n';
  await writeFile(join(path, 'cmake'), cmake, { mode: 0o755 });
  const { status, output } = await build();
  expect(status).toBe(1);
  expect(output).toContain('cmake -S was ended by SIGKILL');
  expect(output).toContain('fix: A compiler that is killed usually lacked memory');
  expect(output).not.toContain('C++20');
});
