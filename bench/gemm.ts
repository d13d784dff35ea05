/**
 * Matrix products of training: GFLOP/s of `deepspeed.MatMul` against the most that the cores can do, ONNX
 * Runtime's product, OpenBLAS and PyTorch, each a process of its own. Where the processor has tile registers
 * (AMX) our product runs with them and without; the limit beside each is its own: a loop of multiplications
 * in vector registers, or in tile registers. Per width: GPT-2's product forward, its input gradient and its
 * weight gradient, and a product with a weight stored as Llama's. A pause before each pass lets the last
 * subject's threads stop spinning. `--only "1 thread"` takes a minute. Under DEEPSPEED_JS_ISA=avx2 the limit,
 * OpenBLAS and PyTorch are those of AVX2, too; ONNX Runtime takes what the processor has.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { loadAddon } from '../src/native/index.ts';
import {
  type Bench,
  type BenchOptions,
  compile,
  limitHere,
  limitPeer,
  type Measured,
  measure,
  Peer,
  pythonPeer,
  type Report,
  type Table,
  withIsa,
} from './lib.ts';

const tokens = 1024;
const widths = [384, 768, 1024, 2048];
const threadCounts = [1, 2];
/** Operations of a pass of the limit, a thread. */
const limitOperations = 2 ** 31;
/** From this width on a product counts as large. */
const largeWidth = 768;

interface Shape {
  name: string;
  width: number;
  /** op(A) and op(B): n as stored, t transposed. */
  trans: 'nn' | 'nt' | 'tn';
  m: number;
  n: number;
  k: number;
}

const shapes = widths.flatMap((width): Shape[] => {
  const wide = 4 * width;
  const gated = Math.ceil((8 * width) / 3 / 64) * 64;
  const of = (kind: string, trans: Shape['trans'], m: number, n: number, k: number): Shape => ({
    name: `width ${width} ${kind}`,
    width,
    trans,
    m,
    n,
    k,
  });
  return [
    of('forward', 'nn', tokens, wide, width),
    of('forward, Llama', 'nt', tokens, gated, width),
    of('input gradient', 'nt', tokens, width, wide),
    of('weight gradient', 'tn', width, wide, tokens),
  ];
});

async function openBlas(threads: number, { log }: BenchOptions): Promise<Peer | null> {
  const program = compile(process.env.CXX ?? 'c++', 'peers/gemm_openblas.cc');
  return Peer.start('openblas', program, [String(threads)], log);
}

async function enginePeer(
  subject: 'deepspeed-js' | 'onnxruntime',
  threads: number,
  { log }: BenchOptions,
  isa?: string,
): Promise<Peer> {
  const name = isa === undefined ? subject : `${subject} ${isa}`;
  const script = fileURLToPath(new URL('peers/gemm_engine.ts', import.meta.url));
  const args = ['--import', 'tsx', script, subject, String(threads)];
  const peer = await Peer.start(name, process.execPath, args, log, withIsa(isa));
  if (!peer) throw new Error(`${name} does not run`);
  return peer;
}

const [best] = loadAddon().info().isa as [string];
/** Our instruction sets that are worth a row: the one in use, and the vectors beside the tiles. */
const isas = best === 'amx' ? ['amx', 'avx512'] : [best];
const isAvx2 = best === 'avx2';
/** What others read to go without what we go without. */
const onlyAvx2 = { OPENBLAS_CORETYPE: 'Haswell', MKL_ENABLE_INSTRUCTIONS: 'AVX2' };

const peerNames = ['onnxruntime', 'openblas', 'torch'];

/** Ratios of one run that the aims are about: the worst of each. */
class Worst {
  private readonly ratios = new Map<string, number>();

  note(name: string, ratio: number): void {
    this.ratios.set(name, Math.min(ratio, this.ratios.get(name) ?? Number.POSITIVE_INFINITY));
  }

  get(name: string): number | null {
    return this.ratios.get(name) ?? null;
  }
}

/** Rates of one shape by subject, null where it is not here, and the spread of ours. */
interface Outcome {
  rate(subject: string): number | null;
  spread(subject: string): number;
}

function outcome(times: Map<string, Measured>, operations: number, threads: number): Outcome {
  return {
    rate(subject) {
      const time = times.get(subject);
      const done = subject.startsWith('limit') ? limitOperations * threads : operations;
      return time ? done / time.median / 1e9 : null;
    },
    spread: (subject) => times.get(subject)!.spread,
  };
}

async function runThreads(
  threads: number,
  options: BenchOptions,
  { figures, table }: { figures: Report['figures']; table: Table },
  worst: Worst,
): Promise<void> {
  const label = `${threads} thread${threads > 1 ? 's' : ''}`;
  const chosen = shapes.filter(({ name }) => `${label} ${name}`.includes(options.only));
  if (chosen.length === 0) return;
  const ours = await Promise.all(
    isas.map((isa) => enginePeer('deepspeed-js', threads, options, isa)),
  );
  const processor = isAvx2 ? 'haswell' : 'native';
  const limits = [
    await limitPeer('limit', 'fma.cc', [String(threads)], options, processor),
    isas.includes('amx')
      ? await limitHere('limit amx', 'amx.cc', [String(threads)], options)
      : null,
  ];
  const peers = [
    ...limits,
    ...ours,
    await enginePeer('onnxruntime', threads, options),
    await openBlas(threads, options),
    await pythonPeer('torch', 'gemm.py', [String(threads)], options),
  ].filter((peer): peer is Peer => peer !== null);

  for (const { name, width, trans, m, n, k } of chosen) {
    const operations = 2 * m * n * k;
    const repeat = Math.max(1, Math.round((threads * 5e9) / operations));
    const request = `${trans} ${m} ${n} ${k} ${repeat}`;
    const subjects = peers.map((peer) => ({
      name: peer.name,
      run: async () => {
        await pause(40);
        return peer.run(limits.includes(peer) ? 'run' : request);
      },
    }));
    const times = await measure(subjects, { warmup: 1, rounds: 5 });
    const { rate, spread } = outcome(times, operations, threads);
    for (const { name: subject } of peers)
      figures[`${label} ${name}: ${subject} GFLOP/s`] = rate(subject);
    for (const isa of isas) {
      const own = rate(`deepspeed-js ${isa}`)!;
      const limit = rate(isa === 'amx' ? 'limit amx' : 'limit');
      const over = (peer: string): string => {
        const other = rate(peer);
        if (other === null) return 'not here';
        worst.note(`${isa} over ${peer}`, own / other);
        return `${other.toFixed(0)} (${(own / other).toFixed(2)})`;
      };
      if (limit !== null && width >= largeWidth) worst.note(`${isa} share`, own / limit);
      figures[`${label} ${name}: deepspeed-js ${isa} spread`] = spread(`deepspeed-js ${isa}`);
      table.push([
        `${label}, ${name}, ${isa}`,
        `${own.toFixed(0)} (${spread(`deepspeed-js ${isa}`).toFixed(2)})`,
        limit === null ? 'not here' : `${limit.toFixed(0)} (${(own / limit).toFixed(2)})`,
        ...peerNames.map(over),
      ]);
    }
  }
  await Promise.all(peers.map((peer) => peer.stop()));
}

async function run(options: BenchOptions): Promise<Report> {
  if (isAvx2) Object.assign(process.env, onlyAvx2);
  const head = ['case', 'deepspeed-js (spread)', 'limit', 'ONNX Runtime', 'OpenBLAS', 'torch'];
  const report = { figures: { tokens } as Report['figures'], table: [head] };
  const worst = new Worst();
  for (const threads of threadCounts) await runThreads(threads, options, report, worst);
  const aims = isas.flatMap((isa): Report['aims'] => [
    {
      name: `${isa}: least share of its limit, width ${largeWidth} and more`,
      value: worst.get(`${isa} share`),
      op: '>=',
      aim: 0.9,
    },
    {
      name: `${isa}: least over OpenBLAS`,
      value: worst.get(`${isa} over openblas`),
      op: '>=',
      aim: 0.97,
    },
    {
      name: `${isa}: least over ONNX Runtime`,
      value: worst.get(`${isa} over onnxruntime`),
      op: '>=',
      aim: 1,
    },
  ]);
  return { ...report, aims };
}

export default {
  about:
    'matrix products of training: GFLOP/s against the peak, ONNX Runtime, OpenBLAS and PyTorch',
  run,
} satisfies Bench;
