/**
 * Matrix products of training: GFLOP/s of `deepspeed.MatMul` against the most that the cores can do (a loop
 * of multiplications in registers), ONNX Runtime's product, OpenBLAS and PyTorch, each a process of its own.
 * Per width: GPT-2's product forward, its input gradient and its weight gradient, and a product with a
 * weight stored as Llama's. A pause before each pass lets the last subject's threads stop spinning.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import {
  type Bench,
  type BenchOptions,
  compile,
  limitPeer,
  measure,
  Peer,
  pythonPeer,
  type Report,
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
  name: 'deepspeed-js' | 'onnxruntime',
  threads: number,
  { log }: BenchOptions,
): Promise<Peer> {
  const script = fileURLToPath(new URL('peers/gemm_engine.ts', import.meta.url));
  const args = ['--import', 'tsx', script, name, String(threads)];
  const peer = await Peer.start(name, process.execPath, args, log);
  if (!peer) throw new Error(`${name} does not run`);
  return peer;
}

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

async function runThreads(
  threads: number,
  options: BenchOptions,
  figures: Report['figures'],
  worst: Worst,
): Promise<void> {
  const label = `${threads} thread${threads > 1 ? 's' : ''}`;
  const chosen = shapes.filter(({ name }) => `${label} ${name}`.includes(options.only));
  if (chosen.length === 0) return;
  const limit = await limitPeer('limit', 'fma.cc', [String(threads)], options);
  const peers = [
    await enginePeer('deepspeed-js', threads, options),
    await enginePeer('onnxruntime', threads, options),
    await openBlas(threads, options),
    await pythonPeer('torch', 'gemm.py', [String(threads)], options),
  ].filter((peer): peer is Peer => peer !== null);

  for (const { name, width, trans, m, n, k } of chosen) {
    const operations = 2 * m * n * k;
    const repeat = Math.max(1, Math.round((threads * 5e9) / operations));
    const request = `${trans} ${m} ${n} ${k} ${repeat}`;
    const subjects = [limit, ...peers].map((peer) => ({
      name: peer.name,
      run: async () => {
        await pause(40);
        return peer.run(peer === limit ? 'run' : request);
      },
    }));
    const times = await measure(subjects, { warmup: 1, rounds: 7 });
    const rate = (subject: string): number | null => {
      const time = times.get(subject);
      const done = subject === 'limit' ? limitOperations * threads : operations;
      return time ? done / time.median / 1e9 : null;
    };
    const ours = rate('deepspeed-js')!;
    for (const subject of ['deepspeed-js', 'limit', 'onnxruntime', 'openblas', 'torch']) {
      const other = rate(subject);
      figures[`${label} ${name}: ${subject} GFLOP/s`] = other;
      if (other !== null && (subject !== 'limit' || width >= largeWidth))
        worst.note(subject, ours / other);
    }
    figures[`${label} ${name}: spread`] = times.get('deepspeed-js')!.spread;
  }
  await Promise.all([limit, ...peers].map((peer) => peer.stop()));
}

async function run(options: BenchOptions): Promise<Report> {
  const figures: Report['figures'] = { tokens };
  const worst = new Worst();
  for (const threads of threadCounts) await runThreads(threads, options, figures, worst);
  return {
    figures,
    aims: [
      {
        name: `least share of the peak, width ${largeWidth} and more`,
        value: worst.get('limit'),
        op: '>=',
        aim: 0.9,
      },
      { name: 'least over OpenBLAS', value: worst.get('openblas'), op: '>=', aim: 0.97 },
      { name: 'least over ONNX Runtime', value: worst.get('onnxruntime'), op: '>=', aim: 1 },
    ],
  };
}

export default {
  about:
    'matrix products of training: GFLOP/s against the peak, ONNX Runtime, OpenBLAS and PyTorch',
  run,
} satisfies Bench;
