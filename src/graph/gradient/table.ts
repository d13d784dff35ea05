/** Every operator that training knows, and how it is differentiated. */
import * as activation from './activation.ts';
import * as attention from './attention.ts';
import * as dropout from './dropout.ts';
import * as elementwise from './elementwise.ts';
import * as indexing from './indexing.ts';
import * as layout from './layout.ts';
import * as loss from './loss.ts';
import * as matrix from './matrix.ts';
import * as normalization from './normalization.ts';
import * as reduction from './reduction.ts';
import * as rotary from './rotary.ts';
import type { GradientRule } from './rule.ts';

/** Operators whose results do not change smoothly, or at all, with their inputs. */
const constantOperators = [
  'And',
  'ArgMax',
  'ArgMin',
  'BitShift',
  'Ceil',
  'Constant',
  'ConstantOfShape',
  'Equal',
  'EyeLike',
  'Floor',
  'Greater',
  'GreaterOrEqual',
  'IsInf',
  'IsNaN',
  'Less',
  'LessOrEqual',
  'NonZero',
  'Not',
  'OneHot',
  'Or',
  'RandomNormal',
  'RandomNormalLike',
  'RandomUniform',
  'RandomUniformLike',
  'Range',
  'Round',
  'Shape',
  'Sign',
  'Size',
  'Xor',
] as const;

/** Operators with a gradient: a member without a rule below does not compile. */
type DifferentiableOperator =
  | 'Abs'
  | 'Add'
  | 'Cast'
  | 'Clip'
  | 'Concat'
  | 'Cos'
  | 'Div'
  | 'Dropout'
  | 'Erf'
  | 'Exp'
  | 'Expand'
  | 'Flatten'
  | 'Gather'
  | 'GatherElements'
  | 'GatherND'
  | 'Gelu'
  | 'Gemm'
  | 'Identity'
  | 'LayerNormalization'
  | 'Log'
  | 'LogSoftmax'
  | 'MatMul'
  | 'Max'
  | 'Min'
  | 'Mul'
  | 'Neg'
  | 'NegativeLogLikelihoodLoss'
  | 'Pad'
  | 'Pow'
  | 'RMSNormalization'
  | 'Reciprocal'
  | 'ReduceMax'
  | 'ReduceMean'
  | 'ReduceMin'
  | 'ReduceSum'
  | 'Relu'
  | 'Reshape'
  | 'RotaryEmbedding'
  | 'Sigmoid'
  | 'SimplifiedLayerNormalization'
  | 'Sin'
  | 'Slice'
  | 'Softmax'
  | 'SoftmaxCrossEntropyLoss'
  | 'Split'
  | 'Sqrt'
  | 'Squeeze'
  | 'Sub'
  | 'Sum'
  | 'Swish'
  | 'Tanh'
  | 'Transpose'
  | 'Trilu'
  | 'Unsqueeze'
  | 'Where'
  | 'com.microsoft.FastGelu'
  | 'com.microsoft.FusedMatMul'
  | 'com.microsoft.Gelu'
  | 'com.microsoft.QuickGelu'
  | 'com.microsoft.RotaryEmbedding'
  | 'deepspeed.Attention'
  | 'deepspeed.Dropout'
  | 'deepspeed.Gelu'
  | 'deepspeed.LayerNormalization'
  | 'deepspeed.LinearCrossEntropy'
  | 'deepspeed.MatMul'
  | 'deepspeed.RMSNormalization'
  | 'deepspeed.RotaryEmbedding'
  | 'deepspeed.Silu'
  | 'deepspeed.SiluMul'
  | 'deepspeed.SoftmaxCrossEntropy';

const differentiable: Record<DifferentiableOperator, GradientRule> = {
  Abs: elementwise.absolute,
  Add: elementwise.add,
  Cast: elementwise.cast,
  Clip: elementwise.clip,
  Concat: layout.concat,
  Cos: elementwise.cosine,
  Div: elementwise.divide,
  Dropout: dropout.onnxDropout,
  Erf: elementwise.errorFunction,
  Exp: elementwise.exponential,
  Expand: layout.expand,
  Flatten: layout.reshape,
  Gather: indexing.gather,
  GatherElements: indexing.gatherElements,
  GatherND: indexing.gatherND,
  Gelu: activation.gelu,
  Gemm: matrix.gemm,
  Identity: elementwise.identity,
  LayerNormalization: normalization.onnxLayerNormalization,
  Log: elementwise.logarithm,
  LogSoftmax: activation.logSoftmax,
  MatMul: matrix.matMul,
  Max: elementwise.extremum,
  Min: elementwise.extremum,
  Mul: elementwise.multiply,
  Neg: elementwise.negate,
  NegativeLogLikelihoodLoss: loss.negativeLogLikelihoodLoss,
  Pad: layout.pad,
  Pow: elementwise.power,
  RMSNormalization: normalization.onnxRmsNormalization,
  Reciprocal: elementwise.reciprocal,
  ReduceMax: reduction.reduceExtremum,
  ReduceMean: reduction.reduceMean,
  ReduceMin: reduction.reduceExtremum,
  ReduceSum: reduction.reduceSum,
  Relu: elementwise.relu,
  Reshape: layout.reshape,
  RotaryEmbedding: rotary.onnxRotary,
  Sigmoid: elementwise.sigmoid,
  SimplifiedLayerNormalization: normalization.onnxRmsNormalization,
  Sin: elementwise.sine,
  Slice: layout.slice,
  Softmax: activation.softmax,
  SoftmaxCrossEntropyLoss: loss.softmaxCrossEntropyLoss,
  Split: layout.split,
  Sqrt: elementwise.squareRoot,
  Squeeze: layout.reshape,
  Sub: elementwise.subtract,
  Sum: elementwise.sum,
  Swish: activation.scaledSilu(1),
  Tanh: elementwise.hyperbolicTangent,
  Transpose: layout.transpose,
  Trilu: layout.trilu,
  Unsqueeze: layout.reshape,
  Where: elementwise.where,
  'com.microsoft.FastGelu': activation.fastGelu,
  'com.microsoft.FusedMatMul': matrix.fusedMatMul,
  'com.microsoft.Gelu': activation.exactGelu,
  'com.microsoft.QuickGelu': activation.scaledSilu(1.702),
  'com.microsoft.RotaryEmbedding': rotary.microsoftRotary,
  'deepspeed.Attention': attention.attention,
  'deepspeed.Dropout': dropout.fusedDropout,
  'deepspeed.Gelu': activation.gelu,
  'deepspeed.LayerNormalization': normalization.layerNormalization,
  'deepspeed.LinearCrossEntropy': loss.linearCrossEntropy,
  'deepspeed.MatMul': matrix.fusedProduct,
  'deepspeed.RMSNormalization': normalization.rmsNormalization,
  'deepspeed.RotaryEmbedding': rotary.fusedRotary,
  'deepspeed.Silu': activation.silu,
  'deepspeed.SiluMul': activation.siluMul,
  'deepspeed.SoftmaxCrossEntropy': loss.fusedSoftmaxCrossEntropy,
};

const rules = new Map<string, GradientRule | 'constant'>([
  ...Object.entries(differentiable),
  ...constantOperators.map((name) => [name, 'constant'] as const),
]);

/** The rule of an operator, 'constant' when no gradient passes it, undefined when it is not known. */
export function gradientRule(operator: string): GradientRule | 'constant' | undefined {
  return rules.get(operator);
}
