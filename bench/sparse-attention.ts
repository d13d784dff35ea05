/**
 * Block-sparse attention, forward and backward, against the dense operator on the same arrays, the same
 * attention as plain ONNX operators in ONNX Runtime, and PyTorch's scaled_dot_product_attention. Causal; the
 * share of blocks counts those on and below the diagonal. Peak memory: the arrays (Q, K, V, Y and their gradients)
 * and what a run takes besides.
 */
import { GraphBuilder, type Graph } from '../src/graph/index.ts';
import { lower } from '../src/graph/passes/lower/index.ts';
import { inferTypes } from '../src/graph/shapes/infer.ts';
import { fromTyped } from '../src/graph/tensor.ts';
import { randomTensor } from '../src/graph/testing.ts';
import type { NativeEngine } from '../src/native/contract.ts';
import { BoundGraph, soloEngine } from '../src/native/engine-testing.ts';
import type { BlockLayout } from '../src/strategies/sparse-attention/block-layout.ts';
import {
  BigBirdSparsityConfig,
  BSLongformerSparsityConfig,
  FixedSparsityConfig,
} from '../src/strategies/sparse-attention/sparsity-config.ts';
import {
  type Bench,
  type BenchOptions,
  measure,
  type Peer,
  pythonPeer,
  type Report,
  type Subject,
  timed,
} from './lib.ts';

const lengths = [1024, 2048, 4096, 8192, 16384, 32768];
const size = 64;
const threads = 2;
/** Scores of more bytes are not given to ONNX Runtime, which holds several arrays of them. */
const mostScoreBytes = 1 << 29;
/** PyTorch computes every block: beyond this it would take minutes. */
const longestForTorch = 8192;
/** A fixed amount of memory, for the longest sequence of one head. */
const memory = 2 ** 30;
/** Q, K, V, Y and their gradients. */
const bytesOfArrays = 8 * size * 4;

const layouts: [name: string, make: (heads: number, length: number) => BlockLayout][] = [
  [
    'fixed',
    (num_heads, length) =>
      new FixedSparsityConfig({ num_heads, block: 64, attention: 'unidirectional' }).makeLayout(
        length,
      ),
  ],
  [
    'bigbird',
    (num_heads, length) =>
      new BigBirdSparsityConfig({ num_heads, block: 64, attention: 'unidirectional' }).makeLayout(
        length,
      ),
  ],
  [
    'bslongformer',
    (num_heads, length) =>
      new BSLongformerSparsityConfig({
        num_heads,
        block: 64,
        attention: 'unidirectional',
      }).makeLayout(length),
  ],
  [
    'bigbird 16',
    (num_heads, length) =>
      new BigBirdSparsityConfig({ num_heads, block: 16, attention: 'unidirectional' }).makeLayout(
        length,
      ),
  ],
];

/** One attention of one sequence, in an engine of its own, so that its memory can be told. */
class Attention {
  readonly #engine: NativeEngine;
  readonly #forward: BoundGraph;
  readonly #backward: BoundGraph;

  constructor(heads: number, length: number, layout: BlockLayout | null, plain: boolean) {
    this.#engine = soloEngine(threads);
    const rows = [1, heads, length, size];
    const shared = layout !== null && layout.distinct().bitmaps.length === 1;
    const blocks = layout && [shared ? 1 : heads, layout.blocks, layout.blocks];
    const build = (opType: string, names: string[], outputs: string[]) => {
      const b = new GraphBuilder(opType);
      const dims = (name: string) => (name === 'lse' ? [1, heads, length] : rows);
      const inputs: (string | undefined)[] = names.map((name) =>
        b.input(name, 'float32', dims(name)),
      );
      // bias, keyMask, cos, sin, rng and training are absent.
      if (blocks) inputs.push(...Array(6).fill(undefined), b.input('blocks', 'bool', blocks));
      const attributes = {
        layout: 'bhsd',
        heads,
        scale: 1 / Math.sqrt(size),
        causal: 1,
        ...(layout && { block: layout.block }),
      };
      const results = b.ops(opType, inputs, outputs.length, attributes, { domain: 'deepspeed' });
      outputs.forEach((name, i) => {
        b.output(results[i]!, 'float32', dims(name));
      });
      const graph = b.build();
      graph.nodes[0]!.outputs = outputs;
      graph.outputs = graph.outputs.map((output, i) => ({ ...output, name: outputs[i]! }));
      const bound = new BoundGraph(this.#engine, plain ? inPlainOperators(graph) : graph);
      names.forEach((name, i) => {
        bound.write(name, randomTensor({ dtype: 'float32', shape: dims(name) }, i + 1));
      });
      if (layout && blocks)
        bound.write('blocks', fromTyped('bool', blocks, bitsOf(layout, shared)));
      return bound;
    };
    this.#forward = build('Attention', ['q', 'k', 'v'], ['y', 'lse']);
    this.#engine.waitSync(this.#engine.run(this.#forward.instance));
    this.#backward = build('AttentionGrad', ['dy', 'q', 'k', 'v', 'y', 'lse'], ['dq', 'dk', 'dv']);
    for (const name of ['q', 'k', 'v', 'y', 'lse'])
      this.#backward.write(name, this.#forward.read(name));
    this.#engine.waitSync(this.#engine.run(this.#backward.instance));
  }

  /** What a run takes besides its inputs and outputs, in bytes. */
  get workspace(): number {
    return this.#engine.memory().peak.workspace;
  }

  /** Seconds of forward and backward. */
  run(): Promise<number> {
    return timed(() => {
      this.#engine.run(this.#forward.instance);
      this.#engine.waitSync(this.#engine.run(this.#backward.instance));
    });
  }

  dispose(): void {
    this.#engine.dispose();
  }
}

function bitsOf(layout: BlockLayout, shared: boolean): Uint8Array {
  return Uint8Array.from(
    (shared ? layout.heads.slice(0, 1) : layout.heads).flatMap((bitmap) => [...bitmap]),
  );
}

function inPlainOperators(graph: Graph): Graph {
  return lower({ graph, types: inferTypes(graph, {}) }, { what: 'all' }).graph;
}

async function run(options: BenchOptions): Promise<Report> {
  const figures: Report['figures'] = {};
  const torch = await pythonPeer('torch', 'attention.py', [String(threads)], options);
  let overShare = 0;
  let overShare16 = 0;
  let faster = Infinity;
  let longer: number | null = null;
  let ownPerScore: number | null = null;
  const head = ['length, heads', 'dense', ...layouts.map(([kind]) => kind), 'torch sdpa', 'plain'];
  const table = [head];
  for (const length of lengths.filter((n) => `length ${n}`.includes(options.only))) {
    const heads = length >= 8192 ? 2 : 8;
    const name = `length ${length}, ${heads} heads`;
    const made = new Map(layouts.map(([kind, make]) => [kind, make(heads, length)]));
    const own = heads * length ** 2 * 4 <= mostScoreBytes;
    const subjects = new Map<string, Attention>([
      ['dense', new Attention(heads, length, null, false)],
      ...[...made].map(([kind, layout]): [string, Attention] => [
        kind,
        new Attention(heads, length, layout, false),
      ]),
      ...(own ? [['own', new Attention(heads, length, null, true)] as const] : []),
    ]);
    const rows: Subject[] = [...subjects].map(([subject, attention]) => ({
      name: subject,
      run: () => attention.run(),
    }));
    const compared = length <= longestForTorch ? torch : null;
    if (compared) rows.push(torchSubject(compared, heads, length));
    const times = await measure(rows, { warmup: 1, rounds: length > 8192 ? 3 : 7 });
    const dense = times.get('dense')!.median;
    const causal = made.get('fixed')!;
    const set = (key: string, value: number | null) => {
      figures[`${name}: ${key}`] = value;
    };
    const peak = (subject: string) =>
      (subjects.get(subject)!.workspace + heads * length * bytesOfArrays) / 2 ** 20;
    /** Time and spread, and for our own the peak memory. */
    const cell = (subject: string, more = '') => {
      const { median, spread } = times.get(subject)!;
      const memory = subjects.has(subject) ? `, ${peak(subject).toPrecision(3)} MiB` : '';
      return `${(median * 1e3).toPrecision(3)} ms (${spread.toFixed(2)})${more}${memory}`;
    };
    const row = [`${length}, ${heads}`, cell('dense')];
    set('dense, ms', dense * 1e3);
    set('torch, ms', compared ? times.get('torch')!.median * 1e3 : null);
    set("ONNX Runtime's own operators, ms", own ? times.get('own')!.median * 1e3 : null);
    set('dense peak memory, MiB', peak('dense'));
    set("ONNX Runtime's own operators peak memory, MiB", own ? peak('own') : null);
    if (own) ownPerScore = subjects.get('own')!.workspace / (heads * length ** 2);
    for (const [kind, layout] of made) {
      const seconds = times.get(kind)!.median;
      const all = (heads * layout.blocks * (layout.blocks + 1)) / 2;
      const share = layout.count({ causal: true }) / all;
      const times_ = seconds / dense / share;
      set(`${kind}, ms`, seconds * 1e3);
      set(`${kind}, share of causal blocks`, share);
      set(`${kind}, times faster than dense`, dense / seconds);
      set(`${kind}, time over dense over share`, times_);
      set(`${kind} peak memory, MiB`, peak(kind));
      row.push(cell(kind, `, ${(dense / seconds).toPrecision(3)}×, ${times_.toFixed(2)}`));
      if (length === 16384 && share <= 0.1) faster = Math.min(faster, dense / seconds);
      if (layout.block === causal.block) overShare = Math.max(overShare, times_);
      else overShare16 = Math.max(overShare16, times_);
    }
    row.push(compared ? cell('torch') : '', own ? cell('own') : 'does not fit');
    table.push(row);
    if (ownPerScore !== null) {
      // The operator's workspace grows with the length, the scores of the plain form with its square.
      const perPosition = subjects.get('fixed')!.workspace / (heads * length) + bytesOfArrays;
      longer = memory / perPosition / longestPlain(ownPerScore);
    }
    options.log(
      `${name}: dense ${(dense * 1e3).toFixed(1)} ms, ${[...made.keys()].map((kind) => `${kind} ${(times.get(kind)!.median * 1e3).toFixed(1)}`).join(', ')}`,
    );
    for (const attention of subjects.values()) attention.dispose();
  }
  await torch?.stop();
  return {
    figures,
    table,
    aims: [
      {
        name: 'block 64: time over dense, over the share of causal blocks; most of all layouts and lengths',
        value: overShare || null,
        op: '<=',
        aim: 1.25,
      },
      { name: 'block 16: the same', value: overShare16 || null, op: '<=', aim: 2 },
      {
        name: 'at 16,384 with at most a tenth of the blocks: times faster than dense, least of all',
        value: Number.isFinite(faster) ? faster : null,
        op: '>=',
        aim: 8,
      },
      {
        name: 'longest sequence of one head in 1 GiB, times that of plain operators',
        value: longer,
        op: '>=',
        aim: 16,
      },
    ],
  };
}

/** The length at which scores and arrays of one head fill the memory. */
function longestPlain(bytesPerScore: number): number {
  const half = bytesOfArrays / (2 * bytesPerScore);
  return Math.sqrt(half ** 2 + memory / bytesPerScore) - half;
}

function torchSubject(torch: Peer, heads: number, length: number): Subject {
  const shape = `1 ${heads} ${length} ${size} 1`;
  return {
    name: 'torch',
    run: async () => (await torch.run(`forward ${shape}`)) + (await torch.run(`backward ${shape}`)),
  };
}

export default {
  about:
    'sparse attention: forward and backward by layout, against dense, plain operators, PyTorch',
  run,
} satisfies Bench;
