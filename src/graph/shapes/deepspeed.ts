/** Our fused operators, as docs/operators.md describes them. */
import type { ValueType } from '../ir.ts';
import type { DeepSpeedOperator } from '../operators.ts';
import { attention, attentionGrad } from './deepspeed-attention.ts';
import {
  linearCrossEntropy,
  linearCrossEntropyGrad,
  matMul,
  matMulAccumulate,
} from './deepspeed-products.ts';
import { likeFirst } from './elementwise.ts';
import { like, type Operands, type ShapeRule, token } from './operands.ts';

/** One float32 per row: the shape without its last axis. */
const perRow = (node: Operands, index: number): ValueType => ({
  dtype: 'float32',
  shape: node.shape(index).slice(0, -1),
});

function same(node: Operands, ...indices: number[]): void {
  const [first, ...others] = indices.map((index) => node.shape(index).join());
  node.require(
    others.every((shape) => shape === first),
    `inputs ${indices.join(' and ')} differ in shape`,
  );
}

/** gamma (and beta) have the length of X's last axis. */
function fitsLastAxis(node: Operands, x: number, ...vectors: number[]): void {
  for (const index of vectors) {
    if (!node.has(index)) continue;
    const fits = node.shape(index).join() === String(node.shape(x).at(-1));
    node.require(fits, `input ${index} does not have the length of the last axis`);
  }
}

const accumulate: ShapeRule = (node) => {
  same(node, 0, 1);
  return [token];
};

const embeddingGradAccumulate: ShapeRule = (node) => {
  const rows = node.shape(0).slice(0, -1).join();
  node.require(rows === node.shape(1).join(), 'there is not one index per row of dY');
  node.require(node.shape(0).at(-1) === node.shape(2).at(-1), 'dY and buffer differ in width');
  return [token];
};

/** dX from inputs of one shape: dY and X, or dY and Y. */
const gradLikeFirst: ShapeRule = (node) => {
  same(node, 0, 1);
  return [like(node, 0)];
};

const siluMul: ShapeRule = (node) => {
  same(node, 0, 1);
  return [like(node, 0)];
};

const siluMulGrad: ShapeRule = (node) => {
  same(node, 0, 1, 2);
  return [like(node, 1), like(node, 2)];
};

const layerNormalization: ShapeRule = (node) => {
  fitsLastAxis(node, 0, 1, 2);
  return [like(node, 0), perRow(node, 0), perRow(node, 0)];
};

const layerNormalizationGrad: ShapeRule = (node) => {
  same(node, 0, 1);
  if (node.has(5)) same(node, 1, 5);
  fitsLastAxis(node, 1, 2);
  return [like(node, 1), like(node, 2), like(node, 2)];
};

const rmsNormalization: ShapeRule = (node) => {
  fitsLastAxis(node, 0, 1);
  return [like(node, 0), perRow(node, 0)];
};

const rmsNormalizationGrad: ShapeRule = (node) => {
  same(node, 0, 1);
  if (node.has(4)) same(node, 1, 4);
  fitsLastAxis(node, 1, 2);
  return [like(node, 1), like(node, 2)];
};

const crossEntropy: ShapeRule = (node) => {
  const rows = perRow(node, 0);
  node.require(rows.shape.join() === node.shape(1).join(), 'there is not one label per row');
  return [rows, rows];
};

const crossEntropyGrad: ShapeRule = (node) => {
  same(node, 0, 2, 3);
  node.require(
    perRow(node, 1).shape.join() === node.shape(2).join(),
    'there is not one label per row',
  );
  return [like(node, 1)];
};

/** X's first axis is the batch; rng holds seed, step and one index per sample. */
const dropout: ShapeRule = (node) => {
  const batch = node.shape(0)[0] ?? 1;
  node.require(
    node.shape(1).join() === String(2 + batch),
    `rng does not hold 2 + ${batch} numbers`,
  );
  return [like(node, 0)];
};

/** rng holds seed, step and one index per sample. */
const dropoutMask: ShapeRule = (node) => {
  const [numbers = 0, ...rest] = node.shape(0);
  node.require(rest.length === 0 && numbers >= 2, 'rng does not hold 2 + the batch numbers');
  const sample = ['planes', 'rows', 'columns'].map((name) => node.int(name, 1));
  return [{ dtype: 'bool', shape: [numbers - 2, ...sample] }];
};

const rotaryEmbedding: ShapeRule = (node) => {
  const x = node.shape(0);
  const half = [x[2], (x[3] ?? 0) / 2].join();
  const fits = x.length === 4 && node.shape(1).join() === half && node.shape(2).join() === half;
  node.require(fits, 'cos and sin are not [S, D/2] of X [B, H, S, D]');
  return [like(node, 0)];
};

export const deepSpeedRules: Record<DeepSpeedOperator, ShapeRule> = {
  Accumulate: accumulate,
  Attention: attention,
  AttentionGrad: attentionGrad,
  Dropout: dropout,
  DropoutGrad: dropout,
  DropoutMask: dropoutMask,
  EmbeddingGradAccumulate: embeddingGradAccumulate,
  Gelu: likeFirst,
  GeluGrad: gradLikeFirst,
  LayerNormalization: layerNormalization,
  LayerNormalizationGrad: layerNormalizationGrad,
  LinearCrossEntropy: linearCrossEntropy,
  LinearCrossEntropyGrad: linearCrossEntropyGrad,
  MatMul: matMul,
  MatMulAccumulate: matMulAccumulate,
  RMSNormalization: rmsNormalization,
  RMSNormalizationGrad: rmsNormalizationGrad,
  RotaryEmbedding: rotaryEmbedding,
  Silu: likeFirst,
  SiluGrad: gradLikeFirst,
  SiluMul: siluMul,
  SiluMulGrad: siluMulGrad,
  SoftmaxCrossEntropy: crossEntropy,
  SoftmaxCrossEntropyGrad: crossEntropyGrad,
  SoftmaxGrad: gradLikeFirst,
};
