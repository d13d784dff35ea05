/**
 * All-reduce of fp32 over two machines with one or two ranks each, which are network namespaces on this one, against
 * MPI_Allreduce on the same ranks; over a link as fast as the machine and over 1 Gbit/s. With two ranks a machine ours
 * also with both of them sending, and with one: by itself it takes what it has measured to be faster. Ranks of MPI spin
 * while they wait, so that no two subjects run at a time: each round starts each. Where ranks are more than cores they
 * yield while they spin, which is faster then.
 */
import { execFileSync } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Machines, noNamespaces } from '../integration-tests/namespaces.ts';
import { type Bench, type BenchOptions, compile, median, type Report } from './lib.ts';

const here = fileURLToPath(new URL('.', import.meta.url));
const kibi = 1 << 10;
const mebi = 1 << 20;
const rounds = 3;
const cases = [1, 2].flatMap((ranks) =>
  [
    {
      link: 'unshaped',
      rate: null,
      sizes: [4 * kibi, 64 * kibi, mebi, 4 * mebi, 16 * mebi, 64 * mebi],
    },
    { link: '1 Gbit/s', rate: '1gbit', sizes: [4 * kibi, 64 * kibi, mebi, 16 * mebi] },
  ].map((given) => ({ ...given, ranks, name: `2 x ${ranks}, ${given.link}` })),
);

function subjects(ranks: number, { log }: BenchOptions): Map<string, string[]> {
  const script = join(here, 'ranks', 'mpi-allreduce.ts');
  const tsx = join(here, '..', 'node_modules', 'tsx', 'dist', 'loader.mjs');
  const ours = (lanes: number) => [process.execPath, '--import', tsx, script, String(lanes)];
  const found = new Map([['ours', ours(0)]]);
  if (ranks > 1) {
    found.set('all lanes', ours(ranks));
    found.set('one lane', ours(1));
  }
  try {
    found.set('MPI_Allreduce', [compile('mpicxx', 'peers/mpi_allreduce.cc')]);
  } catch (error) {
    log(`MPI_Allreduce: not available here (${(error as Error).message.split('\n')[0]})`);
  }
  return found;
}

async function run(options: BenchOptions): Promise<Report> {
  if (noNamespaces !== null) throw new Error(noNamespaces);
  const figures: Report['figures'] = {};
  const aims: Report['aims'] = [];
  for (const { name, ranks, rate, sizes } of cases) {
    if (!name.includes(options.only)) continue;
    const machines = new Machines(2);
    try {
      if (rate !== null) for (const index of [0, 1]) machines.shape(index, rate);
      const hosts = machines.addresses.map((address) => `${address}:${ranks}`).join(',');
      const words = ['--host', hosts, '-n', String(2 * ranks), '--bind-to', 'none'];
      if (2 * ranks > availableParallelism()) words.push('--mca', 'mpi_yield_when_idle', '1');
      const env = { ...process.env, ...machines.environment, OMPI_MCA_btl: 'tcp,vader,self' };
      const start = (command: string[]) =>
        execFileSync('mpirun', [...words, ...command, ...sizes.map(String)], {
          env,
          encoding: 'utf8',
        })
          .trim()
          .split('\n')
          .map(Number);
      const all = subjects(ranks, options);
      const seconds = new Map<string, number[][]>([...all.keys()].map((subject) => [subject, []]));
      for (let round = 0; round < rounds; round++)
        for (const [subject, command] of all) seconds.get(subject)!.push(start(command));
      for (const [index, bytes] of sizes.entries()) {
        const size = bytes < mebi ? `${bytes / kibi} KiB` : `${bytes / mebi} MiB`;
        const medians = new Map(
          [...seconds].map(([subject, times]) => [
            subject,
            median(times.map((time) => time[index]!)),
          ]),
        );
        for (const [subject, time] of medians) {
          figures[`${name}, ${size}: ${subject} µs`] = time * 1e6;
          options.log(`${name}, ${size}: ${subject} ${(time * 1e6).toFixed(0)} µs`);
        }
        const theirs = medians.get('MPI_Allreduce');
        aims.push({
          name: `${name}, ${size}: times MPI_Allreduce`,
          value: theirs === undefined ? null : theirs / medians.get('ours')!,
          op: '>=',
          aim: 1,
        });
      }
    } finally {
      machines.dispose();
    }
  }
  return { figures, aims };
}

export default {
  about: 'all-reduce over two machines with one and two ranks each against MPI_Allreduce',
  run,
} satisfies Bench;
