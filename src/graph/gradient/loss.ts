/** Gradients of the cross-entropy losses. */
import { intAttribute, stringAttribute } from '../attributes.ts';
import { type CrossEntropyTarget, labelWeights, oneHot } from '../passes/lower/cross-entropy.ts';
import type { GradientRule, RuleContext } from './rule.ts';

function target(c: RuleContext): CrossEntropyTarget {
  const ignored = c.node.attributes.ignore_index;
  return {
    labels: c.input(1),
    weights: c.has(2) ? c.input(2) : undefined,
    ignoreIndex: ignored === undefined ? undefined : intAttribute(c.node, 'ignore_index', -100),
  };
}

/** What each label's negative log-likelihood counts in the loss, times the loss's gradient. */
function coefficients(c: RuleContext, dLoss: string): string {
  const { emit } = c;
  const weights = labelWeights(emit, target(c), emit.dtype(c.input(0)));
  const weighted = emit.mul(dLoss, weights);
  if (stringAttribute(c.node, 'reduction', 'mean') !== 'mean') return weighted;
  const axes = emit.shape(weights).map((_, i) => i);
  return emit.div(weighted, emit.sum(weights, axes, false));
}

/** Scores [N, C, d...], labels [N, d...]: dScores = coefficient · (softmax − one-hot) over axis 1. */
export const softmaxCrossEntropyLoss: GradientRule = (c) => {
  const { emit } = c;
  const scores = c.input(0);
  const probabilities = emit.one('Softmax', [scores], emit.type(scores), { axis: 1 });
  const [dLoss, dLogProbability] = [c.gradient(0), c.gradient(1)];
  let gradient: string | undefined;
  if (dLoss !== undefined) {
    const error = emit.sub(probabilities, oneHot(emit, target(c), scores));
    gradient = emit.mul(error, classAxis(c, coefficients(c, dLoss)));
  }
  if (dLogProbability !== undefined) {
    const total = emit.sum(dLogProbability, [1]);
    const through = emit.sub(dLogProbability, emit.mul(probabilities, total));
    gradient = gradient === undefined ? through : emit.add(gradient, through);
  }
  return [gradient];
};

/** Log-probabilities [N, C, d...]: −coefficient where the label is. */
export const negativeLogLikelihoodLoss: GradientRule = (c) => {
  const { emit, dY } = c;
  const chosen = oneHot(emit, target(c), c.input(0));
  return [emit.neg(emit.mul(chosen, classAxis(c, coefficients(c, dY))))];
};

/** [N, d...] → [N, 1, d...], to broadcast over the classes. */
function classAxis(c: RuleContext, value: string): string {
  const [batch, ...rest] = c.emit.shape(value);
  return c.emit.reshape(value, [batch!, 1, ...rest]);
}

/** The gradient of a row's loss; zeros where nothing depends on it. */
function lossGradient(c: RuleContext, labels: string): string {
  return c.gradient(0) ?? c.emit.zeros(c.emit.dtype(c.input(0)), c.emit.shape(labels));
}

/** The fused form: loss and lse per row of logits [.., V]. */
export const fusedSoftmaxCrossEntropy: GradientRule = (c) => {
  const { emit, node } = c;
  const [logits, labels, lse] = [c.input(0), c.input(1), c.output(1)];
  const inputs = [lossGradient(c, labels), logits, labels, lse];
  const ignore_index = intAttribute(node, 'ignore_index', -100);
  const type = emit.type(logits);
  const slopes = emit.one('SoftmaxCrossEntropyGrad', inputs, type, { ignore_index }, 'deepspeed');
  const dLse = c.gradient(1);
  if (dLse === undefined) return [slopes];
  const column = [...emit.shape(labels), 1];
  const probabilities = emit.unary('Exp', emit.sub(logits, emit.reshape(lse, column)));
  return [emit.add(slopes, emit.mul(probabilities, emit.reshape(dLse, column)))];
};

/** Logits that never exist as a whole: a parameter's gradient is accumulated chunk by chunk. */
export const linearCrossEntropy: GradientRule = (c) => {
  const { emit, node } = c;
  const [x, w] = [c.input(0), c.input(1)];
  const place = c.place(1);
  if (place === undefined && c.needs(1)) throw c.refuse('a weight that is no parameter');
  const labels = c.input(2);
  const given = [lossGradient(c, labels), x, w, labels, c.output(1)];
  const optional = [place?.buffer, place?.first, c.gradient(1)];
  const last = optional.findLastIndex((input) => input !== undefined);
  const inputs = [...given, ...optional.slice(0, last + 1)];
  const attributes = {
    ignore_index: intAttribute(node, 'ignore_index', -100),
    transposed: intAttribute(node, 'transposed', 0),
  };
  const types = [emit.type(x), { dtype: 'int32', shape: [1] } as const];
  const [dX, token] = emit.node('LinearCrossEntropyGrad', inputs, types, attributes, 'deepspeed');
  return [dX, place && { token: token! }];
};
