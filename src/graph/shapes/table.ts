/** Every operator's shape rule. */
import { DeepSpeedError } from '../../errors.ts';
import type { Node } from '../ir.ts';
import type { OnnxOperator } from '../operators.ts';
import { deepSpeedRules } from './deepspeed.ts';
import {
  binaryRules,
  boolLikeFirst,
  comparisonRules,
  likeFirst,
  unaryRules,
  variadic,
  where,
} from './elementwise.ts';
import {
  cast,
  castLike,
  constant,
  constantOfShape,
  eyeLike,
  oneHot,
  randomLike,
  range,
  shapeOf,
  sizeOf,
} from './generate.ts';
import { layoutRules } from './layout.ts';
import { microsoftRules } from './microsoft.ts';
import {
  alongAxis,
  classLoss,
  dropout,
  layerNormalization,
  rmsNormalization,
} from './normalization.ts';
import type { ShapeRule } from './operands.ts';
import { attention, gemm, matMul } from './products.ts';
import { argReduce, reduceRules, topK } from './reduce.ts';

const onnxRules: Record<OnnxOperator, ShapeRule> = {
  ...unaryRules,
  ...binaryRules,
  ...comparisonRules,
  ...layoutRules,
  ...reduceRules,
  ArgMax: argReduce,
  ArgMin: argReduce,
  Attention: attention,
  Bernoulli: randomLike,
  Cast: cast,
  CastLike: castLike,
  Clip: likeFirst,
  Constant: constant,
  ConstantOfShape: constantOfShape,
  CumSum: likeFirst,
  Dropout: dropout,
  EyeLike: eyeLike,
  Gemm: gemm,
  Hardmax: alongAxis,
  IsInf: boolLikeFirst,
  IsNaN: boolLikeFirst,
  LayerNormalization: layerNormalization,
  LogSoftmax: alongAxis,
  MatMul: matMul,
  Max: variadic,
  Mean: variadic,
  Min: variadic,
  NegativeLogLikelihoodLoss: classLoss,
  Not: boolLikeFirst,
  OneHot: oneHot,
  RMSNormalization: rmsNormalization,
  RandomNormalLike: randomLike,
  RandomUniformLike: randomLike,
  Range: range,
  RotaryEmbedding: likeFirst,
  Shape: shapeOf,
  SimplifiedLayerNormalization: rmsNormalization,
  Size: sizeOf,
  Softmax: alongAxis,
  SoftmaxCrossEntropyLoss: classLoss,
  Sum: variadic,
  TopK: topK,
  Where: where,
};

const rules: Record<string, Record<string, ShapeRule>> = {
  '': onnxRules,
  'com.microsoft': microsoftRules,
  deepspeed: deepSpeedRules,
};

/** Names of all operators that have a shape rule, by domain; docs/operators.md lists them. */
export const knownOperators: ReadonlyMap<string, readonly string[]> = new Map(
  Object.entries(rules).map(([domain, table]) => [domain, Object.keys(table).sort()]),
);

/** The rule for a node. Throws OPERATOR_UNKNOWN naming node and operator. */
export function shapeRuleOf(node: Node): ShapeRule {
  const table = rules[node.domain] ?? {};
  if (Object.hasOwn(table, node.opType)) return table[node.opType]!;
  const operator = node.domain === '' ? node.opType : `${node.domain}.${node.opType}`;
  throw new DeepSpeedError(
    'OPERATOR_UNKNOWN',
    `node ${node.name} uses the operator ${operator}, which deepspeed-js does not know`,
    { fix: adviceFor(node), data: { node: node.name, op: operator } },
  );
}

function adviceFor(node: Node): string {
  if (/Quant|Integer|NBits|Bnb4/.test(node.opType)) {
    return 'The model is quantised. Export the float32 one (onnx/model.onnx).';
  }
  if (['If', 'Loop', 'Scan'].includes(node.opType)) {
    return 'Export the model without control flow: not the merged decoder, one graph without a cache.';
  }
  return 'Export the model with plain ONNX operators, without graph optimisation.';
}
