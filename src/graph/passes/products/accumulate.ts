/**
 * A weight's gradient goes from the product straight into its buffer, and the bias's, the column sums of
 * the same right factor, by the way.
 */
import { intAttribute } from '../../attributes.ts';
import { positiveAxis } from '../../emitter.ts';
import type { Node } from '../../ir.ts';
import { operatorKey } from '../../operator-key.ts';
import { toNumbers } from '../../tensor.ts';
import { isPlain, isProduct } from './product.ts';
import type { Workbench } from './workbench.ts';

const biasBuffer = 5;

export function accumulateProducts(bench: Workbench): void {
  for (const node of bench.nodes()) {
    if (operatorKey(node) === 'deepspeed.Accumulate') accumulateProduct(bench, node);
  }
  const products = new Map<string, Node>();
  for (const node of bench.nodes()) {
    if (operatorKey(node) !== 'deepspeed.MatMulAccumulate') continue;
    if (intAttribute(node, 'transB', 0) === 0) products.set(bench.rowRoot(node.inputs[1]!), node);
  }
  for (const node of bench.nodes()) {
    if (operatorKey(node) === 'deepspeed.Accumulate') accumulateBias(bench, node, products);
  }
}

/** Accumulate(op(A) · op(B), buffer, first) */
function accumulateProduct(bench: Workbench, node: Node): void {
  const [gradient, buffer, first] = node.inputs as [string, string, string];
  const product = bench.maker(gradient);
  if (!isProduct(product) || bench.onlyReader(gradient) !== node) return;
  const bare = product.inputs.slice(2).every((input) => input === '');
  if (!bare || !isPlain(product, 'prologue') || !isPlain(product, 'epilogue')) return;
  const [a, b] = product.inputs as [string, string];
  if ([a, b].some((factor) => bench.shape(factor).length !== 2)) return;
  // Rows of both factors are summed over: how their leading axes are cut up does not matter.
  const overRows = intAttribute(product, 'transA', 0) === 1 && !intAttribute(product, 'transB', 0);
  const factors = overRows ? [bench.rowRoot(a), bench.rowRoot(b)] : [a, b];
  const made: Node = {
    ...product,
    opType: 'MatMulAccumulate',
    inputs: [...factors, buffer, first],
    outputs: node.outputs,
  };
  bench.replace([product, node], node, made);
}

/** Accumulate(Σ over rows of g, buffer, first), where g is the right factor of a weight's gradient. */
function accumulateBias(bench: Workbench, node: Node, products: Map<string, Node>): void {
  const [gradient, buffer, first] = node.inputs as [string, string, string];
  const reduced = columnSums(bench, gradient, node);
  if (reduced === undefined || !bench.isInput(first)) return;
  const root = bench.rowRoot(reduced.inputs[0]!);
  const product = products.get(root);
  if (product === undefined || product.inputs[biasBuffer]) return;
  const inputs = [...product.inputs.slice(0, 4), '', buffer, first];
  const made = bench.replace([product], product, { ...product, inputs });
  products.set(root, made);
  bench.remove(node);
  bench.retire(node.outputs[0]!, made.outputs[0]!);
}

/** The ReduceSum over all axes but the last that makes a value, through a view. */
function columnSums(bench: Workbench, value: string, reader: Node): Node | undefined {
  const node = bench.maker(value);
  if (node === undefined || bench.onlyReader(value) !== reader) return undefined;
  if (bench.isRowView(node)) return columnSums(bench, node.inputs[0]!, node);
  if (operatorKey(node) !== 'ReduceSum') return undefined;
  const rank = bench.shape(node.inputs[0]!).length;
  const axes = bench.constant(node.inputs[1]);
  if (axes === undefined) return undefined;
  const reduced = new Set(toNumbers(axes).map((axis) => positiveAxis(axis, rank)));
  return reduced.size === rank - 1 && !reduced.has(rank - 1) ? node : undefined;
}
