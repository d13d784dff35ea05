/**
 * All-reduce of fp32 over two machines with two ranks each, which are network namespaces on this one: ours with both
 * ranks of a machine sending, ours with one, and MPI_Allreduce on the same ranks; over a link as fast as the machine
 * and over 1 Gbit/s. Ranks of MPI spin while they wait, so that no two subjects run at a time: each round starts each.
 */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Machines, noNamespaces } from '../integration-tests/namespaces.ts';
import { type Bench, type BenchOptions, compile, median, type Report } from './lib.ts';

const here = fileURLToPath(new URL('.', import.meta.url));
const sizes = [4 << 10, 1 << 20, 32 << 20];
const links: [name: string, rate: string | null][] = [
  ['unshaped', null],
  ['1 Gbit/s', '1gbit'],
];
const rounds = 3;

function subjects({ log }: BenchOptions): Map<string, string[]> {
  const script = join(here, 'ranks', 'mpi-allreduce.ts');
  const tsx = join(here, '..', 'node_modules', 'tsx', 'dist', 'loader.mjs');
  const ours = (lanes: number) => [process.execPath, '--import', tsx, script, String(lanes)];
  const found = new Map([
    ['all lanes', ours(0)],
    ['one lane', ours(1)],
  ]);
  try {
    found.set('MPI_Allreduce', [compile('mpicxx', 'peers/mpi_allreduce.cc')]);
  } catch (error) {
    log(`MPI_Allreduce: not available here (${(error as Error).message.split('\n')[0]})`);
  }
  return found;
}

async function run(options: BenchOptions): Promise<Report> {
  if (noNamespaces !== null) throw new Error(noNamespaces);
  const machines = new Machines(2);
  const figures: Report['figures'] = {};
  const aims: Report['aims'] = [];
  try {
    const hosts = machines.addresses.map((address) => `${address}:2`).join(',');
    const start = (command: string[]) =>
      execFileSync(
        'mpirun',
        ['--host', hosts, '-n', '4', '--bind-to', 'none', ...command, ...sizes.map(String)],
        {
          env: { ...process.env, ...machines.environment, OMPI_MCA_btl: 'tcp,vader,self' },
          encoding: 'utf8',
        },
      )
        .trim()
        .split('\n')
        .map(Number);
    for (const [link, rate] of links.filter(([name]) => name.includes(options.only))) {
      if (rate !== null) for (const index of [0, 1]) machines.shape(index, rate);
      const all = subjects(options);
      const seconds = new Map<string, number[][]>([...all.keys()].map((name) => [name, []]));
      for (let round = 0; round < rounds; round++)
        for (const [name, command] of all) seconds.get(name)!.push(start(command));
      for (const [index, bytes] of sizes.entries()) {
        const size = bytes < 1 << 20 ? `${bytes >> 10} KiB` : `${bytes >> 20} MiB`;
        const medians = new Map(
          [...seconds].map(([name, times]) => [name, median(times.map((time) => time[index]!))]),
        );
        for (const [name, time] of medians) {
          figures[`${link}, ${size}: ${name} µs`] = time * 1e6;
          options.log(`${link}, ${size}: ${name} ${(time * 1e6).toFixed(0)} µs`);
        }
        const theirs = medians.get('MPI_Allreduce');
        aims.push({
          name: `${link}, ${size}: times MPI_Allreduce`,
          value: theirs === undefined ? null : theirs / medians.get('all lanes')!,
          op: '>=',
          aim: 1,
        });
      }
    }
  } finally {
    machines.dispose();
  }
  return { figures, aims };
}

export default {
  about: 'all-reduce over two machines with two ranks each against MPI_Allreduce',
  run,
} satisfies Bench;
