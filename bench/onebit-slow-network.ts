/**
 * Training over a slow network: two machines with a rank of one thread each, which are network namespaces on this
 * one, over links shaped to 4 Gbit/s, 1 Gbit/s and 100 Mbit/s. Optimizer steps a second and bytes on the wire, which
 * the interfaces count, of whole gradients after every micro batch and at the boundary, 16-bit ones, 1-bit Adam and
 * 0/1 Adam after their warm-up; and of PyTorch's DDP over gloo, plain and with its fp16 and PowerSGD hooks. The model
 * is such that whole gradients at 1 Gbit/s take at least three times as long as everything else.
 *
 * Tc: seconds of a step of two ranks at once that have nobody to talk to. Td: of the wire alone, whole gradients.
 */
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Machines, noNamespaces } from '../integration-tests/namespaces.ts';
import { type Bench, type BenchOptions, median, Peer, pythonCommand, type Report } from './lib.ts';
import type { ModelShape } from './ranks/model.ts';

const shape: ModelShape = { width: 512, layers: 3, vocabulary: 4096, length: 16, rows: 1 };
const microBatches = 2;
const links = [
  { name: '4 Gbit/s', rate: '4gbit', bitsPerSecond: 4e9, steps: 5, rounds: 3 },
  { name: '1 Gbit/s', rate: '1gbit', bitsPerSecond: 1e9, steps: 5, rounds: 3 },
  { name: '100 Mbit/s', rate: '100mbit', bitsPerSecond: 1e8, steps: 1, rounds: 3 },
];
/** Two dense steps, and what 0/1 Adam needs until it exchanges moves at every fourth step only. */
const warmUpSteps = 10;

/** As DeepSpeed's own config has it. */
const configs: Record<string, object> = {
  'every micro batch': { zero_optimization: { stage: 2 } },
  boundary: {},
  '16 bits': { communication_data_type: 'bf16' },
  '1-bit Adam': { optimizer: { type: 'OneBitAdam', params: { lr: 1e-4, freeze_step: 2 } } },
  '0/1 Adam': {
    optimizer: {
      type: 'ZeroOneAdam',
      params: { lr: 1e-4, var_freeze_step: 2, local_step_scaler: 4, local_step_clipper: 4 },
    },
  },
};
const hooks = { 'torch DDP': 'none', 'torch DDP fp16': 'fp16', 'torch DDP PowerSGD': 'powersgd' };

const here = fileURLToPath(new URL('.', import.meta.url));
const rankCommand = (config: object) => [
  ...[process.execPath, '--import', join(here, '..', 'node_modules', 'tsx', 'dist', 'loader.mjs')],
  ...[join(here, 'ranks', 'slow-network.ts')],
  ...[shape, microBatches, config].map((word) => JSON.stringify(word)),
];

/** Ranks on both machines, of which the first answers. */
function start(name: string, machines: Machines, { log }: BenchOptions): Promise<Peer | null> {
  const assignments = (variables: NodeJS.ProcessEnv) =>
    Object.entries(variables).map(([key, value]) => `${key}=${value}`);
  const config = configs[name];
  if (config) {
    const hosts = machines.addresses.map((address) => `${address}:1`).join(',');
    const mpirun = ['mpirun', '--host', hosts, '-n', '2', '--bind-to', 'none'];
    const words = [...assignments(machines.environment), ...mpirun, ...rankCommand(config)];
    return Peer.start(name, 'env', words, log);
  }
  const hook = hooks[name as keyof typeof hooks];
  const command = pythonCommand('slow_network.py', [
    ...['2', String(microBatches), hook, JSON.stringify(shape)],
  ]);
  const inside = [0, 1].map((index) => machines.inside(index));
  const variables = { GLOO_SOCKET_IFNAME: 'eth0', BENCH_MACHINES: JSON.stringify(inside) };
  const [program, ...words] = [...inside[0]!, 'env', ...assignments(variables), ...command];
  return Peer.start(name, program!, words, log);
}

/** Seconds of a step that talks to nobody, on both machines at once. */
async function aloneSeconds({ log }: BenchOptions): Promise<number> {
  const [program, ...words] = rankCommand({});
  const peers = await Promise.all(
    ['one', 'other'].map((name) => Peer.start(name, program!, words, log)),
  );
  const both = async (steps: number) => {
    const times = await Promise.all(peers.map((peer) => peer!.run(String(steps))));
    return Math.max(...times) / steps;
  };
  await both(warmUpSteps);
  const seconds: number[] = [];
  for (let round = 0; round < 3; round++) seconds.push(await both(5));
  await Promise.all(peers.map((peer) => peer!.stop()));
  return median(seconds);
}

async function run(options: BenchOptions): Promise<Report> {
  if (noNamespaces !== null) throw new Error(noNamespaces);
  const figures: Report['figures'] = {};
  const computing = await aloneSeconds(options);
  figures['compute ms'] = computing * 1e3;
  options.log(`compute ${(computing * 1e3).toFixed(1)} ms`);

  const chosen = links.filter(({ name }) => name.includes(options.only));
  const seconds = new Map<string, number>();
  const bytes = new Map<string, number>();
  const machines = new Machines(2);
  try {
    for (const name of [...Object.keys(configs), ...Object.keys(hooks)]) {
      for (const index of [0, 1]) machines.shape(index, '4gbit');
      const peer = await start(name, machines, options);
      if (peer === null) continue;
      await peer.run(String(warmUpSteps));
      for (const { name: link, rate, steps, rounds } of chosen) {
        for (const index of [0, 1]) machines.shape(index, rate);
        await peer.run('1');
        const times: number[] = [];
        const count = name === '0/1 Adam' ? 4 : steps;
        const before = machines.sent(0) + machines.sent(1);
        for (let round = 0; round < rounds; round++)
          times.push((await peer.run(String(count))) / count);
        const sent = (machines.sent(0) + machines.sent(1) - before) / 2 / rounds / count;
        const key = `${link}: ${name}`;
        seconds.set(key, median(times));
        bytes.set(key, sent);
        figures[`${key}: steps/s`] = 1 / median(times);
        figures[`${key}: bytes a step and machine`] = sent;
        options.log(
          `${key}: ${(1e3 * median(times)).toFixed(1)} ms a step, ${(sent / 1e6).toFixed(3)} MB`,
        );
      }
      await peer.stop();
    }
  } finally {
    machines.dispose();
  }
  return { figures, aims: aimsOf(computing, seconds, bytes, chosen) };
}

function aimsOf(
  computing: number,
  seconds: ReadonlyMap<string, number>,
  bytes: ReadonlyMap<string, number>,
  chosen: typeof links,
): Report['aims'] {
  const aims: Report['aims'] = [];
  for (const { name: link, bitsPerSecond } of chosen) {
    const of = (name: string) => seconds.get(`${link}: ${name}`) ?? null;
    const dense = bytes.get(`${link}: boundary`)!;
    const wire = (8 * dense) / bitsPerSecond;
    if (link === '1 Gbit/s')
      aims.push({ name: `${link}: Td over Tc`, value: wire / computing, op: '>=', aim: 3 });
    const ours = of('1-bit Adam')!;
    aims.push(
      {
        name: `${link}: dense bytes over 1-bit Adam's`,
        value: dense / bytes.get(`${link}: 1-bit Adam`)!,
        op: '>=',
        aim: 25,
      },
      {
        name: `${link}: 1-bit Adam over dense at the boundary`,
        value: of('boundary')! / ours,
        op: '>=',
        aim: (0.9 * (computing + wire)) / (computing + wire / 25),
      },
    );
    for (const peer of Object.keys(hooks)) {
      const theirs = of(peer);
      const value = theirs === null ? null : theirs / ours;
      aims.push({ name: `${link}: 1-bit Adam over ${peer}`, value, op: '>=', aim: 1 });
    }
  }
  return aims;
}

export default {
  about: 'training over 4 Gbit/s, 1 Gbit/s and 100 Mbit/s: dense, 16 bits, 1-bit, and PyTorch',
  run,
} satisfies Bench;
