import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { loadAddon } from '../native/index.ts';
import { parseLine } from './arguments.ts';

const folder = mkdtempSync(join(tmpdir(), 'dsjs-machines-'));
afterAll(() => rmSync(folder, { recursive: true }));

function hostfile(name: string, text: string): string {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
}
const two = hostfile('two', 'far-0 slots=2\nfar-1 slots=4\n');
const here = hostfile('here', `${hostname()} slots=3\nfar slots=1\n`);
const options = (line: string) => parseLine(line.split(' '))!.options;

describe('machines on the command line', () => {
  it('are those of the hostfile, with the room that each has', () => {
    expect(options(`-H ${two} -e far-1:0,2 --link_timeout 5 --max_restarts 2 t.js`)).toMatchObject({
      maxRestarts: 2,
      hosts: {
        hosts: [
          { name: 'far-0', slots: [0, 1], room: 2 },
          { name: 'far-1', slots: [1, 3], room: 4 },
        ],
        kind: 'openmpi',
        extra: [],
        masterAddress: null,
        linkTimeoutMs: 5000,
      },
    });
  });

  it('hand the words of --launcher_args and the port of ssh on', () => {
    const { hosts } = options(`-H ${two} --launcher_args=--report-bindings --ssh_port 2222 t.js`);
    expect(hosts!.extra).toEqual(['--mca', 'plm_rsh_args', '-p 2222', '--report-bindings']);
  });

  it('are this one alone when only it is chosen, unless forced', () => {
    expect(options(`-H ${here} --num_nodes 1 t.js`)).toMatchObject({ hosts: null, numProcs: 3 });
    const forced = options(`-H ${here} --num_nodes 1 --force_multi t.js`);
    expect(forced.hosts!.hosts).toEqual([{ name: hostname(), slots: [0, 1, 2], room: 3 }]);
    expect(options('--force_multi --num_procs 2 t.js').hosts!.hosts).toEqual([
      { name: 'localhost', slots: [0, 1], room: 2 },
    ]);
  });

  it('are started by MPI where comm_backend of the config says so', () => {
    const config = (name: string, comm_backend: string) => {
      writeFileSync(join(folder, name), JSON.stringify({ comm_backend }));
      return join(folder, name);
    };
    const mpi = config('mpi.json', 'mpi');
    const { hosts, deepspeedConfig } = options(`--num_procs 2 t.js --deepspeed ${mpi}`);
    expect(hosts!.hosts).toEqual([{ name: 'localhost', slots: [0, 1], room: 2 }]);
    expect(deepspeedConfig).toBe(mpi);
    expect(options(`-H ${here} --num_nodes 1 --deepspeed ${mpi} t.js`).hosts).not.toBeNull();
    // As many as without: the cores.
    const [{ slots } = { slots: [] }] = options(`--deepspeed ${mpi} t.js`).hosts!.hosts;
    expect(slots.length).toBe(Math.max(1, Math.floor(loadAddon().systemLimits().cores)));
    for (const other of [config('shm.json', 'shm'), join(folder, 'none.json')])
      expect(options(`--num_procs 2 --deepspeed ${other} t.js`).hosts).toBeNull();
  });

  it.each([
    [`-H ${folder}/none t.js`, 'HOSTFILE_INVALID', 'cannot read the hostfile'],
    [`-H ${two} -i far-2 t.js`, 'LAUNCHER_USAGE', '--include names far-2'],
    [`-H ${two} --num_procs 3 t.js`, 'LAUNCHER_USAGE', 'the hostfile gives far-0 slots=2'],
    [`-H ${two} --launcher mpich --ssh_port 9 t.js`, 'LAUNCHER_USAGE', '--ssh_port does not go'],
    ['--include a t.js', 'LAUNCHER_USAGE', '--include needs a hostfile'],
    ['--num_nodes 2 t.js', 'LAUNCHER_USAGE', '--num_nodes 2 needs a hostfile'],
    ['--launcher pdsh t.js', 'NOT_AVAILABLE_YET', '--launcher pdsh is not available yet'],
    ['--no_ssh t.js', 'NOT_AVAILABLE_YET', '--no_ssh'],
  ])('%s is refused', (line, code, message) => {
    expect(() => parseLine(line.split(' '))).toThrow(
      expect.objectContaining({ code, message: expect.stringContaining(message) }),
    );
  });
});
