/** Gradients of reductions over axes. */
import { intAttribute, intsAttribute } from '../attributes.ts';
import { positiveAxis, reducedShape } from '../emitter.ts';
import { numel } from '../tensor.ts';
import type { GradientRule, RuleContext } from './rule.ts';

/** The axes a Reduce node works on: an input since opset 13 or 18, an attribute before. */
export function reducedAxes(c: RuleContext): number[] {
  const rank = c.shape(0).length;
  const given = c.numbers(1) ?? intsAttribute(c.node, 'axes') ?? [];
  if (given.length > 0) return given.map((axis) => positiveAxis(axis, rank));
  if (intAttribute(c.node, 'noop_with_empty_axes', 0) === 1) return [];
  return Array.from({ length: rank }, (_, i) => i);
}

/** The result's gradient or value with its reduced axes back as 1, so that it broadcasts over x. */
function kept(c: RuleContext, value: string): string {
  return c.emit.reshape(value, reducedShape(c.shape(0), reducedAxes(c), true));
}

export const reduceSum: GradientRule = (c) => [c.emit.expand(kept(c, c.dY), c.shape(0))];

export const reduceMean: GradientRule = (c) => {
  const count = numel(c.shape(0)) / numel(c.emit.shape(c.dY));
  return [c.emit.expand(c.emit.scale(kept(c, c.dY), 1 / count), c.shape(0))];
};

/** ReduceMax and ReduceMin: elements that tie share the gradient equally. */
export const reduceExtremum: GradientRule = (c) => {
  const { emit } = c;
  const x = c.input(0);
  const y = kept(c, c.output(0));
  const chosen = emit.cast(emit.compare('Equal', x, y), emit.dtype(x));
  const share = emit.div(kept(c, c.dY), emit.sum(chosen, reducedAxes(c)));
  return [emit.mul(share, chosen)];
};
