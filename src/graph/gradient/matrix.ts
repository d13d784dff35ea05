/**
 * Gradients of matrix products. Transposed operands go into com.microsoft.FusedMatMul, so that nothing
 * is copied; the gradient of a 2-D weight under batched activations is one 2-D product over all rows,
 * never a batch of outer products that is then reduced.
 */
import { floatAttribute, intAttribute, stringAttribute } from '../attributes.ts';
import type { Emitter } from '../emitter.ts';
import { flattenAt } from '../emitter.ts';
import type { GradientRule, RuleContext } from './rule.ts';

interface Product {
  a: string;
  b: string;
  dY: string;
  transA: boolean;
  transB: boolean;
  alpha: number;
}

/** y = α·op(a)·op(b)  ⇒  d op(a) = α·dy·op(b)ᵀ and d op(b) = α·op(a)ᵀ·dy. */
function leftGradient(emit: Emitter, { b, dY, transA, transB, alpha }: Product): string {
  if (transA) return emit.product(b, dY, { transA: transB, transB: true, alpha });
  return emit.product(dY, b, { transB: !transB, alpha });
}

function rightGradient(emit: Emitter, { a, b, dY, transA, transB, alpha }: Product): string {
  if (emit.shape(b).length === 2 && emit.shape(a).length > 2 && !transA) {
    const rows = flattenAt(emit.shape(a), emit.shape(a).length - 1);
    const flatA = emit.reshape(a, rows);
    const flatDY = emit.reshape(dY, flattenAt(emit.shape(dY), emit.shape(dY).length - 1));
    return rightGradient(emit, { a: flatA, b, dY: flatDY, transA, transB, alpha });
  }
  if (transB) return emit.product(dY, a, { transA: true, transB: transA, alpha });
  return emit.product(a, dY, { transA: !transA, alpha });
}

/** MatMul; a vector operand is a matrix of one row (left) or one column (right). */
export const matMul: GradientRule = (c) => {
  const { emit } = c;
  const [left, right] = [c.input(0), c.input(1)];
  const leftShape = emit.shape(left);
  const rightShape = emit.shape(right);
  const a = leftShape.length === 1 ? emit.reshape(left, [1, leftShape[0]!]) : left;
  const b = rightShape.length === 1 ? emit.reshape(right, [rightShape[0]!, 1]) : right;
  const batch = emit
    .shape(c.dY)
    .slice(
      0,
      emit.shape(c.dY).length -
        Math.min(leftShape.length - 1, 1) -
        Math.min(rightShape.length - 1, 1),
    );
  const dY = emit.reshape(c.dY, [...batch, emit.shape(a).at(-2)!, emit.shape(b).at(-1)!]);
  const product = { a, b, dY, transA: false, transB: false, alpha: 1 };
  // A vector's gradient has its one-row shape here and may carry batch axes: both are summed back.
  return [
    c.when(0, () => vectorGradient(emit, leftGradient(emit, product), leftShape)),
    c.when(1, () => vectorGradient(emit, rightGradient(emit, product), rightShape)),
  ];
};

function vectorGradient(emit: Emitter, gradient: string, shape: readonly number[]): string {
  if (shape.length !== 1) return gradient;
  const full = emit.shape(gradient);
  return emit.reshape(gradient, [...full.slice(0, -2), shape[0]!]);
}

/** The product that a FusedMatMul or Gemm node computes, and the gradient of its result. */
function productOf(c: RuleContext): Product {
  return {
    a: c.input(0),
    b: c.input(1),
    dY: c.dY,
    transA: intAttribute(c.node, 'transA', 0) === 1,
    transB: intAttribute(c.node, 'transB', 0) === 1,
    alpha: floatAttribute(c.node, 'alpha', 1),
  };
}

export const fusedMatMul: GradientRule = (c) => {
  const { emit, node } = c;
  if (intAttribute(node, 'transBatchA', 0) || intAttribute(node, 'transBatchB', 0)) {
    throw c.refuse('transBatchA or transBatchB');
  }
  if (c.shape(0).length < 2 || c.shape(1).length < 2) throw c.refuse('a vector operand');
  const product = productOf(c);
  return [
    c.when(0, () => leftGradient(emit, product)),
    c.when(1, () => rightGradient(emit, product)),
  ];
};

/** Gemm: y = α·op(a)·op(b) + β·c, c broadcast. */
export const gemm: GradientRule = (c) => {
  const { emit, node } = c;
  const product = productOf(c);
  return [
    c.when(0, () => leftGradient(emit, product)),
    c.when(1, () => rightGradient(emit, product)),
    c.when(2, () => emit.scale(c.dY, floatAttribute(node, 'beta', 1))),
  ];
};

/**
 * deepspeed.MatMul with bias and residual. Products get their activations when gradients exist already
 * (passes/products), so those need no rule.
 */
export const fusedProduct: GradientRule = (c) => {
  const { emit, node } = c;
  const [prologue, epilogue] = ['prologue', 'epilogue'].map((name) =>
    stringAttribute(node, name, 'none'),
  );
  if (epilogue !== 'none') throw c.refuse(`the epilogue ${epilogue}`);
  if (prologue !== 'none') throw c.refuse(`the prologue ${prologue}`);
  const product = productOf(c);
  return [
    c.when(0, () => leftGradient(emit, product)),
    c.when(1, () => rightGradient(emit, product)),
    undefined,
    c.dY,
    c.dY,
  ];
};
