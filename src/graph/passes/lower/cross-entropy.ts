/** Cross-entropy in plain operators. */
import { intAttribute } from '../../attributes.ts';
import type { Emitter } from '../../emitter.ts';
import type { DataType } from '../../ir.ts';
import type { NodeContext } from '../../node-context.ts';
import { transposed } from './linear.ts';

export interface CrossEntropyTarget {
  labels: string;
  /** One weight a class. */
  weights: string | undefined;
  ignoreIndex: number | undefined;
}

function integer(emit: Emitter, value: number, like: string): string {
  return emit.constant(emit.dtype(like), [], [value]);
}

/** bool, the shape of labels: is this label counted? */
function counted(emit: Emitter, labels: string, ignoreIndex: number): string {
  return emit.unary('Not', emit.compare('Equal', labels, integer(emit, ignoreIndex, labels)));
}

/** What each label counts, in its shape: 0 where ignored, else its class weight or 1. */
export function labelWeights(emit: Emitter, target: CrossEntropyTarget, dtype: DataType): string {
  const { labels, weights, ignoreIndex } = target;
  const shape = emit.shape(labels);
  if (ignoreIndex === undefined && weights === undefined) {
    return emit.expand(emit.constant(dtype, [], [1]), shape);
  }
  const mask = ignoreIndex === undefined ? undefined : counted(emit, labels, ignoreIndex);
  if (weights === undefined) return emit.cast(mask!, dtype);
  const safe = mask === undefined ? labels : emit.where(mask, labels, integer(emit, 0, labels));
  const picked = emit.one('Gather', [weights, safe], { dtype, shape }, { axis: 0 });
  return mask === undefined ? picked : emit.keepWhere(mask, picked);
}

/** Scores [N, C, d...] → 1 at each label's class, else 0; a label outside [0, C) has none. */
export function oneHot(emit: Emitter, { labels }: CrossEntropyTarget, scores: string): string {
  const [batch, classes, ...rest] = emit.shape(scores);
  const column = emit.reshape(labels, [batch!, 1, ...rest]);
  const numbers = emit.range(0, classes!, emit.dtype(labels));
  const row = emit.reshape(numbers, [1, classes!, ...rest.map(() => 1)]);
  return emit.cast(emit.compare('Equal', row, column), emit.dtype(scores));
}

/** Logits and labels, and the label that counts for nothing. */
interface Rows {
  logits: string;
  labels: string;
  ignoreIndex: number;
}

function rowsOf(c: NodeContext, logits: string, labels: string): Rows {
  return { logits, labels, ignoreIndex: intAttribute(c.node, 'ignore_index', -100) };
}

/** Loss and log-sum-exp of each row of logits [.., V] under labels [..]. */
function losses(emit: Emitter, { logits, labels, ignoreIndex }: Rows): string[] {
  const rows = emit.shape(labels);
  const last = [rows.length];
  const top = emit.reduce('ReduceMax', logits, last, true);
  const total = emit.sum(emit.unary('Exp', emit.sub(logits, top)), last);
  const lse = emit.reshape(emit.add(emit.unary('Log', total), top), rows);
  const valid = counted(emit, labels, ignoreIndex);
  const safe = emit.where(valid, labels, integer(emit, 0, labels));
  const column = emit.reshape(safe, [...rows, 1]);
  const type = { dtype: emit.dtype(logits), shape: [...rows, 1] };
  const picked = emit.one('GatherElements', [logits, column], type, { axis: rows.length });
  return [emit.keepWhere(valid, emit.sub(lse, emit.reshape(picked, rows))), lse];
}

/** dLogits = dLoss·(softmax − one-hot), 0 in ignored rows. */
function logitsGradient(
  emit: Emitter,
  { logits, labels, ignoreIndex }: Rows,
  dLoss: string,
  lse: string,
): string {
  const column = [...emit.shape(labels), 1];
  const probabilities = emit.unary('Exp', emit.sub(logits, emit.reshape(lse, column)));
  const classes = emit.range(0, emit.shape(logits).at(-1)!, emit.dtype(labels));
  const hit = emit.compare('Equal', classes, emit.reshape(labels, column));
  const error = emit.sub(probabilities, emit.cast(hit, emit.dtype(logits)));
  const valid = counted(emit, labels, ignoreIndex);
  return emit.mul(error, emit.reshape(emit.keepWhere(valid, dLoss), column));
}

export function lowerSoftmaxCrossEntropy(c: NodeContext): string[] {
  return losses(c.emit, rowsOf(c, c.input(0), c.input(1)));
}

export function lowerSoftmaxCrossEntropyGrad(c: NodeContext): string[] {
  const rows = rowsOf(c, c.input(1), c.input(2));
  return [logitsGradient(c.emit, rows, c.input(0), c.input(3))];
}

/** W as X's type: it may be in 16 bits. */
function widened({ emit }: NodeContext, w: string, x: string): string {
  return emit.cast(w, emit.dtype(x));
}

/** X·Wᵀ, or X·W where the weight is stored [D, V]. */
function linearLogits(c: NodeContext, x: string, w: string): string {
  const { emit, node } = c;
  return emit.product(x, intAttribute(node, 'transposed', 0) ? w : transposed(emit, w));
}

export function lowerLinearCrossEntropy(c: NodeContext): string[] {
  const x = c.input(0);
  const logits = linearLogits(c, x, widened(c, c.input(1), x));
  return losses(c.emit, rowsOf(c, logits, c.input(2)));
}

/** dX, and the gradient of W. */
export function lowerLinearCrossEntropyGrad(c: NodeContext): { dX: string; dW: string } {
  const { emit, node } = c;
  const x = c.input(1);
  const w = widened(c, c.input(2), x);
  const rows = rowsOf(c, linearLogits(c, x, w), c.input(3));
  const lse = c.input(4);
  let dLogits = logitsGradient(emit, rows, c.input(0), lse);
  if (c.has(7)) {
    const column = [...emit.shape(lse), 1];
    const probabilities = emit.unary('Exp', emit.sub(rows.logits, emit.reshape(lse, column)));
    dLogits = emit.add(dLogits, emit.mul(probabilities, emit.reshape(c.input(7), column)));
  }
  if (intAttribute(node, 'transposed', 0)) {
    const dX = emit.product(dLogits, transposed(emit, w));
    return { dX, dW: emit.product(transposed(emit, x), dLogits) };
  }
  return { dX: emit.product(dLogits, w), dW: emit.product(transposed(emit, dLogits), x) };
}
