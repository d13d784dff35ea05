/**
 * deepspeed.Attention and its gradient inside ONNX Runtime against the same node in plain operators: all
 * layouts and options, shapes that do not fit, memory. The kernels have their own tests in C++.
 *
 * Both sides compute in fp32, so they differ by the rounding of sums of some ten products, of
 * exponentials and of sums over the keys: less than 2⁻¹⁶ of the largest value of a result here.
 */
import { afterAll, describe, expect, test } from 'vitest';
import {
  fromNumbers,
  GraphBuilder,
  inferTypes,
  numel,
  type Tensor,
  toNumbers,
} from '../graph/index.ts';
import { lower } from '../graph/passes/lower/index.ts';
import { load, randomNumbers } from '../graph/testing.ts';
import { soloEngine } from './engine-testing.ts';
import { ints, type Port, random, runOperator } from './operator-testing.ts';

const engine = soloEngine(2);
afterAll(() => engine.dispose());

type Layout = 'bhsd' | 'bshd' | 'packed';
interface Case {
  title: string;
  layout: Layout;
  heads?: number;
  kvHeads?: number;
  length?: number;
  keys?: number;
  causal?: boolean;
  bias?: number[];
  mask?: boolean;
  rotated?: boolean;
}

const [batch, size] = [2, 8];

function problem({ layout, heads = 4, kvHeads = heads, length = 21, ...o }: Case) {
  const keys = o.keys ?? length;
  const dims = (count: number, rows: number): number[] =>
    layout === 'bhsd' ? [batch, count, rows, size] : [batch, rows, count * size];
  const packed = layout === 'packed';
  const q = packed ? dims(heads + 2 * kvHeads, length) : dims(heads, length);
  const kv = packed ? undefined : dims(kvHeads, keys);
  const y = dims(heads, length);
  const lse = [batch, heads, length];
  const angles = randomNumbers((length * size) / 2, 9, -3, 3);
  const table = (fn: (x: number) => number): Port => ({
    dims: [length, size / 2],
    values: angles.map(fn),
  });
  const seen = randomNumbers(batch * keys, 8, 0, 1).map((x) => (x > 0.3 ? 1 : 0));
  const operands: Record<string, Port | undefined> = {
    Q: random(q, 1),
    K: kv && random(kv, 2),
    V: kv && random(kv, 3),
  };
  const options: Record<string, Port | undefined> = {
    bias: o.bias && random(o.bias, 4),
    keyMask: o.mask ? ints([batch, keys], seen, 'bool') : undefined,
    cos: o.rotated ? table(Math.cos) : undefined,
    sin: o.rotated ? table(Math.sin) : undefined,
  };
  const attributes = {
    layout,
    heads,
    kv_heads: kvHeads,
    scale: 1 / Math.sqrt(size),
    causal: o.causal ? 1 : 0,
  };
  const gradients = packed
    ? { dQ: { dims: q } }
    : { dQ: { dims: q }, dK: { dims: kv! }, dV: { dims: kv! } };
  return { operands, options, attributes, y, lse, gradients };
}

const tensorOf = ({ dtype = 'float32', dims, values }: Port): Tensor =>
  fromNumbers(dtype, dims, values);

/** The outputs of one node in plain operators, by onnxruntime-node. */
async function plain(
  opType: string,
  inputs: Record<string, Port | undefined>,
  outputs: string[],
  attributes: Record<string, number | string>,
): Promise<Map<string, number[]>> {
  const b = new GraphBuilder(`plain ${opType}`);
  const names = Object.entries(inputs).map(([name, port]) =>
    port === undefined ? undefined : b.input(name, port.dtype ?? 'float32', port.dims),
  );
  const results = b.ops(opType, names, outputs.length, attributes, { domain: 'deepspeed' });
  for (const result of results) b.output(result, 'float32');
  const graph = b.build();
  const run = await load(lower({ graph, types: inferTypes(graph) }, { what: 'all' }).graph);
  const feeds: Record<string, Tensor> = {};
  for (const [name, port] of Object.entries(inputs)) if (port) feeds[name] = tensorOf(port);
  const values = await run(feeds);
  return new Map(outputs.map((name, i) => [name, toNumbers(values[results[i]!]!)]));
}

function expectEqual(name: string, actual: number[], expected: number[]): void {
  expect(actual.length, name).toBe(expected.length);
  const finite = expected.filter(Number.isFinite).map(Math.abs);
  const tolerance = 2 ** -16 * Math.max(...finite);
  actual.forEach((value, i) => {
    const error = value === expected[i] ? 0 : Math.abs(value - expected[i]!);
    if (!(error <= tolerance))
      throw new Error(`${name}, element ${i}: ${value} instead of ${expected[i]}`);
  });
}

const cases: Case[] = [
  { title: 'bhsd', layout: 'bhsd' },
  { title: 'bshd, causal', layout: 'bshd', causal: true },
  { title: 'packed, rotated, causal', layout: 'packed', rotated: true, causal: true },
  { title: 'packed, grouped heads', layout: 'packed', kvHeads: 2, rotated: true, mask: true },
  { title: 'bshd, one key head, more keys', layout: 'bshd', kvHeads: 1, keys: 40, causal: true },
  { title: 'bhsd, fewer keys than queries', layout: 'bhsd', keys: 5, causal: true },
  { title: 'bias over queries and keys', layout: 'bhsd', bias: [21, 21] },
  { title: 'bias of heads, a mask', layout: 'bshd', bias: [4, 1, 21], mask: true },
  { title: 'bias of samples', layout: 'bshd', bias: [2, 1, 1, 21], causal: true },
  { title: 'bias of queries', layout: 'bhsd', bias: [1, 4, 21, 1] },
  { title: 'longer than a tile', layout: 'packed', heads: 2, length: 301, causal: true },
];

describe('Attention is the same as in plain operators', () => {
  test.each(cases)('$title', async (item) => {
    const { operands, options, attributes, y, lse, gradients } = problem(item);
    const inputs = { ...operands, ...options };
    const bound = await runOperator(
      engine,
      'Attention',
      inputs,
      { Y: { dims: y }, lse: { dims: lse } },
      attributes,
    );
    const expected = await plain('Attention', inputs, ['Y', 'lse'], attributes);
    for (const [name, values] of expected) expectEqual(name, bound.numbers(name), values);

    const results = {
      Y: { dims: y, values: expected.get('Y')! },
      lse: { dims: lse, values: expected.get('lse')! },
    };
    const backward = { dY: random(y, 5), ...operands, ...results, ...options };
    const back = await runOperator(engine, 'AttentionGrad', backward, gradients, attributes);
    const slopes = await plain('AttentionGrad', backward, Object.keys(gradients), attributes);
    for (const [name, values] of slopes) expectEqual(name, back.numbers(name), values);
    bound.dispose();
    back.dispose();
  });
});

test('dropout: the mask follows the counters, and its own gradient', async () => {
  const { operands, attributes, y, lse } = problem({ title: '', layout: 'bhsd' });
  const outputs = { Y: { dims: y }, lse: { dims: lse } };
  const yOf = async (rng: number[], training: boolean): Promise<number[]> => {
    const random = { rng: ints([4], rng), training: ints([1], [training ? 1 : 0], 'bool') };
    const bound = await runOperator(
      engine,
      'Attention',
      {
        ...operands,
        bias: undefined,
        keyMask: undefined,
        cos: undefined,
        sin: undefined,
        ...random,
      },
      outputs,
      { ...attributes, ratio: 0.5, stream: 3 },
    );
    const values = bound.numbers('Y');
    bound.dispose();
    return values;
  };
  const first = await yOf([1, 2, 10, 11], true);
  expect(await yOf([1, 2, 10, 11], true)).toEqual(first);
  const half = numel(y) / 2;
  // The second sample has the number that the first one had: other data, but the first changes.
  expect((await yOf([1, 2, 12, 11], true)).slice(half)).toEqual(first.slice(half));
  expect(await yOf([1, 3, 10, 11], true)).not.toEqual(first);
  const evaluated = await yOf([1, 2, 10, 11], false);
  const undropped = await plain('Attention', operands, ['Y', 'lse'], attributes);
  expectEqual('Y', evaluated, undropped.get('Y')!);
});

describe('nothing is allocated in the steady state', () => {
  const { operands, attributes, y, lse, gradients } = problem({
    title: '',
    layout: 'bshd',
    length: 200,
  });
  const given = { dY: random(y, 4), ...operands, Y: random(y, 5), lse: random(lse, 6, 4, 5) };
  test.each([
    { opType: 'Attention', inputs: operands, outputs: { Y: { dims: y }, lse: { dims: lse } } },
    { opType: 'AttentionGrad', inputs: given, outputs: gradients },
  ])('$opType', async ({ opType, inputs, outputs }) => {
    const bound = await runOperator(engine, opType, inputs, outputs, attributes);
    const workspace = () => JSON.stringify(engine.memory());
    await bound.run();
    const before = workspace();
    for (let i = 0; i < 5; i++) await bound.run();
    expect(workspace()).toBe(before);
    bound.dispose();
  });
});

describe('what does not fit is refused by name', () => {
  const refuse = (
    change: (p: ReturnType<typeof problem>) => void,
    item: Omit<Case, 'title'>,
    message: RegExp,
  ) => {
    const p = problem({ title: '', ...item });
    change(p);
    const outputs = { Y: { dims: p.y }, lse: { dims: p.lse } };
    const run = runOperator(
      engine,
      'Attention',
      { ...p.operands, ...p.options },
      outputs,
      p.attributes,
    );
    return expect(run).rejects.toThrow(message);
  };
  test('shapes and attributes', async () => {
    await refuse(
      (p) => Object.assign(p.attributes, { heads: 3, kv_heads: 3 }),
      { layout: 'bshd' },
      /multiple of 3 heads/,
    );
    await refuse(
      (p) => Object.assign(p.attributes, { kv_heads: 3 }),
      { layout: 'bhsd' },
      /kv_heads 3/,
    );
    await refuse(
      (p) => Object.assign(p.attributes, { layout: 'sbhd' }),
      { layout: 'bhsd' },
      /'sbhd'/,
    );
    await refuse(
      (p) => Object.assign(p.operands, { V: random([2, 4, 20, 8], 1) }),
      { layout: 'bhsd' },
      /V is/,
    );
    await refuse(
      (p) => Object.assign(p.options, { bias: random([3, 21], 1) }),
      { layout: 'bhsd' },
      /broadcast/,
    );
    await refuse(
      (p) => Object.assign(p.options, { cos: undefined }),
      { layout: 'bhsd', rotated: true },
      /together/,
    );
    await refuse(
      (p) => Object.assign(p.options, { keyMask: ints([2, 20], Array(40).fill(1), 'bool') }),
      { layout: 'bhsd' },
      /keyMask/,
    );
  });
});
