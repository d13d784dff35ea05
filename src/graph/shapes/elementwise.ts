/** Operators that work element by element, with broadcasting. */
import type { BinaryOperator, ComparisonOperator, UnaryOperator } from '../operators.ts';
import { broadcast } from './broadcast.ts';
import type { Operands, ShapeRule } from './operands.ts';

/** The type of the first input. */
export const likeFirst: ShapeRule = (node) => [{ dtype: node.dtype(0), shape: node.shape(0) }];

/** bool in the shape of the first input. */
export const boolLikeFirst: ShapeRule = (node) => [{ dtype: 'bool', shape: node.shape(0) }];

/** The broadcast shape of the given inputs, all if none are given. */
export function broadcastInputs(node: Operands, indices?: readonly number[]): number[] {
  const types = indices?.map((index) => node.input(index)) ?? node.present();
  const shape = broadcast(...types.map((type) => type.shape));
  if (shape === undefined) throw node.mismatch('the inputs do not broadcast');
  return shape;
}

/** Any number of inputs of one type, broadcast together. */
export const variadic: ShapeRule = (node) => {
  const dtype = node.dtype(0);
  node.require(
    node.present().every((type) => type.dtype === dtype),
    'the inputs differ in element type',
  );
  return [{ dtype, shape: broadcastInputs(node) }];
};

/** Pow alone takes an exponent of another type. */
const pow: ShapeRule = (node) => [{ dtype: node.dtype(0), shape: broadcastInputs(node, [0, 1]) }];

const prelu: ShapeRule = (node) => {
  const shape = broadcastInputs(node, [0, 1]);
  node.require(shape.join() === node.shape(0).join(), 'the slope is larger than the input');
  return [{ dtype: node.dtype(0), shape }];
};

const binary: ShapeRule = (node) => {
  node.input(1);
  return variadic(node);
};

const comparison: ShapeRule = (node) => [{ ...binary(node)[0]!, dtype: 'bool' }];

/** condition, then, else */
export const where: ShapeRule = (node) => {
  node.require(node.dtype(0) === 'bool', 'the condition is not bool');
  node.require(node.dtype(1) === node.dtype(2), 'the two choices differ in element type');
  return [{ dtype: node.dtype(1), shape: broadcastInputs(node, [0, 1, 2]) }];
};

export const unaryRules: Record<UnaryOperator, ShapeRule> = {
  Abs: likeFirst,
  Ceil: likeFirst,
  Celu: likeFirst,
  Cos: likeFirst,
  Elu: likeFirst,
  Erf: likeFirst,
  Exp: likeFirst,
  Floor: likeFirst,
  Gelu: likeFirst,
  HardSigmoid: likeFirst,
  HardSwish: likeFirst,
  LeakyRelu: likeFirst,
  Log: likeFirst,
  Mish: likeFirst,
  Neg: likeFirst,
  Reciprocal: likeFirst,
  Relu: likeFirst,
  Round: likeFirst,
  Selu: likeFirst,
  Sigmoid: likeFirst,
  Sign: likeFirst,
  Sin: likeFirst,
  Softplus: likeFirst,
  Softsign: likeFirst,
  Sqrt: likeFirst,
  Swish: likeFirst,
  Tanh: likeFirst,
};

export const binaryRules: Record<BinaryOperator, ShapeRule> = {
  Add: binary,
  Sub: binary,
  Mul: binary,
  Div: binary,
  Mod: binary,
  Pow: pow,
  PRelu: prelu,
};

export const comparisonRules: Record<ComparisonOperator, ShapeRule> = {
  Equal: comparison,
  Greater: comparison,
  GreaterOrEqual: comparison,
  Less: comparison,
  LessOrEqual: comparison,
  And: comparison,
  Or: comparison,
  Xor: comparison,
};
