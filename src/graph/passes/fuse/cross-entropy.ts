/** Cross-entropy losses over class scores. */
import { intAttribute, intsAttribute, stringAttribute } from '../../attributes.ts';
import { positiveAxis } from '../../emitter.ts';
import type { Node } from '../../ir.ts';
import { operatorKey } from '../../operator-key.ts';
import type { Fusion, GraphView, Replacement } from './pattern.ts';

/** What no label is, for losses that ignore none. */
const noLabel = -(2 ** 31);

export const softmaxCrossEntropyLoss: Fusion = {
  name: 'SoftmaxCrossEntropyLoss → deepspeed.SoftmaxCrossEntropy',
  match(node, view, live) {
    if (operatorKey(node) !== 'SoftmaxCrossEntropyLoss') return undefined;
    if (live.has(node.outputs[1] ?? '')) return undefined;
    return crossEntropy(node, view, node.inputs[0]!);
  },
};

export const logSoftmaxAndLoss: Fusion = {
  name: 'LogSoftmax + NegativeLogLikelihoodLoss → deepspeed.SoftmaxCrossEntropy',
  match(node, view) {
    if (operatorKey(node) !== 'NegativeLogLikelihoodLoss') return undefined;
    const logarithms = view.from(node.inputs[0], 'LogSoftmax');
    if (logarithms === undefined) return undefined;
    const scores = logarithms.inputs[0]!;
    const axis = intAttribute(logarithms, 'axis', -1);
    return positiveAxis(axis, view.shape(scores).length) === 1
      ? crossEntropy(node, view, scores)
      : undefined;
  },
};

/** Scores [N, C, d...] and labels [N, d...]; class weights are left to the plain rule. */
function crossEntropy(node: Node, view: GraphView, scores: string): Replacement | undefined {
  if (node.inputs[2]) return undefined;
  const labels = node.inputs[1]!;
  const reduction = stringAttribute(node, 'reduction', 'mean');
  const ignores = node.attributes.ignore_index !== undefined;
  const ignore_index = ignores ? intAttribute(node, 'ignore_index', -100) : noLabel;
  return () => {
    const { emit } = view;
    const logits = classesLast(view, scores);
    const targets = emit.cast(labels, 'int64');
    const rows = { dtype: emit.dtype(logits), shape: emit.shape(targets) };
    const [loss] = emit.node(
      'SoftmaxCrossEntropy',
      [logits, targets],
      [rows, rows],
      { ignore_index },
      'deepspeed',
    ) as [string];
    if (reduction === 'none') return [loss];
    const axes = rows.shape.map((_, i) => i);
    const total = emit.sum(loss, axes, false);
    if (reduction === 'sum') return [total];
    const ignored = emit.constant('int64', [], [ignore_index]);
    const counted = emit.unary('Not', emit.compare('Equal', targets, ignored));
    return [emit.div(total, emit.sum(emit.cast(counted, rows.dtype), axes, false))];
  };
}

/** [N, C, d...] → [N, d..., C]; undoes a Transpose that brought the classes forward. */
function classesLast(view: GraphView, scores: string): string {
  const rank = view.shape(scores).length;
  const axes = Array.from({ length: rank }, (_, i) => i);
  const last = [0, ...axes.slice(2), 1];
  const before = view.from(scores, 'Transpose');
  const perm = before && intsAttribute(before, 'perm');
  if (perm && last.every((axis, i) => perm[axis] === i)) return before.inputs[0]!;
  return view.emit.transpose(scores, last);
}
