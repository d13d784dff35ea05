/** Gradients of dropout. */
import { floatAttribute, intAttribute } from '../attributes.ts';
import { toNumbers } from '../tensor.ts';
import type { GradientRule, RuleContext } from './rule.ts';

/**
 * ai.onnx Dropout draws anew in each run, so the backward graph must see the mask that forward used.
 * Without training mode it is the identity.
 */
export const onnxDropout: GradientRule = (c) => {
  const { emit, dY } = c;
  if (!c.has(2)) return [dY];
  const training = c.constant(2);
  if (training !== undefined && toNumbers(training)[0] === 0) return [dY];
  const kept = emit.keepWhere(c.output(1), dY);
  return [emit.mul(kept, keepScale(c))];
};

/** 1/(1 − ratio) in training mode, else 1. */
function keepScale(c: RuleContext): string {
  const { emit, dY } = c;
  const ratio = c.has(1) ? emit.cast(c.input(1), emit.dtype(dY)) : emit.scalar(0.5, dY);
  const one = emit.scalar(1, dY);
  return emit.where(c.input(2), emit.div(one, emit.sub(one, ratio)), one);
}

/** deepspeed.Dropout recomputes its mask from the counters. */
export const fusedDropout: GradientRule = (c) => {
  const { emit, dY, node } = c;
  const attributes = {
    ratio: floatAttribute(node, 'ratio', 0.5),
    stream: intAttribute(node, 'stream', 0),
  };
  const inputs = [dY, c.input(1), c.input(2)];
  return [emit.one('DropoutGrad', inputs, emit.type(dY), attributes, 'deepspeed')];
};
