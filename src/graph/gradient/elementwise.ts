/** Gradients of operators that work element by element. `y` is the node's own output. */
import type { Emitter } from '../emitter.ts';
import { isFloat } from '../emitter.ts';
import type { GradientRule, RuleContext } from './rule.ts';

/** A rule for one-input operators: dX from dY, x and y. */
function pointwise(
  formula: (emit: Emitter, dY: string, x: string, y: string) => string,
): GradientRule {
  return (c) => [formula(c.emit, c.dY, c.input(0), c.output(0))];
}

export const add: GradientRule = (c) => [c.dY, c.dY];

export const subtract: GradientRule = (c) => [c.dY, c.when(1, () => c.emit.neg(c.dY))];

export const multiply: GradientRule = (c) => [
  c.when(0, () => c.emit.mul(c.dY, c.input(1))),
  c.when(1, () => c.emit.mul(c.dY, c.input(0))),
];

/** d(a/b)/db = −(a/b)/b. */
export const divide: GradientRule = (c) => [
  c.when(0, () => c.emit.div(c.dY, c.input(1))),
  c.when(1, () => c.emit.neg(c.emit.mul(c.dY, c.emit.div(c.output(0), c.input(1))))),
];

/** Sum of any number of inputs. */
export const sum: GradientRule = (c) => c.node.inputs.map(() => c.dY);

export const power: GradientRule = (c) => [
  c.when(0, () => powerBase(c)),
  c.when(1, () => powerExponent(c)),
];

/** dx = p·x^(p−1). Small constant exponents avoid a general power, which costs an exp and a log. */
function powerBase(c: RuleContext): string {
  const { emit, dY } = c;
  const x = c.input(0);
  const known = c.constant(1) && c.numbers(1)!;
  if (known?.length === 1) {
    const p = known[0]!;
    if (p === 1) return dY;
    if (p === 2) return emit.mul(dY, emit.scale(x, 2));
    if (p === 3) return emit.mul(dY, emit.scale(emit.mul(x, x), 3));
    if (p === 0.5) return emit.div(emit.scale(dY, 0.5), c.output(0));
    return emit.mul(dY, emit.scale(emit.binary('Pow', x, emit.scalar(p - 1, x)), p));
  }
  const p = emit.cast(c.input(1), emit.dtype(x));
  return emit.mul(dY, emit.mul(p, emit.binary('Pow', x, emit.shift(p, -1))));
}

/** dp = y·ln x, taken as 0 where x ≤ 0, as PyTorch does at x = 0. */
function powerExponent(c: RuleContext): string {
  const { emit, dY } = c;
  const x = c.input(0);
  const positive = emit.compare('Greater', x, emit.scalar(0, x));
  const logarithm = emit.unary('Log', emit.where(positive, x, emit.scalar(1, x)));
  return emit.cast(emit.mul(dY, emit.mul(c.output(0), logarithm)), emit.dtype(c.input(1)));
}

export const squareRoot = pointwise((e, dY, _x, y) => e.div(e.scale(dY, 0.5), y));
export const reciprocal = pointwise((e, dY, _x, y) => e.neg(e.mul(dY, e.mul(y, y))));
export const negate = pointwise((e, dY) => e.neg(dY));
export const exponential = pointwise((e, dY, _x, y) => e.mul(dY, y));
export const logarithm = pointwise((e, dY, x) => e.div(dY, x));
export const sine = pointwise((e, dY, x) => e.mul(dY, e.unary('Cos', x)));
export const cosine = pointwise((e, dY, x) => e.neg(e.mul(dY, e.unary('Sin', x))));
export const hyperbolicTangent = pointwise((e, dY, _x, y) =>
  e.mul(dY, e.sub(e.scalar(1, y), e.mul(y, y))),
);
export const errorFunction = pointwise((e, dY, x) =>
  e.mul(dY, e.scale(e.unary('Exp', e.neg(e.mul(x, x))), 2 / Math.sqrt(Math.PI))),
);
export const sigmoid = pointwise((e, dY, _x, y) => e.mul(dY, e.mul(y, e.sub(e.scalar(1, y), y))));
export const absolute = pointwise((e, dY, x) => e.mul(dY, e.unary('Sign', x)));
export const relu = pointwise((e, dY, _x, y) =>
  e.keepWhere(e.compare('Greater', y, e.scalar(0, y)), dY),
);

/** Inside [low, high], both ends included, the gradient passes. */
export const clip: GradientRule = (c) => {
  const { emit } = c;
  let dX = c.dY;
  if (c.has(1)) dX = emit.keepWhere(emit.compare('GreaterOrEqual', c.input(0), c.input(1)), dX);
  if (c.has(2)) dX = emit.keepWhere(emit.compare('LessOrEqual', c.input(0), c.input(2)), dX);
  return [dX];
};

/** Min and Max of any number of inputs: inputs that tie share the gradient equally. */
export const extremum: GradientRule = (c) => {
  const { emit, dY } = c;
  const y = c.output(0);
  const chosen = c.node.inputs.map((x) => emit.cast(emit.compare('Equal', x, y), emit.dtype(y)));
  const share = emit.div(
    dY,
    chosen.reduce((a, b) => emit.add(a, b)),
  );
  return chosen.map((mask, i) => c.when(i, () => emit.mul(share, mask)));
};

export const where: GradientRule = (c) => {
  const { emit, dY } = c;
  const condition = c.input(0);
  return [
    undefined,
    c.when(1, () => emit.keepWhere(condition, dY)),
    c.when(2, () => emit.where(condition, emit.scalar(0, dY), dY)),
  ];
};

export const cast: GradientRule = (c) => {
  const source = c.emit.dtype(c.input(0));
  return [isFloat(source) ? c.emit.cast(c.dY, source) : undefined];
};

export const identity: GradientRule = (c) => [c.dY];
