/**
 * The attention operator's arithmetic rate, forward and backward, against the matrix product's on the same
 * threads, the processor's multiply-adds, and PyTorch's scaled_dot_product_attention on the same arrays.
 *
 * Operations as in FlashAttention's benchmarks (Dao 2023, arXiv 2307.08691): forward 4·S²·D for each head,
 * half of it with a causal mask; backward 2.5 times that, though it multiplies five times where forward
 * does twice, since the scores are computed again.
 */
import { GraphBuilder } from '../src/graph/index.ts';
import { randomTensor } from '../src/graph/testing.ts';
import type { NativeEngine } from '../src/native/contract.ts';
import { BoundGraph, soloEngine } from '../src/native/engine-testing.ts';
import {
  type Bench,
  type BenchOptions,
  limitPeer,
  type Measured,
  measure,
  type Peer,
  pythonPeer,
  type Report,
  type Subject,
  timed,
} from './lib.ts';

const tokens = 2048;
const width = 768;
const threadCounts = [2, 1] as const;
/** Of one pass of the limit on each thread. */
const limitFlops = 2 ** 31;
const productSize = 1024;
const backwardOverForward = 2.5;

interface Case {
  name: string;
  batch: number;
  heads: number;
  length: number;
  size: number;
  causal: boolean;
  threads: number;
}

function cases(only: string): Case[] {
  const all: Case[] = [];
  for (const threads of threadCounts) {
    for (const size of [64, 128]) {
      for (const [length, causal] of [
        [256, true],
        [512, true],
        [1024, true],
        [2048, true],
        [1024, false],
      ] as const) {
        const name = `${threads} threads, head size ${size}, length ${length}${causal ? '' : ' full'}`;
        const shape = { batch: tokens / length, heads: width / size, length, size };
        all.push({ name, ...shape, causal, threads });
      }
    }
  }
  return all.filter(({ name }) => name.includes(only));
}

const forwardFlops = ({ batch, heads, length, size, causal }: Case): number =>
  (4 * length ** 2 * size * heads * batch) / (causal ? 2 : 1);

function bound(
  engine: NativeEngine,
  opType: string,
  inputs: [string, number[]][],
  outputs: [string, number[]][],
  attributes: Record<string, number | string>,
): BoundGraph {
  const b = new GraphBuilder(opType);
  const names = inputs.map(([name, dims]) => b.input(name, 'float32', dims));
  const results = b.ops(opType, names, outputs.length, attributes, { domain: 'deepspeed' });
  outputs.forEach(([, dims], i) => {
    b.output(results[i]!, 'float32', dims);
  });
  const built = b.build();
  built.nodes[0]!.outputs = outputs.map(([name]) => name);
  built.outputs = built.outputs.map((output, i) => ({ ...output, name: outputs[i]![0] }));
  const graph = new BoundGraph(engine, built);
  inputs.forEach(([name, dims], i) => {
    graph.write(name, randomTensor({ dtype: 'float32', shape: dims }, i + 1));
  });
  return graph;
}

/** What `graph` takes, as a subject. */
const passOf = (name: string, engine: NativeEngine, graph: BoundGraph): Subject => ({
  name,
  run: () => timed(() => engine.waitSync(engine.run(graph.instance))),
});

/** Both passes; backward has what forward computed. */
function attention(engine: NativeEngine, item: Case): [forward: BoundGraph, backward: BoundGraph] {
  const { batch, heads, length, size, causal } = item;
  const rows = [batch, heads, length, size];
  const attributes = {
    layout: 'bhsd',
    heads,
    scale: 1 / Math.sqrt(size),
    causal: causal ? 1 : 0,
  };
  const operands: [string, number[]][] = ['q', 'k', 'v'].map((name) => [name, rows]);
  const forward = bound(
    engine,
    'Attention',
    operands,
    [
      ['y', rows],
      ['lse', [batch, heads, length]],
    ],
    attributes,
  );
  const backward = bound(
    engine,
    'AttentionGrad',
    [['dy', rows], ...operands, ['y', rows], ['lse', [batch, heads, length]]],
    [
      ['dq', rows],
      ['dk', rows],
      ['dv', rows],
    ],
    attributes,
  );
  engine.waitSync(engine.run(forward.instance));
  for (const name of ['q', 'k', 'v', 'y', 'lse']) backward.write(name, forward.read(name));
  return [forward, backward];
}

/** Times of one case by subject. */
async function measureCase(
  item: Case,
  engine: NativeEngine,
  limit: Peer,
  torch: Peer | null,
): Promise<Map<string, Measured>> {
  const { batch, heads, length, size, causal } = item;
  const [forward, backward] = attention(engine, item);
  const square = [productSize, productSize];
  const product = bound(
    engine,
    'MatMul',
    [
      ['a', square],
      ['b', square],
    ],
    [['c', square]],
    {},
  );
  const subjects = [
    { name: 'limit', run: () => limit.run() },
    passOf('product', engine, product),
    passOf('forward', engine, forward),
    passOf('backward', engine, backward),
  ];
  if (torch) {
    const shape = [batch, heads, length, size, causal ? 1 : 0].join(' ');
    for (const pass of ['forward', 'backward'])
      subjects.push({ name: `torch ${pass}`, run: () => torch.run(`${pass} ${shape}`) });
  }
  const times = await measure(subjects, { warmup: 2, rounds: 9 });
  for (const graph of [forward, backward, product]) graph.dispose();
  return times;
}

async function run(options: BenchOptions): Promise<Report> {
  const figures: Report['figures'] = {};
  let forwardShare = Number.POSITIVE_INFINITY;
  let backwardShare = Number.POSITIVE_INFINITY;
  let overTorch: number | null = Number.POSITIVE_INFINITY;
  for (const threads of threadCounts) {
    const chosen = cases(options.only).filter((item) => item.threads === threads);
    if (chosen.length === 0) continue;
    const engine = soloEngine(threads);
    const limit = await limitPeer('limit', 'fma.cc', [String(threads)], options);
    const torch = await pythonPeer('torch', 'attention.py', [String(threads)], options);
    for (const item of chosen) {
      const times = await measureCase(item, engine, limit, torch);
      const rate = (name: string, flops: number): number | null => {
        const time = times.get(name);
        return time ? flops / time.median / 1e9 : null;
      };
      const flops = forwardFlops(item);
      const forward = rate('forward', flops)!;
      const backward = rate('backward', backwardOverForward * flops)!;
      const product = rate('product', 2 * productSize ** 3)!;
      const set = (what: string, value: number | null): void => {
        figures[`${item.name}: ${what}`] = value;
      };
      set('forward GFLOP/s', forward);
      set('backward GFLOP/s', backward);
      set('matrix product GFLOP/s', product);
      set('multiply-adds GFLOP/s', rate('limit', threads * limitFlops));
      set('torch forward GFLOP/s', rate('torch forward', flops));
      set('torch backward GFLOP/s', rate('torch backward', backwardOverForward * flops));
      set('spread', Math.max(times.get('forward')!.spread, times.get('backward')!.spread));
      const ours = times.get('forward')!.median + times.get('backward')!.median;
      const theirs = torch
        ? times.get('torch forward')!.median + times.get('torch backward')!.median
        : null;
      set('times torch', theirs === null ? null : theirs / ours);
      if (item.length >= 1024) {
        forwardShare = Math.min(forwardShare, forward / product);
        backwardShare = Math.min(backwardShare, backward / product);
      }
      if (item.length >= 512)
        overTorch =
          theirs === null || overTorch === null ? null : Math.min(overTorch, theirs / ours);
      options.log(`${item.name}: ${forward.toFixed(0)} and ${backward.toFixed(0)} GFLOP/s`);
    }
    await Promise.all([limit, torch].map((peer) => peer?.stop()));
    engine.dispose();
  }
  const measured = (value: number | null): number | null =>
    value === Number.POSITIVE_INFINITY ? null : value;
  const least = 'least over all cases from length';
  return {
    figures,
    aims: [
      {
        name: `forward over the matrix product, ${least} 1024`,
        value: measured(forwardShare),
        op: '>=',
        aim: 0.6,
      },
      {
        name: `backward over the matrix product, ${least} 1024`,
        value: measured(backwardShare),
        op: '>=',
        aim: 0.5,
      },
      {
        name: `times torch, forward and backward, ${least} 512`,
        value: measured(overTorch),
        op: '>=',
        aim: 1,
      },
    ],
  };
}

export default {
  about: 'attention: GFLOP/s forward and backward against the matrix product and PyTorch',
  run,
} satisfies Bench;
