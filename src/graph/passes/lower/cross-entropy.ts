/** Cross-entropy in plain operators. */
import { intAttribute } from '../../attributes.ts';
import type { Emitter } from '../../emitter.ts';
import type { DataType } from '../../ir.ts';
import type { NodeContext } from '../../node-context.ts';

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
  const numbers = classNumbers(emit, classes!, emit.dtype(labels));
  const row = emit.reshape(numbers, [1, classes!, ...rest.map(() => 1)]);
  return emit.cast(emit.compare('Equal', row, column), emit.dtype(scores));
}

/** 0, 1, ..., count − 1; computed, so that a large vocabulary is not stored in the graph. */
function classNumbers(emit: Emitter, count: number, dtype: DataType): string {
  const bounds = [0, count, 1].map((value) => emit.constant(dtype, [], [value]));
  return emit.one('Range', bounds, { dtype, shape: [count] });
}

/** Loss and log-sum-exp of each row of logits [.., V] under labels [..]. */
export function lowerSoftmaxCrossEntropy(c: NodeContext): string[] {
  const { emit } = c;
  const [logits, labels] = [c.input(0), c.input(1)];
  const rows = emit.shape(labels);
  const last = [rows.length];
  const top = emit.reduce('ReduceMax', logits, last, true);
  const total = emit.sum(emit.unary('Exp', emit.sub(logits, top)), last);
  const lse = emit.reshape(emit.add(emit.unary('Log', total), top), rows);
  const valid = counted(emit, labels, intAttribute(c.node, 'ignore_index', -100));
  const safe = emit.where(valid, labels, integer(emit, 0, labels));
  const column = emit.reshape(safe, [...rows, 1]);
  const type = { dtype: emit.dtype(logits), shape: [...rows, 1] };
  const picked = emit.one('GatherElements', [logits, column], type, { axis: rows.length });
  return [emit.keepWhere(valid, emit.sub(lse, emit.reshape(picked, rows))), lse];
}

/** dLogits = dLoss·(softmax − one-hot), 0 in ignored rows. */
export function lowerSoftmaxCrossEntropyGrad(c: NodeContext): string[] {
  const { emit } = c;
  const [dLoss, logits, labels, lse] = [c.input(0), c.input(1), c.input(2), c.input(3)];
  const column = [...emit.shape(labels), 1];
  const probabilities = emit.unary('Exp', emit.sub(logits, emit.reshape(lse, column)));
  const classes = classNumbers(emit, emit.shape(logits).at(-1)!, emit.dtype(labels));
  const hit = emit.compare('Equal', classes, emit.reshape(labels, column));
  const error = emit.sub(probabilities, emit.cast(hit, emit.dtype(logits)));
  const valid = counted(emit, labels, intAttribute(c.node, 'ignore_index', -100));
  return [emit.mul(error, emit.reshape(emit.keepWhere(valid, dLoss), column))];
}
